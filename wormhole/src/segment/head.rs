//! The listening end of a segment: a socket in a namespace, or a socket file in a container, and its orderly removal.

use super::{Relays, SegmentError, Site};
use crate::fastpath::{Gate, HeadGuard, Why};
use crate::model::{End, Host, Mode as When, Proto, Url};
use crate::netns::{Held, NamespaceId};
use crate::relay::stream::{ListenerId, prepare_tcp};
use crate::relay::udp::HeadId;
use crate::relay::{RelayOptions, Route};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Connections that may wait in the kernel until a relay thread accepts them (capped by net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// A head that listens.
pub struct Head {
    relays: Arc<Relays>,
    bound: Option<Bound>,
    /// The namespace it listens in.
    pub namespace: NamespaceId,
    /// The address it got; none for unix.
    pub addr: Option<SocketAddr>,
    file: Option<SocketFile>,
    /// The fast path knows it while this is held.
    _enrols: Option<HeadGuard>,
}

#[derive(Clone, Copy)]
enum Bound {
    Stream(ListenerId),
    Datagrams(HeadId),
}

/// A socket file that this head made. Removed only while it is still the same one.
struct SocketFile {
    held: Held,
    identity: Option<(u64, u64)>,
}

impl Head {
    /// Listens at `end` inside `site`; `port` is the one that the end has, or had before a restart of its container.
    ///
    /// # Errors
    /// [`SegmentError::Bind`] and [`SegmentError::PathTaken`]; nothing is left behind then.
    pub async fn listen(
        relays: &Arc<Relays>,
        route: &Arc<Route>,
        site: &Site,
        end: &End,
        port: u16,
    ) -> Result<Self, SegmentError> {
        let url = Url::from(end).to_string();
        let bind = |source| SegmentError::Bind { url: url.clone(), source };
        let mut head = Self {
            relays: Arc::clone(relays),
            bound: None,
            namespace: site.namespace.id(),
            addr: None,
            file: None,
            _enrols: None,
        };
        if end.proto == Proto::Unix {
            let (fd, file) = bind_unix(site, end, &url)?;
            head.file = Some(file);
            head.bound = Some(Bound::Stream(relays.streams.listen(fd, route, true, Err(Why::Unix))));
            return Ok(head);
        }
        let addr = SocketAddr::new(address(&end.host).await?, port);
        let (fd, bound) = bind_inet(site, end.proto, addr, &route.options).map_err(bind)?;
        head.addr = Some(bound);
        head.bound = Some(match end.proto {
            Proto::Udp => Bound::Datagrams(
                relays.datagrams.add(fd, Arc::clone(route)).map_err(|e| bind(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?,
            ),
            Proto::Tcp | Proto::Unix => {
                // Known to the programs before anybody can connect: what another segment's connection is accepted by must not
                // be taken for a server.
                let gate = head.gate(fd.as_fd(), bound, route.options.fastpath);
                rustix::net::listen(&fd, BACKLOG).map_err(bind)?;
                Bound::Stream(relays.streams.listen(fd, route, false, gate))
            }
        });
        Ok(head)
    }

    /// Has the clients of a listening socket enrolled, or says why not.
    fn gate(&mut self, fd: BorrowedFd<'_>, addr: SocketAddr, mode: When) -> Result<Gate, Why> {
        // A head that is off is known to the programs too: its own sockets must not be taken for a server's.
        let off = match mode {
            When::Off => Some(Why::Off),
            When::Auto if !self.relays.auto => Some(Why::Unavailable),
            When::Auto | When::On => None,
        };
        let mode = if off.is_some() { When::Off } else { mode };
        let fastpath = self.relays.fastpath.as_ref().ok_or_else(|| off.clone().unwrap_or(Why::Unavailable))?;
        match fastpath.watch(fd, addr, mode) {
            Ok((guard, gate)) => {
                self._enrols = Some(guard);
                off.map_or(Ok(gate), Err)
            }
            Err(error) => {
                tracing::warn!(%error, %addr, "the head's clients cannot be enrolled in the fast path");
                Err(off.unwrap_or(Why::Unavailable))
            }
        }
    }

    /// The id of its UDP sessions, when it is one of UDP.
    pub fn datagrams(&self) -> Option<HeadId> {
        match self.bound {
            Some(Bound::Datagrams(id)) => Some(id),
            _ => None,
        }
    }

    /// Stops listening and removes the socket file. Open streams go on, UDP sessions end.
    pub async fn close(mut self) {
        match self.bound.take() {
            // The channel can only close without a word when the engine itself has stopped, and then all is closed.
            Some(Bound::Stream(id)) => drop(self.relays.streams.unlisten(id).await),
            Some(Bound::Datagrams(id)) => drop(self.relays.datagrams.remove(id).await),
            None => {}
        }
        self.remove_file();
    }

    fn remove_file(&mut self) {
        let Some(file) = self.file.take() else { return };
        let ours = file.identity.is_some() && file.held.identity() == file.identity;
        if ours && let Err(error) = file.held.unlink() {
            tracing::warn!(%error, path = %file.held.path().display(), "cannot remove the head's socket file");
        }
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        match self.bound.take() {
            Some(Bound::Stream(id)) => drop(self.relays.streams.unlisten(id)),
            Some(Bound::Datagrams(id)) => drop(self.relays.datagrams.remove(id)),
            None => {}
        }
        self.remove_file();
    }
}

/// The address that a host means; `localhost` is 127.0.0.1 as it is by default.
///
/// # Errors
/// [`SegmentError::Resolve`].
pub async fn address(host: &Host) -> Result<IpAddr, SegmentError> {
    Ok(addresses(host).await?.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1])))
}

/// All addresses that a host means, IPv4 first; at least one.
///
/// # Errors
/// [`SegmentError::Resolve`].
pub async fn addresses(host: &Host) -> Result<Vec<IpAddr>, SegmentError> {
    let name = match host {
        Host::Ip(ip) => return Ok(vec![*ip]),
        Host::Name(name) if name == "localhost" => return Ok(vec![IpAddr::from([127, 0, 0, 1])]),
        Host::Name(name) => name,
    };
    let failed = |why: String| SegmentError::Resolve { host: name.clone(), why };
    let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|e| failed(e.to_string()))?;
    let mut found: Vec<IpAddr> = found.map(|a| a.ip()).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    if found.is_empty() {
        return Err(failed("it has no address".to_owned()));
    }
    Ok(found)
}

fn bind_inet(site: &Site, proto: Proto, addr: SocketAddr, options: &RelayOptions) -> Result<(OwnedFd, SocketAddr), Errno> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if proto == Proto::Udp { SocketType::DGRAM } else { SocketType::STREAM };
    let fd = site.namespace.socket(family, kind, None).map_err(|e| match e {
        crate::netns::NetnsError::Socket { source, .. } | crate::netns::NetnsError::Enter { source, .. } => source,
        _ => Errno::INVAL,
    })?;
    if proto == Proto::Tcp {
        // A port whose old connections are still in TIME_WAIT can be listened on again.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        prepare_tcp(fd.as_fd(), options)?;
    }
    rustix::net::bind(&fd, &addr)?;
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?).unwrap_or(addr);
    Ok((fd, bound))
}

fn bind_unix(site: &Site, end: &End, url: &str) -> Result<(OwnedFd, SocketFile), SegmentError> {
    let bind = |source| SegmentError::Bind { url: url.to_owned(), source };
    let held = site.root()?.parent(&end.path)?;
    if held.identity().is_some() {
        clear_the_way(site, &held, url)?;
    }
    let addr = SocketAddrUnix::new(held.path()).map_err(bind)?;
    let fd = site.namespace.socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::net::bind(&fd, &addr).map_err(bind)?;
    let file = SocketFile { identity: held.identity(), held };
    // As a port on localhost, the head is for everyone in its place; directories above it may be narrower.
    let listening = rustix::fs::chmodat(rustix::fs::CWD, file.held.path(), Mode::from_raw_mode(0o666), AtFlags::empty())
        .and_then(|()| rustix::net::listen(&fd, BACKLOG));
    match listening {
        Ok(()) => Ok((fd, file)),
        Err(source) => {
            // Best effort on the way out of a failure that is reported.
            let _ = file.held.unlink();
            Err(bind(source))
        }
    }
}

/// Removes a socket that nobody listens on any more, the leftover of a process that was killed.
fn clear_the_way(site: &Site, held: &Held, url: &str) -> Result<(), SegmentError> {
    let taken = |why| SegmentError::PathTaken { url: url.to_owned(), why };
    if !held.is_socket() {
        return Err(taken("there is a file of another kind"));
    }
    let bind = |source| SegmentError::Bind { url: url.to_owned(), source };
    let probe = site.namespace.socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    let addr = SocketAddrUnix::new(held.path()).map_err(bind)?;
    match rustix::net::connect(&probe, &addr) {
        Err(Errno::CONNREFUSED) => held.unlink().map_err(bind),
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(_) => Err(taken("something listens there already")),
    }
}
