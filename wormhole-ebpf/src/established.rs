//! Counts the TCP connections that were established under the cgroup it is attached to, by the side that it saw.
//!
//! It changes nothing: every callback is answered with "go on". It is the smallest program that shows that loading,
//! attaching and reading a map work on a machine.

use aya_ebpf::bindings::{BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB};
use aya_ebpf::macros::{map, sock_ops};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::SockOpsContext;
use wormhole_common::Side;

/// One counter per [`Side`] and cpu.
#[map]
static ESTABLISHED: PerCpuArray<u64> = PerCpuArray::with_max_entries(Side::COUNT, 0);

/// What a `sock_ops` program answers when it has nothing to say.
const GO_ON: u32 = 1;

/// Runs on the events of every TCP socket of the cgroup.
#[sock_ops]
pub fn count_established(ctx: SockOpsContext) -> u32 {
    let side = match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => Side::Active,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => Side::Passive,
        _ => return GO_ON,
    };
    if let Some(counter) = ESTABLISHED.get_ptr_mut(side.index()) {
        // SAFETY: the map handed out a pointer to this cpu's own slot, which is 8 bytes, aligned, and lives as long as the
        // map. The program is not preempted by itself on the same cpu between the load and the store.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
    GO_ON
}
