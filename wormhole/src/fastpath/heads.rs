//! The heads that the programs know.

use super::{Claim, Fastpath, words};
use crate::model::Mode;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use wormhole_common::{HEAD_CHECKS, HEAD_OFF, HeadAddr, HeadPort};

/// A head whose clients are enrolled while this lives.
#[derive(Debug)]
pub struct HeadGuard {
    fastpath: Arc<Fastpath>,
    key: HeadAddr,
}

/// What a relay thread needs to claim the connections that it accepts at a head.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The programs.
    pub fastpath: Arc<Fastpath>,
    netns: u64,
    /// Where it listens, unless that is any address.
    local: Option<SocketAddr>,
}

impl Fastpath {
    /// Enrols clients of a listening socket from now on: all of them (`on`), those whose executable is not spared (`auto`),
    /// or none (`off`, which keeps what wormholed accepts there from being taken for a server's).
    ///
    /// # Errors
    /// The kernel's answer: the namespace has no cookie (Linux 5.14), or there are too many heads.
    pub fn watch(self: &Arc<Self>, listener: BorrowedFd<'_>, addr: SocketAddr, mode: Mode) -> io::Result<(HeadGuard, Gate)> {
        let netns = netns_cookie(listener)?;
        let port = HeadPort { netns, port: addr.port().into(), pad: 0 };
        let key = HeadAddr { port, addr: words(addr.ip()) };
        let value = match mode {
            Mode::Auto => HEAD_CHECKS,
            Mode::On => 0,
            Mode::Off => HEAD_OFF,
        };
        self.heads.set(&key, value)?;
        let guard = HeadGuard { fastpath: Arc::clone(self), key };
        self.count_port(port, 1)?;
        let local = (!addr.ip().is_unspecified()).then_some(addr);
        Ok((guard, Gate { fastpath: Arc::clone(self), netns, local }))
    }

    /// Several heads may share a port.
    fn count_port(&self, port: HeadPort, change: i32) -> io::Result<()> {
        let mut all = self.heads_of.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.get(&port).copied().unwrap_or_default().saturating_add_signed(change);
        if count == 0 {
            all.remove(&port);
            self.ports.remove(&port)
        } else {
            all.insert(port, count);
            self.ports.set(&port, count)
        }
    }
}

impl Drop for HeadGuard {
    fn drop(&mut self) {
        // What is not there any more is gone as it should be.
        let _ = self.fastpath.heads.remove(&self.key);
        let _ = self.fastpath.count_port(self.key.port, -1);
    }
}

impl Gate {
    /// Claims the connection `head` that was accepted from `remote`.
    pub fn claim(&self, head: BorrowedFd<'_>, remote: SocketAddr) -> Claim {
        let local = self.local.or_else(|| rustix::net::getsockname(head).ok()?.try_into().ok());
        local.map_or(Claim::Stranger, |local| self.fastpath.claim(self.netns, local, remote))
    }
}

/// `SO_NETNS_COOKIE` (Linux 5.14): names the namespace of a socket for as long as the machine runs.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).map_err(|_| Errno::INVAL)?;
    let fd = socket.as_raw_fd();
    // SAFETY: a socket that lives over the call, and room for the 8 bytes of the option.
    let done = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
