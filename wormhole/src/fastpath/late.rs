//! Servers whose sockets are made by the first bytes (`TCP_DEFER_ACCEPT`). Those bytes have to go by TCP, and then all that
//! follows does.
//!
//! Where FIONREAD does not count what comes by TCP into a socket of the map (seen on 6.18.44, not on 6.12.118; the self-test
//! asks), such a server must stay out of it: one that asks whether more is there, and then waits for an
//! edge, would wait for ever.

use super::heads::netns_cookie;
use super::{Fastpath, tuple};
use rustix::fd::BorrowedFd;
use rustix::net::{getpeername, getsockname};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

impl Fastpath {
    /// Keeps whoever will be made by the first bytes that go out by `tail` out of the map, if this kernel makes that necessary.
    /// True when that is so.
    pub(super) fn leaves_out(&self, tail: BorrowedFd<'_>) -> bool {
        if self.counts_tcp.load(Relaxed) {
            return false;
        }
        let Some((local, remote)) = ends(tail).filter(|(local, remote)| is_here(*local, *remote)) else { return false };
        // By the server's view. What is not there any more has been claimed: it is in the map already.
        netns_cookie(tail).is_ok_and(|netns| self.tuples.remove(&tuple(netns, remote, local)).is_ok())
    }
}

fn ends(socket: BorrowedFd<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let local = getsockname(socket).ok()?.try_into().ok()?;
    let remote = getpeername(socket).ok()??.try_into().ok()?;
    Some((local, remote))
}

/// True when both ends are in one namespace, as the programs see it.
fn is_here(local: SocketAddr, remote: SocketAddr) -> bool {
    let remote = remote.ip().to_canonical();
    remote.is_loopback() || remote == local.ip().to_canonical()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_that_connects_to_itself_is_here() {
        let here = |local: &str, remote: &str| is_here(local.parse().unwrap(), remote.parse().unwrap());
        assert!(here("127.0.0.1:1", "127.0.0.1:2") && here("[::1]:1", "[::1]:2") && here("127.0.0.1:1", "127.9.9.9:2"));
        assert!(here("10.0.0.1:1", "10.0.0.1:2") && here("[::ffff:10.0.0.1]:1", "10.0.0.1:2"));
        assert!(here("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2"));
        assert!(!here("10.0.0.1:1", "10.0.0.2:2") && !here("[fd00::1]:1", "[fd00::2]:2"));
    }
}
