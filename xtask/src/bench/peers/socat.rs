//! socat, a process a connection.

use super::{Peer, Place, Running, Source, need};
use anyhow::Result;

/// See [`Peer::about`].
pub struct Socat;

impl Peer for Socat {
    fn name(&self) -> &'static str {
        "socat"
    }

    fn about(&self) -> &'static str {
        "TCP-LISTEN,fork (a process per connection; its memory is counted as PSS)"
    }

    fn source(&self) -> Source {
        Source::Apt("socat", &["socat"])
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        // `-t 10`: wait for the other direction after a half-close instead of half a second only.
        let listen = format!("TCP4-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,backlog=4096,nodelay", place.head);
        let connect = format!("TCP4:127.0.0.1:{},nodelay", place.tail);
        place.run(self.name(), &need("socat")?, ["-t", "10", &listen, &connect])
    }

    fn forks(&self) -> bool {
        true
    }
}
