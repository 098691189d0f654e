//! What wormholed asks, and tells: programs that are never attached, only run (`BPF_PROG_TEST_RUN` of a raw tracepoint, Linux
//! 5.10). The answer is the return value. Not by aya's `#[raw_tracepoint]`, whose programs always return 0.

use crate::kernel::{backlog, inode, is_drained, is_left_alone, process};
use crate::maps::{WH_SELF, WH_THREADS, is_settled, slot};
use crate::memory::is_short;
use crate::room::endurance;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_ktime_get_ns};
use core::ffi::c_void;
use wormhole_common::{ASK_COMING, ASK_ENDURANCE, ASK_INODE, QUESTION_WORDS, Role, SlotSide};

/// The side that is asked about, and the other one.
///
/// # Safety
/// The context is three words: slot, generation, role. The verifier checks that no more is read.
#[inline(always)]
unsafe fn sides<'a>(ctx: *mut c_void) -> Option<(&'a mut SlotSide, &'a mut SlotSide)> {
    // SAFETY: the context is the words that wormholed handed in.
    let word = |index: usize| unsafe { *ctx.cast::<u64>().add(index) } as u32;
    let (index, generation, role) = (word(0), word(1), word(2));
    let [client, server] = &mut slot(index)?.sides;
    let (mine, peer) = if role == Role::Client as u32 { (client, server) } else { (server, client) };
    (mine.generation == generation && mine.enrolled != 0).then_some((mine, peer))
}

/// How many bytes wait in front of an application, before wormholed puts more there.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe extern "C" fn wh_backlog(ctx: *mut c_void) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { sides(ctx) } {
        Some((mine, _)) => backlog(mine.sock).min(u32::MAX.into()) as u32,
        // One that is gone takes nothing; whoever sends learns that from TCP.
        None => 0,
    }
}

/// 1 when nothing is in an application's redirected queue, nor on its way there, provided that nothing new may be put
/// there ([`wormhole_common::LEFT`]): then its socket can be taken out of the map.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe extern "C" fn wh_quiet(ctx: *mut c_void) -> u32 {
    // SAFETY: the caller's promise.
    let Some((mine, peer)) = (unsafe { sides(ctx) }) else { return 0 };
    u32::from(is_settled(mine, peer) && is_left_alone(mine.sock) && is_drained(mine.sock))
}

/// True while a message that its sender's program has let go may not have arrived yet: its sender, who has given its own
/// lock back, may have to wait for that of the receiver, to which it holds a reference until then.
#[inline(always)]
fn is_coming(mine: &SlotSide) -> bool {
    /// Nanoseconds, in case somebody else keeps a reference. A reader that faults while it copies, in a process whose threads
    /// wait for each other's memory, was seen to keep others waiting for more than one second.
    const LONG: u64 = 60_000_000_000;
    // SAFETY: no arguments.
    !is_left_alone(mine.sock) && mine.queued_at + LONG > unsafe { bpf_ktime_get_ns() }
}

/// What is asked about a reader: how much was redirected to it and not read (0 when what waits came by TCP), how much may
/// wait there, whether something may be on its way there, or the number of its socket's inode.
///
/// # Safety
/// The context is four words: the three, and one of the `ASK_` constants.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe extern "C" fn wh_reader(ctx: *mut c_void) -> u32 {
    // SAFETY: the caller's promise.
    let what = unsafe { *ctx.cast::<u64>().add(QUESTION_WORDS) } as u32;
    // SAFETY: as above.
    match unsafe { sides(ctx) } {
        Some((mine, _)) if what == ASK_INODE => inode(mine.sock) as u32,
        // The relay is to put little there then; the kernel has the last word.
        Some((mine, _)) if what == ASK_ENDURANCE && is_short(mine.sock, 0) => 0,
        Some((mine, _)) if what == ASK_ENDURANCE => endurance(mine.sock).min(u32::MAX.into()) as u32,
        Some((mine, _)) if what == ASK_COMING => u32::from(is_coming(mine)),
        Some((mine, _)) if !is_drained(mine.sock) => backlog(mine.sock).clamp(1, u32::MAX.into()) as u32,
        _ => 0,
    }
}

/// A relay thread says that a door is its, or that none is any more.
///
/// # Safety
/// The context is two words: the index of the door, and 1 or 0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub unsafe extern "C" fn wh_thread(ctx: *mut c_void) -> u32 {
    // SAFETY: the caller's promise.
    let (index, comes) = unsafe { (*ctx.cast::<u64>() as u32, *ctx.cast::<u64>().add(1)) };
    // SAFETY: no arguments; an address as a number.
    let task = unsafe { bpf_get_current_task() };
    if comes == 0 {
        // What is not there any more is gone as it should be.
        let _ = WH_THREADS.remove(&task);
        return 1;
    }
    let Some(own) = WH_SELF.get_ptr_mut(0) else { return 0 };
    // SAFETY: a value of the map; all threads write the same.
    unsafe { *own = process(task) };
    u32::from(WH_THREADS.insert(&task, &index, 0).is_ok())
}
