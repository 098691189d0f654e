//! One proxied stream as a state machine: connecting, open, over. It owns both sockets and knows nothing of epoll
//! beyond the readiness that the thread hands in.
//!
//! The rules it keeps, so that each application sees what it would see without a proxy:
//! - FIN is handed on as FIN once all before it has been written; the other direction goes on.
//! - A reset is handed on as a reset. What arrived before it is written first as far as the receiver takes it at once,
//!   as a direct connection would have delivered it.
//! - A tail that cannot be reached resets the client: a connection that never was must not look like an empty answer.
//! - A unix socket knows no reset of its own. Its peer sees ECONNRESET when bytes of it were left unread, and otherwise
//!   an EOF, whatever we do.

use super::pipes::Pipes;
use super::pump::{Lane, Pump, Ready, Tools, Turn};
use super::socket::{Far, end_orderly, hand_on_end, peer_name};
use crate::fastpath::{Link, Role, Why};
use crate::model::{Bytes, ConnectionView};
use crate::relay::Route;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Why bytes of a connection on the fast path do not go direct.
const GATHERS: &str = "it streams small messages, which are gathered (--fastpath-gather)";
/// Turns that a side which failed gets for what it sent before.
const LAST_TURNS: usize = 64;

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's, at the head.
    Head,
    /// The server's, at the tail.
    Tail,
}

/// A proxied stream.
#[derive(Debug)]
pub struct Conn {
    /// The segment's route.
    pub route: Arc<Route>,
    /// Tells this connection from an earlier one in the same slot.
    pub generation: u32,
    /// Index of the address that is being tried.
    pub attempt: usize,
    /// When that address was tried first.
    pub tried: Instant,
    /// Why it could not even be asked so far.
    pub trouble: Option<Errno>,
    /// Its entry among the thread's deadlines.
    pub deadline: Option<Instant>,
    /// True once the tail answered.
    pub open: bool,
    /// True once the client's socket is known to epoll.
    pub watched: bool,
    /// When a byte last moved, for the idle timeout.
    pub active: Instant,
    /// Its part of a connection on the fast path, or why it takes the relay.
    pub link: Result<Link, Why>,
    /// Why its server is not to be enrolled.
    pub no_server: Option<Why>,
    /// When to look at a receiver's queue that was full.
    pub look: Option<Instant>,
    /// What went past the relay, and what waited in front of the applications, when a deadline last asked.
    seen: (u64, u64),
    head: OwnedFd,
    tail: Option<Far>,
    head_ready: Ready,
    tail_ready: Ready,
    to_tail: Pump,
    to_head: Pump,
    /// The side that epoll has reported an error of.
    failed: Option<Side>,
    /// When it was accepted.
    pub since: Instant,
}

/// What the thread has to do with the connection after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the next event.
    Wait,
    /// There is more to move: give it another turn after the others.
    Again,
    /// A receiver's redirected queue is full: give it another turn after that time.
    Full(Duration),
    /// Both directions ended: close it.
    Over,
    /// A side was reset or failed: reset both.
    Reset(Side, Errno),
    /// The attempt to connect was decided against us.
    ConnectFailed(Errno),
}

impl Conn {
    /// A connection that was accepted and whose tail is not there yet.
    pub fn new(route: Arc<Route>, head: OwnedFd, link: Result<Link, Why>, generation: u32, unix: bool, now: Instant) -> Self {
        let head_ready = Ready { readable: true, writable: true, spliced: !unix, exact: unix };
        Self {
            route,
            generation,
            attempt: 0,
            tried: now,
            trouble: None,
            deadline: None,
            open: false,
            watched: false,
            active: now,
            link,
            no_server: None,
            look: None,
            seen: (0, 0),
            head,
            tail: None,
            head_ready,
            tail_ready: Ready::default(),
            to_tail: Pump::default(),
            to_head: Pump::default(),
            failed: None,
            since: now,
        }
    }

    /// The client's socket.
    pub fn head(&self) -> BorrowedFd<'_> {
        self.head.as_fd()
    }

    /// The server's socket, once an attempt is under way.
    pub fn tail(&self) -> Option<BorrowedFd<'_>> {
        self.tail.as_ref().map(AsFd::as_fd)
    }

    /// Takes the socket of an attempt to connect.
    pub fn set_tail(&mut self, tail: Far, connected: bool, unix: bool) {
        self.tail = Some(tail);
        self.tail_ready = Ready { readable: false, writable: connected, spliced: !unix, exact: unix };
        self.open = connected;
    }

    /// Gives up the socket of an attempt that failed.
    pub fn drop_tail(&mut self) {
        self.tail = None;
        self.open = false;
    }

    /// Handles what epoll told about one side.
    pub fn event(&mut self, side: Side, flags: EventFlags, tools: &mut Tools) -> Step {
        if !self.open {
            return self.event_while_connecting(side, flags, tools);
        }
        let ready = match side {
            Side::Head => &mut self.head_ready,
            Side::Tail => &mut self.tail_ready,
        };
        note(ready, flags);
        if flags.contains(EventFlags::ERR) {
            self.failed = Some(side);
            self.to_tail.queue.hurry();
            self.to_head.queue.hurry();
        }
        self.advance(tools)
    }

    fn event_while_connecting(&mut self, side: Side, flags: EventFlags, tools: &mut Tools) -> Step {
        let gone = flags.contains(EventFlags::ERR);
        match side {
            // What the client sends or ends meanwhile stays in the kernel until the tail is there; only its reset
            // matters now.
            Side::Head if gone => Step::Reset(Side::Head, Errno::CONNRESET),
            Side::Head => {
                note(&mut self.head_ready, flags);
                Step::Wait
            }
            Side::Tail => {
                let Some(tail) = self.tail() else { return Step::Wait };
                if rustix::net::getpeername(tail).is_err() {
                    // Not connected, or no longer. SO_ERROR would take the error away and leave an EOF behind; a look
                    // at what there is to read tells a refusal from a server that answered and was gone at once.
                    match rustix::net::recv(tail, &mut [0u8; 1], RecvFlags::PEEK) {
                        Err(Errno::AGAIN | Errno::INTR) => return Step::Wait,
                        Err(e @ (Errno::CONNRESET | Errno::PIPE)) => return Step::Reset(Side::Tail, e),
                        Err(e) => return Step::ConnectFailed(e),
                        Ok(_) => self.failed = Some(Side::Tail),
                    }
                }
                self.open = true;
                note(&mut self.tail_ready, flags);
                self.advance(tools)
            }
        }
    }

    /// Moves what can be moved, both ways.
    pub fn advance(&mut self, tools: &mut Tools) -> Step {
        if !self.open {
            return Step::Wait;
        }
        let mut up = self.turn(Side::Head, tools);
        let mut down = self.turn(Side::Tail, tools);
        if matches!(up, Turn::WriteFailed(_)) {
            down = self.last_words(Side::Tail, tools);
        } else if matches!(down, Turn::WriteFailed(_)) {
            up = self.last_words(Side::Head, tools);
        }
        let step = match (up, down) {
            // A write that failed comes first: it took the error of that socket away, and what its reader makes of the
            // rest (an EOF) means nothing.
            (_, Turn::WriteFailed(e)) | (Turn::ReadFailed(e), _) => Step::Reset(Side::Head, e),
            (Turn::WriteFailed(e), _) | (_, Turn::ReadFailed(e)) => Step::Reset(Side::Tail, e),
            (Turn::Ended, Turn::Ended) => Step::Over,
            (up, down) => {
                if let Some(side) = self.hand_on_ends() {
                    return Step::Reset(side, Errno::CONNRESET);
                }
                if up == Turn::Again || down == Turn::Again {
                    // The other direction looks again by then, however long this one has more to move.
                    self.look_again();
                    Step::Again
                } else {
                    self.again().map_or(Step::Wait, Step::Full)
                }
            }
        };
        match (step, self.failed) {
            // The other side does not read, so the pump did not come across the error by itself.
            (Step::Wait | Step::Full(_), Some(side)) => Step::Reset(side, self.error_of(side)),
            (step, _) => step,
        }
    }

    /// One turn of the pump that reads from this side.
    fn turn(&mut self, from: Side, tools: &mut Tools) -> Turn {
        let Some(tail) = self.tail.as_ref().map(AsFd::as_fd) else { return Turn::Waiting };
        let head = (self.head.as_fd(), &mut self.head_ready);
        let tail = (tail, &mut self.tail_ready);
        let counters = &self.route.counters;
        let link = self.link.as_ref().ok();
        let (turn, moved, count) = match from {
            Side::Head => {
                let lane = link.map(|link| Lane { link, to: Role::Server, last: self.to_head.has_handed_on() });
                let (turn, moved) = self.to_tail.turn(head, tail, lane, tools);
                (turn, moved, &counters.to_tail)
            }
            Side::Tail => {
                let lane = link.map(|link| Lane { link, to: Role::Client, last: self.to_tail.has_handed_on() });
                let (turn, moved) = self.to_head.turn(tail, head, lane, tools);
                (turn, moved, &counters.to_head)
            }
        };
        if moved > 0 {
            count.fetch_add(moved as u64, Relaxed);
            if self.route.options.idle_timeout.is_some() {
                self.active = Instant::now();
            }
        }
        if turn == Turn::Ended && self.link.as_ref().is_ok_and(|link| hides_loss(link, from)) {
            return Turn::ReadFailed(Errno::CONNRESET);
        }
        turn
    }

    fn again(&self) -> Option<Duration> {
        [&self.to_tail, &self.to_head].into_iter().filter_map(|pump| pump.queue.again()).min()
    }

    /// Another turn for a connection whose receiver's queue was full.
    pub fn retry(&mut self, tools: &mut Tools) -> Step {
        self.look_again();
        self.advance(tools)
    }

    fn look_again(&mut self) {
        self.to_tail.queue.retry();
        self.to_head.queue.retry();
    }

    /// True when bytes went past the relay, or were read that it had put into a queue, since the last call.
    pub fn went_past(&mut self) -> bool {
        let direct = self.direct();
        let waiting = |link: &Link| link.waiting(Role::Client) + link.waiting(Role::Server);
        let now = (direct.to_tail + direct.to_head, self.link.as_ref().map_or(0, waiting));
        std::mem::replace(&mut self.seen, now) != now
    }

    fn direct(&self) -> Bytes {
        self.link.as_ref().map(|link| link.pair().direct()).unwrap_or_default()
    }

    /// A side takes nothing any more; what it sent before that is handed on as far as the other takes it at once.
    fn last_words(&mut self, from: Side, tools: &mut Tools) -> Turn {
        match from {
            Side::Head => self.head_ready.readable = true,
            Side::Tail => self.tail_ready.readable = true,
        }
        // Bounded by its receive buffer, for nothing arrives any more; the limit is for what we did not think of.
        for _ in 0..LAST_TURNS {
            let turn = self.turn(from, tools);
            if turn != Turn::Again {
                return turn;
            }
        }
        Turn::Again
    }

    /// Hands EOF on where a direction has ended. The side that could not take it, if one could not.
    fn hand_on_ends(&mut self) -> Option<Side> {
        let tail = self.tail.as_ref().map(AsFd::as_fd)?;
        if self.to_tail.end_to_hand_on() && hand_on_end(tail).is_err() {
            return Some(Side::Tail);
        }
        if self.to_head.end_to_hand_on() && hand_on_end(self.head.as_fd()).is_err() {
            return Some(Side::Head);
        }
        None
    }

    fn error_of(&self, side: Side) -> Errno {
        let fd = if side == Side::Head { Some(self.head()) } else { self.tail() };
        fd.and_then(|fd| sockopt::socket_error(fd).ok()).and_then(Result::err).unwrap_or(Errno::CONNRESET)
    }

    /// True while bytes are here that were read, or looked at, and not written yet.
    pub fn is_stuck(&self) -> bool {
        self.to_tail.is_stuck() || self.to_head.is_stuck()
    }

    /// Takes the reset-on-close back from both sockets: dropping the connection now ends it with FIN.
    pub fn end_orderly(&self) {
        end_orderly(self.head());
        if let Some(tail) = self.tail() {
            end_orderly(tail);
        }
    }

    /// Closes both sockets, and counts it as closed after that.
    pub fn close(mut self, pipes: &mut Pipes) {
        self.to_tail.close(pipes);
        self.to_head.close(pipes);
        let why = self.why_relayed().filter(|_| self.open);
        let Self { route, head, tail, link, .. } = self;
        drop((head, tail));
        route.counters.end(link.as_ref().ok(), why.as_ref());
        route.counters.open.fetch_sub(1, Relaxed);
    }

    /// How `inspect` shows it.
    pub fn view(&self, now: Instant) -> ConnectionView {
        let reason = self.why_relayed().filter(|_| self.open);
        let path = match &reason {
            _ if !self.open => "connecting",
            Some(_) => "relay",
            None => "fastpath",
        };
        let direct = self.direct();
        ConnectionView {
            client: peer_name(self.head()),
            tail: self.tail().map(peer_name).unwrap_or_default(),
            path: path.to_owned(),
            reason: reason.map(|why| why.to_string()).or_else(|| self.gathers().then(|| GATHERS.to_owned())),
            age_s: now.saturating_duration_since(self.since).as_secs(),
            bytes: Bytes { to_tail: self.to_tail.bytes, to_head: self.to_head.bytes } + direct,
            direct,
            injected: self.link.as_ref().map(|link| link.pair().injected()).unwrap_or_default(),
        }
    }

    fn gathers(&self) -> bool {
        self.link.as_ref().is_ok_and(|link| link.pair().gathers())
    }

    /// Why bytes take the relay, unless both ends can send direct.
    fn why_relayed(&self) -> Option<Why> {
        match &self.link {
            Err(why) => Some(why.clone()),
            Ok(link) if link.pair().is_complete() => None,
            Ok(link) => link.pair().hindrance().or_else(|| self.no_server.clone()).or(Some(Why::ServerUnseen)),
        }
    }
}

/// True when the end that came from this side would pass a part for the whole: its application closed with redirected
/// bytes unread, for which TCP would have sent a reset, or the other one has redirected bytes that it will never see.
fn hides_loss(link: &Link, from: Side) -> bool {
    let (sender, receiver) = if from == Side::Head { (Role::Client, Role::Server) } else { (Role::Server, Role::Client) };
    link.left_unread(sender) || link.pair().is_condemned() || link.pair().is_lost(receiver)
}

fn note(ready: &mut Ready, flags: EventFlags) {
    let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
    ready.readable |= flags.intersects(EventFlags::IN | ends);
    ready.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    ready.exact |= flags.intersects(ends | EventFlags::PRI);
}
