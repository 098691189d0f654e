//! Whether the fast path is there on this machine, and what it holds in the kernel.

use crate::room::{Room, SOON};
use crate::{boxed, wait_until};
use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use serde_json::Value;

/// Why the fast path of this daemon is off although it was asked for: only what the machine or the build cannot do.
///
/// # Errors
/// The reason, for `skipped: why`.
///
/// # Panics
/// When it is off although the machine can do all that it needs.
#[track_caller]
pub fn available(room: &Room) -> Result<(), String> {
    let status = room.status();
    if status["fastpath"]["active"] == true {
        return Ok(());
    }
    match excuse(&status) {
        Some(why) => Err(why),
        None => panic!("this machine has what the fast path needs, and it is off: {}", status["fastpath"]),
    }
}

/// What is missing, found without asking the daemon.
fn excuse(status: &Value) -> Option<String> {
    if status["build"]["ebpf"].is_null() {
        return Some("no eBPF object is built in (cargo xtask build-ebpf)".to_owned());
    }
    if !boxed::is_root() {
        return Some("needs root".to_owned());
    }
    for kind in [ProgramType::SkMsg, ProgramType::SockOps] {
        match is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => return Some(format!("this kernel has no {kind:?} programs")),
            Err(why) => return Some(format!("this machine loads no {kind:?} program: {why}")),
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        return Some("no cgroup2 is mounted".to_owned());
    }
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    lockdown.contains("[confidentiality]").then(|| "the kernel is locked down".to_owned())
}

/// Both directions of a counter such as `bytes`, `direct`, `injected` together.
pub fn sum(view: &Value, counter: &str) -> u64 {
    ["to_tail", "to_head"].iter().map(|way| view[counter][way].as_u64().unwrap_or(0)).sum()
}

/// Waits until no pair is open in the whole daemon.
///
/// # Panics
/// When one stays.
#[track_caller]
pub fn wait_no_pair(room: &Room) {
    wait_until("no pair to be open", SOON, || (room.status()["fastpath"]["pairs"]["open"] == 0).then_some(()));
}
