//! `cgroup/sock_release` (Linux 5.9; with what is kept with a socket, 5.10): an application gives up its last descriptor
//! of a socket. The kernel looks at the TCP queue only and ends with FIN while redirected bytes wait unread; wormholed makes
//! the reset of it that TCP would have sent.
//!
//! It must be asked now: a moment later the socket is out of the map, and a moment after that its queue is emptied.

use crate::atomic::fetch_or;
use crate::kernel::{is_drained, is_left_alone};
use crate::maps::{is_settled, member, slot};
use crate::wait::wait_until;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use wormhole_common::{LEFT, MEMBER_ENROLLED, Role};

/// How long the close waits for messages that are on their way, in nanoseconds.
const SETTLE_NS: u64 = 100_000;

const GO_ON: i32 = 1;

#[cgroup_sock(sock_release)]
pub fn wh_release(ctx: SockContext) -> i32 {
    let Some(me) = member(ctx.sock.cast()) else { return GO_ON };
    if me.state != MEMBER_ENROLLED || me.role > Role::Server as u32 {
        return GO_ON;
    }
    let Some(slot) = slot(me.slot) else { return GO_ON };
    let [client, server] = &mut slot.sides;
    let (mine, peer) = if me.role == Role::Client as u32 { (client, server) } else { (server, client) };
    if mine.generation != me.generation {
        return GO_ON;
    }
    // What comes from now on comes by TCP, and the kernel answers it with a reset.
    // SAFETY: an aligned field of the slot, which only atomic operations change.
    if unsafe { fetch_or(&raw mut mine.queued, LEFT) } & LEFT != 0 {
        return GO_ON;
    }
    me.closing = 1;
    // What arrives later than this is noticed when the state changes, if it is in time for that.
    wait_until::<256, 4>(SETTLE_NS, || is_settled(mine, peer) && is_left_alone(me.sock));
    if !is_drained(me.sock) {
        mine.unread = 1;
    }
    GO_ON
}
