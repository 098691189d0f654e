//! Types that the eBPF programs and userspace both see: `#[repr(C)]`, `no_std`, no logic beyond key building.
#![no_std]
