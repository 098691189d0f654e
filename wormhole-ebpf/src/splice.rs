//! `fentry/tcp_splice_read` (Linux 5.5; with what is kept with a socket, 5.11): splice(2) reads a TCP socket's own queue and
//! does not see redirected bytes. An application that does it on an enrolled socket must be known before it waits for ever.
//!
//! That function is called through a table only. What it calls (`tcp_read_sock`) may be a copy inside of it, at whose
//! entry nobody is told; Debian's 6.12 is built so.
//!
//! Where the kernel lets nobody watch its functions, userspace looks for readers that stand still; `wh_reader` is what it
//! asks about them.

use crate::kernel::executable;
use crate::maps::{WH_EVENTS, WH_EXES, is_application, member, slot};
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;
use core::ffi::c_void;
use core::ptr;
use wormhole_common::{OFF_SPLICED, Role, SOCKET_SK, SpliceEvent};

#[fentry(function = "tcp_splice_read")]
pub fn wh_splice(ctx: FEntryContext) -> i32 {
    let socket: *const u64 = ctx.arg(0);
    // SAFETY: the kernel's `struct socket`, of which the verifier allows to read a field at an offset that it knows.
    let sk = unsafe { ptr::read_volatile(socket.byte_add(SOCKET_SK as usize)) } as *mut c_void;
    if sk.is_null() {
        return 0;
    }
    let Some(me) = member(sk) else { return 0 };
    if !is_application(me) {
        return 0;
    }
    let Some(slot) = slot(me.slot) else { return 0 };
    let [client, server] = &mut slot.sides;
    let (mine, peer) = if me.role == Role::Client as u32 { (client, server) } else { (server, client) };
    if mine.generation != me.generation || mine.spliced != 0 {
        return 0;
    }
    mine.spliced = 1;
    // Nothing more is redirected to it: what comes from now on comes by TCP, where it looks.
    peer.off = OFF_SPLICED;
    let exe = executable();
    let _ = WH_EXES.insert(&exe, &0, BPF_ANY.into());
    let event = SpliceEvent { slot: me.slot, generation: me.generation, role: me.role, pad: 0, exe };
    let _ = WH_EVENTS.output::<SpliceEvent>(event, 0);
    0
}
