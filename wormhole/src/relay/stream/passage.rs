//! The buffers between the segments of a chain.

use super::inject::{UNSEEN, WIDE};
use super::pump::Lane;
use crate::fastpath::Role;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::net::sockopt;

/// Send and receive buffers between two segments of a chain.
const PASSAGE: usize = 64 * 1024;

/// After so many bytes it is known whether there is a queue at the end of a chain.
const EXPECTED: u64 = 4 * 1024 * 1024;

/// Buffers on the way to the next segment of a chain.
#[derive(Clone, Copy, Debug, Default)]
pub enum Passage {
    /// As the kernel made them.
    #[default]
    New,
    /// Small, until it is known what is at the end.
    Narrow,
    /// As they are to be.
    Final,
}

impl Passage {
    /// Keeps the buffers between this segment and the next one of a chain small, by which bytes go while the queue at its end
    /// is full: else each segment would hold as much again as may wait there. From the beginning on, for the kernel makes them large
    /// in no time; and it takes that back if there turns out to be no queue.
    pub fn narrow(&mut self, bytes: u64, src: BorrowedFd<'_>, dst: BorrowedFd<'_>, lane: Lane<'_>) {
        match self {
            Self::New if bytes >= UNSEEN && narrows(lane) => {
                *self = Self::Narrow;
                // Not smaller than it is, for what is on its way would be dropped; the kernel shows twice what is set.
                let now = sockopt::socket_recv_buffer_size(src).unwrap_or_default() / 2;
                size_buffers(src, now.max(PASSAGE), dst, PASSAGE);
            }
            Self::Narrow if bytes >= EXPECTED => {
                *self = Self::Final;
                if !lane.link.hands_on(lane.to) {
                    size_buffers(src, WIDE, dst, WIDE);
                    unclamp(src);
                }
            }
            _ => {}
        }
    }
}

fn size_buffers(src: BorrowedFd<'_>, receive: usize, dst: BorrowedFd<'_>, send: usize) {
    // Without the right to it (CAP_NET_ADMIN) more may wait there.
    let _ = sockopt::set_socket_recv_buffer_size_force(src, receive);
    let _ = sockopt::set_socket_send_buffer_size_force(dst, send);
}

/// Whether what is handed on goes to a queue at the end of a chain: when the server has sent something it is known, before that it is
/// assumed.
fn narrows(lane: Lane<'_>) -> bool {
    if lane.to == Role::Server { lane.link.passes_on(lane.to) } else { lane.link.hands_on(lane.to) }
}

/// Lets a socket offer as large a window as its buffer has room for: the kernel clamps it to what the buffer was, and leaves it there
/// when that grows.
pub(super) fn unclamp(socket: BorrowedFd<'_>) {
    let most = libc::c_int::MAX >> 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: a socket that lives over the call, and a number of the size that is said. Refused, the window stays as it is.
    unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, (&raw const most).cast(), size);
    }
}
