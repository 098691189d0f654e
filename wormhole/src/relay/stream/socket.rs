//! Socket options and addresses of the two sockets of a proxied stream.

use crate::fastpath::{Announced, Door, Link};
use crate::relay::{RelayOptions, Target, TargetAddr};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketType};
use std::net::SocketAddr;
use std::time::Duration;

/// Probes after the first one that may go unanswered, and the most time between them. With the default first probe after
/// 30 s a peer that vanished without FIN is noticed after a minute while nothing is under way to it. `TCP_USER_TIMEOUT`,
/// if set, takes the place of the number of probes.
const KEEPALIVE_PROBES: u32 = 3;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Sets what both sockets of a stream carry. On a listener it is inherited by what is accepted (Linux clones the
/// listener's socket), which spares a handful of system calls for each connection.
///
/// `SO_LINGER {on, 0}` stands for as long as the connection lives: should the daemon be killed, the kernel resets both
/// sides instead of ending them cleanly, and nobody takes a truncated stream for a whole one. The orderly end takes
/// it back, see [`end_orderly`].
///
/// # Errors
/// The kernel's answer to the first option that was refused.
pub fn prepare_tcp(fd: BorrowedFd<'_>, options: &RelayOptions) -> Result<(), Errno> {
    prepare(fd, options, options.keepalive)
}

/// The same for a socket that leads to `addr`. Nobody vanishes without FIN behind the loopback, so there is no keepalive
/// there, which is four system calls for each connection.
fn prepare_tail(fd: BorrowedFd<'_>, addr: SocketAddr, options: &RelayOptions) -> Result<(), Errno> {
    prepare(fd, options, options.keepalive.filter(|_| !addr.ip().to_canonical().is_loopback()))
}

fn prepare(fd: BorrowedFd<'_>, options: &RelayOptions, keepalive: Option<Duration>) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_linger(fd, Some(Duration::ZERO))?;
    // Urgent data arrives in band; without this its byte would be lost.
    sockopt::set_socket_oobinline(fd, true)?;
    if let Some(first) = keepalive {
        sockopt::set_socket_keepalive(fd, true)?;
        sockopt::set_tcp_keepidle(fd, first.max(Duration::from_secs(1)))?;
        sockopt::set_tcp_keepintvl(fd, first.clamp(Duration::from_secs(1), KEEPALIVE_INTERVAL))?;
        sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES)?;
    }
    if let Some(limit) = options.user_timeout {
        sockopt::set_tcp_user_timeout(fd, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Takes the reset-on-close back: from now on `close` ends the stream with FIN.
pub fn end_orderly(fd: BorrowedFd<'_>) {
    // Fails only for a socket that is gone already.
    let _ = sockopt::set_socket_linger(fd, None);
}

/// Hands the end of a direction on.
///
/// # Errors
/// The kernel's answer: ENOTCONN when the receiver is gone.
pub fn hand_on_end(dst: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::shutdown(dst, Shutdown::Write)
}

/// Acknowledges what has arrived on a TCP socket, if that has not been done, and leaves what arrives later to be
/// acknowledged when this is called again, or after some time (at most 200 ms, as by tcp(7)).
pub fn acknowledge(fd: BorrowedFd<'_>) {
    // Not 0, so that it happens now; and even, so that it happens once (`__tcp_sock_set_quickack` in net/ipv4/tcp.c).
    set_quickack(fd, 2);
}

/// Leaves what arrives to be acknowledged when [`acknowledge`] is called, which by itself does so only if it found something.
pub fn hold_acknowledging(fd: BorrowedFd<'_>) {
    set_quickack(fd, 0);
}

/// As [`acknowledge`], and leaves what arrives later to the kernel, which acknowledges what was read at once or somewhat later, as
/// it does by itself.
pub fn leave_acknowledging(fd: BorrowedFd<'_>) {
    set_quickack(fd, 1);
}

fn set_quickack(fd: BorrowedFd<'_>, value: libc::c_int) {
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // It fails only on a socket that is gone, and then there is nothing to be said.
    // SAFETY: a descriptor that is open, and an int.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_QUICKACK, (&raw const value).cast(), length) };
}

/// A socket that leads to a tail.
#[derive(Debug)]
pub struct Far {
    /// Closed after this: the programs must not wait for whoever accepts a connection that is gone.
    _announced: Option<Announced>,
    fd: OwnedFd,
}

impl AsFd for Far {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Far {
    fn from(fd: OwnedFd) -> Self {
        Self { _announced: None, fd }
    }
}

/// What came of an attempt to connect.
#[derive(Debug)]
pub enum Attempt {
    /// Connected at once.
    Done(Far),
    /// Under way: writable or an error when it is decided.
    Pending(Far),
    /// It cannot be asked now and nothing tells when it can, so ask again soon: EAGAIN when the queue of a unix
    /// listener is full, or what we have run out of.
    Busy(Errno),
}

/// Starts to connect to the `index`-th address of the target. By the door the connection that it carries on is announced.
///
/// # Errors
/// The kernel's answer.
pub fn connect(target: &Target, index: usize, link: Option<(&Door, &Link)>, options: &RelayOptions) -> Result<Attempt, Errno> {
    match &target.addr {
        TargetAddr::Inet(addrs) => connect_inet(target, *addrs.get(index).ok_or(Errno::ADDRNOTAVAIL)?, link, options),
        TargetAddr::Unix { root, path } => {
            let held = root.socket(path).map_err(|e| errno_of(&e))?;
            let addr = SocketAddrUnix::new(held.path())?;
            let fd = make(target, AddressFamily::UNIX)?;
            match rustix::net::connect(&fd, &addr) {
                Ok(()) => Ok(Attempt::Done(fd.into())),
                Err(Errno::AGAIN) => Ok(Attempt::Busy(Errno::AGAIN)),
                Err(e) => Err(e),
            }
        }
    }
}

/// How many addresses there are to try.
pub fn addresses(addr: &TargetAddr) -> usize {
    match addr {
        TargetAddr::Inet(addrs) => addrs.len(),
        TargetAddr::Unix { .. } => 1,
    }
}

fn connect_inet(
    target: &Target,
    addr: SocketAddr,
    link: Option<(&Door, &Link)>,
    options: &RelayOptions,
) -> Result<Attempt, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = make(target, family)?;
    prepare_tail(fd.as_fd(), addr, options)?;
    let connect = || rustix::net::connect(&fd, &addr);
    // Not announced, the server is not found, and the connection is relayed.
    let (connected, announced) = match link {
        Some((door, link)) => door.announce(link, connect),
        None => (connect(), None),
    };
    let far = Far { _announced: announced, fd };
    match connected {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e),
    }
    // Within one machine the handshake is over when connect returns, although it says EINPROGRESS.
    let Ok(peer) = rustix::net::getpeername(&far.fd) else { return Ok(Attempt::Pending(far)) };
    if rustix::net::getsockname(&far.fd).ok() == peer {
        // Nothing listens there, and the kernel happened to give that very port to our end: TCP connects a socket to
        // itself then, and the client would talk to its own echo.
        return Err(Errno::CONNREFUSED);
    }
    Ok(Attempt::Done(far))
}

fn make(target: &Target, family: AddressFamily) -> Result<OwnedFd, Errno> {
    target.namespace.socket(family, SocketType::STREAM, None).map_err(|e| errno_of(&e))
}

/// Why an address of the tail was not reached, with what the user can do.
pub fn explain(addr: &TargetAddr, index: usize, error: Errno) -> String {
    let to = match addr {
        TargetAddr::Inet(addrs) => addrs.get(index).map(ToString::to_string).unwrap_or_default(),
        TargetAddr::Unix { path, .. } => path.clone(),
    };
    let means = match error {
        Errno::CONNREFUSED => "nothing listens there",
        Errno::NOENT => "there is no such socket",
        Errno::NETUNREACH | Errno::HOSTUNREACH => "no route from that namespace",
        Errno::TIMEDOUT => "no answer",
        Errno::AGAIN => "its queue of connections stayed full",
        Errno::MFILE | Errno::NFILE => "no descriptor is left; raise `ulimit -n` of wormholed",
        Errno::ADDRNOTAVAIL => "no such address there, or no free port",
        _ => return format!("tail {to}: {error}"),
    };
    format!("tail {to}: {means} ({error})")
}

fn errno_of(error: &crate::netns::NetnsError) -> Errno {
    use crate::netns::NetnsError as E;
    match error {
        E::Open { source, .. }
        | E::Enter { source, .. }
        | E::Socket { source, .. }
        | E::Scratch { source, .. }
        | E::Path { source, .. } => *source,
        E::NotNsfs { .. } => Errno::INVAL,
    }
}

/// The address at one end of a socket, as `list` shows it.
pub fn peer_name(fd: BorrowedFd<'_>) -> String {
    use rustix::net::SocketAddrAny;
    let Ok(Some(any)) = rustix::net::getpeername(fd) else { return String::new() };
    let any: SocketAddrAny = any;
    if let Ok(inet) = SocketAddr::try_from(any.clone()) {
        return inet.to_string();
    }
    SocketAddrUnix::try_from(any).ok().and_then(|unix| unix.path().map(|p| p.to_string_lossy().into_owned())).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_elsewhere_is_kept_alive() {
        for (addr, kept) in [
            ("192.0.2.1:80", true),
            ("[2001:db8::1]:80", true),
            ("[::ffff:192.0.2.1]:80", true),
            ("127.0.0.2:80", false),
            ("[::1]:80", false),
            ("[::ffff:127.0.0.1]:80", false),
        ] {
            let addr: SocketAddr = addr.parse().unwrap();
            let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
            prepare_tail(socket.as_fd(), addr, &RelayOptions::default()).unwrap();
            assert_eq!(sockopt::socket_keepalive(&socket).unwrap(), kept, "{addr}");
            assert!(sockopt::tcp_nodelay(&socket).unwrap());
        }
    }
}
