//! HAProxy, TCP mode.

use super::{HAPROXY, Peer, Place, Running, Source, need};
use crate::bench::{measure::idle_fits, proc};
use anyhow::Result;

/// See [`Peer::about`].
pub struct Haproxy;

impl Peer for Haproxy {
    fn name(&self) -> &'static str {
        HAPROXY
    }

    fn about(&self) -> &'static str {
        "mode tcp, option splice-auto, nbthread 2"
    }

    fn source(&self) -> Source {
        Source::Apt("haproxy", &["haproxy"])
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let config = place.write("haproxy.cfg", &config(place.head, place.tail, proc::raise_fd_limit()))?;
        place.run(self.name(), &need("haproxy")?, ["-db".as_ref(), "-f".as_ref(), config.as_os_str()])
    }
}

/// Each connection costs two descriptors; HAProxy refuses to start when those and two for every pipe exceed the limit, and by
/// default it reckons with a pipe for every fourth connection. Idle connections hold none, and no column streams over more
/// than one, so 16 do.
fn config(head: u16, tail: u16, fd_limit: u64) -> String {
    let connections = idle_fits(10_000, fd_limit) + 20;
    format!(
        "global\n    nbthread 2\n    maxconn {connections}\n    maxpipes 16\n\
         defaults\n    mode tcp\n    option splice-auto\n    timeout connect 5s\n    timeout client 10m\n    timeout server 10m\n\
         frontend head\n    bind 127.0.0.1:{head}\n    default_backend tail\n\
         backend tail\n    server tail 127.0.0.1:{tail}\n"
    )
}
