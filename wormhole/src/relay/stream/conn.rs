//! One proxied stream as a state machine: connecting, open, over. It owns both sockets and knows nothing of epoll
//! beyond the readiness that the thread hands in.
//!
//! The rules it keeps, so that each application sees what it would see without a proxy:
//! - FIN is handed on as FIN once all before it has been written; the other direction goes on.
//! - A reset is handed on as a reset. What arrived before it is written first as far as the receiver takes it at once,
//!   as a direct connection would have delivered it.
//! - A tail that cannot be reached resets the client: a connection that never was must not look like an empty answer.

use super::pump::{Pump, Ready, Turn, hand_on_end};
use super::socket::{end_orderly, peer_name};
use crate::model::{Bytes, ConnectionView};
use crate::relay::Route;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

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
    /// True once the tail answered.
    pub open: bool,
    /// True once the client's socket is known to epoll.
    pub watched: bool,
    /// When a byte last moved, for the idle timeout.
    pub active: Instant,
    head: OwnedFd,
    tail: Option<OwnedFd>,
    head_ready: Ready,
    tail_ready: Ready,
    to_tail: Pump,
    to_head: Pump,
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
    /// Both directions ended: close it.
    Over,
    /// A side was reset or failed: reset both.
    Reset(Side, Errno),
    /// The attempt to connect was decided against us.
    ConnectFailed(Errno),
}

impl Conn {
    /// A connection that was accepted and whose tail is not there yet.
    pub fn new(route: Arc<Route>, head: OwnedFd, generation: u32, unix: bool, now: Instant) -> Self {
        let head_ready = Ready { readable: true, writable: true, exact: unix };
        Self {
            route,
            generation,
            attempt: 0,
            open: false,
            watched: false,
            active: now,
            head,
            tail: None,
            head_ready,
            tail_ready: Ready::default(),
            to_tail: Pump::default(),
            to_head: Pump::default(),
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
    pub fn set_tail(&mut self, fd: OwnedFd, connected: bool, unix: bool) {
        self.tail = Some(fd);
        self.tail_ready = Ready { readable: false, writable: connected, exact: unix };
        self.open = connected;
    }

    /// Gives up the socket of an attempt that failed.
    pub fn drop_tail(&mut self) {
        self.tail = None;
        self.open = false;
    }

    /// Handles what epoll told about one side.
    pub fn event(&mut self, side: Side, flags: EventFlags, scratch: &mut [u8]) -> Step {
        if !self.open {
            return self.event_while_connecting(side, flags, scratch);
        }
        let ready = match side {
            Side::Head => &mut self.head_ready,
            Side::Tail => &mut self.tail_ready,
        };
        note(ready, flags);
        let step = self.advance(scratch);
        if flags.contains(EventFlags::ERR) && matches!(step, Step::Wait | Step::Again) {
            // The other side does not read, so the pump did not come across the error by itself.
            let fd = if side == Side::Head { Some(self.head()) } else { self.tail() };
            let error = fd.and_then(|fd| sockopt::socket_error(fd).ok()).and_then(Result::err);
            return Step::Reset(side, error.unwrap_or(Errno::CONNRESET));
        }
        step
    }

    fn event_while_connecting(&mut self, side: Side, flags: EventFlags, scratch: &mut [u8]) -> Step {
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
                match sockopt::socket_error(tail) {
                    Ok(Err(e)) => return Step::ConnectFailed(e),
                    Ok(Ok(())) if rustix::net::getpeername(tail).is_err() => return Step::Wait,
                    Ok(Ok(())) | Err(_) => {}
                }
                self.open = true;
                note(&mut self.tail_ready, flags);
                self.advance(scratch)
            }
        }
    }

    /// Moves what can be moved, both ways.
    pub fn advance(&mut self, scratch: &mut [u8]) -> Step {
        let Some(tail) = self.tail.as_ref().map(AsFd::as_fd).filter(|_| self.open) else { return Step::Wait };
        let head = self.head.as_fd();
        let counters = &self.route.counters;

        let (up, moved_up) = self.to_tail.turn((head, &mut self.head_ready), (tail, &mut self.tail_ready), scratch);
        if moved_up > 0 {
            counters.to_tail.fetch_add(moved_up as u64, Relaxed);
        }
        let (down, moved_down) = self.to_head.turn((tail, &mut self.tail_ready), (head, &mut self.head_ready), scratch);
        if moved_down > 0 {
            counters.to_head.fetch_add(moved_down as u64, Relaxed);
        }
        if moved_up + moved_down > 0 && self.route.options.idle_timeout.is_some() {
            self.active = Instant::now();
        }
        match (up, down) {
            (Turn::ReadFailed(e), _) | (_, Turn::WriteFailed(e)) => Step::Reset(Side::Head, e),
            (_, Turn::ReadFailed(e)) | (Turn::WriteFailed(e), _) => Step::Reset(Side::Tail, e),
            (Turn::Ended, Turn::Ended) => Step::Over,
            (up, down) => {
                if self.to_tail.end_to_hand_on() && hand_on_end(tail).is_err() {
                    return Step::Reset(Side::Tail, Errno::CONNRESET);
                }
                if self.to_head.end_to_hand_on() && hand_on_end(head).is_err() {
                    return Step::Reset(Side::Head, Errno::CONNRESET);
                }
                if up == Turn::Again || down == Turn::Again { Step::Again } else { Step::Wait }
            }
        }
    }

    /// Takes the reset-on-close back from both sockets: dropping the connection now ends it with FIN.
    pub fn end_orderly(&self) {
        end_orderly(self.head());
        if let Some(tail) = self.tail() {
            end_orderly(tail);
        }
    }

    /// How `inspect` shows it.
    pub fn view(&self, now: Instant) -> ConnectionView {
        ConnectionView {
            client: peer_name(self.head()),
            tail: self.tail().map(peer_name).unwrap_or_default(),
            path: if self.open { "relay" } else { "connecting" }.to_owned(),
            age_s: now.saturating_duration_since(self.since).as_secs(),
            bytes: Bytes { to_tail: self.to_tail.bytes, to_head: self.to_head.bytes },
        }
    }
}

fn note(ready: &mut Ready, flags: EventFlags) {
    let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
    ready.readable |= flags.intersects(EventFlags::IN | ends);
    ready.writable |= flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    ready.exact |= flags.intersects(ends | EventFlags::PRI);
}
