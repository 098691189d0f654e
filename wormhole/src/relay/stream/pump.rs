//! One direction of a stream: read here, write there, and remember what did not fit.
//!
//! A pump owns no buffer while nothing is stuck: it reads into the thread's scratch buffer and writes out of it. Only
//! what the receiver did not take is kept, at most one read, and no further byte is read before it is gone. So in
//! front of a reader that stopped there are the kernel's two socket buffers and at most [`CHUNK_MAX`] bytes of ours.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

/// The most that one read takes, and so the most that one direction keeps in userspace.
pub const CHUNK_MAX: usize = 256 * 1024;
/// What the first read of a connection takes; a read that fills it doubles the next one.
const CHUNK_FIRST: usize = 16 * 1024;
/// Bytes that one pump moves before others get their turn.
const TURN: usize = 1024 * 1024;

/// What edge-triggered epoll has told of one socket and was not used up yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// A read may succeed.
    pub readable: bool,
    /// A write may succeed.
    pub writable: bool,
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

/// One direction.
#[derive(Debug, Default)]
pub struct Pump {
    /// What was read and not written yet.
    stuck: Option<Stuck>,
    /// Size of the next read; 0: not read yet.
    chunk: usize,
    eof: bool,
    ended: bool,
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

    /// True while something was read and not written yet.
    pub fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Moves what can be moved from `src` to `dst`. Returns how the turn ended and how many bytes were written.
    pub fn turn(
        &mut self,
        (src, src_ready): (BorrowedFd<'_>, &mut Ready),
        (dst, dst_ready): (BorrowedFd<'_>, &mut Ready),
        scratch: &mut [u8],
    ) -> (Turn, usize) {
        let before = self.bytes;
        let turn = self.run((src, src_ready), (dst, dst_ready), scratch);
        (turn, usize::try_from(self.bytes - before).unwrap_or(usize::MAX))
    }

    fn run(
        &mut self,
        (src, src_ready): (BorrowedFd<'_>, &mut Ready),
        (dst, dst_ready): (BorrowedFd<'_>, &mut Ready),
        scratch: &mut [u8],
    ) -> Turn {
        if self.ended {
            return Turn::Ended;
        }
        if let Some(turn) = self.unstick(dst, dst_ready) {
            return turn;
        }
        let mut moved = 0;
        loop {
            if self.eof {
                self.ended = true;
                return Turn::Ended;
            }
            if !src_ready.readable {
                return Turn::Waiting;
            }
            if moved >= TURN {
                return Turn::Again;
            }
            let want = self.chunk.clamp(CHUNK_FIRST, CHUNK_MAX).min(scratch.len());
            let Some(room) = scratch.get_mut(..want) else { return Turn::Waiting };
            let got = match rustix::io::read(src, &mut *room) {
                Ok(0) => {
                    self.eof = true;
                    src_ready.readable = false;
                    continue;
                }
                Ok(got) => got,
                Err(Errno::AGAIN) => {
                    src_ready.readable = false;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(e) => return Turn::ReadFailed(e),
            };
            if got == want {
                self.chunk = (want * 2).min(CHUNK_MAX);
            } else {
                // The queue is empty: whatever arrives from now on is a new edge (epoll(7), Q9).
                src_ready.readable = src_ready.exact;
            }
            moved += got;
            let data = room.get(..got).unwrap_or_default();
            match self.write(dst, dst_ready, data) {
                Ok(put) if put == got => {}
                Ok(put) => {
                    let rest = data.get(put..).unwrap_or_default();
                    self.stuck = Some(Stuck { data: rest.into(), from: 0 });
                    return Turn::Waiting;
                }
                Err(e) => return Turn::WriteFailed(e),
            }
        }
    }

    /// Writes what was stuck. `None`: nothing is stuck any more.
    fn unstick(&mut self, dst: BorrowedFd<'_>, dst_ready: &mut Ready) -> Option<Turn> {
        let mut stuck = self.stuck.take()?;
        let rest = stuck.data.get(stuck.from..).unwrap_or_default();
        if dst_ready.writable {
            match self.write(dst, dst_ready, rest) {
                Ok(put) if put == rest.len() => return None,
                Ok(put) => stuck.from += put,
                Err(e) => return Some(Turn::WriteFailed(e)),
            }
        }
        self.stuck = Some(stuck);
        Some(Turn::Waiting)
    }

    /// Writes until all is written or the socket is full.
    fn write(&mut self, dst: BorrowedFd<'_>, dst_ready: &mut Ready, data: &[u8]) -> Result<usize, Errno> {
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

/// Hands the end of a direction on.
///
/// # Errors
/// The kernel's answer: ENOTCONN when the receiver is gone.
pub fn hand_on_end(dst: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::shutdown(dst, Shutdown::Write)
}
