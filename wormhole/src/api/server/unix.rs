//! The unix socket: made so that nobody can connect before its rights are set, taken over only from the dead, and
//! removed only if it is still ours.

use super::ServerError;
use super::accept::Backoff;
use super::serve::{Shared, closing, connection};
use crate::api::addr::ListenAddr;
use crate::api::routes::forbidden;
use crate::model::{Failure, FailureKind};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket as RawSocket, Type};
use std::ffi::CString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Members of this group may use the socket.
const GROUP: &str = "wormhole";
/// So many connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// How long another daemon that is just starting in the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The socket's file. Removes it when dropped, if it is still the one that was made.
pub(super) struct Socket {
    path: PathBuf,
    id: (u64, u64),
}

impl Drop for Socket {
    fn drop(&mut self) {
        match rustix::fs::lstat(&self.path) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.id => {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::warn!(path = %self.path.display(), %error, "the control socket could not be removed");
                }
            }
            _ => tracing::info!(path = %self.path.display(), "the control socket is not ours any more and stays"),
        }
    }
}

/// Makes the socket: mode 0660, group `wormhole` if there is one, its directory made (0755) if it is missing.
pub(super) fn bind(path: &Path, addr: &ListenAddr) -> Result<(UnixListener, Socket), ServerError> {
    let refused = |action, hint| move |source: io::Error| ServerError::Io { action, addr: addr.clone(), source, hint };
    let listen = refused("listen on", "run wormholed as root, or choose a socket you may make with -H unix:///path");

    let parent = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(refused("make the directory of", "run wormholed as root, or choose another socket with -H unix:///path"))?;
    // Two daemons that start at once must not take each other's socket for a dead one. Released when it goes.
    let _lock = lock(parent);
    remove_dead(path, addr)?;

    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None).map_err(&listen)?;
    socket.bind(&SockAddr::unix(path).map_err(&listen)?).map_err(&listen)?;
    // From here on an early return removes the file.
    let (guard, file) = claim(path).map_err(&listen)?;
    set_rights(&file).map_err(refused("set the owner and mode of", "see that its directory belongs to root"))?;
    // Only now: before listen(2) every connect is refused, whatever the mode was meanwhile.
    socket.listen(128).map_err(&listen)?;
    socket.set_nonblocking(true).map_err(&listen)?;
    let listener = UnixListener::from_std(StdListener::from(OwnedFd::from(socket))).map_err(&listen)?;
    Ok((listener, guard))
}

#[expect(clippy::disallowed_methods, reason = "runs once at start, before anything is served")]
fn lock(parent: &Path) -> Option<OwnedFd> {
    let fd = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let end = Instant::now() + LOCK_TIMEOUT;
    while rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
        // In a directory like /tmp anybody could hold it for ever; going on without it risks a race, not more.
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(fd)
}

/// Removes what an earlier daemon left, if it is a socket on which nobody answers.
fn remove_dead(path: &Path, addr: &ListenAddr) -> Result<(), ServerError> {
    let Ok(stat) = rustix::fs::lstat(path) else { return Ok(()) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ServerError::NotASocket(path.into()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Connected, or a full queue, or no right to try: somebody is there.
        _ => return Err(ServerError::Taken(path.into())),
    }
    std::fs::remove_file(path).map_err(|source| ServerError::Io {
        action: "remove the dead socket",
        addr: addr.clone(),
        source,
        hint: "remove it as its owner",
    })
}

/// The guard of the file that bind(2) made, and a handle on it that no link can divert.
fn claim(path: &Path) -> io::Result<(Socket, OwnedFd)> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    Ok((Socket { path: path.into(), id: (stat.st_dev, stat.st_ino) }, file))
}

fn set_rights(file: &OwnedFd) -> io::Result<()> {
    if let Some(group) = wormhole_group() {
        // Without the group it is for root only, which is safe: a daemon that is not root cannot give it away.
        let gid = rustix::process::Gid::from_raw(group.as_raw());
        if let Err(error) = rustix::fs::chownat(file, "", None, Some(gid), AtFlags::EMPTY_PATH) {
            tracing::warn!(%error, "the control socket could not be given to group {GROUP}");
        }
    }
    // fchmod does not take an O_PATH handle; this way is the documented one (open(2), O_PATH).
    rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(0o660))?;
    Ok(())
}

fn wormhole_group() -> Option<Gid> {
    Group::from_name(GROUP).ok().flatten().map(|group| group.gid)
}

/// Accepts until the server closes.
pub(super) async fn run(listener: UnixListener, mut shared: Shared) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut backoff = Backoff::default();
    loop {
        let next = async {
            let slot = Arc::clone(&connections).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = closing(&mut shared.stopped) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                backoff.reset();
                let shared = shared.clone();
                tokio::spawn(async move {
                    let router = match check(&stream).await {
                        Ok(()) => shared.router,
                        Err(failure) => {
                            tracing::warn!(reason = %failure, "refused at the control socket");
                            forbidden(failure)
                        }
                    };
                    connection(stream, router, shared.stopped).await;
                    drop((slot, shared.alive));
                });
            }
            Err(error) => backoff.after(&error).await,
        }
    }
}

/// The kernel checked the file's mode already; this holds even where somebody made the socket wider.
async fn check(stream: &UnixStream) -> Result<(), Failure> {
    let peer = stream.peer_cred().map_err(|e| {
        Failure::new(FailureKind::Refused, format!("who asks? the kernel does not say: {e}")).hint("connect again")
    })?;
    let (uid, gid) = (peer.uid(), peer.gid());
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    // The user database may be on the network.
    let member = tokio::task::spawn_blocking(move || is_member(uid, gid)).await.unwrap_or(false);
    if member {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Refused, format!("uid {uid} is neither root nor in group `{GROUP}`"))
        .hint(format!("`sudo usermod -aG {GROUP} $USER`, then log in again")))
}

pub(super) fn is_member(uid: u32, gid: u32) -> bool {
    let Some(group) = wormhole_group() else { return false };
    if gid == group.as_raw() {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}
