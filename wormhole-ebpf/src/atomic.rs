//! The atomic operations that the programs need (BPF_ATOMIC with BPF_FETCH, Linux 5.12). `core` has none for this
//! target.

use core::arch::asm;

/// Adds `more` and says what was there before. Ordered as a full barrier.
///
/// # Safety
/// `at` is 8 aligned bytes of a map's value.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, more: u64) -> u64 {
    let mut value = more;
    // SAFETY: the caller's memory.
    unsafe { asm!("{value} = atomic_fetch_add((u64 *)({at} + 0), {value})", at = in(reg) at, value = inout(reg) value) };
    value
}

/// Sets `bits` and says what was there before. Ordered as a full barrier.
///
/// # Safety
/// `at` is 8 aligned bytes of a map's value.
#[inline(always)]
pub unsafe fn fetch_or(at: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: the caller's memory.
    unsafe { asm!("{value} = atomic_fetch_or((u64 *)({at} + 0), {value})", at = in(reg) at, value = inout(reg) value) };
    value
}

/// Puts `new` there if `old` is there. Says whether it did. Ordered as a full barrier.
///
/// # Safety
/// `at` is 8 aligned bytes of a map's value.
#[inline(always)]
pub unsafe fn replace(at: *mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: the caller's memory. The instruction compares with r0 and leaves there what it found.
    unsafe { asm!("r0 = cmpxchg_64({at} + 0, r0, {new})", at = in(reg) at, new = in(reg) new, inout("r0") found) };
    found == old
}
