//! Makes few large messages of many small ones.
//!
//! A redirected message costs the same however small it is: an entry in the receiver's queue, a wake-up. TCP makes one segment
//! of all that waits for room. So a stream of small messages goes by TCP, with Nagle's algorithm even where the application has
//! switched that off: while something is on its way, what follows gathers in the sender's socket. wormholed puts the segment
//! into the receiver's queue at once, and lets its acknowledgement, which sends the next one off, wait for a moment.
//!
//! A stream: many messages in a row, fast, and none from the other side in between. Whoever waits for answers would wait for
//! acknowledgements, too. When that is over, the next messages are acknowledged before the receiver has them, so that Nagle's
//! algorithm can be taken back, and from then on they go direct.

use crate::kernel::{GATHER, write_seq};
use crate::message::injected;
use crate::options::{SOL_TCP, TCP_NODELAY, set_option};
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_ktime_get_ns};
use aya_ebpf::programs::SockOpsContext;
use core::ptr;
use wormhole_common::{
    ENDS, GATHER_ENDS, GATHER_NOT, GATHER_STREAMS, GATHERS, Member, NAGLE_ANYHOW, NAGLE_ITS, NAGLE_NEVER, NAGLE_ON, SEVERAL,
    SHARED, SlotSide,
};

/// Messages of up to so many bytes are small. For larger ones the copies cost more than the wake-ups.
const SMALL: u32 = 2 << 10;
/// So many in a row, sent fast enough, are a stream.
const RUN: u32 = 4096;
/// After so many the clock is looked at again: a stream that is half as fast as it must be to begin is none any more.
const WINDOW: u32 = 256;
/// Nor is one in which so often something came from the other side, with fewer than that in between,
const ANSWERS: u32 = 16;
/// or so many in a row before which nothing was on its way. In a stream on one cpu there are a dozen now and then: what is sent
/// is put into the receiver's queue before its sender goes on, until an acknowledgement waits.
const PAUSES: u32 = 64;
/// How many messages may go by before Nagle's algorithm is taken back. An acknowledgement that finds more to send is not the
/// moment for that.
const LAST: u32 = 64;

/// True when this message is to go by TCP because its sender gathers.
#[inline(always)]
pub fn is_gathered(me: &mut Member, mine: &mut SlotSide, peer: &SlotSide, size: u32) -> bool {
    let heard = peer.direct_bytes.wrapping_add(u64::from(injected(peer)));
    let answered = heard != me.heard;
    me.heard = heard;
    if me.gathers == GATHER_NOT && (answered || size > SMALL) {
        me.run = 0;
    }
    if me.gathers == GATHER_NOT && !tries_again(me) {
        return false;
    }
    let rests = write_seq(me.sock).wrapping_sub(me.base) == injected(mine);
    if me.gathers == GATHER_STREAMS && !goes_on(me, mine, peer, size, answered, rests) {
        (me.gathers, me.run) = (GATHER_ENDS, 0);
    }
    if me.gathers == GATHER_ENDS {
        me.run += 1;
        if me.run > LAST || mine.off != 0 || (rests && me.nagle != NAGLE_ON) {
            (me.gathers, me.run) = (GATHER_NOT, 0);
        }
    }
    if mine.generation == me.generation {
        let manner = match me.gathers {
            GATHER_STREAMS => GATHERS,
            GATHER_ENDS => ENDS,
            _ => 0,
        };
        mine.manner = (mine.manner & SEVERAL) | manner;
    }
    me.gathers != GATHER_NOT
}

/// True now and then for a sender from which Nagle's algorithm could not be taken back: then the end begins once more.
#[inline(always)]
fn tries_again(me: &mut Member) -> bool {
    if me.nagle != NAGLE_ON {
        return false;
    }
    me.pauses = me.pauses.wrapping_add(1) & (RUN - 1);
    if me.pauses != 0 {
        return false;
    }
    (me.gathers, me.run) = (GATHER_ENDS, 0);
    true
}

/// Whether it is still a stream.
#[inline(always)]
fn goes_on(me: &mut Member, mine: &SlotSide, peer: &SlotSide, size: u32, answered: bool, rests: bool) -> bool {
    me.pauses = if rests { me.pauses + 1 } else { 0 };
    if answered {
        (me.run, me.answers) = (0, me.answers + 1);
    }
    let fast = match count(me) {
        WINDOW => {
            (me.run, me.answers) = (0, 0);
            now() - me.run_since <= 2 * GATHER.load() * u64::from(WINDOW)
        }
        _ => true,
    };
    fast && me.pauses < PAUSES && me.answers < ANSWERS && is_fit(me, mine, peer, size)
}

/// Takes notice of a message that went direct.
#[inline(always)]
pub fn note(me: &mut Member, mine: &mut SlotSide, peer: &SlotSide, size: u32) {
    if size > SMALL || count(me) < RUN {
        return;
    }
    me.run = 0;
    if now() - me.run_since <= GATHER.load() * u64::from(RUN) && is_fit(me, mine, peer, size) {
        (me.gathers, me.pauses, me.answers) = (GATHER_STREAMS, 0, 0);
        mine.manner |= GATHERS;
    }
}

#[inline(always)]
fn is_fit(me: &Member, mine: &SlotSide, peer: &SlotSide, size: u32) -> bool {
    // What the other side sends by TCP alone is not seen here.
    let current = mine.generation == me.generation && mine.off == 0 && peer.off == 0;
    current && size <= SMALL && me.streak != SHARED && me.nagle != NAGLE_NEVER
}

/// Counts a message of a row; tells how many there are.
#[inline(always)]
fn count(me: &mut Member) -> u32 {
    if me.run == 0 {
        me.run_since = now();
    }
    me.run += 1;
    me.run
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Switches Nagle's algorithm on for a sender that gathers, and off again at the end. At an acknowledgement: no other program
/// is allowed to that runs in time (`bpf_setsockopt` of TCP_NODELAY, Linux 6.1).
#[inline(always)]
pub fn set_nagle(ctx: &SockOpsContext, me: &mut Member) {
    if me.gathers == GATHER_STREAMS && me.nagle == NAGLE_ITS {
        me.nagle = match nodelay(ctx) {
            Some(0) => NAGLE_ANYHOW,
            Some(_) if set_nodelay(ctx, 0) => NAGLE_ON,
            _ => NAGLE_NEVER,
        };
    } else if me.gathers != GATHER_STREAMS && me.nagle == NAGLE_ON {
        // SAFETY: the context is the kernel's.
        let sent = unsafe { (*ctx.ops).snd_nxt };
        // Setting it sends what waits, which is not to happen while the kernel takes in an acknowledgement. That goes out now anyway.
        if sent == write_seq(me.sock) {
            take_nagle_back(ctx, me);
        }
    }
}

/// The same for a socket that is about to connect again.
#[inline(always)]
pub fn take_nagle_back(ctx: &SockOpsContext, me: &mut Member) {
    if me.nagle == NAGLE_ON && set_nodelay(ctx, 1) {
        me.nagle = NAGLE_ITS;
    }
}

/// The application sets TCP_NODELAY: what it sets stands.
#[inline(always)]
pub fn let_nagle_go(me: &mut Member) {
    let ours = me.gathers != GATHER_NOT || me.nagle == NAGLE_ON || me.nagle == NAGLE_NEVER;
    me.nagle = if ours { NAGLE_NEVER } else { NAGLE_ITS };
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
    set_option(ctx.ops.cast(), SOL_TCP, TCP_NODELAY, value)
}
