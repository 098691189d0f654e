//! HAProxy, TCP mode.

use super::{Peer, Place, Running, Source, need};
use anyhow::Result;

/// See [`Peer::about`].
pub struct Haproxy;

impl Peer for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn about(&self) -> &'static str {
        "mode tcp, option splice-auto, nbthread 2"
    }

    fn source(&self) -> Source {
        Source::Apt("haproxy", &["haproxy"])
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let config = place.write("haproxy.cfg", &config(place.head, place.tail))?;
        place.run(self.name(), &need("haproxy")?, ["-db".as_ref(), "-f".as_ref(), config.as_os_str()])
    }
}

/// Each connection costs two descriptors and, spliced, a pipe's: 9,950 idle ones fit into 20,000.
fn config(head: u16, tail: u16) -> String {
    format!(
        "global\n    nbthread 2\n    maxconn 9950\n\
         defaults\n    mode tcp\n    option splice-auto\n    timeout connect 5s\n    timeout client 10m\n    timeout server 10m\n\
         frontend head\n    bind 127.0.0.1:{head}\n    default_backend tail\n\
         backend tail\n    server tail 127.0.0.1:{tail}\n"
    )
}
