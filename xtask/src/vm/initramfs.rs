//! What a guest has instead of a disk: an archive with a few programs of this machine, ours, and the kernel's modules.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Programs of this machine that the tests run; everything else is busybox. What runs other programs must not be busybox,
/// for that prefers its own ones.
const PROGRAMS: &[&str] =
    &["dash", "env", "ip", "mount", "nice", "nsenter", "prlimit", "setpriv", "setsid", "timeout", "unshare"];

/// And these, where they are installed; tests that need one say so.
const OPTIONAL: &[&str] = &["socat"];

/// Where ours are in the guest.
pub const OURS: &str = "/w";

/// Runs as the first process. The second serial line says to the host how far it came.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root WORMHOLE_BOX=1 WORMHOLE_GUEST=1 WORMHOLE_PATIENCE=8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
echo "wormhole-vm booted" >/dev/ttyS1
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns /run/lock /run/w
ip link set lo up
# What the kernel would load by itself when it is first asked for, so that no test pays for it.
modprobe -a veth inet_diag tcp_diag udp_diag unix_diag tls 2>/dev/null
ulimit -n 65536
cd /w
/w/xtask vm-guest /w/plan.json </dev/null
echo "wormhole-vm ended $?" >/dev/ttyS1
poweroff -f
"#;

/// Writes an archive of everything below `root`, as the kernel unpacks it.
pub fn pack(root: &Path, archive: &Path) -> Result<()> {
    // Renamed when it is whole: its being there says that it is.
    let beside = archive.with_extension("new");
    let out = File::create(&beside).with_context(|| format!("creating {}", beside.display()))?;
    let mut cpio = Command::new("sh");
    cpio.args(["-c", "find . | busybox cpio -o -H newc"]).current_dir(root).stdout(out).stderr(Stdio::null());
    let status = cpio.status().context("starting busybox cpio")?;
    if !status.success() {
        bail!("packing {} ended with {status}", root.display());
    }
    std::fs::rename(&beside, archive).with_context(|| format!("renaming {}", beside.display()))
}

/// The root of a guest in `root`: programs of this machine with their libraries, and `ours`, each to be found in [`OURS`]
/// under its name there.
pub fn lay_out(root: &Path, ours: &[(String, PathBuf)]) -> Result<()> {
    for folder in ["bin", "sbin", "usr/bin", "usr/sbin", "proc", "sys", "dev", "run", "tmp", "root", "etc", "var", "lib/modules"]
    {
        std::fs::create_dir_all(root.join(folder)).with_context(|| format!("making {folder} of the guest"))?;
    }
    let busybox = program("busybox")?;
    place(root, &busybox, Path::new("/bin/busybox"))?;
    let list = Command::new(&busybox).arg("--list").output().context("asking busybox what it can do")?;
    let mut needed = BTreeSet::new();
    let optional = OPTIONAL.iter().filter(|name| workspace::program(name).is_some());
    for name in PROGRAMS.iter().chain(optional) {
        let path = program(name)?;
        needed.extend(libraries(&path)?);
        place(root, &path, &Path::new("/usr/sbin").join(name))?;
    }
    // busybox's own shell would prefer its own `ip`.
    symlink("/usr/sbin/dash", root.join("bin/sh")).context("making the guest's shell")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() && !link.is_symlink() && !PROGRAMS.contains(&applet) {
            symlink("/bin/busybox", &link).with_context(|| format!("making the guest's {applet}"))?;
        }
    }
    symlink("/bin/modprobe", root.join("sbin/modprobe")).context("making the guest's modprobe")?;
    for (name, path) in ours {
        if is_elf(path) {
            needed.extend(libraries(path)?);
        }
        place(root, path, &Path::new(OURS).join(name))?;
    }
    for library in needed {
        place(root, &library, &library)?;
    }
    let init = root.join("init");
    std::fs::write(&init, INIT).context("writing the guest's init")?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).context("making the guest's init a program")?;
    Ok(())
}

fn program(name: &str) -> Result<PathBuf> {
    workspace::program(name).with_context(|| format!("{name} is not installed"))
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"\x7fELF"
}

/// Copies a file of this machine to `at` in the guest.
fn place(root: &Path, file: &Path, at: &Path) -> Result<()> {
    let to = root.join(at.strip_prefix("/").unwrap_or(at));
    let context = || format!("copying {} into the guest", file.display());
    std::fs::create_dir_all(to.parent().unwrap_or(root)).with_context(context)?;
    std::fs::copy(file, &to).with_context(context)?;
    Ok(())
}

/// The shared libraries of a program and its loader, by the paths under which they are looked for.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    // It fails for a static program, which has none.
    if !output.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} has a library that is missing here:{line}", program.display());
    }
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_brings_its_libraries_and_their_loader() {
        let found = libraries(&std::env::current_exe().unwrap()).unwrap();
        let has = |part: &str| found.iter().any(|path| path.to_string_lossy().contains(part));
        assert!(has("libc.so") && has("ld-linux"), "{found:?}");
        assert!(found.iter().all(|path| path.exists()), "{found:?}");
    }
}
