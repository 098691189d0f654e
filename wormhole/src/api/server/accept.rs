//! What to do when accept fails.

use rustix::io::Errno;
use std::io;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// Waits longer after every failure that a next try would only repeat.
#[derive(Default)]
pub(super) struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// Accept worked again.
    pub(super) fn reset(&mut self) {
        self.next = None;
    }

    /// Accept failed. With the table of files full the connection stays in the queue and the listener stays readable:
    /// without a pause this would spin. What is wrong with one connection (ECONNABORTED and the network errors that
    /// accept(2) passes on) is over with it.
    pub(super) async fn after(&mut self, error: &io::Error) {
        let full = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if !full.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
            tracing::debug!(%error, "a connection to the control API was gone before it was accepted");
            tokio::task::yield_now().await;
            return;
        }
        if self.next.is_none() {
            tracing::warn!(%error, "control API cannot accept: raise the limit of open files (`ulimit -n`, LimitNOFILE=)");
        }
        let pause = self.next.unwrap_or(FIRST);
        self.next = Some((pause * 2).min(LONGEST));
        tokio::time::sleep(pause).await;
    }
}
