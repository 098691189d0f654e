//! systemd-socket-proxyd, started the way systemd does it.

use super::{Peer, Place, Running, SOCKET_PROXYD, Source, need};
use anyhow::Result;

/// See [`Peer::about`].
pub struct SocketProxyd;

impl Peer for SocketProxyd {
    fn name(&self) -> &'static str {
        SOCKET_PROXYD
    }

    fn about(&self) -> &'static str {
        "systemd-socket-proxyd through systemd-socket-activate, --connections-max 20000"
    }

    fn source(&self) -> Source {
        Source::Apt("systemd-socket-proxyd", &["systemd"])
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let listen = format!("127.0.0.1:{}", place.head);
        let proxyd = need("systemd-socket-proxyd")?;
        let tail = format!("127.0.0.1:{}", place.tail);
        let args = ["-l".as_ref(), listen.as_ref(), proxyd.as_os_str(), "--connections-max=20000".as_ref(), tail.as_ref()];
        place.run(self.name(), &need("systemd-socket-activate")?, args)
    }
}
