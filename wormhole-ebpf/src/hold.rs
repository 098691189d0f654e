//! Where a sender sleeps while its receiver's queue is full: in TCP, with a small send buffer.

use crate::connection::socket;
use crate::gather::set_nagle;
use crate::kernel::{LIMIT, backlog, has_own_buffer, is_single, receive_buffer, sleeps_for_room, waits_for_room, write_seq};
use crate::maps::{is_application, member, sides};
use crate::options::{SO_SNDBUF, SOL_SOCKET, set_option};
use crate::room::{share, widen};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::SockOpsContext;
use core::ffi::c_void;
use wormhole_common::{HOLD_DONE, HOLD_SHORT, Member, SHARED, STREAK, SlotSide};

/// 128 KiB, for the kernel doubles it: a segment of 64 KiB that waits for more (MSG_MORE, sendfile(2)) must leave room for
/// that, or nothing would push it. And more than the kernel lets anybody have (`net.core.wmem_max`).
const SMALL_BUFFER: i32 = 64 << 10;
const LARGE_BUFFER: i32 = 1 << 30;
/// As small as the kernel lets it be: 4608 bytes (`SOCK_MIN_SNDBUF`).
const NO_BUFFER: i32 = 1;
/// A message of so many bytes is long: longer than the small buffer, and than what sendfile(2) hands over at a time, which may
/// hold its end back.
const LONG_MESSAGE: u32 = 128 << 10;

/// Something that the application sent by TCP was acknowledged (`BPF_SOCK_OPS_RTT_CB`, Linux 5.3). So it was accepted, if it
/// is a server's, and can be widened.
///
/// While its messages could go direct, TCP is only where it waits until the receiver has read: wormholed acknowledges
/// what is there once it has put it into the receiver's queue. The less it may give to TCP meanwhile, the sooner it goes
/// direct again, so it gets a small send buffer. Not where nothing goes direct any more, and not where several tasks send: a
/// message that does not fit is cut by the wait, and another task's might get in between, where a larger buffer would have
/// taken it whole.
#[inline(always)]
pub fn acknowledged(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    let Some(me) = member(sk) else { return };
    if !is_application(me) {
        return;
    }
    // SAFETY: the context is the kernel's.
    unsafe { widen(me, ctx.ops.cast()) };
    set_nagle(ctx, me);
    if me.hold == HOLD_DONE {
        return;
    }
    // A change wakes whoever waits on the socket (sk_setsockopt, net/core/sock.c), and a reader would take that for the end
    // of its wait. Who waits for room does not read.
    if !waits_for_room(me.sock) {
        return;
    }
    let Some((mine, peer)) = sides(me) else { return };
    let shared = me.streak == SHARED || mine.off != 0;
    if me.hold == HOLD_SHORT {
        if shared {
            me.hold = HOLD_DONE;
            me.tight = 0;
            set_send_buffer(ctx.ops.cast(), LARGE_BUFFER);
        } else {
            tighten(ctx, me, peer);
        }
    } else if !shared && is_alone(me) && peer.enrolled != 0 {
        me.hold = HOLD_DONE;
        if !has_own_buffer(me.sock) && endures_less_buffer(me.sock) {
            me.hold = HOLD_SHORT;
            set_send_buffer(ctx.ops.cast(), SMALL_BUFFER);
        }
    }
}

/// Takes the send buffer away where the end of a long message is given to TCP, so that the sender sleeps behind it.
///
/// The kernel asks about a message, sleeps in its midst while TCP has no room, and asks about the next one at once if there is
/// room again. The end of the first is not in the receiver's queue then, so the next one would go by TCP, too; on one cpu one
/// after the other, for the sender runs whenever something is acknowledged. Without room it sleeps before the kernel
/// asks (`tcp_bpf_sendmsg`, net/ipv4/tcp_bpf.c). What wakes it is the acknowledgement of the end, and wormholed gives that
/// when it has put the end into the queue. It can while no more than one full packet is to be acknowledged: of more the
/// kernel acknowledges what was only looked at (`__tcp_cleanup_rbuf`, net/ipv4/tcp.c). Nagle's algorithm may make more of
/// it; then the next message is the next chance.
#[inline(always)]
fn tighten(ctx: &SockOpsContext, me: &mut Member, peer: &SlotSide) {
    /// It would be so with every message.
    const OFTEN: u32 = 2;
    let rest = me.whole.wrapping_sub(write_seq(me.sock));
    if me.tight != 0 && me.late < OFTEN {
        if was_held_back(me, peer) {
            me.late += 1;
        } else if rest == 0 {
            me.late = 0;
        }
    }
    let is_end = me.length >= LONG_MESSAGE && rest != 0 && rest <= LONG_MESSAGE;
    // The buffer stays so when this was the last message for now: no other thread must come to cut that one's messages.
    let tight = u32::from(is_end && me.late < OFTEN && sleeps_for_room(me.sock) && is_single(me.sender));
    if tight == me.tight {
        return;
    }
    me.tight = tight;
    if tight == 0 {
        return set_send_buffer(ctx.ops.cast(), SMALL_BUFFER);
    }
    // SAFETY: no arguments.
    me.tight_since = unsafe { bpf_ktime_get_ns() };
    set_send_buffer(ctx.ops.cast(), NO_BUFFER);
}

/// True when a timer of TCP's has sent what had to wait for more (MSG_MORE, TCP_CORK), for which there was no room. A reader that
/// rests takes as long, but more waits in front of it.
#[inline(always)]
fn was_held_back(me: &Member, peer: &SlotSide) -> bool {
    /// Nanoseconds; somewhat less than `TCP_RTO_MIN`.
    const AWHILE: u64 = 150_000_000;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    me.tight_since + AWHILE < now && backlog(peer.sock) <= LONG_MESSAGE.into()
}

/// The application sets the size of its send buffer: it is not ours to change any more. It is small until then, and if the kernel
/// refuses.
#[inline(always)]
pub fn let_go(me: &mut Member, sk: *mut c_void) {
    me.hold = HOLD_DONE;
    if me.tight != 0 {
        me.tight = 0;
        set_send_buffer(sk, SMALL_BUFFER);
    }
}

/// True when one task sends and no other one is to be expected: it is the only one of its process, or has been the only one
/// that sent for long enough.
#[inline(always)]
fn is_alone(me: &Member) -> bool {
    /// Nanoseconds.
    const LONG: u64 = 1_000_000_000;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    me.streak > STREAK && (me.single != 0 || me.alone_since + LONG < now)
}

/// Whether as much may wait in front of this socket with a small send buffer as with a large one (room.rs): what is there
/// already, or is being put there, was measured by that.
#[inline(always)]
fn endures_less_buffer(sock: u64) -> bool {
    share(receive_buffer(sock)) >= LIMIT.load()
}

/// `ctx` is what `bpf_setsockopt` wants in this program for the socket.
#[inline(always)]
fn set_send_buffer(ctx: *mut c_void, bytes: i32) {
    // Refused, it stays as it is.
    let _ = set_option(ctx, SOL_SOCKET, SO_SNDBUF, bytes);
}
