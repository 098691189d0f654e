//! Whether TCP has memory for more (`net.ipv4.tcp_mem`).
//!
//! Redirected bytes are charged to the receiver as they come, and where that is refused the sender's call fails with
//! ENOMEM, as no call on a TCP socket does: it waits. So nothing may be redirected that might be refused. The rule is that
//! of `__sk_mem_raise_allocated` (net/core/sock.c): above the third of TCP's limits all is refused, and from the second one
//! on, until there is less than the first one again, whatever a socket has beyond its fair share of the third one.
//!
//! Between this look and the charge many others may charge something: the sender may lose the cpu, or wait for the reader.
//! Hence the distance: half of the fair share, unless TCP has next to nothing, and nothing above the first limit.

use crate::kernel::{
    OFF_ALLOCATED, OFF_COUNT, OFF_LIMITS, OFF_PRESSURE, OFF_PROTO, OFF_SOCKETS, OFF_WMEM, PAGE_BITS, backlog, read, read_at,
};
use core::ptr;

/// Where the kernel has these numbers, for every TCP socket in the same place; zeros until the first one is enrolled.
#[derive(Clone, Copy)]
#[repr(C)]
struct Places {
    allocated: u64,
    pressure: u64,
    limits: u64,
    sockets: u64,
}

static mut PLACES: Places = Places { allocated: 0, pressure: 0, limits: 0, sockets: 0 };

/// Looks where they are, by any TCP socket.
#[inline(always)]
pub fn learn(sock: u64) {
    // SAFETY: each is stored whole, and every cpu stores the same.
    if unsafe { ptr::read_volatile(&raw const PLACES.limits) } != 0 {
        return;
    }
    let Some(proto) = read::<u64>(sock, &OFF_PROTO) else { return };
    let place = |offset| read::<u64>(proto, offset).unwrap_or_default();
    // SAFETY: as above.
    unsafe {
        ptr::write_volatile(&raw mut PLACES.allocated, place(&OFF_ALLOCATED));
        ptr::write_volatile(&raw mut PLACES.pressure, place(&OFF_PRESSURE));
        ptr::write_volatile(&raw mut PLACES.sockets, place(&OFF_SOCKETS));
        ptr::write_volatile(&raw mut PLACES.limits, place(&OFF_LIMITS));
    }
}

/// True when a message of `size` bytes for `sock` might be refused, or when it cannot be told.
#[inline(always)]
pub fn is_short(sock: u64, size: u32) -> bool {
    /// Sockets that two cpus may have and not have told (`percpu_counter_batch`).
    const UNCOUNTED: u64 = 64;
    // SAFETY: as above.
    let Places { allocated, pressure, limits, sockets } = unsafe { ptr::read_volatile(&raw const PLACES) };
    let number = |at| read_at::<i64>(at);
    // The first is below zero at times: each cpu has a reserve of its own.
    let (Some(allocated), Some(limit)) = (number(allocated), number(limits)) else { return true };
    if allocated <= limit / 8 {
        return false;
    }
    if allocated > limit || number(pressure) != Some(0) {
        return true;
    }
    let (Some(sockets), Some(queued)) = (read::<i64>(sockets, &OFF_COUNT), read::<u32>(sock, &OFF_WMEM)) else { return true };
    let sockets = sockets.max(0) as u64 + UNCOUNTED;
    // What it has in reserve comes to that, and what is cut off.
    let pages = ((backlog(sock) + u64::from(size) + u64::from(queued)) >> (PAGE_BITS.load() & 63)) + 2;
    read_at::<u64>(limits + 2 * 8).is_none_or(|most| 2 * sockets * pages >= most)
}
