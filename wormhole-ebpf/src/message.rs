//! `sk_msg` (Linux 4.17; into the queue of another socket by its key, 4.18; with what is kept with a socket, 5.8): decides about
//! every message that an enrolled socket sends, under that socket's lock.
//!
//! What is gathered goes by TCP (gather.rs). The rules for all else, in the order in which they are asked:
//! 1. The slot must still be this connection's (its generation), and redirecting must not be switched off.
//! 2. Order: a receiver reads its redirected queue before its TCP queue. A message goes direct exactly when everything
//!    that went by TCP before has been put into that queue. How much went by TCP is taken from TCP itself (`write_seq`),
//!    not counted here: what the program lets through may be cut short by a full send buffer, and then the kernel does
//!    not ask about the next message (`psock->eval` is kept when a push fails, net/ipv4/tcp_bpf.c).
//! 3. Flow: not while more than the limit waits in front of the receiver (room.rs). A reader on another cpu is waited for,
//!    for some microseconds. Otherwise the message goes by TCP, and that is where the sender sleeps: its send buffer is small
//!    (`acknowledged` in hold.rs), and wormholed acknowledges the message once it has put it into the receiver's
//!    queue, when there is room. So one message is carried by the relay, and the next one goes direct again.
//! 4. Memory: not while TCP has little left (memory.rs).
//! 5. The receiver must be there. Otherwise TCP tells the sender the truth. SK_DROP is never answered to it: it would be EACCES,
//!    and it sticks to the socket for the same reason as above.

use crate::atomic::fetch_add;
use crate::gather::{is_gathered, note};
use crate::kernel::{has_ring, is_drained, is_owned, is_single, works_for_ring, write_seq};
use crate::maps::{WH_SOCKS, count, door_of, member, side, slot};
use crate::memory::is_short;
use crate::room::{WAIT_NS, has_room, makes_room, takes_room};
use crate::wait::{wait_patiently, wait_until};
use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::sk_msg;
use aya_ebpf::programs::SkMsgContext;
use core::ptr;
use wormhole_common::{
    Count, DOOR_INJECTS, Door, HOLD_SHORT, LEFT, Member, OFF_RING, RINGS, Role, SEVERAL, SHARED, STREAK, SlotSide, socket_key,
};

const PASS: u32 = 1;
const DROP: u32 = 0;

/// So often another task may begin to send before they are taken for several that send at a time.
const CHANGES: u32 = 4;
/// How long for a reader that is just copying: longer than it takes to copy some hundred KiB.
const TURN_NS: u64 = 60_000;

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
        _ => send(&ctx, me, server, client),
    }
}

/// Bytes that wormholed read from one application and puts into the queue of the other. It is told whether they are there
/// (EACCES: they are not, and then they go by TCP), and takes the socket out of its map and back after that: the kernel keeps the
/// verdict, and would answer so for ever (`psock->eval`, `tcp_bpf_send_verdict` in net/ipv4/tcp_bpf.c).
#[sk_msg]
pub fn wh_inject(ctx: SkMsgContext) -> u32 {
    // SAFETY: the context is the kernel's; this field is the sending socket.
    let sk = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if sk.is_null() {
        return DROP;
    }
    let Some(door) = member(sk.cast()).and_then(|me| door_of(me.slot)) else { return DROP };
    let Door { errand, slot, generation, role, .. } = *door;
    if errand != DOOR_INJECTS {
        return DROP;
    }
    let Some(peer) = side(slot, generation, role) else { return DROP };
    // Whoever uses splice(2) sees what comes by TCP only. But not past what waits there already: that reader will be reset.
    if peer.enrolled == 0 || (peer.spliced != 0 && is_drained(peer.sock)) {
        return DROP;
    }
    peer.door = sk as u64;
    if redirect(&ctx, peer, socket_key(slot, generation, role)) { PASS } else { DROP }
}

/// A message of an application.
#[inline(always)]
fn send(ctx: &SkMsgContext, me: &mut Member, mine: &mut SlotSide, peer: &mut SlotSide) -> u32 {
    // SAFETY: no arguments; an address as a number.
    let task = unsafe { bpf_get_current_task() };
    if mine.generation == me.generation {
        note_ring(task, me.sender != task, mine);
    }
    note_sender(me, mine, task);
    let size = ctx.size();
    let gathered = is_gathered(me, mine, peer, size);
    if gathered {
        count(Count::Gathered);
    }
    if !gathered && goes_direct(ctx, me, mine, peer) {
        mine.direct_bytes = mine.direct_bytes.wrapping_add(size.into());
        note(me, mine, peer, size);
    } else {
        me.whole = write_seq(me.sock).wrapping_add(size);
        me.length = size;
        if me.tight != 0 {
            // SAFETY: no arguments.
            me.tight_since = unsafe { bpf_ktime_get_ns() };
        }
    }
    PASS
}

/// Whether a task sends by io_uring: then wormholed takes the socket out of the map, once it sees bytes come by TCP. A task may
/// make its ring at any time, so every message asks.
#[inline(always)]
fn note_ring(task: u64, other: bool, mine: &mut SlotSide) {
    if mine.manner & RINGS == 0 && mine.files == 0 && (has_ring(task) || (other && works_for_ring(task))) {
        mine.manner |= RINGS;
        if mine.off == 0 {
            mine.off = OFF_RING;
        }
        count(Count::Ring);
    }
}

/// Whether one task sends, or several. One may begin and another go on: that is not several yet.
#[inline(always)]
fn note_sender(me: &mut Member, mine: &mut SlotSide, task: u64) {
    if me.sender != task {
        // The relay does not put parts of a message into the queue while another task's message may be on its way there.
        if me.sender != 0 && mine.generation == me.generation {
            mine.manner |= SEVERAL;
        }
        me.sender = task;
        me.changes = me.changes.saturating_add(1);
        if me.streak != SHARED {
            me.streak = if me.changes > CHANGES || me.hold == HOLD_SHORT { SHARED } else { 0 };
            // SAFETY: no arguments.
            me.alone_since = unsafe { bpf_ktime_get_coarse_ns() };
            me.single = 0;
        }
    }
    if me.streak == STREAK {
        me.single = u32::from(is_single(task));
    }
    if me.streak < SHARED - 1 {
        me.streak += 1;
    }
}

#[inline(always)]
fn goes_direct(ctx: &SkMsgContext, me: &mut Member, mine: &mut SlotSide, peer: &mut SlotSide) -> bool {
    if mine.generation != me.generation || mine.off != 0 || peer.enrolled == 0 {
        return false;
    }
    // Never 4 GiB apart, so that the lower halves tell.
    let sequence = write_seq(me.sock);
    let passed = sequence.wrapping_sub(me.base);
    // A message that another thread has only half given to TCP must not be split by this one.
    if sequence != me.whole || (passed != injected(mine) && !catches_up(mine, passed)) {
        count(Count::Order);
        return false;
    }
    let size = ctx.size();
    if has_room(me, peer, size) {
        me.stalled = 0;
    } else if !makes_room(me, peer, size) {
        count(Count::Full);
        return false;
    }
    waits_its_turn(me, peer);
    // After all waiting, for others take some meanwhile.
    if is_short(peer.sock, size) {
        count(Count::Memory);
        return false;
    }
    if !redirect(ctx, peer, socket_key(me.slot, me.generation, me.role ^ 1)) {
        return false;
    }
    takes_room(me, size);
    true
}

#[inline(always)]
pub fn injected(mine: &SlotSide) -> u32 {
    // SAFETY: userspace writes this field while the program runs; a load of 8 aligned bytes is never torn.
    unsafe { ptr::read_volatile(&raw const mine.injected) as u32 }
}

/// Waits until the relay, which is at it on another cpu, has put everything into the receiver's queue.
#[inline(always)]
fn catches_up(mine: &SlotSide, passed: u32) -> bool {
    // SAFETY: as above, of 2 bytes.
    let mover = unsafe { ptr::read_volatile(&raw const mine.mover) };
    // SAFETY: no arguments.
    if mover == 0 || u32::from(mover) == unsafe { bpf_get_smp_processor_id() } + 1 {
        return false;
    }
    wait_until::<256, 32>(WAIT_NS, || injected(mine) == passed)
}

/// Waits until nobody is just reading. A message is put into the queue under the receiver's lock (`bpf_tcp_ingress`,
/// net/ipv4/tcp_bpf.c), which a reader holds while it copies: the sender would sleep until it is given back, and be woken too
/// late for the next time, so that both sides of a stream would sleep by turns.
#[inline(always)]
fn waits_its_turn(me: &mut Member, peer: &SlotSide) {
    if is_owned(peer.sock) {
        wait_patiently::<256, 8>(&mut me.turn, TURN_NS, || !is_owned(peer.sock));
    }
}

/// Into the queue of `peer`, unless it is not, or no longer, there.
///
/// A socket leaves the map only while its queue is empty and nothing is on its way; the counter is what both agree by: it
/// is raised before the socket is looked up, under the sender's lock.
#[inline(always)]
fn redirect(ctx: &SkMsgContext, peer: &mut SlotSide, key: u64) -> bool {
    // SAFETY: no arguments.
    peer.queued_at = unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: an aligned field of the slot, which only atomic operations change.
    let before = unsafe { fetch_add(&raw mut peer.queued, 1) };
    if before & LEFT == 0 && WH_SOCKS.redirect_msg(ctx, key, BPF_F_INGRESS.into()) == i64::from(PASS) {
        return true;
    }
    count(Count::Gone);
    false
}
