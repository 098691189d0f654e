//! `cgroup/sock_release` (Linux 5.9; with what is kept with a socket, 5.10): an application gives up its last descriptor
//! of a socket. The kernel looks at the TCP queue only and ends with FIN while redirected bytes wait unread; wormholed makes
//! the reset of it that TCP would have sent.
//!
//! It must be asked now: a moment later the socket is out of the map, and a moment after that its queue is emptied.

use crate::atomic::fetch_or;
use crate::kernel::is_drained;
use crate::maps::{is_application, member, sides};
use crate::wait::settles;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use wormhole_common::LEFT;

const GO_ON: i32 = 1;

#[cgroup_sock(sock_release)]
pub fn wh_release(ctx: SockContext) -> i32 {
    let Some(me) = member(ctx.sock.cast()) else { return GO_ON };
    if !is_application(me) {
        return GO_ON;
    }
    let Some((mine, peer)) = sides(me) else { return GO_ON };
    // What comes from now on comes by TCP, and the kernel answers it with a reset.
    // SAFETY: an aligned field of the slot, which only atomic operations change.
    if unsafe { fetch_or(&raw mut mine.queued, LEFT) } & LEFT == 0 {
        me.closing = 1;
        // What arrives later than this is noticed when the state changes, if it is in time for that.
        settles(me, mine, peer);
    }
    // Also of one that is about to leave the map, or has left it and has nothing there.
    if !is_drained(me.sock) {
        mine.unread = 1;
    }
    GO_ON
}
