//! wormhole itself: the real daemon, one segment made with the real command.

use super::{Peer, Place, Running, Source, WORMHOLE};
use crate::bench::{net, proc::Group};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// See [`Peer::about`].
pub struct Wormhole;

impl Peer for Wormhole {
    fn name(&self) -> &'static str {
        WORMHOLE
    }

    fn about(&self) -> &'static str {
        "wormhole create url 127.0.0.1:HEAD tail url 127.0.0.1:TAIL"
    }

    fn source(&self) -> Source {
        Source::Own
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let socket = place.dir.join("wormhole.sock");
        let host = format!("unix://{}", socket.display());
        let state = place.dir.join("state");
        let daemon = place.bins.join("wormholed");
        let args = ["-H".as_ref(), host.as_ref(), "--state-dir".as_ref(), state.as_os_str()];
        let mut group = Group::spawn("wormholed", &mut place.command("wormholed", &daemon, args)?)?;
        place.wait("wormholed", &mut group, || socket.exists())?;
        let mut create = Command::new(place.bins.join("wormhole"));
        create.args(["-H", &host, "create", "url", &format!("127.0.0.1:{}", place.head)]);
        create.args(["tail", "url", &format!("127.0.0.1:{}", place.tail)]);
        let output = create.output().context("run wormhole create")?;
        if !output.status.success() {
            bail!("wormhole create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        place.wait("wormholed", &mut group, || net::is_listening(place.head))?;
        Ok(Running { head: place.head(), groups: vec![group] })
    }
}
