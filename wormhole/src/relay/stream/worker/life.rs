//! What a relay thread does with one connection, from accept to close.

use super::super::conn::{Conn, Side, Step};
use super::super::listener::Listener;
use super::super::socket::{self, Attempt};
use super::super::token::{GENERATIONS, Token};
use super::{Accepted, Worker, live};
use crate::fastpath::{Claim, Link, Why};
use crate::relay::{Tail, TargetAddr};
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How soon a tail that could not even be asked is asked again: at first, and later.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LATER: Duration = Duration::from_millis(100);

/// How long a connection waits at most until it is known who listens at its tail: looks rest for some time in between, which on a busy
/// machine is some 100 ms. And how often it asks: at first, and later.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LATER: Duration = Duration::from_millis(20);

impl Worker {
    pub(super) fn begin(&mut self, listener: &Arc<Listener>, accepted: Accepted) {
        let Accepted { head, remote, at: now } = accepted;
        let route = Arc::clone(&listener.route);
        let link = claim(listener, head.as_fd(), remote);
        if let (Ok(link), None) = (&link, &self.tools.door) {
            self.tools.door = link.door();
        }
        route.counters.begin(link.as_ref());
        route.counters.total.fetch_add(1, Relaxed);
        route.counters.open.fetch_add(1, Relaxed);
        self.generation = (self.generation + 1) & GENERATIONS;
        let generation = self.generation;
        let slot = self.conns.insert(Box::new(Conn::new(route, head, link, generation, listener.unix, now)));
        let Ok(slot) = u32::try_from(slot) else {
            self.remove(slot);
            return;
        };
        self.connect(slot, now);
    }

    /// Tries the tail's addresses from the current one on.
    pub(super) fn connect(&mut self, slot: u32, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let route = Arc::clone(&conn.route);
        let tail = route.tail();
        let target = match &**tail {
            Tail::Ready(target) => target,
            Tail::Absent(why) => {
                self.fail(slot, why);
                return;
            }
        };
        let server = conn.link.as_ref().ok().and(target.server.as_ref());
        if now < conn.since + LOOK && server.is_some_and(|server| server.is_about_to_be_known(conn.since)) {
            let again = now + pause(now, conn.since, LOOK_FIRST, LOOK_LATER);
            self.timers.set(&mut conn.deadline, Some(again), slot, conn.generation);
            self.watch_head(slot);
            return;
        }
        // Asked for each attempt: the tail may have changed since the one before.
        conn.no_server = conn.link.as_ref().ok().and(target.server.as_ref()).and_then(|server| server.objection());
        let link = conn.link.as_ref().ok().filter(|_| conn.no_server.is_none());
        let announced = self.tools.door.as_ref().zip(link);
        if let Some(link) = link.filter(|_| server.is_some_and(|server| server.has_ring_for_files())) {
            link.pair().expects_ring_for_files();
        }
        let attempt = loop {
            let mut tried = socket::connect(target, conn.attempt, announced, &route.options);
            if matches!(tried, Err(Errno::MFILE | Errno::NFILE)) && self.reserve.release() {
                tried = socket::connect(target, conn.attempt, announced, &route.options);
            }
            match tried {
                Ok(attempt) => break attempt,
                // Ours to wait for, and no fault of the tail's: others give descriptors back.
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => break Attempt::Busy(error),
                Err(_) if conn.attempt + 1 < socket::addresses(&target.addr) => {
                    conn.attempt += 1;
                    conn.tried = now;
                }
                Err(error) => {
                    let why = socket::explain(&target.addr, conn.attempt, error);
                    self.fail(slot, &why);
                    return;
                }
            }
        };
        let unix = matches!(target.addr, TargetAddr::Unix { .. });
        let deadline = match attempt {
            Attempt::Done(far) => {
                conn.set_tail(far, true, unix);
                route.options.idle_timeout.map(|idle| now + idle)
            }
            Attempt::Pending(far) => {
                conn.set_tail(far, false, unix);
                Some(now + route.options.connect_timeout)
            }
            Attempt::Busy(error) => {
                conn.trouble = Some(error);
                Some(now + pause(now, conn.tried, RETRY_FIRST, RETRY_LATER))
            }
        };
        self.timers.set(&mut conn.deadline, deadline, slot, conn.generation);
        if !self.watch_head(slot) || !self.watch_tail(slot) {
            return;
        }
        if let Some(conn) = self.conns.get_mut(slot as usize).filter(|c| c.open) {
            let step = conn.advance(&mut self.tools);
            self.finish(slot, step);
        }
    }

    /// Gives an address of the tail up and tries the next one.
    fn next_address(&mut self, slot: u32, error: Errno, now: Instant) {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let route = Arc::clone(&conn.route);
        let tail = route.tail();
        if let Tail::Ready(target) = &**tail
            && conn.attempt + 1 >= socket::addresses(&target.addr)
        {
            let why = socket::explain(&target.addr, conn.attempt, error);
            self.fail(slot, &why);
            return;
        }
        conn.attempt += 1;
        conn.tried = now;
        conn.trouble = None;
        conn.drop_tail();
        if conn.link.as_ref().is_ok_and(|link| link.pair().has_server()) {
            // It was about to answer after all, and what the client sends goes there by now.
            self.fail(slot, "the tail answered when it had been given up");
            return;
        }
        self.connect(slot, now);
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

    pub(super) fn on_event(&mut self, slot: u32, generation: u32, side: Side, flags: EventFlags) {
        let Some(conn) = live(&mut self.conns, slot, generation) else { return };
        let connecting = !conn.open;
        let step = conn.event(side, flags, &mut self.tools);
        if connecting && conn.open {
            // The deadline was the attempt's; the idle time of the stream begins now.
            let idle = conn.route.options.idle_timeout;
            if idle.is_some() {
                conn.active = Instant::now();
            }
            let deadline = idle.map(|idle| conn.active + idle);
            self.timers.set(&mut conn.deadline, deadline, slot, generation);
        }
        self.finish(slot, step);
    }

    /// Does what a step asks for.
    pub(super) fn finish(&mut self, slot: u32, step: Step) {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        match step {
            Step::Wait => {}
            Step::Again => self.again.push((slot, conn.generation)),
            Step::Full(pause) => {
                // Whatever happens meanwhile, the look is not put off.
                let at = Instant::now() + pause;
                if conn.look.is_none_or(|before| at < before) {
                    self.full.set(&mut conn.look, Some(at), slot, conn.generation);
                }
            }
            Step::Over => {
                conn.end_orderly();
                self.remove(slot as usize);
            }
            Step::Reset(side, error) => {
                tracing::debug!(segment = %conn.route.id, ?side, %error, "reset handed on");
                conn.route.counters.reset.fetch_add(1, Relaxed);
                self.remove(slot as usize);
            }
            Step::ConnectFailed(error) => self.next_address(slot, error, Instant::now()),
        }
    }

    /// The tail was not reached: the client is reset, the reason is kept.
    fn fail(&mut self, slot: u32, why: &str) {
        if let Some(conn) = self.conns.get(slot as usize)
            && conn.route.counters.fail(why)
        {
            tracing::info!(segment = %conn.route.id, why, "tail not reached; client reset");
        }
        self.remove(slot as usize);
    }

    /// Closes both sockets; with a reset unless the end was orderly.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(mut conn) = self.conns.try_remove(slot) else { return };
        if let Ok(slot) = u32::try_from(slot) {
            let generation = conn.generation;
            self.timers.set(&mut conn.deadline, None, slot, generation);
            self.full.set(&mut conn.look, None, slot, generation);
        }
        conn.close(&mut self.tools.pipes);
        self.shared.take_load(self.index);
        self.shared.release();
    }

    /// A connection's deadline has come; whether it still stands is found out here.
    pub(super) fn on_deadline(&mut self, slot: u32, generation: u32, now: Instant) {
        let Some(conn) = live(&mut self.conns, slot, generation) else { return };
        conn.deadline = None;
        let options = conn.route.options.clone();
        if !conn.open {
            // It was connected a moment ago, and epoll has not been asked since: its server may be enrolled already.
            if conn.tail().is_some_and(|tail| rustix::net::getpeername(tail).is_ok()) {
                self.on_event(slot, generation, Side::Tail, EventFlags::OUT);
            } else if conn.tail().is_none() && now < conn.tried + options.connect_timeout {
                self.connect(slot, now);
            } else {
                let error = conn.trouble.unwrap_or(Errno::TIMEDOUT);
                self.next_address(slot, error, now);
            }
            return;
        }
        let Some(idle) = options.idle_timeout else { return };
        if conn.went_past() {
            conn.active = now;
        }
        let deadline = conn.active + idle;
        if deadline > now {
            self.timers.set(&mut conn.deadline, Some(deadline), slot, generation);
            return;
        }
        tracing::debug!(segment = %conn.route.id, "idle for too long; closed");
        if conn.is_stuck() {
            // An EOF in front of bytes that were not delivered would pass a part for the whole.
            conn.route.counters.reset.fetch_add(1, Relaxed);
        } else {
            conn.end_orderly();
        }
        self.remove(slot as usize);
    }
}

/// How long one that waits `since` then is to wait until it is tried again: the longer, the longer.
fn pause(now: Instant, since: Instant, first: Duration, later: Duration) -> Duration {
    (now.saturating_duration_since(since) / 8).clamp(first, later)
}

/// What the fast path knows of a connection that was accepted.
fn claim(listener: &Listener, head: BorrowedFd<'_>, remote: Option<SocketAddr>) -> Result<Link, Why> {
    let gate = listener.gate.as_ref().map_err(Clone::clone)?;
    match gate.claim(head, remote.ok_or(Why::ClientUnseen)?) {
        Claim::Joined(link) => Ok(link),
        Claim::Refused(why) => Err(Why::Client(why)),
        Claim::Stranger => Err(Why::ClientUnseen),
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: Token) -> Result<(), Errno> {
    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
    epoll::add(epoll, fd, token.pack(), flags)
}
