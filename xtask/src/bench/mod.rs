//! `cargo xtask bench`.

use std::ffi::OsString;

/// Runs the benchmark; `args` are the words after `bench`.
pub fn run(args: &[OsString]) -> anyhow::Result<()> {
    anyhow::bail!("bench is not in this build ({} arguments given)", args.len())
}
