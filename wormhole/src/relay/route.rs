//! Where the connections of one segment lead to, shared between the controller, which changes it, and the relay
//! threads, which read it once a connection.

use crate::fastpath::{Link, Pair, Server, Why};
use crate::model::{Bytes, Connections, Mode, SegmentId};
use crate::netns::{Namespace, Root};
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a segment's connections share.
#[derive(Debug)]
pub struct Route {
    /// The segment, for logs.
    pub id: SegmentId,
    /// Timeouts and socket options.
    pub options: RelayOptions,
    /// What `list` counts.
    pub counters: Counters,
    tail: ArcSwap<Tail>,
}

/// Where the tail is at this moment.
#[derive(Debug)]
pub enum Tail {
    /// Connect there.
    Ready(Target),
    /// It is not there, for this reason; a client is reset.
    Absent(String),
}

/// A place to connect to.
#[derive(Debug)]
pub struct Target {
    /// The namespace that the socket is made in.
    pub namespace: Namespace,
    /// The address in it.
    pub addr: TargetAddr,
    /// Whoever listens there, where that decides about the fast path.
    pub server: Option<Arc<Server>>,
}

/// The address of a [`Target`].
#[derive(Clone, Debug)]
pub enum TargetAddr {
    /// TCP or UDP; tried in this order until one accepts.
    Inet(Vec<SocketAddr>),
    /// A unix stream socket.
    Unix {
        /// The root that `path` is seen from.
        root: Root,
        /// Absolute path.
        path: String,
    },
}

/// Timeouts and socket options of a segment's connections.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Give up on a tail that does not answer.
    pub connect_timeout: Duration,
    /// Close a stream on which no byte moved for so long; none: never.
    pub idle_timeout: Option<Duration>,
    /// First keepalive probe after so long without a segment; none: no keepalive.
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`: unacknowledged for so long is dead; none: the kernel's retransmission limits (about a
    /// quarter of an hour with `net.ipv4.tcp_retries2` = 15). Off by default, because the kernel also counts the time
    /// in which a living reader keeps its window shut (tcp(7)): a reader that pauses for longer would be reset.
    pub user_timeout: Option<Duration>,
    /// Which connections may leave the relay.
    pub fastpath: Mode,
    /// Forget a UDP session on which no datagram moved for so long.
    pub udp_timeout: Duration,
    /// At most so many UDP sessions of one segment; the one that was silent for longest makes room.
    pub udp_sessions: usize,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: None,
            keepalive: Some(Duration::from_secs(30)),
            user_timeout: None,
            fastpath: Mode::Auto,
            udp_timeout: Duration::from_secs(60),
            udp_sessions: 16_384,
        }
    }
}

/// What `list` counts. Relaxed: each number is right by itself, a reader may see them a moment apart.
#[derive(Debug, Default)]
pub struct Counters {
    /// Open now.
    pub open: AtomicU64,
    /// Accepted.
    pub total: AtomicU64,
    /// Accepted, tail not reached.
    pub failed: AtomicU64,
    /// Ended by a reset.
    pub reset: AtomicU64,
    /// Payload bytes head to tail.
    pub to_tail: AtomicU64,
    /// Payload bytes tail to head.
    pub to_head: AtomicU64,
    /// Of connections that have ended: what went from socket to socket, and what was put into queues.
    ended: Mutex<Ended>,
    last_error: Mutex<Option<String>>,
    logged: Mutex<Option<(String, Instant)>>,
}

/// What the fast path did for connections that have ended, and which it works for now.
#[derive(Debug, Default)]
struct Ended {
    direct: Bytes,
    injected: Bytes,
    fallbacks: BTreeMap<&'static str, u64>,
    /// By the address of the pair.
    live: HashMap<usize, Arc<Pair>>,
}

/// What the fast path did for the connections of a segment.
#[derive(Clone, Copy, Debug)]
pub struct FastCounters {
    /// Bytes that went from socket to socket.
    pub direct: Bytes,
    /// Bytes that the relay put into queues.
    pub injected: Bytes,
    /// Open connections whose client is enrolled.
    pub pairs: u64,
}

impl Counters {
    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that is on the fast path, or why it is not.
    pub fn begin(&self, link: Result<&Link, &Why>) {
        let mut fast = self.ended();
        match link {
            Ok(link) => drop(fast.live.insert(Arc::as_ptr(link.pair()) as usize, Arc::clone(link.pair()))),
            Err(why) => *fast.fallbacks.entry(why.key()).or_default() += 1,
        }
    }

    /// Takes over what the fast path did for a connection that ends; `why` if its bytes took the relay all the same.
    pub fn end(&self, link: Option<&Link>, why: Option<&Why>) {
        let Some(link) = link else { return };
        let mut fast = self.ended();
        if let Some(why) = why {
            *fast.fallbacks.entry(why.key()).or_default() += 1;
        }
        if let Some(pair) = fast.live.remove(&(Arc::as_ptr(link.pair()) as usize)) {
            fast.direct = fast.direct + pair.direct();
            fast.injected = fast.injected + pair.injected();
        }
    }

    /// True while a connection of these is part of `pair`.
    pub fn carry(&self, pair: &Arc<Pair>) -> bool {
        self.ended().live.contains_key(&(Arc::as_ptr(pair) as usize))
    }

    /// What the fast path did.
    pub fn fast(&self) -> FastCounters {
        let fast = self.ended();
        let start = FastCounters { direct: fast.direct, injected: fast.injected, pairs: fast.live.len() as u64 };
        fast.live.values().fold(start, |sum, pair| FastCounters {
            direct: sum.direct + pair.direct(),
            injected: sum.injected + pair.injected(),
            ..sum
        })
    }

    /// Connections that took the relay, by reason.
    pub fn fallbacks(&self) -> BTreeMap<String, u64> {
        self.ended().fallbacks.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect()
    }

    /// Counts a connection whose tail could not be reached. True when that is worth a line in the log: another reason
    /// than the last time, or the same a while later. A client that tries again and again must not fill the disk.
    pub fn fail(&self, why: &str) -> bool {
        const SAME_AGAIN: Duration = Duration::from_secs(10);
        self.failed.fetch_add(1, Relaxed);
        self.note(why);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let known = logged.as_ref().is_some_and(|(what, when)| what == why && when.elapsed() < SAME_AGAIN);
        if !known {
            *logged = Some((why.to_owned(), Instant::now()));
        }
        !known
    }

    /// Notes an error that ended nothing, e.g. an ICMP message about one datagram.
    pub fn note(&self, why: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    /// The connection counters as `list` shows them.
    pub fn connections(&self) -> Connections {
        Connections {
            open: self.open.load(Relaxed),
            total: self.total.load(Relaxed),
            failed: self.failed.load(Relaxed),
            reset: self.reset.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Payload bytes that relay threads have moved.
    pub fn relayed(&self) -> Bytes {
        Bytes { to_tail: self.to_tail.load(Relaxed), to_head: self.to_head.load(Relaxed) }
    }
}

impl Route {
    /// A route whose tail is not known yet.
    pub fn new(id: SegmentId, options: RelayOptions) -> Arc<Self> {
        let tail = ArcSwap::from_pointee(Tail::Absent("the segment is being made".to_owned()));
        Arc::new(Self { id, options, counters: Counters::default(), tail })
    }

    /// Where the tail is now.
    pub fn tail(&self) -> arc_swap::Guard<Arc<Tail>> {
        self.tail.load()
    }

    /// Connections from now on go there.
    pub fn set_tail(&self, tail: Tail) {
        self.tail.store(Arc::new(tail));
    }
}
