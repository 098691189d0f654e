//! Where things are: the sources, the target folder, the tools; and cargo, called as if from a shell.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The top of the repository.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The target folder, wherever cargo put it: the folder above this program that cargo marked as one.
pub fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding the path of xtask itself")?;
    let target = program.ancestors().find(|path| path.join("CACHEDIR.TAG").exists());
    Ok(target.map_or_else(|| root().join("target"), Path::to_path_buf))
}

/// Where programs that `setup` builds are kept; `WORMHOLE_TOOLS` moves it to where a CI machine keeps its caches.
pub fn tools() -> Result<PathBuf> {
    Ok(match std::env::var_os("WORMHOLE_TOOLS") {
        Some(path) => PathBuf::from(path),
        None => target()?.join("tools"),
    })
}

/// A cargo that sees the environment of the shell and not that of the `cargo run` around xtask.
///
/// Build scripts watch variables such as `CARGO_PKG_NAME`; left in, they would build `ring` and all that hangs on it once
/// for the shell and once for xtask, back and forth.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let set_by_cargo = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        if set_by_cargo || matches!(&*text, "LD_LIBRARY_PATH" | "OUT_DIR" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The full path of a program: on PATH, in the folders of root's programs, or where cargo installs.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_bin = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .chain(cargo_bin)
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

/// Whether `path` is a file with an execute bit.
pub fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
