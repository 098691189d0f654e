//! The file system of a container, for unix sockets inside it. A path is resolved with `RESOLVE_IN_ROOT`, so that
//! no symbolic link that a container made leads the daemon out of it (`openat2`, Linux 5.6).

use super::NetnsError;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The root directory that paths of unix sockets are seen from.
#[derive(Clone, Debug)]
pub struct Root {
    dir: Arc<OwnedFd>,
}

/// A path inside a [`Root`], held open so that it means the same until it is dropped.
#[derive(Debug)]
pub struct Held {
    fd: OwnedFd,
    name: Option<String>,
}

impl Root {
    /// The root of the daemon's own mount namespace.
    ///
    /// # Errors
    /// [`NetnsError::Path`] with the kernel's answer.
    pub fn own() -> Result<Self, NetnsError> {
        Self::open(Path::new("/"))
    }

    /// The root that a process sees.
    ///
    /// # Errors
    /// [`NetnsError::Path`] when there is no such process, or no right to look at it.
    pub fn of_pid(pid: u32) -> Result<Self, NetnsError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/root")))
    }

    fn open(path: &Path) -> Result<Self, NetnsError> {
        let dir = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| NetnsError::Path { path: path.display().to_string(), source })?;
        Ok(Self { dir: Arc::new(dir) })
    }

    /// The directory that `path` is in, for binding or unlinking a socket there.
    ///
    /// # Errors
    /// [`NetnsError::Path`] when the directory does not exist, or `path` names none.
    pub fn parent(&self, path: &str) -> Result<Held, NetnsError> {
        let bad = |source| NetnsError::Path { path: path.to_owned(), source };
        let (dir, name) = path.rsplit_once('/').ok_or_else(|| bad(rustix::io::Errno::INVAL))?;
        if name.is_empty() || name == "." || name == ".." {
            return Err(bad(rustix::io::Errno::ISDIR));
        }
        let dir = if dir.is_empty() { "/" } else { dir };
        let fd = self.resolve(dir, OFlags::DIRECTORY).map_err(bad)?;
        Ok(Held { fd, name: Some(name.to_owned()) })
    }

    /// The socket at `path`, for connecting to it.
    ///
    /// # Errors
    /// [`NetnsError::Path`] when it does not exist.
    pub fn socket(&self, path: &str) -> Result<Held, NetnsError> {
        let fd = self.resolve(path, OFlags::empty()).map_err(|source| NetnsError::Path { path: path.to_owned(), source })?;
        Ok(Held { fd, name: None })
    }

    fn resolve(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(&*self.dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }
}

impl Held {
    /// A path that means this place from anywhere in this process; short enough for a socket address.
    pub fn path(&self) -> PathBuf {
        let dir = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        match &self.name {
            Some(name) => dir.join(name),
            None => dir,
        }
    }

    /// Device and inode of what is there now; none when nothing is. A symbolic link is not followed.
    pub fn identity(&self) -> Option<(u64, u64)> {
        let stat = match &self.name {
            Some(name) => rustix::fs::statat(&self.fd, name.as_str(), AtFlags::SYMLINK_NOFOLLOW),
            None => rustix::fs::fstat(&self.fd),
        };
        stat.ok().map(|s| (s.st_dev, s.st_ino))
    }

    /// True when a unix socket is there (and not a file of another kind).
    pub fn is_socket(&self) -> bool {
        let stat = match &self.name {
            Some(name) => rustix::fs::statat(&self.fd, name.as_str(), AtFlags::SYMLINK_NOFOLLOW),
            None => rustix::fs::fstat(&self.fd),
        };
        stat.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Socket)
    }

    /// Removes the name from its directory.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn unlink(&self) -> rustix::io::Result<()> {
        match &self.name {
            Some(name) => rustix::fs::unlinkat(&self.fd, name.as_str(), AtFlags::empty()),
            None => Err(rustix::io::Errno::INVAL),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_link_cannot_lead_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::os::unix::fs::symlink("/run", dir.path().join("var")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.parent("/out/passwd").is_err(), "followed a link to the host's /etc");
        assert!(root.parent("/../../etc/x").is_err(), "climbed out");
        let held = root.parent("/var/x.sock").unwrap();
        assert!(held.identity().is_none());
        let _listener = std::os::unix::net::UnixListener::bind(held.path()).unwrap();
        assert!(held.is_socket());
        assert!(dir.path().join("run/x.sock").exists());
        assert!(root.socket("/run/x.sock").unwrap().is_socket());
        held.unlink().unwrap();
        assert!(held.identity().is_none());
    }

    #[test]
    fn a_directory_is_not_a_place_for_a_socket() {
        let root = Root::own().unwrap();
        assert!(root.parent("/tmp/").is_err());
        assert!(root.parent("/tmp/..").is_err());
        assert!(root.parent("x").is_err());
    }
}
