//! `cargo xtask build-ebpf`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::{BOTH_WAYS, Core, Toolchain};
use crate::workspace::{self, program};

const TARGET: &str = "bpfel-unknown-none";

/// Builds the object and puts it where `wormhole/build.rs` looks for it.
pub fn build() -> Result<()> {
    let Some(toolchain) = Toolchain::find()? else {
        bail!("no eBPF toolchain: run `cargo xtask setup --only build`\n{BOTH_WAYS}");
    };
    let target = workspace::target()?;
    // A target folder of its own: the two compilers would throw each other's work away, and wait for each other's lock.
    let own_target = target.join("ebpf-build");
    let status = cargo_build(&toolchain, &own_target)?.status().context("starting cargo for the eBPF object")?;
    if !status.success() {
        bail!("building the eBPF object with {} and {} failed", toolchain.rustc.path.display(), toolchain.linker.display());
    }
    let object = own_target.join(TARGET).join("ebpf/wormhole-ebpf");
    let stripped = strip(&object)?;
    let content = std::fs::read(&stripped).with_context(|| format!("reading {}", stripped.display()))?;
    let place = target.join("ebpf/wormhole.o");
    if place_if_changed(&place, &content)? {
        eprintln!("{}: {} bytes, by {}", place.display(), content.len(), toolchain.rustc.version);
    }
    Ok(())
}

fn cargo_build(toolchain: &Toolchain, target: &Path) -> Result<Command> {
    let mut cargo = workspace::cargo();
    // Flags, wrappers and toolchains that somebody set are for userspace: inherited, they break this build in odd ways.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.contains("RUSTFLAGS")
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTUP_")
            || text.starts_with("CARGO_BUILD_")
        {
            cargo.env_remove(&name);
        }
    }
    let rustc = &toolchain.rustc;
    cargo.args(["build", "--quiet", "--package", "wormhole-ebpf", "--target", TARGET, "--profile", "ebpf", "--target-dir"]);
    cargo.arg(target).env("RUSTC", &rustc.path).env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker);
    match rustc.core {
        // aya-ebpf uses unstable features; they are allowed to the crates that ask for them and to no other.
        Core::Compiled => cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf,wormhole_ebpf"),
        Core::Sources => cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core"),
    };
    let flags =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", &format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH)].join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    Ok(cargo)
}

/// Leaves out DWARF, which nobody reads in the kernel, where there is a program that can; BTF stays.
fn strip(object: &Path) -> Result<PathBuf> {
    let Some(llvm_strip) = program("llvm-strip") else {
        return Ok(object.to_owned());
    };
    let stripped = object.with_extension("stripped");
    let fresh = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    if fresh(&stripped) > fresh(object) {
        return Ok(stripped);
    }
    let status = Command::new(&llvm_strip).arg("-g").arg("-o").arg(&stripped).arg(object).status();
    let status = status.with_context(|| format!("starting {}", llvm_strip.display()))?;
    if !status.success() {
        bail!("{} -g {} ended with {status}", llvm_strip.display(), object.display());
    }
    Ok(stripped)
}

/// Writes `content` unless it is there already: a new time on the file would build userspace anew. Says whether it wrote.
fn place_if_changed(place: &Path, content: &[u8]) -> Result<bool> {
    if std::fs::read(place).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let folder = place.parent().context("the object's place has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    // Beside it and renamed, so that a build that runs at the same time never embeds half an object. Not in the same
    // folder: that one is watched, and holds the object alone. By a name of its own: two may build at the same time.
    let beside = folder.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&beside, content).with_context(|| format!("writing {}", beside.display()))?;
    std::fs::rename(&beside, place).with_context(|| format!("renaming {} to {}", beside.display(), place.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_written_again() {
        let target = tempfile::tempdir().unwrap();
        let place = target.path().join("ebpf/wormhole.o");
        assert!(place_if_changed(&place, b"one").unwrap());
        assert!(!place_if_changed(&place, b"one").unwrap());
        assert!(place_if_changed(&place, b"two").unwrap());
        assert_eq!(std::fs::read(&place).unwrap(), b"two");
        assert_eq!(place.parent().unwrap().read_dir().unwrap().count(), 1);
    }
}
