//! Servers that are not there yet when there are bytes for them.
//!
//! On a busy machine that may be a matter of a moment: the tail is connected, and the last packet of the handshake, by which
//! the server's socket is made and enrolled, still waits for its turn (seen on 6.1, where packets are left to ksoftirqd while that
//! runs: 1 to 4 connections of 100 in a slow guest). The bytes wait for it, because what is once handed on by TCP must be followed
//! by all the rest.
//!
//! With `TCP_DEFER_ACCEPT` the server's socket is made by the first bytes, which have to go by TCP then. Where FIONREAD does not
//! count what comes by TCP into a socket of the map (seen on 6.18.44, not on 6.12.118; the self-test asks), such a server must
//! stay out of it: one that asks whether more is there, and then waits for an edge, would wait for ever.

use super::heads::netns_cookie;
use super::{Fastpath, tuple};
use rustix::fd::BorrowedFd;
use rustix::net::{getpeername, getsockname};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wormhole_common::Tuple;

/// How long bytes wait for a server to be enrolled.
const PATIENCE: Duration = Duration::from_millis(50);

/// And for one that is just being: the program that claims it has begun.
const CLAIMED: Duration = Duration::from_millis(1);

/// Waiting in vain for so many connections in a row tells of a server that is always made by the first bytes.
const IN_VAIN: u32 = 3;

/// From then on it is waited for now and then only: it may be another server, or the machine may have been very busy.
const SELDOM: u32 = 256;

/// After so long it begins anew.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// So many servers are remembered; with more all are forgotten.
const MOST: usize = 1024;

/// A server as those who connect to it know it: its namespace and its address.
type Key = (u64, SocketAddr);

/// How many connections in a row were waited for in vain, or not at all, since when, by server.
#[derive(Debug, Default)]
pub(super) struct Late {
    servers: Mutex<HashMap<Key, (u32, Instant)>>,
    /// There are some.
    any: AtomicBool,
}

impl Late {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, (u32, Instant)>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when it is worth to wait for this one.
    fn is_worth_it(&self, key: &Key) -> bool {
        match self.all().get_mut(key) {
            Some((count, since)) if *count >= IN_VAIN && since.elapsed() < FORGOTTEN => {
                *count = count.wrapping_add(1);
                *count % SELDOM == 0
            }
            _ => true,
        }
    }

    /// This one was there before its first bytes, or was not although it was waited for.
    fn note(&self, key: Key, came: bool) {
        let mut all = self.all();
        if came {
            all.remove(&key);
            self.any.store(!all.is_empty(), Relaxed);
            return;
        }
        self.any.store(true, Relaxed);
        if all.len() >= MOST {
            all.clear();
        }
        let (count, since) = all.entry(key).or_insert_with(|| (0, Instant::now()));
        if since.elapsed() >= FORGOTTEN {
            (*count, *since) = (0, Instant::now());
        }
        *count = count.wrapping_add(1);
    }
}

impl Fastpath {
    /// True when whoever accepts the connection of `tail`, which was announced, will be enrolled in a moment. It has been waited
    /// for that for so long.
    pub(super) fn expects(&self, tail: BorrowedFd<'_>, waited: Duration) -> bool {
        let Some((key, tuple)) = here(tail) else { return false };
        if self.tuples.get(&tuple).is_err() {
            return waited < CLAIMED;
        }
        if waited.is_zero() {
            return self.late.is_worth_it(&key);
        }
        if waited >= PATIENCE {
            self.late.note(key, false);
        }
        waited < PATIENCE
    }

    /// Whom `tail` leads to has come before the first bytes: it is none that is made by them.
    pub(super) fn has_come(&self, tail: BorrowedFd<'_>) {
        // Most of the time there is nothing to be taken back.
        if self.late.any.load(Relaxed)
            && let Some((key, _)) = here(tail)
        {
            self.late.note(key, true);
        }
    }

    /// Keeps whoever will be made by the first bytes that go out by `tail` out of the map, if this kernel makes that necessary.
    /// True when that is so.
    pub(super) fn leaves_out(&self, tail: BorrowedFd<'_>) -> bool {
        // What is not there any more has been claimed: it is in the map already.
        !self.counts_tcp.load(Relaxed) && here(tail).is_some_and(|(_, tuple)| self.tuples.remove(&tuple).is_ok())
    }
}

/// Whom a socket leads to, and what the programs know the connection by, if its other end is in the same namespace.
fn here(tail: BorrowedFd<'_>) -> Option<(Key, Tuple)> {
    let local: SocketAddr = getsockname(tail).ok()?.try_into().ok()?;
    let remote: SocketAddr = getpeername(tail).ok()??.try_into().ok()?;
    if !is_here(local, remote) {
        return None;
    }
    let netns = netns_cookie(tail).ok()?;
    Some(((netns, remote), tuple(netns, remote, local)))
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

    #[test]
    fn one_that_is_always_late_is_seldom_waited_for() {
        let (late, key) = (Late::default(), (1, "127.0.0.1:80".parse().unwrap()));
        for _ in 0..IN_VAIN {
            assert!(late.is_worth_it(&key));
            late.note(key, false);
        }
        let waits = (0..10 * SELDOM).filter(|_| late.is_worth_it(&key)).count();
        assert_eq!(waits, 10);
        assert!(late.is_worth_it(&(2, key.1)), "another one");
        late.note(key, true);
        assert!(late.is_worth_it(&key) && late.is_worth_it(&key));
        assert!(!late.any.load(Relaxed), "nothing is remembered of whoever was there in time");
    }

    #[test]
    fn no_more_are_remembered_than_so_many() {
        let late = Late::default();
        for port in 0..=u16::MAX {
            late.note((1, SocketAddr::from(([127, 0, 0, 1], port))), false);
        }
        assert!(late.all().len() <= MOST);
    }
}
