//! `sock_ops`: sees connections begin and end, and enrols those that belong to a head or a tail.
//!
//! A stranger's connect costs one look-up (is there a head on that port in that namespace?) and a glance at its process, a
//! stranger's accept another one (did wormholed announce this connection?), and none of its bytes costs anything.

use crate::atomic::{fetch_add, replace};
use crate::gather::take_nagle_back;
use crate::hold::acknowledged;
use crate::kernel::{backlog, executable, is_closing, is_drained, process, uses_ring, write_seq};
use crate::maps::{
    WH_EXES, WH_FREE, WH_HEADS, WH_PORTS, WH_SELF, WH_SOCKS, WH_THREADS, WH_TUPLES, count, door_of, is_application, make_member,
    member, side, sides, slot,
};
use crate::memory::learn;
use crate::room::widen;
use crate::tuple::{MAPPED, is_here, is_ipv4, local, netns, remote};
use crate::wait::settles;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB,
    BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    BPF_TCP_FIN_WAIT1, BPF_TCP_LAST_ACK,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_map_delete_elem, bpf_skc_to_mptcp_sock, bpf_skc_to_tcp_sock, bpf_sock_hash_update,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use core::ffi::c_void;
use core::ptr;
use wormhole_common::{
    Count, DOOR_ANNOUNCED, DOOR_CONNECTS, Door, EXE_NEVER, HEAD_CHECKS, HEAD_OFF, HeadAddr, HeadPort, LEFT, MEMBER_ENROLLED,
    MEMBER_NEW, MEMBER_REFUSED, Member, Refusal, Role, SlotSide, TOKEN_CLIENT, TOKEN_LINK, TOKEN_REFUSED, TOKEN_SERVER, Token,
    Tuple, socket_key,
};

/// What a `sock_ops` program answers when it has nothing to say.
const GO_ON: u32 = 1;

#[sock_ops]
pub fn wh_sockops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_STATE_CB => state_changed(&ctx),
        BPF_SOCK_OPS_RTT_CB => acknowledged(&ctx),
        _ => {}
    }
    GO_ON
}

#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: the context is the kernel's; the field is null or a full socket.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

// === connect(2) ===

/// Before the first packet leaves; in the context of the process that connects.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    let mut tuple = Tuple { netns: netns(ctx), ..Tuple::default() };
    // The passive end's view: its local address is our remote one.
    (tuple.remote, tuple.remote_port) = local(ctx);
    (tuple.local, tuple.local_port) = remote(ctx);
    if let Some(me) = member(sk) {
        // A socket that is connected for the second time: what was redirected to it before is no part of this connection.
        if me.sock != 0 {
            take_out(me);
        }
        take_nagle_back(ctx, me);
        *me = Member { role: Role::Client as u32, state: MEMBER_REFUSED, tuple, ..Member::default() };
    }
    let head = head_of(&tuple);
    if let Some(door) = door() {
        announce(door, &tuple, head);
        return;
    }
    let Some(head) = head else { return };
    if head & HEAD_OFF != 0 {
        return;
    }
    // SAFETY: the helper gives null or the same socket.
    let sock = unsafe { bpf_skc_to_tcp_sock(sk) } as u64;
    if sock == 0 {
        return;
    }
    let mut fresh = Member { role: Role::Client as u32, tuple, ..Member::default() };
    let Some(me) = make_member(sk, &mut fresh) else { return };
    watch(ctx);
    me.state = MEMBER_NEW;
    // Behind the SYN. The bytes that it may carry (TCP Fast Open) went by TCP, and are injected.
    me.base = write_seq(sock).wrapping_add(1);
    if is_mptcp(sk) {
        refuse(me, Refusal::Mptcp, Count::Mptcp);
    // SAFETY: no arguments; an address as a number.
    } else if uses_ring(unsafe { bpf_get_current_task() }) {
        refuse(me, Refusal::Ring, Count::Ring);
    } else if is_kept_off(head) {
        refuse(me, Refusal::Executable, Count::Executable);
    }
}

/// Whether the executable that connects to this head is not to be enrolled.
#[inline(always)]
fn is_kept_off(head: u32) -> bool {
    // SAFETY: nobody changes a value of this map in place.
    match unsafe { WH_EXES.get(&executable()) } {
        Some(known) => head & HEAD_CHECKS != 0 || *known == EXE_NEVER,
        None => false,
    }
}

/// What wormholed says of the connection, if it is a relay thread of its that connects, and says anything.
#[inline(always)]
fn door<'a>() -> Option<&'a mut Door> {
    // SAFETY: no arguments; an address as a number.
    let task = unsafe { bpf_get_current_task() };
    let process = process(task);
    // A stranger is told by his process, without a look-up.
    if process == 0 || WH_SELF.get(0).copied() != Some(process) {
        return None;
    }
    // SAFETY: a value that only its own thread changes.
    let door = door_of(unsafe { WH_THREADS.get(&task) }.copied()?)?;
    (door.errand == DOOR_CONNECTS).then_some(door)
}

/// wormholed connects to a tail: whoever accepts there is the server, or the next segment of a chain. If nobody does, wormholed
/// takes the token back. None is left for a head that is off.
#[inline(always)]
fn announce(door: &mut Door, tuple: &Tuple, head: Option<u32>) {
    // Nor where nobody listens and the socket happens to have that very port: it would be its own server.
    let itself = tuple.local == tuple.remote && tuple.local_port == tuple.remote_port;
    if itself || head.is_some_and(|head| head & HEAD_OFF != 0) {
        return;
    }
    let Some(server) = side(door.slot, door.generation, Role::Server as u32) else { return };
    // The last one of a chain has the last word: it is the one that leads to the server.
    let (kind, hops) = if head.is_some() { (TOKEN_LINK, door.hop + 1) } else { (TOKEN_SERVER, door.hop) };
    server.hops = hops;
    let token = Token { slot: door.slot, generation: door.generation, kind, detail: hops };
    // One that cannot be left: the other end is not found, and the connection is relayed.
    if WH_TUPLES.insert(tuple, &token, BPF_ANY.into()).is_ok() {
        door.tuple = *tuple;
        door.errand = DOOR_ANNOUNCED;
    }
}

/// The head that a connection leads to.
#[inline(always)]
fn head_of(tuple: &Tuple) -> Option<u32> {
    let port = HeadPort { netns: tuple.netns, port: tuple.local_port.into(), pad: 0 };
    // SAFETY: here and below: nobody changes a value of these maps in place.
    unsafe { WH_PORTS.get(&port) }?;
    let mut head = HeadAddr { port, addr: tuple.local };
    if let Some(value) = unsafe { WH_HEADS.get(&head) } {
        return Some(*value);
    }
    // One on any address. But the port of another machine is none of its own.
    if !is_here(tuple) {
        return None;
    }
    if is_ipv4(&tuple.local) {
        head.addr = [0, 0, MAPPED, 0];
        if let Some(value) = unsafe { WH_HEADS.get(&head) } {
            return Some(*value);
        }
    }
    head.addr = [0; 4];
    unsafe { WH_HEADS.get(&head) }.copied()
}

#[inline(always)]
fn refuse(me: &mut Member, why: Refusal, counter: Count) {
    me.state = MEMBER_REFUSED;
    let token = Token { slot: 0, generation: 0, kind: TOKEN_REFUSED, detail: why as u32 };
    let _ = WH_TUPLES.insert(&me.tuple, &token, BPF_ANY.into());
    count(counter);
}

// === established ===

/// The client's side, before its connect returns and before the other side can accept.
#[inline(always)]
fn connected(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    let Some(me) = member(sk) else { return };
    if me.role != Role::Client as u32 || me.state != MEMBER_NEW {
        return;
    }
    let Ok(Some(index)) = WH_FREE.pop() else {
        refuse(me, Refusal::NoSlot, Count::NoSlot);
        return;
    };
    let Some(slot) = slot(index) else { return };
    let [client, server] = &mut slot.sides;
    let generation = client.generation;
    *client = SlotSide { generation, ..SlotSide::default() };
    *server = SlotSide { generation, ..SlotSide::default() };
    me.slot = index;
    me.generation = generation;
    let token = Token { slot: index, generation, kind: TOKEN_CLIENT, detail: 0 };
    if WH_TUPLES.insert(&me.tuple, &token, BPF_ANY.into()).is_err() || !enrol(ctx, sk, me, client) {
        let _ = WH_FREE.push(&index, 0);
        refuse(me, Refusal::NoRoom, Count::NoRoom);
        return;
    }
    count(Count::Clients);
}

/// The server's side, before it can be accepted.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let mut tuple = Tuple { netns: netns(ctx), ..Tuple::default() };
    (tuple.local, tuple.local_port) = local(ctx);
    (tuple.remote, tuple.remote_port) = remote(ctx);
    // SAFETY: nobody changes a value of this map in place.
    let Some(token) = (unsafe { WH_TUPLES.get(&tuple) }).copied() else { return };
    let sk = socket(ctx);
    // Whoever removes the token has claimed it: wormholed does when it waits no longer, and hands the first bytes on by TCP.
    if sk.is_null() || token.kind != TOKEN_SERVER || WH_TUPLES.remove(&tuple).is_err() {
        return;
    }
    if is_mptcp(sk) {
        count(Count::Mptcp);
        return;
    }
    let Some(slot) = slot(token.slot) else { return };
    let [_, server] = &mut slot.sides;
    if server.generation != token.generation {
        return;
    }
    let Token { slot, generation, .. } = token;
    let mut fresh = Member { role: Role::Server as u32, slot, generation, ..Member::default() };
    let Some(me) = make_member(sk, &mut fresh) else { return };
    watch(ctx);
    if enrol(ctx, sk, me, server) {
        count(Count::Servers);
    } else {
        me.state = MEMBER_REFUSED;
        count(Count::NoRoom);
    }
}

/// Puts the socket into the map, and says so in the slot.
#[inline(always)]
fn enrol(ctx: &SockOpsContext, sk: *mut c_void, me: &mut Member, side: &mut SlotSide) -> bool {
    // SAFETY: the helper gives null or the same socket.
    let sock = unsafe { bpf_skc_to_tcp_sock(sk) } as u64;
    if sock == 0 {
        return false;
    }
    let mut key = socket_key(me.slot, me.generation, me.role);
    let map = (&raw const WH_SOCKS).cast_mut().cast();
    // SAFETY: the context, a map of sockets and a key of its size.
    if unsafe { bpf_sock_hash_update(ctx.ops, map, ptr::from_mut(&mut key).cast(), BPF_NOEXIST.into()) } != 0 {
        return false;
    }
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_RTT_CB_FLAG) as i32);
    learn(sock);
    me.sock = sock;
    me.whole = write_seq(sock);
    if me.role == Role::Server as u32 {
        me.base = me.whole;
    }
    me.state = MEMBER_ENROLLED;
    // SAFETY: the context is the kernel's.
    unsafe { widen(me, ctx.ops.cast()) };
    side.sock = sock;
    // Last: whoever sees this may use the rest.
    // SAFETY: a byte of the slot.
    unsafe { ptr::write_volatile(&raw mut side.enrolled, 1) };
    true
}

// === the end ===

#[inline(always)]
fn state_changed(ctx: &SockOpsContext) {
    let new = ctx.arg(1);
    if !matches!(new, BPF_TCP_FIN_WAIT1 | BPF_TCP_LAST_ACK | BPF_TCP_CLOSE) {
        return;
    }
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    let Some(me) = member(sk) else { return };
    if is_application(me) && new != BPF_TCP_CLOSE {
        note_unread(me);
        if new == BPF_TCP_FIN_WAIT1 {
            leave(me);
        }
    }
    if new != BPF_TCP_CLOSE {
        return;
    }
    // A token that nobody has claimed is taken back by whoever left it.
    if WH_TUPLES.remove(&me.tuple).is_ok() && me.role == Role::Client as u32 && me.state == MEMBER_ENROLLED {
        give_back(me);
    }
    me.state = MEMBER_NEW;
}

/// The application closes the socket, and redirected bytes have come into it since `wh_release` looked.
#[inline(always)]
fn note_unread(me: &Member) {
    if !is_closing(me.sock) || backlog(me.sock) == 0 {
        return;
    }
    if let Some(side) = side(me.slot, me.generation, me.role) {
        // Whoever has left the map before has only what came by TCP, and the kernel looks after that.
        if side.queued & LEFT == 0 || me.closing != 0 {
            side.unread = 1;
        }
    }
}

/// The application has shut its sending side and may go on to wait for an answer. In a socket of the map that wait ends
/// with EAGAIN when the FIN is acknowledged (tcp_msg_wait_data in net/ipv4/tcp_bpf.c takes any wake-up for the end of it).
/// So the socket leaves the map first, if its queue is empty and nothing is on its way into it, for that would be lost.
/// The answer comes by TCP then.
///
/// What is on its way has a reference to the socket ([`is_settled`]), and arrives under its lock, which shutdown(2) holds.
#[inline(always)]
fn leave(me: &Member) {
    let Some((mine, peer)) = sides(me) else { return };
    // SAFETY: an aligned field of the slot, which only atomic operations change; adding nothing orders what is read later.
    let queued = unsafe { fetch_add(&raw mut mine.queued, 0) };
    if !settles(me, mine, peer) || !is_drained(me.sock) {
        return;
    }
    // SAFETY: as above.
    if unsafe { replace(&raw mut mine.queued, queued, queued | LEFT) } {
        take_out(me);
    }
}

/// Takes the socket out of the map, and what is in its queue with it.
#[inline(always)]
fn take_out(me: &Member) {
    let mut key = socket_key(me.slot, me.generation, me.role);
    // SAFETY: a map of sockets and a key of its size. That it is not there any more is as good.
    let _ = unsafe { bpf_map_delete_elem((&raw const WH_SOCKS).cast_mut().cast(), ptr::from_mut(&mut key).cast()) };
}

/// A client that was never accepted.
#[inline(always)]
fn give_back(me: &Member) {
    let Some(slot) = slot(me.slot) else { return };
    let [client, server] = &mut slot.sides;
    client.generation = me.generation.wrapping_add(1);
    server.generation = client.generation;
    let _ = WH_FREE.push(&me.slot, 0);
}

// === the socket ===

#[inline(always)]
fn is_mptcp(sk: *mut c_void) -> bool {
    // SAFETY: the helper gives null or the same socket.
    !unsafe { bpf_skc_to_mptcp_sock(sk) }.is_null()
}

/// Asks for the callback that tells the end. Other programs' wishes stay.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}
