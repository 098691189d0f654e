//! Who failed to prove the key: one log line for each source, and no more attempts than are harmless.

use governor::clock::MonotonicClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// So many sources are remembered; the one that was quiet longest is forgotten first.
const MAX_SOURCES: usize = 4096;
/// So many handshakes of one source at a time, so that one source cannot take all there are.
const MAX_HANDSHAKES: u32 = 16;
/// So many failed handshakes in a row, then `PER_SECOND`. Only failures count.
const BURST: NonZeroU32 = nonzero(30);
const PER_SECOND: NonZeroU32 = nonzero(5);

const fn nonzero(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, governor::middleware::NoOpMiddleware<Instant>>;

/// All sources. A std mutex because it is held for a look-up and never across an await.
#[derive(Default)]
pub(super) struct Sources {
    known: Mutex<HashMap<IpAddr, Source>>,
}

struct Source {
    failures: Limiter,
    handshakes: u32,
    warned: bool,
    blocked_until: Option<Instant>,
    seen: Instant,
}

/// The right to one handshake.
pub(super) struct Ticket {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// Lets one more handshake of `source` begin, or not.
    pub(super) fn begin(self: &Arc<Self>, source: IpAddr) -> Option<Ticket> {
        let source = network(source);
        let now = Instant::now();
        let mut known = self.lock();
        if known.len() >= MAX_SOURCES && !known.contains_key(&source) {
            let quiet = known.iter().filter(|(_, s)| s.handshakes == 0).min_by_key(|(_, s)| s.seen).map(|(ip, _)| *ip);
            // All of them are at it, which the cap on handshakes does not allow; better too strict than unbounded.
            known.remove(&quiet?);
        }
        let entry = known.entry(source).or_insert_with(|| Source {
            failures: RateLimiter::direct_with_clock(Quota::per_second(PER_SECOND).allow_burst(BURST), MonotonicClock),
            handshakes: 0,
            warned: false,
            blocked_until: None,
            seen: now,
        });
        entry.seen = now;
        if entry.handshakes >= MAX_HANDSHAKES || entry.blocked_until.is_some_and(|until| now < until) {
            return None;
        }
        entry.handshakes += 1;
        Some(Ticket { sources: Arc::clone(self), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        // Every change is complete before anything can panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The handshake failed. True when this source had not failed before and is worth a line in the log.
    pub(super) fn failed(&self) -> bool {
        let mut known = self.sources.lock();
        let Some(entry) = known.get_mut(&self.source) else { return false };
        if let Err(wait) = entry.failures.check() {
            entry.blocked_until = Some(wait.earliest_possible());
        }
        !std::mem::replace(&mut entry.warned, true)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(entry) = self.sources.lock().get_mut(&self.source) {
            entry.handshakes = entry.handshakes.saturating_sub(1);
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_source_is_logged_once_and_blocked_after_a_burst() {
        let sources = Arc::new(Sources::default());
        let (bad, good) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(sources.begin(bad).unwrap().failed());
        let mut failures = 1;
        while let Some(ticket) = sources.begin(bad) {
            assert!(!ticket.failed());
            failures += 1;
            assert!(failures < 1000);
        }
        assert!(failures > BURST.get());
        assert!(sources.begin(good).is_some());
    }

    #[test]
    fn one_source_cannot_take_all_handshakes() {
        let sources = Arc::new(Sources::default());
        let ip = |last: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        let mut tickets: Vec<_> = (0..16).map(|n| sources.begin(ip(n)).unwrap()).collect();
        assert!(sources.begin(ip(99)).is_none());
        tickets.pop();
        assert!(sources.begin(ip(99)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let sources = Arc::new(Sources::default());
        for n in 0..u32::try_from(2 * MAX_SOURCES).unwrap() {
            sources.begin(IpAddr::V4(n.into())).unwrap().failed();
        }
        assert_eq!(sources.lock().len(), MAX_SOURCES);
    }
}
