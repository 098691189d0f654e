//! A relay thread: one epoll instance, edge-triggered, that accepts, connects and moves bytes without ever waiting
//! for one connection.
//!
//! All threads hold all listeners with `EPOLLEXCLUSIVE` (Linux 4.5): the kernel wakes one of those that sleep. A
//! connection stays with the thread that accepted it.

use super::conn::{Conn, Side, Step};
use super::listener::{BackOff, Listener, Reserve};
use super::pump::CHUNK_MAX;
use super::socket::{self, Attempt};
use super::timers::Timers;
use super::{Command, Shared};
use crate::model::ConnectionView;
use crate::relay::{Tail, TargetAddr};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use slab::Slab;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Connections accepted in one turn, so that open ones are not kept waiting.
const ACCEPTS: usize = 16;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// How soon a unix listener with a full queue is asked again.
const BUSY_RETRY: Duration = Duration::from_millis(5);
/// More views than this are of no use to a reader.
const VIEWS: usize = 1000;

/// What an epoll event belongs to, packed into its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Wake,
    Listener(u64),
    Conn { slot: u32, generation: u32, side: Side },
}

impl Token {
    fn pack(self) -> EventData {
        EventData::new_u64(match self {
            Self::Wake => 0,
            Self::Listener(id) => (id << 2) | 1,
            Self::Conn { slot, generation, side } => {
                let side = if side == Side::Head { 2 } else { 3 };
                (u64::from(slot) << 32) | (u64::from(generation & GENERATIONS) << 2) | side
            }
        })
    }

    fn unpack(data: EventData) -> Self {
        let raw = data.u64();
        match raw & 3 {
            0 => Self::Wake,
            1 => Self::Listener(raw >> 2),
            side => Self::Conn {
                slot: u32::try_from(raw >> 32).unwrap_or(u32::MAX),
                generation: u32::try_from((raw >> 2) & u64::from(GENERATIONS)).unwrap_or_default(),
                side: if side == 2 { Side::Head } else { Side::Tail },
            },
        }
    }
}

/// Generations fit into 30 bits.
const GENERATIONS: u32 = (1 << 30) - 1;

/// The state of one relay thread.
pub struct Worker {
    shared: Arc<Shared>,
    index: usize,
    epoll: OwnedFd,
    listeners: HashMap<u64, Arc<Listener>>,
    /// False while listeners are taken out of epoll: no descriptors, or the limit of connections is reached.
    accepting: bool,
    back_off: BackOff,
    reserve: Reserve,
    conns: Slab<Box<Conn>>,
    generation: u32,
    timers: Timers,
    /// Connections that used up their turn.
    again: Vec<(u32, u32)>,
    scratch: Box<[u8]>,
}

impl Worker {
    /// Prepares a thread's state; `wake` becomes readable when there are commands.
    pub fn new(shared: Arc<Shared>, index: usize, wake: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, Token::Wake.pack(), EventFlags::IN)?;
        Ok(Self {
            shared,
            index,
            epoll,
            listeners: HashMap::new(),
            accepting: true,
            back_off: BackOff::default(),
            reserve: Reserve::default(),
            conns: Slab::new(),
            generation: 0,
            timers: Timers::default(),
            again: Vec::new(),
            scratch: vec![0; CHUNK_MAX].into_boxed_slice(),
        })
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "epoll_wait failed; relay thread {} ends", self.index);
                    return;
                }
            }
            let mut commands = false;
            for event in &events {
                match Token::unpack(event.data) {
                    Token::Wake => commands = true,
                    Token::Listener(id) => self.accept(id),
                    Token::Conn { slot, generation, side } => self.on_event(slot, generation, side, event.flags),
                }
            }
            for (slot, generation) in std::mem::take(&mut self.again) {
                if let Some(conn) = live(&mut self.conns, slot, generation) {
                    let step = conn.advance(&mut self.scratch);
                    self.finish(slot, step);
                }
            }
            self.on_time();
            if commands && !self.obey() {
                return;
            }
        }
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        if !self.again.is_empty() {
            return rustix::event::Timespec::try_from(Duration::ZERO).ok();
        }
        let next = match (self.timers.next(), self.back_off.until()) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        // Rounded up: waking a moment too early would spin.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        rustix::event::Timespec::try_from(wait).ok()
    }

    // === commands ===

    fn obey(&mut self) -> bool {
        for command in self.shared.take_commands(self.index) {
            match command {
                Command::Listen(listener) => {
                    if self.accepting
                        && let Err(error) = self.watch_listener(&listener)
                    {
                        tracing::error!(%error, segment = %listener.route.id, "cannot watch the head's listener");
                    }
                    self.listeners.insert(listener.id, listener);
                }
                Command::Unlisten(id, _done) => {
                    if let Some(listener) = self.listeners.remove(&id) {
                        let _ = epoll::delete(&self.epoll, &listener.fd);
                    }
                }
                Command::Reset(route, before, _done) => {
                    let meant = |c: &Conn| Arc::ptr_eq(&c.route, &route) && c.since < before;
                    let slots: Vec<usize> = self.conns.iter().filter(|(_, c)| meant(c)).map(|(slot, _)| slot).collect();
                    for slot in slots {
                        self.remove(slot);
                    }
                }
                Command::View(route, views) => {
                    let now = Instant::now();
                    let of_route = self.conns.iter().filter(|(_, c)| Arc::ptr_eq(&c.route, &route));
                    let found: Vec<ConnectionView> = of_route.take(VIEWS).map(|(_, c)| c.view(now)).collect();
                    // The asker may have gone; that is its business.
                    let _ = views.send(found);
                }
                Command::Resume => self.resume(),
                Command::Stop => return false,
            }
        }
        true
    }

    // === accepting ===

    fn watch_listener(&self, listener: &Listener) -> Result<(), Errno> {
        epoll::add(&self.epoll, &listener.fd, Token::Listener(listener.id).pack(), EventFlags::IN | EventFlags::EXCLUSIVE)
    }

    fn accept(&mut self, id: u64) {
        let Some(listener) = self.listeners.get(&id).map(Arc::clone) else { return };
        for _ in 0..ACCEPTS {
            if !self.accepting {
                return;
            }
            if !self.reserve.ensure() {
                self.pause("no descriptor is left");
                return;
            }
            if !self.shared.admit() {
                self.stop_accepting();
                tracing::warn!(limit = self.shared.max_connections, "the limit of connections is reached; accepting none");
                // One may have ended between the refusal and now, and have seen nobody waiting.
                self.shared.wait_for_room();
                return;
            }
            match rustix::net::accept_with(&listener.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(head) => {
                    self.back_off.reset();
                    self.begin(&listener, head);
                }
                Err(error) => {
                    self.shared.release();
                    match error {
                        Errno::AGAIN => return,
                        Errno::INTR | Errno::CONNABORTED | Errno::PROTO => {}
                        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
                            self.pause(&error.to_string());
                            return;
                        }
                        error => {
                            // Errors of the network that were pending on the new socket come out of accept(2) too.
                            tracing::debug!(%error, segment = %listener.route.id, "accept failed");
                            return;
                        }
                    }
                }
            }
        }
    }

    fn stop_accepting(&mut self) {
        self.accepting = false;
        for listener in self.listeners.values() {
            let _ = epoll::delete(&self.epoll, &listener.fd);
        }
    }

    fn pause(&mut self, why: &str) {
        self.stop_accepting();
        let pause = self.back_off.pause(Instant::now());
        tracing::warn!(why, ?pause, "accepting pauses; clients wait in the listen queue");
    }

    fn resume(&mut self) {
        self.back_off.resume();
        if std::mem::replace(&mut self.accepting, true) {
            return;
        }
        for listener in self.listeners.values() {
            if let Err(error) = self.watch_listener(listener) {
                tracing::error!(%error, segment = %listener.route.id, "cannot watch the head's listener");
            }
        }
    }

    // === a connection's life ===

    fn begin(&mut self, listener: &Arc<Listener>, head: OwnedFd) {
        let route = Arc::clone(&listener.route);
        route.counters.total.fetch_add(1, Relaxed);
        route.counters.open.fetch_add(1, Relaxed);
        self.generation = (self.generation + 1) & GENERATIONS;
        let generation = self.generation;
        let now = Instant::now();
        let slot = self.conns.insert(Box::new(Conn::new(route, head, generation, listener.unix, now)));
        let Ok(slot) = u32::try_from(slot) else {
            self.remove(slot);
            return;
        };
        self.connect(slot, now);
    }

    /// Tries the tail's addresses from the current one on.
    fn connect(&mut self, slot: u32, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let route = Arc::clone(&conn.route);
        let tail = route.tail();
        let target = match &**tail {
            Tail::Ready(target) => target,
            Tail::Absent(why) => {
                let why = why.clone();
                self.fail(slot, &why);
                return;
            }
        };
        let (unix, last) = match &target.addr {
            TargetAddr::Inet(addrs) => (false, addrs.len().saturating_sub(1)),
            TargetAddr::Unix { .. } => (true, 0),
        };
        loop {
            let mut tried = socket::connect(target, conn.attempt, &route.options);
            if matches!(tried, Err((Errno::MFILE | Errno::NFILE, true))) && self.reserve.release() {
                tried = socket::connect(target, conn.attempt, &route.options);
            }
            let (fd, connected) = match tried {
                Ok(Attempt::Done(fd)) => (fd, true),
                Ok(Attempt::Pending(fd)) => (fd, false),
                Ok(Attempt::Busy) => {
                    self.timers.push(now + BUSY_RETRY, slot, conn.generation);
                    self.watch_head(slot);
                    return;
                }
                Err((_, false)) if conn.attempt < last => {
                    conn.attempt += 1;
                    continue;
                }
                Err((error, _)) => {
                    let why = explain(&target.addr, conn.attempt, error);
                    self.fail(slot, &why);
                    return;
                }
            };
            conn.set_tail(fd, connected, unix);
            break;
        }
        let generation = conn.generation;
        if !conn.open {
            self.timers.push(now + route.options.connect_timeout, slot, generation);
        } else if let Some(idle) = route.options.idle_timeout {
            self.timers.push(now + idle, slot, generation);
        }
        if !self.watch_head(slot) || !self.watch_tail(slot) {
            return;
        }
        if let Some(conn) = self.conns.get_mut(slot as usize).filter(|c| c.open) {
            let step = conn.advance(&mut self.scratch);
            self.finish(slot, step);
        }
    }

    /// Registers the client's socket, once. False when the connection had to be given up.
    fn watch_head(&mut self, slot: u32) -> bool {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return false };
        if std::mem::replace(&mut conn.watched, true) {
            return true;
        }
        let token = Token::Conn { slot, generation: conn.generation, side: Side::Head };
        let added = watch(&self.epoll, conn.head(), token);
        self.check_watch(slot, added)
    }

    fn watch_tail(&mut self, slot: u32) -> bool {
        let Some(conn) = self.conns.get(slot as usize) else { return false };
        let token = Token::Conn { slot, generation: conn.generation, side: Side::Tail };
        let added = conn.tail().map_or(Ok(()), |tail| watch(&self.epoll, tail, token));
        self.check_watch(slot, added)
    }

    fn check_watch(&mut self, slot: u32, added: Result<(), Errno>) -> bool {
        match added {
            Ok(()) => true,
            Err(error) => {
                self.fail(slot, &format!("cannot watch the connection: {error}"));
                false
            }
        }
    }

    fn on_event(&mut self, slot: u32, generation: u32, side: Side, flags: EventFlags) {
        let Some(conn) = live(&mut self.conns, slot, generation) else { return };
        let step = conn.event(side, flags, &mut self.scratch);
        self.finish(slot, step);
    }

    /// Does what a step asks for.
    fn finish(&mut self, slot: u32, step: Step) {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        match step {
            Step::Wait => {}
            Step::Again => self.again.push((slot, conn.generation)),
            Step::Over => {
                conn.end_orderly();
                self.remove(slot as usize);
            }
            Step::Reset(side, error) => {
                tracing::debug!(segment = %conn.route.id, ?side, %error, "reset handed on");
                conn.route.counters.reset.fetch_add(1, Relaxed);
                self.remove(slot as usize);
            }
            Step::ConnectFailed(error) => {
                let tail = conn.route.tail();
                if let Tail::Ready(target) = &**tail {
                    let more = matches!(&target.addr, TargetAddr::Inet(addrs) if conn.attempt + 1 < addrs.len());
                    if !more {
                        let why = explain(&target.addr, conn.attempt, error);
                        self.fail(slot, &why);
                        return;
                    }
                }
                conn.attempt += 1;
                conn.drop_tail();
                self.connect(slot, Instant::now());
            }
        }
    }

    /// The tail was not reached: the client is reset, the reason is kept.
    fn fail(&mut self, slot: u32, why: &str) {
        if let Some(conn) = self.conns.get(slot as usize) {
            conn.route.counters.fail(why);
            tracing::info!(segment = %conn.route.id, why, "tail not reached; client reset");
        }
        self.remove(slot as usize);
    }

    /// Closes both sockets; with a reset unless the end was orderly.
    fn remove(&mut self, slot: usize) {
        let Some(conn) = self.conns.try_remove(slot) else { return };
        conn.route.counters.open.fetch_sub(1, Relaxed);
        drop(conn);
        self.shared.release();
    }

    // === time ===

    fn on_time(&mut self) {
        if self.timers.next().is_none() && self.back_off.until().is_none() {
            return;
        }
        let now = Instant::now();
        if self.back_off.until().is_some_and(|until| until <= now) {
            self.resume();
        }
        while let Some((slot, generation)) = self.timers.pop(now) {
            let Some(conn) = live(&mut self.conns, slot, generation) else { continue };
            if !conn.open {
                let limit = conn.route.options.connect_timeout;
                if conn.tail().is_none() && now < conn.since + limit {
                    self.connect(slot, now);
                } else {
                    self.fail(slot, &format!("the tail did not answer within {}", humantime::format_duration(limit)));
                }
            } else if let Some(idle) = conn.route.options.idle_timeout {
                let deadline = conn.active + idle;
                if deadline <= now {
                    tracing::debug!(segment = %conn.route.id, "idle for too long; closed");
                    conn.end_orderly();
                    self.remove(slot as usize);
                } else {
                    self.timers.push(deadline, slot, generation);
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Whoever waits for the end of these connections may count on it; SeqCst pairs with Shared::admit.
        let open = self.conns.len();
        for conn in self.conns.drain() {
            conn.route.counters.open.fetch_sub(1, Relaxed);
        }
        self.shared.open.fetch_sub(open, SeqCst);
    }
}

fn live(conns: &mut Slab<Box<Conn>>, slot: u32, generation: u32) -> Option<&mut Box<Conn>> {
    conns.get_mut(slot as usize).filter(|c| c.generation == generation)
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: Token) -> Result<(), Errno> {
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
    epoll::add(epoll, fd.as_fd(), token.pack(), flags)
}

/// Why an address of the tail was not reached, with what the user can do.
fn explain(addr: &TargetAddr, index: usize, error: Errno) -> String {
    let to = match addr {
        TargetAddr::Inet(addrs) => addrs.get(index).map(ToString::to_string).unwrap_or_default(),
        TargetAddr::Unix { path, .. } => path.clone(),
    };
    let means = match error {
        Errno::CONNREFUSED => "nothing listens there",
        Errno::NOENT => "there is no such socket",
        Errno::NETUNREACH | Errno::HOSTUNREACH => "no route from that namespace",
        Errno::TIMEDOUT => "no answer",
        Errno::MFILE | Errno::NFILE => "no descriptor is left; raise `ulimit -n` of wormholed",
        Errno::ADDRNOTAVAIL => "no such address there, or no free port",
        _ => return format!("tail {to}: {error}"),
    };
    format!("tail {to}: {means} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_come_back_as_they_went(slot: u32, generation in 0..=GENERATIONS, head: bool, id in 0..(1u64 << 62)) {
            let side = if head { Side::Head } else { Side::Tail };
            for token in [Token::Wake, Token::Listener(id), Token::Conn { slot, generation, side }] {
                prop_assert_eq!(Token::unpack(token.pack()), token);
            }
        }
    }
}
