//! Makes few large messages of many small ones.
//!
//! A redirected message costs the same however small it is: an entry in the receiver's queue, a wake-up. TCP makes one segment
//! of all that waits for room. So a stream of small messages goes by TCP, with Nagle's algorithm even where the application has
//! switched that off: while something is on its way, what follows gathers in the sender's socket. wormholed puts the segment
//! into the receiver's queue at once, and lets its acknowledgement, which sends the next one off, wait for a moment.
//! A sender that pauses goes direct again, for then everything is in that queue.

use crate::kernel::{GATHER, write_seq};
use crate::message::injected;
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_ktime_get_ns, bpf_setsockopt};
use aya_ebpf::programs::SockOpsContext;
use core::ptr;
use wormhole_common::{GATHERS, Member, NAGLE_ANYHOW, NAGLE_ITS, NAGLE_NEVER, NAGLE_ON, SHARED, SlotSide};

/// Messages of up to so many bytes are small. For larger ones the copies cost more than the wake-ups.
const SMALL: u32 = 2 << 10;
/// So many in a row, sent fast enough, are a stream.
const RUN: u32 = 4096;
/// So many in a row before which nothing was on its way are none any more. In a stream on one cpu there are a dozen now and then:
/// what is sent is put into the receiver's queue before its sender goes on, until an acknowledgement waits.
const PAUSES: u32 = 64;

const SOL_TCP: i32 = 6;
const TCP_NODELAY: i32 = 1;

/// True when this message is to go by TCP because its sender gathers, and goes on to.
#[inline(always)]
pub fn is_gathered(me: &mut Member, mine: &mut SlotSide, size: u32) -> bool {
    if me.gathers == 0 {
        return false;
    }
    let pauses = write_seq(me.sock).wrapping_sub(me.base) == injected(mine);
    me.run = if pauses { me.run.wrapping_add(1) } else { 0 };
    let current = mine.generation == me.generation;
    if current && size <= SMALL && me.run < PAUSES && me.streak != SHARED && me.nagle != NAGLE_NEVER && mine.off == 0 {
        return true;
    }
    (me.gathers, me.run) = (0, 0);
    if current {
        mine.manner &= !GATHERS;
    }
    false
}

/// Takes notice of a message that went direct.
#[inline(always)]
pub fn note(me: &mut Member, mine: &mut SlotSide, size: u32) {
    if size > SMALL {
        me.run = 0;
        return;
    }
    if me.run == 0 {
        // SAFETY: here and below: no arguments.
        me.run_since = unsafe { bpf_ktime_get_ns() };
    }
    me.run = me.run.wrapping_add(1);
    if me.run < RUN {
        return;
    }
    me.run = 0;
    let took = unsafe { bpf_ktime_get_ns() } - me.run_since;
    if took <= GATHER.load() * u64::from(RUN) && me.streak != SHARED && me.nagle != NAGLE_NEVER {
        me.gathers = 1;
        mine.manner |= GATHERS;
    }
}

/// Switches Nagle's algorithm on for a sender that gathers, and off again behind it. At an acknowledgement: no other program is
/// allowed to that runs in time (`bpf_setsockopt` of TCP_NODELAY, Linux 6.1).
#[inline(always)]
pub fn set_nagle(ctx: &SockOpsContext, me: &mut Member) {
    if me.gathers != 0 && me.nagle == NAGLE_ITS {
        me.nagle = match nodelay(ctx) {
            Some(0) => NAGLE_ANYHOW,
            Some(_) if set_nodelay(ctx, 0) => NAGLE_ON,
            _ => NAGLE_NEVER,
        };
    } else if me.gathers == 0 && me.nagle == NAGLE_ON {
        // SAFETY: the context is the kernel's.
        let sent = unsafe { (*ctx.ops).snd_nxt };
        // Setting it sends what waits, which is not to happen while the kernel takes in an acknowledgement. That goes out now anyway.
        if sent == write_seq(me.sock) && set_nodelay(ctx, 1) {
            me.nagle = NAGLE_ITS;
        }
    }
}

/// The application sets TCP_NODELAY: what it sets stands.
#[inline(always)]
pub fn let_nagle_go(me: &mut Member) {
    me.nagle = match me.nagle {
        NAGLE_ITS | NAGLE_ANYHOW => NAGLE_ITS,
        _ => NAGLE_NEVER,
    };
}

#[inline(always)]
fn nodelay(ctx: &SockOpsContext) -> Option<i32> {
    let mut value = 0i32;
    // SAFETY: the context and 4 bytes.
    let done = unsafe { bpf_getsockopt(ctx.ops.cast(), SOL_TCP, TCP_NODELAY, ptr::from_mut(&mut value).cast(), 4) };
    (done == 0).then_some(value)
}

#[inline(always)]
fn set_nodelay(ctx: &SockOpsContext, value: i32) -> bool {
    let mut value = value;
    // SAFETY: as above.
    unsafe { bpf_setsockopt(ctx.ops.cast(), SOL_TCP, TCP_NODELAY, ptr::from_mut(&mut value).cast(), 4) == 0 }
}
