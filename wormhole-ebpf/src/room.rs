//! How much may wait in front of a reader.
//!
//! The limit is for the memory. There is another one, which the kernel sets without a word: a packet for a socket that
//! somebody is in a system call on is dropped when more than `sk_rcvbuf + sk_sndbuf / 2` waits there (and 64 KiB,
//! `tcp_add_backlog`, net/ipv4/tcp_ipv4.c; `sk_rcvbuf` counts twice since Linux 6.10 and in later versions of older ones), and
//! redirected bytes are counted. Most packets are sent again, but not a reset: the reader would wait for ever.

use crate::kernel::{LIMIT, MESSAGE_COST, backlog, inode, is_left_alone, receive_buffer, send_buffer};
use crate::options::{SOL_SOCKET, set_option};
use crate::wait::wait_patiently;
use aya_ebpf::helpers::generated::bpf_getsockopt;
use core::ffi::c_void;
use core::ptr;
use wormhole_common::{HOLD_SHORT, Member, SlotSide};

/// How long a sender waits for the relay or for the reader, in nanoseconds: a few times what it takes them to move a
/// message of the usual size, and less than what it costs to go by TCP and to come back.
pub const WAIT_NS: u64 = 200_000;
/// Bytes that are no matter for any socket: half of those 64 KiB.
const LITTLE: u64 = 32 << 10;

/// Bytes that may wait in front of a socket's owner so that the kernel still takes every packet for it. The 64 KiB that it
/// grants besides are for little messages and for the packets.
#[inline(always)]
pub fn endurance(sock: u64) -> u64 {
    receive_buffer(sock) + send_buffer(sock) / 2
}

/// Makes the receive buffer of an application's socket large, so that much may wait in front of it.
///
/// SO_RCVLOWAT does that (`tcp_set_rcvlowat`, net/ipv4/tcp.c, which programs reach since Linux 6.1), and unlike SO_RCVBUF it
/// leaves the size to the kernel's own tuning, which would make it as large for what comes by TCP. Not for a socket that has
/// not been accepted; that one is asked about again.
///
/// # Safety
/// `ctx` is what `bpf_setsockopt` and `bpf_getsockopt` want in this program for the socket of `me`.
#[inline(always)]
pub unsafe fn widen(me: &mut Member, ctx: *mut c_void) {
    /// The buffer gets twice as much or more, if `net.ipv4.tcp_rmem` allows it; by default it does.
    const HALF: i32 = 3 << 20;
    const SO_RCVLOWAT: i32 = 18;
    if me.wide != 0 || inode(me.sock) == 0 {
        return;
    }
    me.wide = 1;
    let mut low = 0i32;
    // SAFETY: the caller's promise, and 4 bytes.
    if unsafe { bpf_getsockopt(ctx, SOL_SOCKET, SO_RCVLOWAT, (&raw mut low).cast(), 4) } != 0 {
        return;
    }
    for bytes in [HALF, low] {
        let _ = set_option(ctx, SOL_SOCKET, SO_RCVLOWAT, bytes);
    }
}

/// What of a receiver's endurance is its sender's. The last quarter is for what the relay injects.
#[inline(always)]
pub fn share(endurance: u64) -> u64 {
    (endurance / 4 * 3).max(LITTLE)
}

/// So many bytes may wait in front of `peer` that a message of `size` bytes still fits; none when it never does.
#[inline(always)]
fn allowance(me: &Member, peer: &SlotSide, size: u32) -> Option<u64> {
    // With a large send buffer as much again may wait in TCP.
    let limit = if me.hold == HOLD_SHORT { LIMIT.load() } else { LIMIT.load() / 2 };
    let room = share(endurance(peer.sock)).checked_sub(size.into())?;
    Some(limit.saturating_sub(1 + u64::from(me.burst)).min(room))
}

/// Whether a message of `size` bytes may be put into the queue of `peer`.
#[inline(always)]
pub fn has_room(me: &mut Member, peer: &SlotSide, size: u32) -> bool {
    let mut waiting = backlog(peer.sock);
    if waiting == 0 {
        me.burst = 0;
    }
    if waiting + u64::from(me.ahead) + u64::from(size) + u64::from(me.burst) <= LITTLE {
        return true;
    }
    let Some(most) = allowance(me, peer, size) else { return false };
    // Several tasks may be about to put a message there, each after a look of its own. When nobody is, all is there.
    if waiting + u64::from(me.ahead) > most && me.ahead != 0 && is_left_alone(peer.sock) {
        me.ahead = 0;
        waiting = backlog(peer.sock);
    }
    waiting + u64::from(me.ahead) <= most
}

/// Accounts for a message of `size` bytes that is about to be put there.
#[inline(always)]
pub fn takes_room(me: &mut Member, size: u32) {
    if size < MESSAGE_COST {
        me.burst = me.burst.saturating_add(MESSAGE_COST - size);
    }
    me.ahead = me.ahead.saturating_add(size);
}

/// Waits until a receiver that reads has made room. One that does not read in time, or runs on this very cpu, is waited
/// for only once: the next messages go by TCP until there is room again, and the next times it is waited for less often.
#[inline(always)]
pub fn makes_room(me: &mut Member, peer: &SlotSide, size: u32) -> bool {
    if me.stalled != 0 {
        return false;
    }
    me.stalled = 1;
    let mut patience = me.room;
    let Some(most) = allowance(me, peer, size) else { return false };
    me.most = most as u32;
    // Both are read from there again in every round: where the verifier knows of a value which way it came, every way is
    // another case to it, with all its rounds.
    let (most, ahead) = (&raw const me.most, &raw const me.ahead);
    let made = wait_patiently::<256, 32>(&mut patience, WAIT_NS, || {
        // SAFETY: fields of what is kept with the socket, under whose lock the program runs.
        let (most, ahead) = unsafe { (ptr::read_volatile(most), ptr::read_volatile(ahead)) };
        backlog(peer.sock) + u64::from(ahead) <= most.into()
    });
    me.room = patience;
    made
}
