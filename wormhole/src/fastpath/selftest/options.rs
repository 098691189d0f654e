//! Probes: socket options; and those that the other probes need.

use super::Seen;
use super::rig::{Joined, Rig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::io::{self, Write};
use std::time::Duration;

/// kTLS would take redirected bytes for decrypted ones.
pub fn ulp(rig: &Rig<'_>) -> io::Result<Seen> {
    let joined = rig.join()?;
    let answers = [&joined.client, &joined.server].map(|socket| set(socket.as_fd(), libc::SOL_TCP, libc::TCP_ULP, b"tls"));
    Ok(match answers {
        [Err(Errno::PERM), Err(Errno::PERM)] => {
            Seen { passed: true, detail: "TCP_ULP (kTLS) is refused on the fast path; libraries fall back".to_owned() }
        }
        [Err(error), Err(_)] => Seen { passed: true, detail: format!("the kernel refuses TCP_ULP (kTLS) itself: {error}") },
        _ => Seen { passed: false, detail: "TCP_ULP (kTLS) is accepted: bytes would arrive undecrypted".to_owned() },
    })
}

/// Completions of MSG_ZEROCOPY never come for redirected bytes.
pub fn zerocopy(rig: &Rig<'_>) -> io::Result<Seen> {
    let joined = rig.join()?;
    let on = 1u32.to_ne_bytes();
    let refused =
        [&joined.client, &joined.server].into_iter().all(|s| set(s.as_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, &on).is_err());
    let yes = "SO_ZEROCOPY is refused on the fast path; libraries fall back";
    Ok(Seen::choose(refused, yes, "SO_ZEROCOPY is accepted, and completions never come: who uses it needs --fastpath off"))
}

pub fn rcvlowat(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, server, link: _link, near: _near, far: _far } = rig.join()?;
    set(server.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, &100u32.to_ne_bytes())?;
    client.write_all(&[b'x'; 10])?;
    let ignored = ready(server.as_fd(), Duration::ZERO)?;
    let no = "SO_RCVLOWAT is ignored for redirected bytes: readers are woken more often than they asked";
    Ok(Seen::choose(!ignored, "SO_RCVLOWAT is kept", no))
}

/// True when the socket can be read within `patience`.
pub fn ready(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
    Ok(poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], Some(&patience))? > 0)
}

/// `SK_MEMINFO_RMEM_ALLOC` of `SO_MEMINFO`: bytes that are charged to a receiver.
pub fn memory(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = [0u32; 9];
    let mut size = libc::socklen_t::try_from(size_of_val(&info)).map_err(|_| Errno::INVAL)?;
    let (fd, to) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: a socket that lives over the call, and room for as many bytes as are said.
    let done = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(info[0].into()) }
}

fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let size = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: a socket and a value that live over the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), size) };
    if done < 0 { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)) } else { Ok(()) }
}
