//! `sk_msg`: decides about every message that an enrolled socket sends, under that socket's lock.
//!
//! The rules, in the order in which they are asked:
//! 1. The slot must still be this connection's (its generation), and redirecting must not be switched off.
//! 2. Order: a receiver reads its redirected queue before its TCP queue. A message goes direct exactly when everything
//!    that went by TCP before has been put into that queue: `passed == injected`.
//! 3. Flow: not while more than the limit waits in front of the receiver. By TCP the ordinary window stops the sender.
//! 4. The receiver must be there. Otherwise TCP tells the sender the truth; SK_DROP would be EACCES.

use crate::kernel::{INJECT_LIMIT, LIMIT, MESSAGE_COST, backlog};
use crate::maps::{WH_SOCKS, count, member, slot};
use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use core::ptr;
use wormhole_common::{Count, Member, Role, SlotSide, socket_key};

const PASS: u32 = 1;
/// The sender sees EACCES. Only wormholed does: "full, ask again".
const REFUSE: u32 = 0;

#[sk_msg]
pub fn wh_msg(ctx: SkMsgContext) -> u32 {
    // SAFETY: the context is the kernel's; this field is the sending socket.
    let sk = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if sk.is_null() {
        return PASS;
    }
    let Some(me) = member(sk.cast()) else { return PASS };
    let Some(slot) = slot(me.slot) else { return PASS };
    let [client, server] = &mut slot.sides;
    match me.role {
        role if role == Role::Client as u32 => send(&ctx, me, client, server),
        role if role == Role::Server as u32 => send(&ctx, me, server, client),
        role if role == Role::ToClient as u32 => inject(&ctx, me, client),
        _ => inject(&ctx, me, server),
    }
}

/// A message of an application.
#[inline(always)]
fn send(ctx: &SkMsgContext, me: &mut Member, mine: &mut SlotSide, peer: &SlotSide) -> u32 {
    let size = u64::from(ctx.size());
    if goes_direct(ctx, me, mine, peer) {
        mine.direct_bytes = mine.direct_bytes.wrapping_add(size);
        mine.direct_messages = mine.direct_messages.wrapping_add(1);
    } else {
        // Before it is sent: userspace must not have read what is not counted yet.
        me.passed = me.passed.wrapping_add(size);
    }
    PASS
}

#[inline(always)]
fn goes_direct(ctx: &SkMsgContext, me: &mut Member, mine: &mut SlotSide, peer: &SlotSide) -> bool {
    if mine.generation != me.generation || mine.off != 0 || peer.enrolled == 0 {
        return false;
    }
    // SAFETY: userspace writes this field while the program runs; a load of 8 aligned bytes is never torn.
    if me.passed != unsafe { ptr::read_volatile(&raw const mine.injected) } {
        count(Count::Order);
        return false;
    }
    let waiting = backlog(peer.sock);
    if waiting == 0 {
        me.burst = 0;
    }
    if waiting + u64::from(me.burst) * MESSAGE_COST >= LIMIT.load() {
        mine.full = mine.full.wrapping_add(1);
        count(Count::Full);
        return false;
    }
    if WH_SOCKS.redirect_msg(ctx, socket_key(me.slot, me.generation, me.role ^ 1), BPF_F_INGRESS.into()) != i64::from(PASS) {
        count(Count::Gone);
        return false;
    }
    me.burst = me.burst.wrapping_add(1);
    true
}

/// Bytes that wormholed read from one application and puts into the queue of the other, whose side is `peer`.
#[inline(always)]
fn inject(ctx: &SkMsgContext, me: &Member, peer: &SlotSide) -> u32 {
    if peer.generation != me.generation || peer.enrolled == 0 || peer.spliced != 0 {
        return PASS;
    }
    if backlog(peer.sock) >= INJECT_LIMIT.load() {
        return REFUSE;
    }
    // By TCP when the receiver has closed: its kernel answers with a reset then, as it should.
    if WH_SOCKS.redirect_msg(ctx, socket_key(me.slot, me.generation, me.role & 1), BPF_F_INGRESS.into()) != i64::from(PASS) {
        count(Count::Gone);
    }
    PASS
}
