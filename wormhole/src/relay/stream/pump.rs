//! One direction of a stream: read here, write there, and remember what did not fit.
//!
//! A pump owns no buffer while nothing is stuck: it reads into the thread's scratch buffer and writes out of it. Only
//! what the receiver did not take is kept, at most one read, and no further byte is read before it is gone. So in
//! front of a reader that stopped there are the kernel's two socket buffers and at most [`CHUNK_MAX`] bytes of ours.
//!
//! A direction that streams is spliced through a borrowed pipe instead, which holds at most as much.
//!
//! Where the receiver's socket is enrolled in the fast path, what is written goes by the thread's door into its redirected
//! queue (it is injected): a receiver reads that queue before its TCP queue, so all bytes must take the same way.

use super::inject::Queue;
use super::pipes::{Pipe, Pipes};
use crate::fastpath::{Door, Link, Role};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::SendFlags;

/// The most that one read takes, and so the most that one direction keeps in userspace.
pub const CHUNK_MAX: usize = 256 * 1024;
/// What the first read of a connection takes; a read that fills it doubles the next one.
const CHUNK_FIRST: usize = 16 * 1024;
/// A read that fills at least this much marks a stream: from then on it is spliced.
const STREAMING: usize = 64 * 1024;
/// A turn that splices less than this was no stream any more: a copy is cheaper for small messages.
const TRICKLE: usize = 32 * 1024;
/// Bytes that one pump moves before others get their turn.
const TURN: usize = 1024 * 1024;

/// What edge-triggered epoll has told of one socket and was not used up yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// A read may succeed.
    pub readable: bool,
    /// A write may succeed.
    pub writable: bool,
    /// May be spliced: a TCP socket.
    pub spliced: bool,
    /// A short read does not mean that nothing is left: FIN or urgent data has arrived, or it is a unix socket.
    pub exact: bool,
}

/// How a turn of a pump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more can be moved until epoll speaks.
    Waiting,
    /// The turn was used up; there is more to move.
    Again,
    /// This direction has ended: EOF was read, and everything before it was written.
    Ended,
    /// The reading side failed.
    ReadFailed(Errno),
    /// The writing side failed.
    WriteFailed(Errno),
}

/// Whose queue a direction's bytes may be put into.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// The connection on the fast path.
    pub link: &'a Link,
    /// The receiver.
    pub to: Role,
    /// The sender has been told that nothing more comes from the receiver: the kernel acknowledges its end by itself.
    pub last: bool,
}

/// How bytes are handed to the receiver; decided at the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Out {
    #[default]
    Undecided,
    /// By TCP, or a unix socket.
    Plain,
    /// Into its redirected queue.
    Inject,
}

/// What a thread lends to the pump whose turn it is.
#[derive(Debug)]
pub struct Tools {
    /// Bytes pass through here when they are copied.
    pub scratch: Box<[u8]>,
    /// And through these when they are spliced.
    pub pipes: Pipes,
    /// And by this into applications' queues.
    pub door: Option<Door>,
}

impl Tools {
    /// A scratch buffer of the usual size, and at most `pipes` pipes.
    pub fn new(pipes: usize) -> Self {
        Self { scratch: vec![0; CHUNK_MAX].into_boxed_slice(), pipes: Pipes::new(pipes), door: None }
    }
}

/// One direction.
#[derive(Debug, Default)]
pub struct Pump {
    /// The pipe of a direction that is being spliced.
    pipe: Option<Pipe>,
    /// Both ends can be spliced, and the last reads came back full.
    streaming: bool,
    pub(super) out: Out,
    pub(super) queue: Queue,
    /// What was read and not written yet.
    stuck: Option<Stuck>,
    /// Size of the next read; 0: not read yet.
    chunk: usize,
    pub(super) eof: bool,
    pub(super) ended: bool,
    handed_on: bool,
    /// Bytes written.
    pub bytes: u64,
}

#[derive(Debug)]
struct Stuck {
    data: Box<[u8]>,
    from: usize,
}

impl Pump {
    /// True once, when this direction has ended and FIN is to be handed on.
    pub fn end_to_hand_on(&mut self) -> bool {
        self.ended && !std::mem::replace(&mut self.handed_on, self.ended)
    }

    /// True once the end of this direction was handed on.
    pub fn has_handed_on(&self) -> bool {
        self.handed_on
    }

    /// True while something was read, or waits to be read until there is room for it, and was not written yet.
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some() || self.queue.full().is_some() || self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty())
    }

    /// Takes the next turn for one of a stream.
    #[cfg(test)]
    pub fn stream(&mut self) {
        self.streaming = true;
    }

    /// Gives a borrowed pipe back; the connection is over.
    pub fn close(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give_back(pipe);
        }
    }

    /// Moves what can be moved from `src` to `dst`. Returns how the turn ended and how many bytes were written.
    pub fn turn(
        &mut self,
        (src, src_ready): (BorrowedFd<'_>, &mut Ready),
        (dst, dst_ready): (BorrowedFd<'_>, &mut Ready),
        lane: Option<Lane<'_>>,
        tools: &mut Tools,
    ) -> (Turn, usize) {
        let before = self.bytes;
        let moves = lane.filter(|_| self.out == Out::Inject && src_ready.readable);
        if let Some(lane) = moves {
            lane.link.moves(lane.to, true);
        }
        let turn = self.run((src, src_ready), (dst, dst_ready), lane, tools);
        if let Some(lane) = lane {
            self.acknowledges(src, lane, self.bytes != before);
        }
        self.sees_off_at_last(src, lane);
        if let Some(lane) = moves {
            lane.link.moves(lane.to, false);
        }
        (turn, usize::try_from(self.bytes - before).unwrap_or(usize::MAX))
    }

    fn run(
        &mut self,
        (src, src_ready): (BorrowedFd<'_>, &mut Ready),
        (dst, dst_ready): (BorrowedFd<'_>, &mut Ready),
        lane: Option<Lane<'_>>,
        tools: &mut Tools,
    ) -> Turn {
        if self.ended {
            return Turn::Ended;
        }
        if let Some(turn) = self.unstick(dst, dst_ready, lane, tools.door.as_ref()) {
            return turn;
        }
        let start = self.bytes;
        loop {
            if let Some(turn) = self.drain(dst, dst_ready) {
                return turn;
            }
            if self.eof {
                self.ended = true;
            }
            let moved = self.bytes - start;
            if self.ended || !src_ready.readable {
                self.streaming &= moved >= TRICKLE as u64;
                self.close(&mut tools.pipes);
                return if self.ended { Turn::Ended } else { Turn::Waiting };
            }
            if moved >= TURN as u64 {
                return Turn::Again;
            }
            if let Some(lane) = lane.filter(|_| self.out == Out::Plain) {
                self.queue.passage.narrow(self.bytes, src, dst, lane);
            }
            if let Some(lane) = lane.filter(|lane| self.leads(*lane)) {
                // It is empty, and takes more at once than may be on its way.
                self.close(&mut tools.pipes);
                if !dst_ready.writable || !self.queue.leads_on(self.transit(lane)) {
                    return Turn::Waiting;
                }
            } else if self.streaming && self.pipe.is_none() {
                self.pipe = tools.pipes.borrow();
            }
            let queues = lane.filter(|lane| self.puts_into_queue() && !lane.link.ends_gathering(lane.to));
            let step = match (&mut self.pipe, queues) {
                (Some(pipe), _) => fill(pipe, src, src_ready, &mut self.eof),
                (None, Some(lane)) => self.inject((src, src_ready), lane, tools),
                (None, None) => self.copy((src, src_ready), (dst, dst_ready), lane, tools),
            };
            if let Some(turn) = step {
                return turn;
            }
        }
    }

    /// Reads once and writes what was read. `None`: go on.
    fn copy(
        &mut self,
        (src, src_ready): (BorrowedFd<'_>, &mut Ready),
        (dst, dst_ready): (BorrowedFd<'_>, &mut Ready),
        lane: Option<Lane<'_>>,
        tools: &mut Tools,
    ) -> Option<Turn> {
        // Into a queue only what was gathered last, which is acknowledged before it is there.
        let queues = lane.filter(|_| self.puts_into_queue());
        if queues.is_some_and(|lane| !self.queue.takes(lane)) {
            return Some(Turn::Waiting);
        }
        let want = self.chunk.clamp(CHUNK_FIRST, CHUNK_MAX).min(tools.scratch.len());
        let room = tools.scratch.get_mut(..want)?;
        let room = if queues.is_some() { self.queue.fits(room) } else { room };
        let want = room.len();
        let got = match rustix::io::read(src, &mut *room) {
            Ok(got) => got,
            Err(e) => return not_read(e, src_ready),
        };
        if got == 0 {
            self.eof = true;
            src_ready.readable = false;
            if let Some(lane) = lane {
                self.queue.debt.end(src, lane.last);
            }
            return None;
        }
        if got == want {
            self.chunk = (want * 2).min(CHUNK_MAX);
            let streams = want >= STREAMING && src_ready.spliced && dst_ready.spliced;
            self.streaming = streams && self.out == Out::Plain;
        } else {
            // The queue is empty: whatever arrives from now on is a new edge (epoll(7), Q9).
            src_ready.readable = src_ready.exact;
        }
        if queues.is_some() {
            self.queue.debt.pay_now(src);
        }
        let data = room.get(..got).unwrap_or_default();
        match self.write((dst, dst_ready), lane, tools.door.as_ref(), data) {
            Ok(put) if put == got => None,
            Ok(put) => {
                let rest = data.get(put..).unwrap_or_default();
                self.stuck = Some(Stuck { data: rest.into(), from: 0 });
                Some(Turn::Waiting)
            }
            Err(e) => Some(Turn::WriteFailed(e)),
        }
    }

    /// Empties the pipe into `dst`. `None`: it is empty.
    fn drain(&mut self, dst: BorrowedFd<'_>, dst_ready: &mut Ready) -> Option<Turn> {
        let pipe = self.pipe.as_mut()?;
        while !pipe.is_empty() {
            if !dst_ready.writable {
                return Some(Turn::Waiting);
            }
            match pipe.drain(dst) {
                Ok(put) => self.bytes += put as u64,
                Err(Errno::AGAIN) => dst_ready.writable = false,
                Err(Errno::INTR) => {}
                Err(e) => return Some(Turn::WriteFailed(e)),
            }
        }
        None
    }

    /// Writes what was stuck. `None`: nothing is stuck any more.
    fn unstick(
        &mut self,
        dst: BorrowedFd<'_>,
        dst_ready: &mut Ready,
        lane: Option<Lane<'_>>,
        door: Option<&Door>,
    ) -> Option<Turn> {
        let mut stuck = self.stuck.take()?;
        let rest = stuck.data.get(stuck.from..).unwrap_or_default();
        if dst_ready.writable && self.queue.full().is_none() {
            match self.write((dst, dst_ready), lane, door, rest) {
                Ok(put) if put == rest.len() => return None,
                Ok(put) => stuck.from += put,
                Err(e) => return Some(Turn::WriteFailed(e)),
            }
        }
        self.stuck = Some(stuck);
        Some(Turn::Waiting)
    }

    /// Writes until all is written or the socket is full.
    fn write(
        &mut self,
        (dst, dst_ready): (BorrowedFd<'_>, &mut Ready),
        lane: Option<Lane<'_>>,
        door: Option<&Door>,
        data: &[u8],
    ) -> Result<usize, Errno> {
        if lane.is_some_and(|lane| self.out != Out::Plain && !self.queue.follows(lane)) {
            return Ok(0);
        }
        if self.out == Out::Undecided {
            if lane.is_some_and(|lane| self.queue.awaits(dst, lane)) {
                return Ok(0);
            }
            let injects = lane.is_some_and(|lane| lane.link.finds_queue(lane.to, dst));
            self.out = if injects { Out::Inject } else { Out::Plain };
        }
        let Some(lane) = lane.filter(|_| self.out == Out::Inject) else { return self.send(dst, dst_ready, data) };
        if !self.queue.takes(lane) {
            return Ok(0);
        }
        let put = self.put(lane, door, data);
        match data.get(put..) {
            // There is no queue any more.
            Some(rest) if self.out == Out::Plain => Ok(put + self.send(dst, dst_ready, rest)?),
            _ => Ok(put),
        }
    }

    /// Sends until all is sent or the socket is full.
    fn send(&mut self, dst: BorrowedFd<'_>, dst_ready: &mut Ready, data: &[u8]) -> Result<usize, Errno> {
        let mut put = 0;
        while let Some(rest) = data.get(put..).filter(|r| !r.is_empty()) {
            match rustix::net::send(dst, rest, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    put += n;
                    self.bytes += n as u64;
                }
                Err(Errno::AGAIN) => {
                    dst_ready.writable = false;
                    break;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(put)
    }
}

/// Takes what there is into an empty pipe. `None`: go on.
fn fill(pipe: &mut Pipe, src: BorrowedFd<'_>, src_ready: &mut Ready, eof: &mut bool) -> Option<Turn> {
    match pipe.fill(src) {
        Ok(0) => {
            *eof = true;
            src_ready.readable = false;
            None
        }
        Ok(_) => None,
        Err(e) => not_read(e, src_ready),
    }
}

/// What a read that failed means. `None`: go on.
pub(super) fn not_read(error: Errno, src_ready: &mut Ready) -> Option<Turn> {
    match error {
        Errno::AGAIN => {
            src_ready.readable = false;
            None
        }
        Errno::INTR => None,
        e => Some(Turn::ReadFailed(e)),
    }
}
