//! The relay's part of a connection on the fast path: it puts bytes that went by TCP into the receiver's redirected queue.
//!
//! The sender goes direct again once everything is in that queue. So that it does not send more by TCP meanwhile, it is
//! kept waiting for an acknowledgement, and gets it when that is so: bytes are looked at first, put into the queue,
//! published, and only then taken from the socket and acknowledged.

use super::gather::Debt;
use super::passage::{Passage, unclamp};
use super::pump::{Lane, Out, Pump, Ready, Tools, Turn, not_read};
use crate::fastpath::{Door, Stop};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};
use std::time::{Duration, Instant};

/// How soon a look is taken again at a queue that is full: at first, when it shrinks slowly, and when it does not shrink.
const FIRST: Duration = Duration::from_micros(50);
const LATER: Duration = Duration::from_millis(10);
const LAST: Duration = Duration::from_millis(40);

/// Receive buffer of a socket whose bytes are injected, in bytes: little is to be on its way when the sender goes direct.
const WINDOW: usize = 128 * 1024;
/// And when it will not go direct any more.
pub(super) const WIDE: usize = 4 * 1024 * 1024;

/// Bytes that may be on their way through the other segments of a chain, to the queue at its end.
const TRANSIT: u64 = 512 * 1024;

/// Bytes that are put into a queue before anybody looks how full it is.
pub(super) const UNSEEN: u64 = 16 * 1024;

/// How often it is asked whether something is still on its way, before the relay turns to others.
const ASKED: usize = 16;

/// What is known of a receiver's redirected queue. Nothing tells when its owner has read; one has to look.
#[derive(Debug)]
pub struct Queue {
    /// It is full, and when to look again.
    full: Option<Duration>,
    /// Bytes that may be put there before the next look.
    room: u64,
    /// What the last look saw, while it is full.
    seen: Option<(u64, Instant)>,
    pause: Duration,
    /// The source's receive buffer was made small.
    narrowed: bool,
    /// What was done to the buffers on the way to the next segment of a chain.
    pub(super) passage: Passage,
    /// The sender's socket is to be taken out of the map, and how soon to try that again.
    leaves: Option<Duration>,
    /// It was taken out.
    alone: bool,
    /// How long it was last waited for what is on its way there.
    held: Duration,
    /// Since when it is waited for the receiver to be enrolled.
    awaited: Option<Instant>,
    /// It is not waited for any more.
    hurries: bool,
    /// Acknowledgements that a sender waits for.
    pub(super) debt: Debt,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            full: None,
            room: UNSEEN,
            seen: None,
            pause: Duration::ZERO,
            narrowed: false,
            passage: Passage::default(),
            leaves: None,
            alone: false,
            held: Duration::ZERO,
            awaited: None,
            hurries: false,
            debt: Debt::default(),
        }
    }
}

impl Queue {
    /// How long to wait before the next look, when it was full.
    pub fn full(&self) -> Option<Duration> {
        self.full
    }

    /// How long to wait before the next turn although nothing happens, if there has to be one.
    pub fn again(&self) -> Option<Duration> {
        [self.full, self.leaves, self.debt.left()].into_iter().flatten().min()
    }

    /// Looks again the next time.
    pub fn retry(&mut self) {
        self.full = None;
    }

    /// True when bytes may be put there now.
    pub fn takes(&mut self, lane: Lane<'_>) -> bool {
        if self.full.is_none() && self.room == 0 {
            let low = lane.link.low_water(lane.to);
            self.full = self.look(lane.link.waiting(lane.to), low, Instant::now());
            if self.full.is_none() {
                self.room = low;
            }
        }
        self.full.is_none()
    }

    /// True when more may go to the end of a chain, to which `transit` bytes are on their way. However long it is, no more waits
    /// in its midst; and it is full only when the queue at its end is.
    pub fn leads_on(&mut self, transit: u64) -> bool {
        if self.full.is_none() {
            self.full = self.look(transit, TRANSIT, Instant::now());
        }
        self.full.is_none()
    }

    /// True when what the relay has may follow what other tasks of the sender have sent; else it waits as for a queue that is full.
    pub fn follows(&mut self, lane: Lane<'_>) -> bool {
        // Mostly it is there a moment later; and a packet that is just being received counts, too.
        if (0..ASKED).all(|_| lane.link.is_coming(lane.to)) {
            self.held = (2 * self.held).clamp(FIRST, LATER);
            self.full = Some(self.held);
        } else {
            self.held = Duration::ZERO;
        }
        self.full.is_none()
    }

    /// True when the receiver, at the other end of `dst`, has no queue yet and will have one in a moment: waits for that as for one
    /// that is full.
    pub(super) fn awaits(&mut self, dst: BorrowedFd<'_>, lane: Lane<'_>) -> bool {
        if self.hurries {
            return false;
        }
        if self.full.is_none() {
            let waited = self.awaited.map_or(Duration::ZERO, |since| since.elapsed().max(Duration::from_nanos(1)));
            if !lane.link.expects(lane.to, dst, waited) {
                self.awaited = None;
                return false;
            }
            self.awaited.get_or_insert_with(Instant::now);
            self.full = Some(waited.clamp(FIRST, LATER));
        }
        true
    }

    /// One side has failed: what there is is handed on at once, or never.
    pub(super) fn hurry(&mut self) {
        self.hurries = true;
        if self.awaited.take().is_some() {
            self.full = None;
        }
    }

    /// Accounts for bytes that were put there.
    fn put(&mut self, bytes: usize) {
        self.room = self.room.saturating_sub(bytes as u64);
    }

    /// As much of a buffer as may be put there.
    pub(super) fn fits<'a>(&self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        let most = usize::try_from(self.room).unwrap_or(usize::MAX).min(buffer.len());
        buffer.get_mut(..most).unwrap_or_default()
    }

    /// None when no more than `low` wait; otherwise when that is to be expected.
    fn look(&mut self, waiting: u64, low: u64, now: Instant) -> Option<Duration> {
        if waiting <= low {
            (self.seen, self.pause) = (None, Duration::ZERO);
            return None;
        }
        let (guess, most) = match self.seen {
            Some((before, at)) if before > waiting => {
                let speed = (before - waiting) as f64 / now.saturating_duration_since(at).as_secs_f64().max(1e-6);
                (Duration::try_from_secs_f64((waiting - low) as f64 / speed).unwrap_or(LATER), LATER)
            }
            _ => (self.pause * 2, LAST),
        };
        self.seen = Some((waiting, now));
        self.pause = guess.clamp(FIRST, most);
        Some(self.pause)
    }
}

impl Pump {
    /// Puts what there is into the receiver's queue. `None`: go on.
    pub(super) fn inject(
        &mut self,
        (src, src_ready): (BorrowedFd<'_>, &mut Ready),
        lane: Lane<'_>,
        tools: &mut Tools,
    ) -> Option<Turn> {
        // Before the kernel has made it large, which may take one read: what is on its way into a large buffer does not fit
        // into a small one, and is dropped.
        if self.bytes >= UNSEEN && !std::mem::replace(&mut self.queue.narrowed, true) {
            // Refused without CAP_NET_ADMIN; then more may be on its way, and the sender goes direct later.
            let _ = sockopt::set_socket_recv_buffer_size_force(src, WINDOW);
        }
        if !self.queue.takes(lane) {
            return Some(Turn::Waiting);
        }
        let scratch = self.queue.fits(&mut tools.scratch);
        let want = scratch.len();
        let got = match rustix::net::recv(src, &mut *scratch, RecvFlags::PEEK) {
            Ok((_, got)) => got.min(want),
            Err(e) => return not_read(e, src_ready),
        };
        if got == 0 {
            self.eof = true;
            src_ready.readable = false;
            self.queue.debt.end(src, lane.last);
            return None;
        }
        if !self.queue.follows(lane) {
            return Some(Turn::Waiting);
        }
        let put = self.put(lane, tools.door.as_ref(), scratch.get(..got).unwrap_or_default());
        self.sees_off(src, lane);
        if let Err(e) = discard(src, scratch.get_mut(..put).unwrap_or_default()) {
            return Some(Turn::ReadFailed(e));
        }
        if self.out == Out::Plain {
            // What is left goes by TCP.
            return None;
        }
        if lane.link.gathers(lane.to) {
            self.queue.debt.owe();
        } else {
            self.queue.debt.pay_now(src);
        }
        if put < got {
            return Some(Turn::Waiting);
        }
        if got < want {
            // The queue is empty: whatever arrives from now on is a new edge (epoll(7), Q9).
            src_ready.readable = src_ready.exact;
        }
        None
    }

    /// Puts bytes into the receiver's queue and publishes them. Says how many; if not all, it goes on by TCP from here when that
    /// queue is gone, or the kernel has no memory for it.
    pub(super) fn put(&mut self, lane: Lane<'_>, door: Option<&Door>, data: &[u8]) -> usize {
        let (put, stop) = door.map_or((0, Some(Stop::Shut)), |door| door.put(lane.link, lane.to, data));
        self.bytes += put as u64;
        self.queue.put(put);
        lane.link.publish(lane.to, self.bytes);
        match stop {
            None => {}
            Some(Stop::Refused) => {
                lane.link.loses_queue(lane.to);
                self.out = Out::Plain;
            }
            Some(Stop::Shut) => {
                lane.link.loses_door(lane.to);
                self.out = Out::Plain;
            }
            // TCP gives an empty queue a packet however little memory there is.
            Some(Stop::Memory) if put == 0 && lane.link.starves(lane.to) => self.out = Out::Plain,
            Some(Stop::Memory) => self.queue.full = Some(LATER),
        }
        put
    }

    /// Makes the source's receive buffer as large as any other's again: nobody waits any more for what is done here.
    fn widens(&mut self, src: BorrowedFd<'_>) {
        let _ = sockopt::set_socket_recv_buffer_size_force(src, WIDE);
        unclamp(src);
    }

    /// Takes the sender's socket out of the map if it sends by io_uring. While something is in its own queue, or on its way there,
    /// that is tried again and again: the sooner it is done, the fewer sends come to a socket in the map.
    fn sees_off(&mut self, src: BorrowedFd<'_>, lane: Lane<'_>) {
        if self.queue.alone || !lane.link.sends_by_ring(lane.to) {
            return;
        }
        if lane.link.let_go(lane.to) {
            (self.queue.alone, self.queue.leaves) = (true, None);
            self.widens(src);
        } else {
            self.queue.leaves = Some(self.queue.leaves.map_or(FIRST, |last| (2 * last).min(LAST)));
        }
    }

    /// As above at the end of a turn: also after the first bytes, and if it did not succeed the last time. And what was made small
    /// for a queue is made large when that is gone.
    pub(super) fn sees_off_at_last(&mut self, src: BorrowedFd<'_>, lane: Option<Lane<'_>>) {
        if self.ended {
            self.queue.leaves = None;
        } else if let Some(lane) = lane.filter(|lane| self.out != Out::Undecided && !lane.link.passes_on(lane.to)) {
            self.sees_off(src, lane);
            if self.out == Out::Plain && std::mem::take(&mut self.queue.narrowed) {
                self.widens(src);
            }
        }
    }

    /// True while bytes are looked at first and acknowledged once they are in the receiver's queue, or a moment later.
    pub(super) fn puts_into_queue(&self) -> bool {
        self.out == Out::Inject && !self.queue.alone
    }

    /// True when this segment is the first of a chain on the way to the receiver, and there is a queue at its end.
    pub(super) fn leads(&self, lane: Lane<'_>) -> bool {
        self.out == Out::Plain && lane.link.leads(lane.to)
    }

    /// Bytes that this segment has handed on, and the last one of the chain has not put into the queue yet.
    pub(super) fn transit(&self, lane: Lane<'_>) -> u64 {
        self.bytes.saturating_sub(lane.link.published(lane.to))
    }

    /// At the end of a turn: acknowledges what its sender waits for. Whatever does not go into a queue from here is acknowledged
    /// by the kernel, but not in time for a sender that gathers, nor once it was told to leave that to us.
    pub(super) fn acknowledges(&mut self, src: BorrowedFd<'_>, lane: Lane<'_>, moved: bool) {
        if self.ended {
            return self.queue.debt.forget();
        }
        let gathers = lane.link.gathers(lane.to);
        if !self.puts_into_queue() {
            if gathers {
                if moved {
                    self.queue.debt.owe();
                }
            } else if lane.link.leads(lane.to) && !lane.link.ends_gathering(lane.to) {
                let there = !self.is_stuck() && self.transit(lane) == 0;
                return self.queue.debt.settle(src, moved, there);
            } else if moved && lane.link.hands_on(lane.to) {
                // Else the kernel would do so 40 ms later: it takes what comes in small pieces for one side of a conversation.
                self.queue.debt.pay_now(src);
            } else {
                self.queue.debt.leave(src);
            }
        }
        self.queue.debt.pay(src, gathers);
    }
}

/// Takes bytes that have been peeked at.
fn discard(src: BorrowedFd<'_>, mut peeked: &mut [u8]) -> Result<(), Errno> {
    while !peeked.is_empty() {
        match rustix::net::recv(src, &mut *peeked, RecvFlags::TRUNC) {
            // Cannot be: it was there a moment ago, and nobody else reads.
            Ok((_, 0)) => return Err(Errno::CONNRESET),
            Ok((_, taken)) => peeked = peeked.get_mut(taken..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn after(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn a_queue_that_shrinks_is_looked_at_when_it_has_shrunk_enough() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        assert_eq!(queue.look(4000, 2000, start), Some(FIRST));
        // 1000 bytes in 100 µs: another 1000 take as long.
        let pause = queue.look(3000, 2000, start + after(100)).unwrap();
        assert!((after(99)..after(101)).contains(&pause), "{pause:?}");
        assert_eq!(queue.look(2000, 2000, start + after(200)), None);
        assert_eq!(queue.look(4000, 2000, start + after(300)), Some(FIRST), "it begins anew");
    }

    #[test]
    fn a_queue_that_does_not_shrink_is_looked_at_less_and_less() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let pauses: Vec<_> = (0..12).map(|_| queue.look(4000, 2000, start).unwrap()).collect();
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[1], pauses[11]), (FIRST, FIRST * 2, LAST));
        assert_eq!(queue.look(4000, 2000, start), Some(LAST));
        assert_eq!(queue.look(4000, 2000, start), Some(LAST), "never later than that");
        assert_eq!(queue.look(3000, 2999, start + after(1)), Some(FIRST), "it shrank fast: soon");
        assert_eq!(queue.look(2999, 0, start + Duration::from_secs(9)), Some(LATER), "it shrinks: not later than that");
    }
}
