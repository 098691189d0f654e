//! Our sockets that lead to the applications: by what is sent on them bytes come into the applications' queues.

use super::super::slots::Side;
use super::{Link, Pair, door_to};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use wormhole_common::{MEMBER_ENROLLED, Member, OFF_ENDED, OFF_PLAIN, OFF_STARVED, Role};

impl Link {
    /// Tells the programs that `tail`, a socket that has not been connected yet, leads to the server or to the next
    /// segment.
    ///
    /// # Errors
    /// The kernel's answer; the connection can be relayed all the same.
    pub fn announce(&self, tail: BorrowedFd<'_>) -> io::Result<()> {
        self.pair.announced.store(self.hop + 1, Relaxed);
        self.keep(tail, Role::ToServer)
    }

    fn keep(&self, fd: BorrowedFd<'_>, role: Role) -> io::Result<()> {
        let Pair { slot, generation, .. } = *self.pair;
        let member = Member { slot, generation, role: role as u32, state: MEMBER_ENROLLED, hop: self.hop, ..Member::default() };
        self.pair.fastpath.members.set(&fd.as_raw_fd().unsigned_abs(), member)
    }

    /// True when the application in `role`, at the other end of `fd`, is not enrolled yet and will be in a moment, for which it has
    /// been waited for so long.
    pub fn expects(&self, role: Role, fd: BorrowedFd<'_>, waited: Duration) -> bool {
        let announced = role == Role::Server && self.reaches(role) && self.pair.announced.load(Relaxed) == self.hop + 1;
        let Some(peer) = self.pair.side(role).filter(|_| announced) else { return false };
        if peer.enrolled() == 0 {
            return self.pair.fastpath.expects(fd, waited);
        }
        if !waited.is_zero() {
            self.pair.fastpath.has_come(fd);
        }
        false
    }

    /// Prepares `fd` so that what is sent on it goes into the queue of the application at its other end. False when that
    /// application's socket is not enrolled, or is the next segment's, or the kernel will not: then it is plain TCP.
    pub fn inject_into(&self, role: Role, fd: BorrowedFd<'_>) -> bool {
        if !self.reaches(role) {
            return false;
        }
        let peer = self.pair.side(role);
        // One that uses splice(2) gets all by TCP, but not past redirected bytes: those are lost, and it will be reset.
        let by_tcp = |peer: Side<'_>| peer.spliced() != 0 && self.pair.redirected(role) == 0;
        let has_queue = peer.is_some_and(|peer| peer.enrolled() != 0 && !by_tcp(peer));
        let opened = if has_queue { self.opens_door(role, fd) } else { Err(io::ErrorKind::NotFound.into()) };
        let Err(error) = opened else { return true };
        if let Some(sender) = self.pair.sender_to(role) {
            // The kernel takes no socket into the map whose other end has sent its FIN.
            let ended = error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error());
            // The other may be enrolled a moment later, and must not get anything past what goes by TCP now.
            sender.set_off(if ended { OFF_ENDED } else { OFF_PLAIN });
            if peer.is_some_and(|peer| peer.enrolled() == 0) && self.pair.fastpath.leaves_out(fd) {
                self.pair.left_out.store(true, Relaxed);
            }
        }
        false
    }

    /// Puts our socket into the map, through which bytes come into the queue of the application in `role`.
    fn opens_door(&self, role: Role, fd: BorrowedFd<'_>) -> io::Result<()> {
        let door = door_to(role);
        // The server's socket was told at its connect.
        if door != Role::ToServer {
            self.keep(fd, door)?;
        }
        self.pair.fastpath.sockets.set(&self.key(door), fd.as_raw_fd().unsigned_abs())
    }

    /// Takes our socket that leads to the application in `role` out of the map: what is sent on it goes by TCP from now on, and
    /// so does all that its sender sends. Only when nothing waits there that was redirected, or the order would be lost; false then.
    ///
    /// Nothing can be on its way there either while the relay holds bytes that were not put there.
    pub fn closes_door(&self, role: Role) -> bool {
        if self.pair.redirected(role) != 0 {
            return false;
        }
        if let Some(sender) = self.pair.sender_to(role) {
            sender.set_off(OFF_STARVED);
        }
        // One that is not there any more is as good.
        let _ = self.pair.fastpath.sockets.remove(&self.key(door_to(role)));
        true
    }
}
