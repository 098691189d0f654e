//! Up to 64 datagrams in one system call, in buffers that all sockets of the thread share.
//!
//! nix's `MultiHeaders` keeps what the kernel wrote back into a header: the length of the address and of the control
//! messages. So each kind of head has headers of its own, in which those lengths are the same for every datagram.

use super::head::{Bound, Key, Local};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrLike, SockaddrStorage, recvmmsg, sendmmsg,
};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Datagrams a system call; [`Batch::all`] has a bit for each.
pub(super) const BATCH: usize = 64;

/// More than the longest datagram: 65,507 bytes over IPv4, 65,527 over IPv6.
const SLOT: usize = 65_536;

/// What became of the datagrams of one [`Batch::send_tail`] or [`Batch::send_head`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Sent; the rest was dropped.
    pub(super) datagrams: usize,
    /// Payload of those.
    pub(super) bytes: u64,
    /// The last error that was met, unless a full buffer was the only reason to drop.
    pub(super) error: Option<Errno>,
}

#[derive(Clone, Copy)]
struct Received {
    key: Option<Key>,
    len: usize,
}

/// The buffers and the headers.
pub(super) struct Batch {
    bytes: Box<[u8]>,
    received: Vec<Received>,
    /// Slots that the next send takes, in order.
    picked: Vec<usize>,
    from_head: [MultiHeaders<SockaddrStorage>; 4],
    from_tail: MultiHeaders<()>,
    to_tail: MultiHeaders<()>,
    to_head: MultiHeaders<SockaddrStorage>,
    to_head_v4: MultiHeaders<SockaddrStorage>,
    to_head_v6: MultiHeaders<SockaddrStorage>,
    /// The receiver of each datagram for `sendmmsg`; kept to save the allocation.
    receivers: Vec<Option<SockaddrStorage>>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BATCH * SLOT].into_boxed_slice(),
            received: Vec::with_capacity(BATCH),
            picked: Vec::with_capacity(BATCH),
            from_head: [Bound::V4, Bound::V4Any, Bound::V6, Bound::V6Any].map(headers_for),
            from_tail: MultiHeaders::preallocate(BATCH, None),
            to_tail: MultiHeaders::preallocate(BATCH, None),
            to_head: MultiHeaders::preallocate(BATCH, None),
            to_head_v4: headers_for(Bound::V4Any),
            to_head_v6: headers_for(Bound::V6Any),
            receivers: Vec::with_capacity(BATCH),
        }
    }

    /// Receives from clients what is there, one batch at most.
    pub(super) fn recv_head(&mut self, fd: BorrowedFd<'_>, bound: Bound) -> Result<(), Errno> {
        let Self { bytes, received, from_head, .. } = self;
        let headers = &mut from_head[bound as usize];
        received.clear();
        let mut slots = slots(bytes);
        let mut spoiled = false;
        for message in recvmmsg(fd.as_raw_fd(), headers, slots.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
            let local = local_of(&message, bound);
            // A header that came without the address leaves no room for it the next time.
            spoiled |= local.is_none();
            let local = local.unwrap_or(Local::Bound);
            received.push(Received { key: client_of(&message).map(|client| Key { client, local }), len: message.bytes });
        }
        if spoiled {
            *headers = headers_for(bound);
        }
        Ok(())
    }

    /// Receives from a tail what is there, one batch at most, and picks all of it.
    pub(super) fn recv_tail(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let Self { bytes, received, picked, from_tail, .. } = self;
        received.clear();
        picked.clear();
        let mut slots = slots(bytes);
        for message in recvmmsg(fd.as_raw_fd(), from_tail, slots.iter_mut(), MsgFlags::MSG_DONTWAIT, None)? {
            picked.push(received.len());
            received.push(Received { key: None, len: message.bytes });
        }
        Ok(())
    }

    /// A bit for each datagram received, to begin [`Batch::pick_next`] with.
    pub(super) fn all(&self) -> u64 {
        match self.received.len() {
            0 => 0,
            n => u64::MAX >> (BATCH - n.min(BATCH)),
        }
    }

    /// Picks the first datagram of `left` and all those of the same session, in their order, and takes them out of
    /// `left`. Compares keys and not places in the table: opening a session for one client may end that of another.
    pub(super) fn pick_next(&mut self, left: &mut u64) -> Option<Key> {
        while *left != 0 {
            let first = left.trailing_zeros() as usize;
            let Some(key) = self.received.get(first).and_then(|received| received.key) else {
                *left &= *left - 1;
                continue;
            };
            self.picked.clear();
            for (slot, received) in self.received.iter().enumerate().skip(first) {
                if *left & (1 << slot) != 0 && received.key == Some(key) {
                    *left &= !(1 << slot);
                    self.picked.push(slot);
                }
            }
            return Some(key);
        }
        None
    }

    /// Sends what is picked on a connected socket.
    pub(super) fn send_tail(&mut self, fd: BorrowedFd<'_>) -> Sent {
        let nobody = [None::<()>; BATCH];
        send(fd, &mut self.to_tail, &Picked::of(&self.bytes, &self.received, &self.picked), &nobody, &[])
    }

    /// Sends what is picked to a client, from the address that it sent to.
    pub(super) fn send_head(&mut self, fd: BorrowedFd<'_>, to: &Key) -> Sent {
        self.receivers.clear();
        self.receivers.resize(self.picked.len(), Some(to.client.into()));
        let picked = Picked::of(&self.bytes, &self.received, &self.picked);
        match to.local {
            Local::Bound => send(fd, &mut self.to_head, &picked, &self.receivers, &[]),
            Local::V4(addr) => {
                let (spec, unused) = (libc::in_addr { s_addr: u32::from_ne_bytes(addr.octets()) }, libc::in_addr { s_addr: 0 });
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec, ipi_addr: unused };
                send(fd, &mut self.to_head_v4, &picked, &self.receivers, &[ControlMessage::Ipv4PacketInfo(&info)])
            }
            Local::V6(addr, interface) => {
                let info =
                    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: addr.octets() }, ipi6_ifindex: interface as _ };
                send(fd, &mut self.to_head_v6, &picked, &self.receivers, &[ControlMessage::Ipv6PacketInfo(&info)])
            }
        }
    }
}

/// The picked datagrams.
struct Picked<'a> {
    bytes: &'a [u8],
    received: &'a [Received],
    slots: &'a [usize],
}

impl<'a> Picked<'a> {
    fn of(bytes: &'a [u8], received: &'a [Received], slots: &'a [usize]) -> Self {
        Self { bytes, received, slots }
    }

    fn len(&self) -> usize {
        self.slots.len()
    }

    fn get(&self, n: usize) -> &'a [u8] {
        let Some(&slot) = self.slots.get(n) else { return &[] };
        let len = self.received.get(slot).map_or(0, |received| received.len.min(SLOT));
        self.bytes.get(slot * SLOT..slot * SLOT + len).unwrap_or(&[])
    }
}

fn send<S: SockaddrLike + Copy>(
    fd: BorrowedFd<'_>,
    headers: &mut MultiHeaders<S>,
    picked: &Picked<'_>,
    receivers: &[Option<S>],
    controls: &[ControlMessage<'_>],
) -> Sent {
    let mut sent = Sent::default();
    let (mut at, mut again) = (0, true);
    while at < picked.len() {
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|n| [IoSlice::new(picked.get(at + n))]);
        let rest = slices.iter().take(picked.len() - at);
        match sendmmsg(fd.as_raw_fd(), headers, rest, receivers, controls, MsgFlags::MSG_DONTWAIT).map(Iterator::count) {
            Ok(n) if n > 0 => {
                sent.bytes += (at..at + n).map(|n| picked.get(n).len() as u64).sum::<u64>();
                sent.datagrams += n;
                at += n;
                again = true;
            }
            // The buffer is full, and stays so for longer than this batch takes.
            Err(Errno::EAGAIN) => break,
            Err(Errno::ENOBUFS) => at += 1,
            // Most likely an ICMP error about an earlier datagram: reporting it cleared it, and this one was not sent.
            Err(error) if again => {
                sent.error = Some(error);
                again = false;
            }
            // It is this datagram that cannot be sent.
            other => {
                sent.error = other.err().or(sent.error);
                at += 1;
                again = true;
            }
        }
    }
    sent
}

/// One slice a slot, as `recvmmsg` wants them.
fn slots(bytes: &mut [u8]) -> [[IoSliceMut<'_>; 1]; BATCH] {
    let mut slots = bytes.chunks_exact_mut(SLOT);
    std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())])
}

/// Headers with exactly the room for control messages that a head of this kind takes.
fn headers_for(bound: Bound) -> MultiHeaders<SockaddrStorage> {
    let controls = match bound {
        Bound::V4 | Bound::V6 => None,
        Bound::V4Any => Some(cmsg_space!(libc::in_pktinfo)),
        Bound::V6Any => Some(cmsg_space!(libc::in6_pktinfo)),
    };
    MultiHeaders::preallocate(BATCH, controls)
}

fn client_of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> Option<SocketAddr> {
    let addr = message.address.as_ref()?;
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    addr.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}

/// None when the kernel should have told and did not.
fn local_of(message: &RecvMsg<'_, '_, SockaddrStorage>, bound: Bound) -> Option<Local> {
    if matches!(bound, Bound::V4 | Bound::V6) {
        return Some(Local::Bound);
    }
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local::v4(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))),
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Local::v6(Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex as _))
        }
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use std::net::UdpSocket;

    #[test]
    fn a_pending_refusal_costs_no_datagram() {
        let place = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = place.local_addr().unwrap();
        drop(place);
        let (source, input) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let tail = UdpSocket::bind("127.0.0.1:0").unwrap();
        tail.connect(addr).unwrap();
        // On loopback the ICMP message is there when `send` returns.
        tail.send(b"refused").unwrap();
        let place = UdpSocket::bind(addr).unwrap();
        let mut batch = Batch::new();
        for text in ["one", "", "three"] {
            source.send_to(text.as_bytes(), input.local_addr().unwrap()).unwrap();
        }
        batch.recv_tail(input.as_fd()).unwrap();
        let sent = batch.send_tail(tail.as_fd());
        assert_eq!((sent.datagrams, sent.bytes, sent.error), (3, 8, Some(Errno::ECONNREFUSED)));
        for text in ["one", "", "three"] {
            let mut got = [0; 16];
            let len = place.recv(&mut got).unwrap();
            assert_eq!(&got[..len], text.as_bytes());
        }
    }
}
