//! The eBPF programs. Built by `cargo xtask build-ebpf`; an empty `main` when built for the host, so that `cargo build`
//! needs no eBPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod connection;
#[cfg(target_arch = "bpf")]
mod gather;
#[cfg(target_arch = "bpf")]
mod hold;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod message;
#[cfg(target_arch = "bpf")]
mod options;
#[cfg(target_arch = "bpf")]
mod questions;
#[cfg(target_arch = "bpf")]
mod release;
#[cfg(target_arch = "bpf")]
mod room;
#[cfg(target_arch = "bpf")]
mod splice;
#[cfg(target_arch = "bpf")]
mod tuple;
#[cfg(target_arch = "bpf")]
mod wait;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The text of `CARGO_PKG_VERSION` in a section of its own, which userspace reads without loading anything.
///
/// The section's name must be that of `wormhole_common::VERSION_SECTION`; an attribute cannot refer to a constant.
#[cfg(target_arch = "bpf")]
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = "wormhole.version")]
static WORMHOLE_VERSION: [u8; VERSION.len()] = match VERSION.first_chunk() {
    Some(bytes) => *bytes,
    None => [0; VERSION.len()],
};

#[cfg(target_arch = "bpf")]
const VERSION: &[u8] = env!("CARGO_PKG_VERSION").as_bytes();

/// `bpf_skc_to_tcp_sock` and `bpf_probe_read_kernel` are for programs under a licence that the GPL agrees with.
#[cfg(target_arch = "bpf")]
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `core` asks for one. The verifier refuses a program in which a panic can be reached, so this never runs.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
