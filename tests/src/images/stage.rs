//! The directory that becomes an image.

use crate::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A directory tree that is packed and then removed.
pub(super) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// An empty tree with what every image has: /tmp, /etc/passwd, a shell.
    pub(super) fn new() -> Result<Self> {
        let stage = Self { root: crate::boxed::fresh_dir()? };
        // The directory becomes the root of the image, and a fresh one is closed to others.
        stage.dir("", 0o755)?;
        stage.dir("tmp", 0o1777)?;
        stage.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n")?;
        stage.write("etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
        stage.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
        stage.dir("root", 0o700)?;
        stage.program("busybox", "bin/busybox")?;
        for applet in run::text(&mut run::command("busybox", ["--list"]))?.lines().filter(|a| *a != "busybox") {
            symlink("/bin/busybox", stage.at(&format!("bin/{applet}"))?)?;
        }
        Ok(stage)
    }

    /// Where `path` (without the leading slash) is now; its directory is made.
    pub(super) fn at(&self, path: &str) -> Result<PathBuf> {
        let full = self.root.join(path.trim_start_matches('/'));
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        Ok(full)
    }

    /// A directory with this mode.
    pub(super) fn dir(&self, path: &str, mode: u32) -> Result<PathBuf> {
        let full = self.at(path)?;
        fs::create_dir_all(&full)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
        Ok(full)
    }

    /// A file with this text.
    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.at(path)?, text).with_context(|| format!("cannot write {path}"))
    }

    /// A copy of a file or a tree of this machine, at the same place.
    pub(super) fn copy(&self, from: &str) -> Result<()> {
        let to = self.at(from)?;
        if Path::new(from).is_dir() {
            run::text(run::command("cp", ["-rL", "-T", from]).arg(&to)).map(drop)
        } else {
            fs::copy(from, &to).with_context(|| format!("cannot copy {from}")).map(drop)
        }
    }

    /// A program of this machine as `path`, with the libraries that it needs.
    pub(super) fn program(&self, name: &str, path: &str) -> Result<()> {
        let Some(program) = run::find(name) else { bail!("{name} is not installed") };
        // One that is already there may be a link to busybox, and a copy would go through it.
        let to = self.at(path)?;
        if to.is_symlink() {
            fs::remove_file(&to)?;
        }
        fs::copy(&program, &to).with_context(|| format!("cannot copy {}", program.display()))?;
        let done = run::output(run::command("ldd", [&program]).env("LC_ALL", "C"))?;
        if done.stdout.contains("not found") {
            bail!("{name} lacks a library:\n{}", done.stdout);
        }
        // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`; a static program
        // has none, and ldd fails.
        for line in done.stdout.lines() {
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library
                && !self.root.join(library.trim_start_matches('/')).exists()
            {
                self.copy(library)?;
            }
        }
        Ok(())
    }

    /// Packs the tree. Owned by root, and the same bytes for the same tree.
    pub(super) fn pack(&self, tar: &Path) -> Result<()> {
        let mut pack = run::command("tar", ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C"]);
        run::text(pack.arg(&self.root).arg("-cf").arg(tar).arg(".")).map(drop)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}
