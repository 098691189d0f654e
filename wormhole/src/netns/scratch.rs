//! A namespace to try something in, for as long as one closure runs.

use super::NetnsError;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::UnshareFlags;

/// Runs `f` on a thread of its own in a fresh network namespace in which nothing is there but `lo`, and that is up. The
/// thread is thrown away, and the namespace goes with the last socket that `f` made.
///
/// # Errors
/// [`NetnsError::Scratch`]; `f` has not run then, or it has panicked.
pub fn scratch<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let failed = |step| move |source| NetnsError::Scratch { step, source };
    std::thread::scope(|scope| {
        let run = move || {
            leave_for_good().map_err(failed("make it"))?;
            loopback_up().map_err(failed("bring up its lo"))?;
            Ok(f())
        };
        let thread = std::thread::Builder::new().name("scratch-netns".to_owned()).spawn_scoped(scope, run);
        let thread = thread.map_err(|e| failed("start a thread for it")(Errno::from_io_error(&e).unwrap_or(Errno::AGAIN)))?;
        thread.join().unwrap_or_else(|_| Err(failed("finish in it")(Errno::CANCELED)))
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the room that may: the thread is thrown away")]
fn leave_for_good() -> Result<(), Errno> {
    // SAFETY: the file table stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

fn loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: a plain structure of numbers, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    interface(socket.as_fd(), libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the member that the request has filled in.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    interface(socket.as_fd(), libc::SIOCSIFFLAGS, &mut request)
}

fn interface(socket: BorrowedFd<'_>, what: libc::c_ulong, request: &mut libc::ifreq) -> Result<(), Errno> {
    // SAFETY: a socket and a request of the size that both commands take.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), what as libc::Ioctl, std::ptr::from_mut(request)) };
    if done < 0 { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_the_thread_that_is_thrown_away_moves() {
        let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = here();
        let inside = scratch(|| {
            let listener = TcpListener::bind("127.0.0.1:1").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            here()
        });
        assert_eq!(here(), before);
        match inside {
            Ok(inside) => assert_ne!(inside, before),
            Err(error) => assert!(!rustix::process::geteuid().is_root() || error.to_string().contains("CAP_"), "{error}"),
        }
    }
}
