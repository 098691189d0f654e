//! A session's socket in the tail's namespace.

use crate::relay::{Target, TargetAddr};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, connect};
use std::net::SocketAddr;

/// A connected socket.
pub(super) struct Connected {
    pub(super) fd: OwnedFd,
    pub(super) addr: SocketAddr,
    /// The tail has other addresses that could be tried.
    pub(super) alternatives: bool,
}

/// Opens a socket in the target's namespace and connects it to the first address, counted from `first`, that the kernel
/// has a route to. Connected, because then the kernel delivers nothing but the tail's datagrams and its ICMP errors.
///
/// The error is for people: what failed, and what the kernel said.
pub(super) fn open(target: &Target, first: usize) -> Result<Connected, String> {
    let TargetAddr::Inet(addrs) = &target.addr else {
        return Err("the tail is a unix stream socket, which takes no datagrams; use a udp tail".to_owned());
    };
    let mut error = "the tail has no address".to_owned();
    for step in 0..addrs.len() {
        let addr = addrs[(first % addrs.len() + step) % addrs.len()];
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Without a socket (EMFILE) the other addresses would fare no better, but IPv6 may be switched off alone.
        let fd = match target.namespace.socket(family, SocketType::DGRAM, None) {
            Ok(fd) => fd,
            Err(why) => {
                error = format!("udp tail {addr}: {why}");
                continue;
            }
        };
        match connect(&fd, &addr) {
            Ok(()) => return Ok(Connected { fd, addr, alternatives: addrs.len() > 1 }),
            Err(why) => error = format!("udp tail {addr}: cannot connect: {why}"),
        }
    }
    Err(error)
}
