//! Which processes hold a socket, and what they execute.

use crate::netns::NamespaceId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id, as this process sees it.
    pub pid: u32,
    /// The base name of what it executes; none when that could not be seen.
    pub exe: Option<Arc<str>>,
    /// True when it has an io_uring.
    pub ring: bool,
}

impl Holder {
    fn new(pid: u32, ring: bool) -> Self {
        Self { pid, exe: executable(pid), ring }
    }

    /// True while the process executes what it did.
    pub fn is_unchanged(&self) -> bool {
        self.exe == executable(self.pid)
    }
}

/// Who holds the sockets of these inodes. Processes in the namespaces that the sockets are in are looked at first, and
/// the others only for sockets that none of those holds. A socket without a holder is missing in the answer.
pub fn holders(sockets: &BTreeMap<u64, NamespaceId>) -> BTreeMap<u64, Vec<Holder>> {
    let namespaces: BTreeSet<NamespaceId> = sockets.values().copied().collect();
    let (near, far): (Vec<u32>, Vec<u32>) =
        processes().into_iter().partition(|pid| NamespaceId::of_pid(*pid).is_some_and(|id| namespaces.contains(&id)));
    let mut found = BTreeMap::new();
    collect(&near, |inode| sockets.contains_key(&inode), &mut found);
    let missing: BTreeSet<u64> = sockets.keys().filter(|inode| !found.contains_key(*inode)).copied().collect();
    if !missing.is_empty() {
        collect(&far, |inode| missing.contains(&inode), &mut found);
    }
    found
}

/// Who holds the sockets of these inodes, wherever they are.
pub fn holders_of(sockets: &BTreeSet<u64>) -> BTreeMap<u64, Vec<Holder>> {
    let mut found = BTreeMap::new();
    collect(&processes(), |inode| sockets.contains(&inode), &mut found);
    found
}

fn collect(pids: &[u32], wanted: impl Fn(u64) -> bool, found: &mut BTreeMap<u64, Vec<Holder>>) {
    for pid in pids {
        // A process that ends meanwhile, or that we may not look into, holds nothing that we can see.
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let links: Vec<_> = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
        let held: BTreeSet<u64> = links.iter().filter_map(|link| socket_inode(link)).filter(|inode| wanted(*inode)).collect();
        let ring = || links.iter().any(|link| link.as_os_str() == "anon_inode:[io_uring]");
        for inode in held {
            found.entry(inode).or_default().push(Holder::new(*pid, ring()));
        }
    }
}

fn processes() -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `socket:[INODE]`.
pub fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn executable(pid: u32) -> Option<Arc<str>> {
    base_name(&fs::read_link(format!("/proc/{pid}/exe")).ok()?)
}

/// What the kernel calls a file: the last part, without the remark of /proc on one that was removed.
fn base_name(link: &Path) -> Option<Arc<str>> {
    let bytes = link.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    let name = bytes.rsplit(|byte| *byte == b'/').next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::netns::Namespace;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    fn links_are_read() {
        assert_eq!(socket_inode(Path::new("socket:[4026]")), Some(4026));
        for other in ["pipe:[4026]", "socket:[]", "socket:[x]", "/tmp/socket:[1]", "anon_inode:[eventpoll]", ""] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
        let name = |path: &str| base_name(Path::new(path));
        assert_eq!(name("/usr/sbin/haproxy").as_deref(), Some("haproxy"));
        assert_eq!(name("/usr/sbin/haproxy (deleted)").as_deref(), Some("haproxy"));
        assert_eq!(name("/memfd:x (deleted)").as_deref(), Some("memfd:x"));
        assert_eq!(name("/"), None);
    }

    #[test]
    fn this_process_holds_its_own_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = socket_inode(&fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap()).unwrap();
        let me = std::env::current_exe().unwrap();
        let own = Namespace::own().unwrap().id();
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = socket_inode(&fs::read_link(format!("/proc/self/fd/{}", second.as_raw_fd())).unwrap()).unwrap();
        let found = holders(&BTreeMap::from([(inode, own), (other, own), (u64::MAX, own)]));
        assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([inode, other]));
        let holder = found[&inode].iter().find(|holder| holder.pid == std::process::id()).unwrap();
        assert_eq!(holder.exe.as_deref(), me.file_name().and_then(|name| name.to_str()));
        assert!(holder.is_unchanged());
        assert!(!Holder { exe: Some("another".into()), ..holder.clone() }.is_unchanged());
    }
}
