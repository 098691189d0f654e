//! Both ends of a connection, as `sock_ops` sees them.

use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use core::ptr;
use wormhole_common::Tuple;

/// The third word of an IPv4 address that is mapped into IPv6, in network order.
pub const MAPPED: u32 = 0xffff_u32.to_be();

#[inline(always)]
pub fn is_ipv4(addr: &[u32; 4]) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == MAPPED
}

/// Whether a connection leads to an address of its own namespace. From there it begins at the same address, unless
/// somebody has chosen another one; that one is relayed.
#[inline(always)]
pub fn is_here(tuple: &Tuple) -> bool {
    let Tuple { local, remote, .. } = tuple;
    let loopback = if is_ipv4(local) { local[3].to_ne_bytes()[0] == 127 } else { *local == [0, 0, 0, 1u32.to_be()] };
    loopback || local == remote
}

/// Reads a field of the context. Every field is read whatever the family is: the verifier takes no load whose offset was
/// chosen at run time, and that is what the compiler makes of two loads in two branches.
macro_rules! field {
    ($ctx:ident.$name:ident) => {
        // SAFETY: the context is the kernel's.
        unsafe { ptr::read_volatile(&raw const (*$ctx.ops).$name) }
    };
    ($ctx:ident.$name:ident[4]) => {{
        // SAFETY: the context is the kernel's. Word by word, as the kernel translates them.
        let word = |index: usize| unsafe { ptr::read_volatile((&raw const (*$ctx.ops).$name).cast::<u32>().add(index)) };
        [word(0), word(1), word(2), word(3)]
    }};
}

const AF_INET: u32 = 2;

#[inline(always)]
pub fn local(ctx: &SockOpsContext) -> ([u32; 4], u16) {
    let (v4, v6) = (field!(ctx.local_ip4), field!(ctx.local_ip6[4]));
    let (family, port) = (field!(ctx.family), field!(ctx.local_port));
    (if family == AF_INET { [0, 0, MAPPED, v4] } else { v6 }, port as u16)
}

#[inline(always)]
pub fn remote(ctx: &SockOpsContext) -> ([u32; 4], u16) {
    let (v4, v6) = (field!(ctx.remote_ip4), field!(ctx.remote_ip6[4]));
    let (family, port) = (field!(ctx.family), field!(ctx.remote_port));
    // In network order, in the upper half.
    (if family == AF_INET { [0, 0, MAPPED, v4] } else { v6 }, u32::from_be(port) as u16)
}

#[inline(always)]
pub fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_netns_cookie(ctx.ops.cast()) }
}
