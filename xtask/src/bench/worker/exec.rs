//! Becoming a peer.

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Replaces this process by `command`, which the kernel ends when the bench dies: both the signal and the raised limit
/// of open files survive exec. Returns only on failure.
pub fn exec(command: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("ask to die with the bench")?;
    let [program, args @ ..] = command else { bail!("nothing to run") };
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("run {}", program.to_string_lossy()))
}
