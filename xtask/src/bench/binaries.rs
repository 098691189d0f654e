//! Release builds: of this program, and of wormhole's.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Replaces a debug build of this program by a release build with the same arguments: a load generator that is not
/// optimised measures itself. Returns only on failure.
pub fn reexec_in_release() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(cargo());
    command.args(["run", "--quiet", "--release", "--package", "xtask", "--"]).args(std::env::args_os().skip(1));
    let error = command.exec();
    Err(error).context("run the release build of xtask")
}

/// Builds `wormhole` and `wormholed` in release and says where they are.
pub fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("bench: building wormhole in release");
    let mut command = Command::new(cargo());
    command.args(["build", "--quiet", "--release", "--package", "wormhole", "--bins"]).current_dir(root);
    let status = command.status().context("run cargo build")?;
    if !status.success() {
        bail!("cargo build --release --package wormhole ended with {status}");
    }
    Ok(target(root).join("release"))
}

/// The workspace's root: above this package.
pub fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_owned).context("xtask's package has no directory above it")
}

/// Where cargo builds.
pub fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
