//! Which compiler and linker can make eBPF objects, and how a machine without them gets some.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;
use crate::workspace::{self, is_executable, program};

/// The versions that were tried with the compilers below.
const BPF_LINKER: &str = "0.13.0";
const CARGO_DENY: &str = "0.20.2";

/// Debian's compiler: `core` for eBPF comes compiled, so neither nightly nor the library's sources are needed.
pub const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Shown where nothing can be installed from here.
pub const BOTH_WAYS: &str = "an eBPF toolchain comes in one of two ways:\n  \
    rustup: rustup toolchain install nightly --component rust-src && cargo install bpf-linker\n  \
    Debian: apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf, then cargo xtask setup --only build\n\
    or name a compiler in EBPF_RUSTC (a path) or EBPF_TOOLCHAIN (a toolchain of rustup)";

/// A compiler with all that an object needs.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: Rustc,
    /// bpf-linker.
    pub linker: PathBuf,
}

/// A compiler that can make code for eBPF.
#[derive(Debug)]
pub struct Rustc {
    /// The program.
    pub path: PathBuf,
    /// `rustc 1.96.0 …`
    pub version: String,
    /// The LLVM that it writes bitcode for; a linker with an older one cannot read it.
    pub llvm: u32,
    /// Where `core` comes from.
    pub core: Core,
}

/// Where a compiler takes the library `core` for eBPF from. Never from another version's: that fails to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// It is there, compiled.
    Compiled,
    /// Its sources are there and are compiled along.
    Sources,
}

impl Toolchain {
    /// The first complete one, in the order in which somebody's wishes weigh.
    pub fn find() -> Result<Option<Self>> {
        // What was asked for by name must work or be told why; what is merely lying around may be passed over.
        if let Some(path) = std::env::var_os("EBPF_RUSTC") {
            return Self::named(Path::new(&path), "EBPF_RUSTC").map(Some);
        }
        if let Some(name) = std::env::var_os("EBPF_TOOLCHAIN") {
            let name = name.to_string_lossy();
            let path = rustup_rustc(&name).with_context(|| format!("EBPF_TOOLCHAIN={name}: rustup has no such toolchain"))?;
            return Self::named(&path, "EBPF_TOOLCHAIN").map(Some);
        }
        for path in ["nightly", "stable"].into_iter().filter_map(rustup_rustc).chain([PathBuf::from(DEBIAN_RUSTC)]) {
            if let Some(rustc) = Rustc::inspect(&path)
                && let Some(linker) = linker_for(&rustc)?
            {
                return Ok(Some(Self { rustc, linker }));
            }
        }
        Ok(None)
    }

    fn named(path: &Path, variable: &str) -> Result<Self> {
        let rustc = Rustc::inspect(path).with_context(|| {
            format!("{variable}: {} does not run, or has neither `core` for bpfel-unknown-none nor rust-src", path.display())
        })?;
        let linker = linker_for(&rustc)?
            .with_context(|| format!("{variable}: no bpf-linker on PATH for LLVM {} of {}", rustc.llvm, path.display()))?;
        Ok(Self { rustc, linker })
    }
}

impl Rustc {
    /// Debian's compiler, if it is there and can.
    pub fn debian() -> Option<Self> {
        Self::inspect(Path::new(DEBIAN_RUSTC))
    }

    fn inspect(path: &Path) -> Option<Self> {
        if !is_executable(path) {
            return None;
        }
        let ask = |arguments: &[&str]| {
            // Not turned into another compiler by what rustup or cargo put into the environment.
            let mut command = Command::new(path);
            let output = command.args(arguments).env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
            String::from_utf8(output.stdout).ok()
        };
        let core = core_of(Path::new(ask(&["--print", "sysroot"])?.trim()))?;
        let (version, llvm) = version_and_llvm(&ask(&["-vV"])?)?;
        Some(Self { path: path.to_owned(), version, llvm, core })
    }
}

/// The first line, and the major version of LLVM, of what `rustc -vV` says.
fn version_and_llvm(text: &str) -> Option<(String, u32)> {
    let version = text.lines().find(|line| line.starts_with("rustc "))?.to_owned();
    let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some((version, llvm.split('.').next()?.trim().parse().ok()?))
}

fn core_of(sysroot: &Path) -> Option<Core> {
    let rustlib = sysroot.join("lib/rustlib");
    let compiled = rustlib.join("bpfel-unknown-none/lib").read_dir().is_ok_and(|files| {
        files.flatten().any(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    });
    if compiled {
        return Some(Core::Compiled);
    }
    rustlib.join("src/rust/library/core/src/lib.rs").exists().then_some(Core::Sources)
}

/// The rustc of a toolchain that rustup has; asking must not make rustup download one.
fn rustup_rustc(toolchain: &str) -> Option<PathBuf> {
    let output = Command::new(program("rustup")?)
        .args(["which", "--toolchain", toolchain, "rustc"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (output.status.success() && is_executable(&path)).then_some(path)
}

/// Our own bpf-linker for this LLVM, or the one that the user installed for whichever compiler is used here.
fn linker_for(rustc: &Rustc) -> Result<Option<PathBuf>> {
    let own = linker_root(rustc.llvm)?.join("bin/bpf-linker");
    Ok(if is_executable(&own) { Some(own) } else { program("bpf-linker") })
}

/// One folder per LLVM, so that an upgrade of the compiler asks for a new linker instead of failing in the old one.
fn linker_root(llvm: u32) -> Result<PathBuf> {
    Ok(workspace::tools()?.join(format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}")))
}

/// Builds bpf-linker for Debian's compiler.
pub fn install_linker() -> Result<()> {
    let Some(rustc) = Rustc::debian() else {
        bail!("{DEBIAN_RUSTC} cannot compile for eBPF\n{BOTH_WAYS}");
    };
    let root = linker_root(rustc.llvm)?;
    let library = llvm_library(rustc.llvm).with_context(|| {
        format!("no libLLVM.so.{} under /usr/lib, which {} should have brought along", rustc.llvm, DEBIAN_PACKAGES[0])
    })?;
    // The linker looks for `libLLVM.so` under one folder; the package has the name with a version and no link to it.
    let prefix = root.join("llvm");
    let link = prefix.join("lib/libLLVM.so");
    std::fs::create_dir_all(prefix.join("lib")).with_context(|| format!("making {}", prefix.display()))?;
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link).with_context(|| format!("removing the old link {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&library, &link)
        .with_context(|| format!("linking {} to {}", link.display(), library.display()))?;

    let mut cargo = workspace::cargo();
    // Its default features want the LLVM of a nightly compiler and do not link against this one.
    cargo.args(["install", &format!("bpf-linker@{BPF_LINKER}"), "--locked", "--no-default-features"]);
    cargo.args(["--features", &format!("llvm-{}", rustc.llvm), "--root"]).arg(&root).env("LLVM_PREFIX", &prefix);
    install(&format!("building bpf-linker {BPF_LINKER} for LLVM {}", rustc.llvm), &mut cargo)
}

/// The shared library of Debian's LLVM, such as /usr/lib/x86_64-linux-gnu/libLLVM.so.22.1.
fn llvm_library(major: u32) -> Option<PathBuf> {
    let wanted = format!("libLLVM.so.{major}");
    let folders = Path::new("/usr/lib").read_dir().ok()?.flatten().map(|entry| entry.path());
    folders.flat_map(|folder| folder.read_dir().into_iter().flatten().flatten()).map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix(&wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Builds cargo-deny.
pub fn install_deny() -> Result<()> {
    let mut cargo = workspace::cargo();
    // Without optimisation: it runs for seconds, and optimised it takes many times longer to build than to run.
    cargo.args(["install", &format!("cargo-deny@{CARGO_DENY}"), "--locked", "--debug", "--root"]);
    cargo.arg(workspace::tools()?.join("cargo-deny")).env("CARGO_PROFILE_DEV_DEBUG", "false");
    install(&format!("building cargo-deny {CARGO_DENY}"), &mut cargo)
}

/// Runs a `cargo install` in a folder that is removed when it went well, and taken up again when it did not.
fn install(what: &str, cargo: &mut Command) -> Result<()> {
    let folder = workspace::target()?.join("tools-build");
    step::run(what, cargo.env("CARGO_TARGET_DIR", &folder))?;
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
}

/// cargo-deny, ours or the user's.
pub fn deny() -> Result<Option<PathBuf>> {
    let own = workspace::tools()?.join("cargo-deny/bin/cargo-deny");
    Ok(if is_executable(&own) { Some(own) } else { program("cargo-deny") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_rustc_is_read() {
        let text = "rustc 1.96.0 (abc 2026-05-01) (built from a source tarball)\nhost: x86_64\nLLVM version: 22.1.2\n";
        let (version, llvm) = version_and_llvm(text).unwrap();
        assert!(version.starts_with("rustc 1.96.0"));
        assert_eq!(llvm, 22);
        assert!(version_and_llvm("error: unknown option").is_none());
    }

    #[test]
    fn core_is_found_compiled_first_then_as_sources() {
        let sysroot = tempfile::tempdir().unwrap();
        assert_eq!(core_of(sysroot.path()), None);
        let sources = sysroot.path().join("lib/rustlib/src/rust/library/core/src");
        std::fs::create_dir_all(&sources).unwrap();
        std::fs::write(sources.join("lib.rs"), "").unwrap();
        assert_eq!(core_of(sysroot.path()), Some(Core::Sources));
        let compiled = sysroot.path().join("lib/rustlib/bpfel-unknown-none/lib");
        std::fs::create_dir_all(&compiled).unwrap();
        std::fs::write(compiled.join("libcore-0.rlib"), "").unwrap();
        assert_eq!(core_of(sysroot.path()), Some(Core::Compiled));
    }
}
