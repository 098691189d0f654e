//! `cgroup/setsockopt` (Linux 5.3; with `bpf_setsockopt`, 5.15): refuses on enrolled sockets what redirected bytes cannot
//! keep, so that libraries fall back.
//!
//! `TCP_ULP` (kTLS): the kernel would take redirected bytes for decrypted ones. `SO_ZEROCOPY`: completions never come.
//!
//! And takes notice when an application sets its own send buffer, or TCP_NODELAY: it is not ours to change any more. A server's socket, which
//! has been accepted by then, is widened (room.rs).

use crate::gather::let_nagle_go;
use crate::hold::let_go;
use crate::kernel::PAGE_BITS;
use crate::maps::{count, is_application, member};
use crate::room::widen;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use core::ffi::c_void;
use core::ptr;
use wormhole_common::Count;

pub const SOL_SOCKET: i32 = 1;
pub const SO_SNDBUF: i32 = 7;
const SO_SNDBUFFORCE: i32 = 32;
const SO_ZEROCOPY: i32 = 60;
pub const SOL_TCP: i32 = 6;
pub const TCP_NODELAY: i32 = 1;
const TCP_ULP: i32 = 31;

const ALLOW: i32 = 1;
/// The application sees EPERM.
const REFUSE: i32 = 0;

/// Sets an option of the socket that `ctx` is what `bpf_setsockopt` wants for in this program. False when the kernel refuses.
#[inline(always)]
pub fn set_option(ctx: *mut c_void, level: i32, name: i32, value: i32) -> bool {
    let mut value = value;
    // SAFETY: the context and 4 bytes.
    unsafe { bpf_setsockopt(ctx, level, name, ptr::from_mut(&mut value).cast(), 4) == 0 }
}

#[cgroup_sockopt(setsockopt)]
pub fn wh_setsockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: the context is the kernel's.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let refused = (level == SOL_SOCKET && name == SO_ZEROCOPY) || (level == SOL_TCP && name == TCP_ULP);
    let size = level == SOL_SOCKET && matches!(name, SO_SNDBUF | SO_SNDBUFFORCE);
    let nagle = level == SOL_TCP && name == TCP_NODELAY;
    // SAFETY: the context is the kernel's; a socket that is not null.
    let sk = unsafe { (*ctx.sockopt).__bindgen_anon_1.sk };
    if !sk.is_null()
        && let Some(me) = member(sk.cast())
        && is_application(me)
    {
        if refused {
            count(Count::Sockopt);
            return REFUSE;
        }
        if size {
            let_go(me, sk.cast());
        }
        if nagle {
            let_nagle_go(me);
        }
        // SAFETY: in this program the helpers want the socket.
        unsafe { widen(me, sk.cast()) };
    }
    // SAFETY: the context is the kernel's.
    let length = unsafe { (*ctx.sockopt).optlen };
    // What was copied for programs is cut off at a page. 0: the value is taken from the caller's memory as it stands there.
    // Not for shorter ones, which another program may have changed.
    if length > 0 && length >> (PAGE_BITS.load() & 31) != 0 {
        // SAFETY: as above.
        unsafe { (*ctx.sockopt).optlen = 0 };
    }
    ALLOW
}
