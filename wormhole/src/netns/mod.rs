//! Network namespaces: open, compare, enter, create sockets inside. The only room that calls `setns` and
//! `unshare`.

mod root;
mod scratch;

pub use root::{Held, Root};
pub use scratch::scratch;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where named namespaces live (`ip netns`).
pub const NAMED: &str = "/run/netns";

/// What went wrong with a namespace, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The file that stands for the namespace could not be opened.
    #[error("namespace {what}: cannot open {}: {source}", path.display())]
    Open {
        /// What the user called it.
        what: String,
        /// The file that was tried.
        path: PathBuf,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// The file is not a network namespace (left behind by a namespace that is gone, for example).
    #[error("namespace {what}: {} is not a network namespace (a leftover of one that is gone?)", path.display())]
    NotNsfs {
        /// What the user called it.
        what: String,
        /// The file that was tried.
        path: PathBuf,
    },
    /// `setns` was refused.
    #[error("cannot enter namespace {id}: {source} (wormholed needs CAP_SYS_ADMIN for this)")]
    Enter {
        /// The namespace.
        id: NamespaceId,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// A socket could not be made inside.
    #[error("cannot create a socket in namespace {id}: {source}")]
    Socket {
        /// The namespace.
        id: NamespaceId,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// A namespace to try something in could not be had.
    #[error("a namespace to try things in: cannot {step}: {source} (wormholed needs CAP_SYS_ADMIN and CAP_NET_ADMIN for this)")]
    Scratch {
        /// What was to be done.
        step: &'static str,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
    /// A path inside a container could not be resolved.
    #[error("path {path} inside the container: {source}")]
    Path {
        /// The path as the container sees it.
        path: String,
        /// The kernel's answer.
        source: rustix::io::Errno,
    },
}

/// What makes two namespaces the same: device and inode of their nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    dev: u64,
    ino: u64,
}

impl NamespaceId {
    /// Of the namespace that a process is in; none when there is no such process, or no right to look at it.
    pub fn of_pid(pid: u32) -> Option<Self> {
        let found = rustix::fs::stat(format!("/proc/{pid}/ns/net")).ok()?;
        Some(Self { dev: found.st_dev, ino: found.st_ino })
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

/// A network namespace, held open. It lives at least as long as the last clone, so whoever follows a container must
/// drop it when the container dies.
#[derive(Clone, Debug)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
    id: NamespaceId,
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Namespace {}

/// `NSFS_MAGIC` of linux/magic.h; a namespace file is on this file system and nowhere else.
const NSFS_MAGIC: u64 = 0x6e73_6673;

impl Namespace {
    /// The namespace that this process was started in.
    ///
    /// # Errors
    /// [`NetnsError::Open`] without /proc.
    pub fn own() -> Result<Self, NetnsError> {
        static OWN: OnceLock<Namespace> = OnceLock::new();
        if let Some(own) = OWN.get() {
            return Ok(own.clone());
        }
        // /proc/self is the main thread's, which never leaves its namespace.
        let own = Self::open("of wormholed itself", Path::new("/proc/self/ns/net"))?;
        Ok(OWN.get_or_init(|| own).clone())
    }

    /// A namespace by its name under /run/netns.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when there is none, [`NetnsError::NotNsfs`] when the file is something else.
    pub fn named(name: &str) -> Result<Self, NetnsError> {
        Self::open(name, &Path::new(NAMED).join(name))
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when there is no such process, or no right to look at it.
    pub fn of_pid(pid: u32) -> Result<Self, NetnsError> {
        Self::open(&format!("of process {pid}"), &PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    fn open(what: &str, path: &Path) -> Result<Self, NetnsError> {
        let open_error = |source| NetnsError::Open { what: what.to_owned(), path: path.to_owned(), source };
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(open_error)?;
        let kind = rustix::fs::fstatfs(&fd).map_err(open_error)?;
        if u64::try_from(kind.f_type).ok() != Some(NSFS_MAGIC) {
            return Err(NetnsError::NotNsfs { what: what.to_owned(), path: path.to_owned() });
        }
        let stat = rustix::fs::fstat(&fd).map_err(open_error)?;
        Ok(Self { fd: Arc::new(fd), id: NamespaceId { dev: stat.st_dev, ino: stat.st_ino } })
    }

    /// Device and inode.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// True for the namespace that this process was started in.
    pub fn is_own(&self) -> bool {
        Self::own().is_ok_and(|own| own.id == self.id)
    }

    /// Runs `f` on this thread inside the namespace. The thread is back in the process's own namespace afterwards,
    /// also when `f` panics; if the way back is barred the process aborts, because a thread of a pool in the wrong
    /// namespace would connect strangers to each other.
    ///
    /// `f` must not wait: other work of this thread would happen inside the namespace too.
    ///
    /// # Errors
    /// [`NetnsError::Enter`] when `setns` is refused; `f` has not run then.
    #[expect(clippy::disallowed_methods, reason = "this is the room that may: the guard takes the thread back")]
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let own = Self::own()?;
        if own.id == self.id {
            return Ok(f());
        }
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|source| NetnsError::Enter { id: self.id, source })?;
        let _back = Back(own);
        Ok(f())
    }

    /// A non-blocking, close-on-exec socket inside the namespace. It stays there wherever it is used afterwards.
    ///
    /// # Errors
    /// [`NetnsError::Enter`], or [`NetnsError::Socket`] with EMFILE, ENFILE, EAFNOSUPPORT, …
    pub fn socket(&self, family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> Result<OwnedFd, NetnsError> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        self.enter(|| rustix::net::socket_with(family, kind, flags, protocol))?
            .map_err(|source| NetnsError::Socket { id: self.id, source })
    }
}

/// Returns the thread to the process's own namespace when it goes out of scope.
struct Back(Namespace);

impl Drop for Back {
    #[expect(clippy::disallowed_methods, reason = "this is the guard")]
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.0.fd.as_fd(), Some(LinkNameSpaceType::Network)) {
            tracing::error!(%error, namespace = %self.0.id, "a thread cannot return to its namespace; aborting");
            std::process::abort();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_same_namespace_is_equal_and_own() {
        let own = Namespace::own().unwrap();
        let by_pid = Namespace::of_pid(std::process::id()).unwrap();
        assert_eq!(own, by_pid);
        assert!(by_pid.is_own());
        assert_eq!(NamespaceId::of_pid(std::process::id()), Some(own.id()));
        assert_eq!(NamespaceId::of_pid(u32::MAX), None);
        assert_eq!(own.enter(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_missing_namespace_is_named_in_the_error() {
        let error = Namespace::named("no-such-namespace").unwrap_err().to_string();
        assert!(error.contains("no-such-namespace") && error.contains("/run/netns"), "{error}");
        let error = Namespace::of_pid(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }

    #[test]
    fn a_plain_file_is_not_a_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Namespace::open("x", file.path()).unwrap_err();
        assert!(matches!(error, NetnsError::NotNsfs { .. }), "{error}");
    }
}
