//! The fast path: once a connection between two processes of this machine is established, eBPF programs carry its bytes
//! from socket to socket. wormholed keeps the connection's control: ends, resets, what was sent before.
//!
//! ```text
//! client C ──TCP──> A   wormholed   B ──TCP──> S server        C and S are enrolled: a message program sees their sends
//!        └────────────── direct ────────────────┘
//! ```
//!
//! It is an optimisation that may say no at any moment before it has begun; the relay is always there. What it needs:
//! Linux 5.19 (`bpf_skc_to_mptcp_sock`), BTF, a cgroup v2 mount, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and CAP_SYS_ADMIN for the
//! self-test.

mod btf;
mod doors;
mod embedded;
mod events;
mod heads;
mod late;
mod load;
mod mapped;
mod owners;
mod pair;
mod selftest;
mod slots;
mod sys;
mod watchdog;
mod why;

pub use doors::{Announced, Door, Stop};
pub use embedded::{Embedded, EmbeddedError, inspect_embedded};
pub use events::{Spliced, Splices};
pub use heads::{Gate, HeadGuard};
pub use load::{LoadError, Tuning};
pub use owners::{Owners, Server};
pub use pair::{Link, Pair};
pub use selftest::{Probe, SelfTest, run as self_test};
pub use watchdog::Watchdog;
pub use why::Why;

use crate::model::Bytes;
use doors::Doors;
use late::Late;
use load::Programs;
use slots::Slots;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use sys::{Question, Table};
use wormhole_common::{COUNTS, EXE_NEVER, EXE_SPARED, ExeName, HeadAddr, HeadPort, Member, Token, Tuple};
pub use wormhole_common::{Count, Refusal, Role};
use wormhole_common::{TOKEN_CLIENT, TOKEN_LINK, TOKEN_REFUSED};

/// The name of the daemon's executable.
pub const WORMHOLED: &str = "wormholed";

/// The loaded programs and their maps. When the last clone of the `Arc` goes, everything is detached and freed.
#[derive(Debug)]
pub struct Fastpath {
    /// Links and programs, for as long as this lives.
    programs: Programs,
    /// Applications' sockets, by [`wormhole_common::socket_key`].
    sockets: Table<u64, u32>,
    /// What is kept with our own sockets.
    members: Table<u32, Member>,
    doors: Doors,
    /// Tells the programs which door is a thread's.
    thread: Question,
    tuples: Table<Tuple, Token>,
    ports: Table<HeadPort, u32>,
    heads: Table<HeadAddr, u32>,
    exes: Table<ExeName, u32>,
    counts: Table<u32, u64>,
    free: Table<u32, u32>,
    slots: Slots,
    max_pairs: u32,
    /// Bytes in front of a reader at which no more is put there.
    limit: u64,
    /// Says how much waits in front of an application.
    backlog: Question,
    /// Says whether an application's queue is empty and stays so.
    quiet: Question,
    /// Says what the watchdog asks about an application that does not read.
    reader: Question,
    cpus: usize,
    /// Who may be joined by a further segment, by slot.
    pairs: Mutex<HashMap<u32, Weak<Pair>>>,
    heads_of: Mutex<HashMap<HeadPort, u32>>,
    totals: Totals,
    /// What the self-test did, which is not counted.
    tried: OnceLock<Counters>,
    /// The self-test has seen that whoever uses splice(2) is told of.
    tells: AtomicBool,
    /// It has seen that FIONREAD counts what comes by TCP into a socket of the map.
    counts_tcp: AtomicBool,
    late: Late,
}

/// Of connections that have ended.
#[derive(Debug, Default)]
struct Totals {
    pairs: AtomicU64,
    direct: [AtomicU64; 2],
    injected: [AtomicU64; 2],
    spliced: AtomicU64,
}

/// What the programs know of a connection that was accepted at a head.
#[derive(Debug)]
pub enum Claim {
    /// Its client is enrolled.
    Joined(Link),
    /// Its client was seen and not enrolled.
    Refused(Refusal),
    /// Its client was not seen: another machine, another namespace, address translation.
    Stranger,
}

impl Fastpath {
    fn pairs(&self) -> MutexGuard<'_, HashMap<u32, Weak<Pair>>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the programs have left for a connection that was accepted in the namespace with cookie `netns` at
    /// `local` from `remote`.
    pub fn claim(self: &Arc<Self>, netns: u64, local: SocketAddr, remote: SocketAddr) -> Claim {
        let Ok(token) = self.tuples.take(&tuple(netns, local, remote)) else { return Claim::Stranger };
        let found = match token.kind {
            TOKEN_CLIENT => {
                let pair = Arc::new(Pair::new(Arc::clone(self), token.slot, token.generation));
                self.pairs().insert(token.slot, Arc::downgrade(&pair));
                Some(Link::new(pair, 0))
            }
            TOKEN_LINK => {
                let pair = self.pairs().get(&token.slot).and_then(Weak::upgrade);
                pair.filter(|pair| pair.generation() == token.generation).map(|pair| Link::new(pair, token.detail))
            }
            TOKEN_REFUSED => return Claim::Refused(Refusal::from_u32(token.detail)),
            _ => None,
        };
        found.map_or(Claim::Stranger, Claim::Joined)
    }

    /// Called by a pair that ends.
    fn retire(&self, pair: &Pair) {
        self.pairs().remove(&pair.slot());
        let (direct, injected) = (pair.direct(), pair.injected());
        self.totals.pairs.fetch_add(1, Relaxed);
        for (total, bytes) in [(&self.totals.direct, direct), (&self.totals.injected, injected)] {
            total[0].fetch_add(bytes.to_tail, Relaxed);
            total[1].fetch_add(bytes.to_head, Relaxed);
        }
    }

    fn live(&self) -> Vec<Arc<Pair>> {
        self.pairs().values().filter_map(Weak::upgrade).collect()
    }

    /// What has happened since the programs were loaded, without what the self-test did.
    pub fn counters(&self) -> Counters {
        let all = self.all_counters();
        match self.tried.get() {
            Some(tried) => all.without(tried),
            None => all,
        }
    }

    fn all_counters(&self) -> Counters {
        let live = self.live();
        let sum = |ended: &[AtomicU64; 2], of: &dyn Fn(&Pair) -> Bytes| {
            let start = Bytes { to_tail: ended[0].load(Relaxed), to_head: ended[1].load(Relaxed) };
            live.iter().fold(start, |sum, pair| sum + of(pair))
        };
        let mut counts = [0; COUNTS as usize];
        for (key, count) in (0..).zip(&mut counts) {
            *count = self.counts.sum(key, self.cpus).unwrap_or_default();
        }
        Counters {
            open: live.len() as u64,
            max: self.max_pairs.into(),
            total: self.totals.pairs.load(Relaxed) + live.len() as u64,
            direct: sum(&self.totals.direct, &Pair::direct),
            injected: sum(&self.totals.injected, &Pair::injected),
            spliced: self.totals.spliced.load(Relaxed),
            counts,
        }
    }

    /// Executables that heads with a check do not enrol.
    pub fn spared(&self) -> Vec<String> {
        let mut names: Vec<String> = self.exes.keys().iter().map(exe_text).collect();
        names.sort();
        names
    }

    /// Heads with a check do not enrol `name` from now on; another wormholed no head does.
    pub fn spare(&self, name: &str) {
        let known = if is_wormholed(name) { EXE_NEVER } else { EXE_SPARED };
        if let Err(error) = self.exes.set(&exe_name(name), known) {
            tracing::warn!(%error, name, "an executable could not be kept off the fast path");
        }
    }

    /// Takes that back.
    fn unspare(&self, name: &str) {
        // What is not there need not be removed.
        let _ = self.exes.remove(&exe_name(name));
    }

    /// True when `name` is not to be enrolled where that is checked.
    pub fn is_spared(&self, name: &str) -> bool {
        self.exes.get(&exe_name(name)).is_ok()
    }

    /// Why the programs cannot watch the kernel's own functions, if so: then a splice(2) is not noticed at once,
    /// but by the watchdog.
    pub fn blind(&self) -> Option<&str> {
        self.programs.blind.as_deref()
    }
}

/// A snapshot of what the fast path has done.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Connections whose client is enrolled.
    pub open: u64,
    /// At most so many.
    pub max: u64,
    /// Likewise since the start.
    pub total: u64,
    /// Bytes that went from socket to socket.
    pub direct: Bytes,
    /// Bytes that the relay put into queues.
    pub injected: Bytes,
    /// Connections whose application used splice(2).
    pub spliced: u64,
    counts: [u64; COUNTS as usize],
}

impl Counters {
    fn without(mut self, earlier: &Self) -> Self {
        self.total = self.total.saturating_sub(earlier.total);
        self.direct = self.direct.without(earlier.direct);
        self.injected = self.injected.without(earlier.injected);
        self.spliced = self.spliced.saturating_sub(earlier.spliced);
        for (count, earlier) in self.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(earlier);
        }
        self
    }

    /// One of the programs' own counters.
    pub fn of(&self, what: Count) -> u64 {
        self.counts.get(what as usize).copied().unwrap_or_default()
    }
}

/// A connection as whoever accepts it sees it.
fn tuple(netns: u64, local: SocketAddr, remote: SocketAddr) -> Tuple {
    Tuple {
        netns,
        local: words(local.ip()),
        remote: words(remote.ip()),
        local_port: local.port(),
        remote_port: remote.port(),
        pad: 0,
    }
}

/// An address as the programs compare it: network order, IPv4 mapped into IPv6.
fn words(ip: IpAddr) -> [u32; 4] {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// True for another wormholed, which reads sockets by splice(2) as this one does: one daemon's head may be where another
/// one's tail leads to, and neither socket is an application's.
fn is_wormholed(name: &str) -> bool {
    name == WORMHOLED
}

/// A base name as the programs compare it: cut off so that a zero follows.
fn exe_name(name: &str) -> ExeName {
    let mut exe = ExeName::default();
    let most = exe.len() - 1;
    for (to, from) in exe.iter_mut().zip(name.bytes().take(most)) {
        *to = from;
    }
    exe
}

fn exe_text(exe: &ExeName) -> String {
    let end = exe.iter().position(|byte| *byte == 0).unwrap_or(exe.len());
    String::from_utf8_lossy(exe.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_families_name_the_same_address() {
        assert_eq!(words("127.0.0.1".parse().unwrap()), words("::ffff:127.0.0.1".parse().unwrap()));
        assert_eq!(words("0.0.0.0".parse().unwrap()), [0, 0, 0xffff_u32.to_be(), 0]);
        assert_eq!(words("::".parse().unwrap()), [0; 4]);
    }

    #[test]
    fn long_names_are_cut_off_alike() {
        let long = "a".repeat(40);
        assert_eq!(exe_text(&exe_name(&long)).len(), 31);
        assert_eq!(exe_name(&long), exe_name(&long[..31]));
        assert_eq!(exe_text(&exe_name("haproxy")), "haproxy");
    }
}
