//! The eBPF programs. Empty when built for the host, so that `cargo build` needs no eBPF toolchain.
#![no_std]
