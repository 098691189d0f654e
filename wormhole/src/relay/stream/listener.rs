//! A head's listening socket as one relay thread sees it, and what keeps accepting from going wrong when descriptors
//! run out.

use crate::fastpath::{Gate, Why};
use crate::relay::Route;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A listening socket that all relay threads accept from; closed when the last of them lets go.
#[derive(Debug)]
pub struct Listener {
    /// Tells it from the others.
    pub id: u64,
    /// Bound, listening, non-blocking.
    pub fd: OwnedFd,
    /// Where its connections go.
    pub route: Arc<Route>,
    /// A unix socket.
    pub unix: bool,
    /// Where its clients' enrolments are claimed, or why there are none.
    pub gate: Result<Gate, Why>,
}

/// Pauses that grow while descriptors or memory are short: 10 ms, doubling to 1 s.
#[derive(Debug, Default)]
pub struct BackOff {
    until: Option<Instant>,
    last: Duration,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(10);
    const MOST: Duration = Duration::from_secs(1);

    /// Starts a pause, longer than the one before.
    pub fn pause(&mut self, now: Instant) -> Duration {
        self.last = (self.last * 2).clamp(Self::FIRST, Self::MOST);
        self.until = Some(now + self.last);
        self.last
    }

    /// When the pause is over, while there is one.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ends the pause.
    pub fn resume(&mut self) {
        self.until = None;
    }

    /// Accepting went well: the next pause starts small again.
    pub fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

/// A descriptor kept for the moment in which none is left: a connection that was accepted can still get its second
/// socket. Without a reserve in hand nothing is accepted.
#[derive(Debug, Default)]
pub struct Reserve(Option<OwnedFd>);

impl Reserve {
    /// Makes sure that there is a reserve; false when there is no descriptor for one.
    pub fn ensure(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
        }
        self.0.is_some()
    }

    /// Frees it; false when it was in use already.
    pub fn release(&mut self) -> bool {
        self.0.take().is_some()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
