//! Which way bytes go that wormholed hands on: into the application's queue, by a door, or by TCP.

use super::super::slots::Side;
use super::Link;
use rustix::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use wormhole_common::{OFF_ENDED, OFF_PLAIN, OFF_STARVED, Role};

impl Link {
    /// True when the application in `role`, at the other end of `fd`, is not enrolled yet and will be in a moment, for which it has
    /// been waited for so long.
    pub fn expects(&self, role: Role, fd: BorrowedFd<'_>, waited: Duration) -> bool {
        let announced = role == Role::Server && self.reaches(role) && self.pair.announced.load(Relaxed) == self.hop + 1;
        let Some(peer) = self.pair.side(role).filter(|_| announced) else { return false };
        if peer.enrolled() == 0 {
            return self.pair.fastpath.expects(fd, waited);
        }
        self.pair.fastpath.has_come(fd);
        false
    }

    /// Decides at the first bytes, for all: true when they go into the queue of the application in `role`, at the other end of
    /// `fd`. False when that one's socket is not enrolled, or is the next segment's: then they go by TCP.
    pub fn finds_queue(&self, role: Role, fd: BorrowedFd<'_>) -> bool {
        if !self.reaches(role) {
            return false;
        }
        let peer = self.pair.side(role);
        let enrolled = peer.is_some_and(|peer| peer.enrolled() != 0);
        // One that uses splice(2) gets all by TCP, but not past redirected bytes: those are lost, and it will be reset.
        let by_tcp = |peer: Side<'_>| peer.spliced() != 0 && self.pair.redirected(role) == 0;
        let ended = peer.is_some_and(Side::has_left);
        if enrolled && !ended && !peer.is_some_and(by_tcp) {
            return true;
        }
        // It may be enrolled a moment later, and must not get anything past what goes by TCP now.
        self.sets_off(role, if enrolled && ended { OFF_ENDED } else { OFF_PLAIN });
        if !enrolled && self.pair.fastpath.leaves_out(fd) {
            self.pair.left_out.store(true, Relaxed);
        }
        false
    }

    /// What is handed on to the application in `role` goes by TCP from now on, because it has no queue any more; and so does all
    /// that its sender sends.
    pub fn loses_queue(&self, role: Role) {
        self.sets_off(role, OFF_ENDED);
    }

    /// Likewise, because there is no door to its queue.
    pub fn loses_door(&self, role: Role) {
        self.sets_off(role, OFF_STARVED);
    }

    /// Likewise, because the kernel has no memory for its queue. Only when nothing waits there that was redirected, or the order
    /// would be lost; false then.
    ///
    /// Nothing can be on its way there either while the relay holds bytes that were not put there.
    pub fn starves(&self, role: Role) -> bool {
        let drained = self.pair.redirected(role) == 0;
        if drained {
            self.sets_off(role, OFF_STARVED);
        }
        drained
    }

    fn sets_off(&self, role: Role, why: u8) {
        if let Some(sender) = self.pair.sender_to(role) {
            sender.set_off(why);
        }
    }
}
