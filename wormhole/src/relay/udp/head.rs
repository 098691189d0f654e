//! One head: its socket, how it is bound, and its sessions.

use super::HeadId;
use super::lru::List;
use crate::relay::Route;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::epoll::EventData;
use rustix::fd::OwnedFd;
use rustix::net::{SocketType, getsockname, sockopt as options};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wanted size of a head's receive buffer: room for a burst of some thousand small datagrams from as many clients.
const RECEIVE_BUFFER: usize = 1 << 20;

/// At most one warning in so long about sessions of one head that cannot be opened.
const QUIET: Duration = Duration::from_secs(5);

/// How a head is bound, which decides what the kernel tells about its datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// To one IPv4 address.
    V4,
    /// To 0.0.0.0.
    V4Any,
    /// To one IPv6 address.
    V6,
    /// To ::, perhaps with v4-mapped clients.
    V6Any,
}

/// The local address that a client sent to, as far as an answer must name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Local {
    /// The head is bound to it, or the datagram was sent to a group: the kernel picks the right one.
    Bound,
    /// To be named in `IP_PKTINFO`.
    V4(Ipv4Addr),
    /// To be named in `IPV6_PKTINFO`, with the interface if the address is link-local, otherwise 0.
    V6(Ipv6Addr, u32),
}

impl Local {
    /// From `ipi_spec_dst`, which is an address of this machine also when the datagram was a broadcast.
    pub(super) fn v4(addr: Ipv4Addr) -> Self {
        if addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast() { Self::Bound } else { Self::V4(addr) }
    }

    /// From `ipi6_addr`, which is the destination in the header.
    pub(super) fn v6(addr: Ipv6Addr, interface: u32) -> Self {
        if let Some(v4) = addr.to_ipv4_mapped() {
            return if Self::v4(v4) == Self::Bound { Self::Bound } else { Self::V6(addr, 0) };
        }
        if addr.is_unspecified() || addr.is_multicast() {
            return Self::Bound;
        }
        Self::V6(addr, if addr.is_unicast_link_local() { interface } else { 0 })
    }
}

/// What makes a session within its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Where answers go.
    pub(super) client: SocketAddr,
    /// Where answers come from.
    pub(super) local: Local,
}

/// A head and the index of its sessions.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) fd: OwnedFd,
    pub(super) bound: Bound,
    pub(super) route: Arc<Route>,
    /// Slots of the sessions in the table. std's hasher: clients choose their addresses, so it must be keyed.
    pub(super) sessions: HashMap<Key, u32>,
    /// The same sessions, silent for longest first.
    pub(super) order: List,
    /// Which of the tail's addresses is tried first.
    pub(super) first_addr: usize,
    warned: Option<Instant>,
    suppressed: u64,
}

impl HeadId {
    /// What epoll reports for the head's socket; see `engine::SESSION`.
    pub(super) fn event(self) -> EventData {
        EventData::new_u64(self.0)
    }
}

impl Head {
    /// Prepares a bound socket.
    pub(super) fn new(fd: OwnedFd, route: Arc<Route>) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if options::socket_type(&fd)? != SocketType::DGRAM {
            return Err(wrong("not a datagram socket"));
        }
        let local = SocketAddr::try_from(getsockname(&fd)?).map_err(|_| wrong("not a UDP socket"))?;
        if local.port() == 0 {
            return Err(wrong("the UDP socket is not bound"));
        }
        let bound = match local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => {
                setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
                Bound::V4Any
            }
            IpAddr::V6(ip) if ip.is_unspecified() => {
                setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
                Bound::V6Any
            }
            IpAddr::V4(_) => Bound::V4,
            IpAddr::V6(_) => Bound::V6,
        };
        // Forcing needs CAP_NET_ADMIN, otherwise net.core.rmem_max is the limit; neither is needed to work.
        if options::socket_recv_buffer_size(&fd)? < RECEIVE_BUFFER
            && options::set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).is_err()
        {
            let _ = options::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER);
        }
        let (sessions, order) = (HashMap::new(), List::default());
        Ok(Self { fd, bound, route, sessions, order, first_addr: 0, warned: None, suppressed: 0 })
    }

    /// Counts a datagram that found no tail, and logs it now and then.
    pub(super) fn fail(&mut self, client: SocketAddr, why: &str, now: Instant) {
        self.route.counters.fail(why);
        if self.warned.is_some_and(|warned| now.saturating_duration_since(warned) < QUIET) {
            self.suppressed += 1;
            return;
        }
        let unlogged = std::mem::take(&mut self.suppressed);
        self.warned = Some(now);
        tracing::warn!(segment = %self.route.id, %client, error = why, unlogged, "no session for a UDP client; datagrams dropped");
    }
}
