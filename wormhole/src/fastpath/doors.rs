//! Doors: sockets of wormholed's by which bytes come into the applications' queues.
//!
//! What an application sent by TCP must be put into the other's redirected queue, and only a socket that a program watches can
//! do that. Each relay thread has one, for all its connections: their own sockets stay out of the map, which spares each of them
//! a queue that the kernel makes and takes down again. Before it sends, the thread writes down in memory that the program
//! shares where the bytes belong; and before it connects to a tail, whose connection that carries on.

use super::mapped::Mapped;
use super::pair::{Link, Pair};
use super::sys::Table;
use super::{Fastpath, Role};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, acceptfrom_with, getsockname};
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wormhole_common::{DOOR_ANNOUNCED, DOOR_CONNECTS, DOOR_IDLE, DOOR_INJECTS, Door as Cells, MEMBER_ENROLLED, Member, Tuple};

/// All doors.
#[derive(Debug)]
pub(super) struct Doors {
    cells: Mapped<Cells>,
    /// Those in the map; the program is attached there.
    sockets: Table<u32, u32>,
    /// That nobody has.
    free: Mutex<Vec<Made>>,
}

/// A connection with ourselves that nothing ever goes over: what is sent on it is redirected, or refused.
#[derive(Debug)]
struct Made {
    index: u32,
    socket: OwnedFd,
    _peer: OwnedFd,
}

/// A thread's own door. It stays with the thread that took it.
#[derive(Debug)]
pub struct Door {
    fastpath: Arc<Fastpath>,
    made: Option<Made>,
    /// It could not be put into the map again after a refusal.
    shut: Cell<bool>,
}

/// The programs wait for whoever accepts a connection to a tail. When this goes they do not any more.
#[derive(Debug)]
pub struct Announced {
    pair: Arc<Pair>,
    tuple: Tuple,
}

/// Why not all bytes were put into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The kernel has no memory for more.
    Memory,
    /// There is no queue, or not any more.
    Refused,
    /// There is no door.
    Shut,
}

impl Doors {
    pub(super) fn new(cells: Mapped<Cells>, sockets: Table<u32, u32>) -> Self {
        Self { cells, sockets, free: Mutex::default() }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Made>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    fn fd(&self) -> u32 {
        self.socket.as_raw_fd().unsigned_abs()
    }
}

/// A connection of this namespace's loopback with itself.
fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let socket = OwnedFd::from(TcpStream::connect(listener.local_addr()?)?);
    loop {
        // Somebody else may have come before.
        let (peer, from) = acceptfrom_with(&listener, SocketFlags::CLOEXEC)?;
        if from == Some(getsockname(&socket)?) {
            return Ok((socket, peer));
        }
    }
}

impl Fastpath {
    /// Makes so many doors.
    ///
    /// # Errors
    /// The kernel's answer; those before it are there.
    pub(super) fn make_doors(&self, count: u32) -> io::Result<()> {
        let make = || {
            for index in 0..count {
                let (socket, peer) = connection()?;
                let made = Made { index, socket, _peer: peer };
                let member = Member { slot: index, role: Role::Door as u32, state: MEMBER_ENROLLED, ..Member::default() };
                self.members.set(&made.fd(), member)?;
                self.doors.sockets.set(&index, made.fd())?;
                self.doors.free().push(made);
            }
            Ok(())
        };
        // Where nobody sees them, if we may.
        crate::netns::scratch(make).unwrap_or_else(|_| make())
    }
}

impl Door {
    /// A door for the current thread; none when there is none left.
    pub fn take(fastpath: &Arc<Fastpath>) -> Option<Self> {
        let made = fastpath.doors.free().pop()?;
        let index = made.index;
        let door = Self { fastpath: Arc::clone(fastpath), made: Some(made), shut: Cell::new(false) };
        // Whose it is not gives it back at once.
        (fastpath.thread.ask(&[index.into(), 1]).ok()? == 1).then_some(door)
    }

    fn cells(&self) -> Option<*mut Cells> {
        self.fastpath.doors.cells.at(self.made.as_ref()?.index)
    }

    /// Says what this thread is at, for the programs that run meanwhile in its system calls.
    fn sets_out(&self, errand: u32, link: &Link, role: Role) -> Option<&AtomicU32> {
        let at = self.cells()?;
        // SAFETY: aligned fields of the mapping, which lives as long as `self`; the programs access them whole.
        let field = |field: *mut u32| unsafe { AtomicU32::from_ptr(field) };
        // SAFETY: as above, their addresses only.
        let (slot, generation, to, hop, now) = unsafe {
            (&raw mut (*at).slot, &raw mut (*at).generation, &raw mut (*at).role, &raw mut (*at).hop, &raw mut (*at).errand)
        };
        field(slot).store(link.pair().slot(), Relaxed);
        field(generation).store(link.pair().generation(), Relaxed);
        field(to).store(role as u32, Relaxed);
        field(hop).store(link.hop(), Relaxed);
        field(now).store(errand, Release);
        Some(field(now))
    }

    /// Runs `connect`, which begins to connect to the tail, and tells the programs of whoever accepts there: the server, or the next
    /// segment. Nothing is announced when they do not take it; the connection is relayed then.
    pub fn announce<T>(&self, link: &Link, connect: impl FnOnce() -> T) -> (T, Option<Announced>) {
        let errand = self.sets_out(DOOR_CONNECTS, link, Role::Server);
        let done = connect();
        let announced = errand.is_some_and(|errand| errand.swap(DOOR_IDLE, Acquire) == DOOR_ANNOUNCED);
        let left = self.cells().filter(|_| announced).map(|at| {
            link.announced();
            // SAFETY: the program has written it within the call that is over, and nobody else does.
            let tuple = unsafe { std::ptr::read_volatile(&raw const (*at).tuple) };
            Announced { pair: Arc::clone(link.pair()), tuple }
        });
        (done, left)
    }

    /// Puts bytes into the queue of the application in `role`. Says how many, and why not all.
    pub fn put(&self, link: &Link, role: Role, data: &[u8]) -> (usize, Option<Stop>) {
        let mut put = 0;
        let Some(made) = self.made.as_ref().filter(|_| !self.shut.get() || self.opens_again()) else {
            return (put, Some(Stop::Shut));
        };
        let Some(errand) = self.sets_out(DOOR_INJECTS, link, role) else { return (put, Some(Stop::Shut)) };
        let mut stop = None;
        while let Some(rest) = data.get(put..).filter(|rest| !rest.is_empty() && stop.is_none()) {
            match rustix::net::send(&made.socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(bytes) => put += bytes,
                Err(Errno::INTR) => {}
                // Nothing else is waited for: what is redirected does not count as sent.
                Err(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS) => stop = Some(Stop::Memory),
                // Gone between the program's verdict and the kernel's.
                Err(Errno::PIPE) => stop = Some(Stop::Refused),
                Err(error) => {
                    if error != Errno::ACCESS {
                        tracing::error!(%error, "a door of the fast path is broken; what it was for is relayed");
                    }
                    self.opens_again();
                    stop = Some(Stop::Refused);
                }
            }
        }
        errand.store(DOOR_IDLE, Relaxed);
        link.has_put(role);
        (put, stop)
    }

    /// Makes the kernel forget the program's last verdict, a refusal. Until that is done nothing may be sent.
    fn opens_again(&self) -> bool {
        let Some(made) = &self.made else { return false };
        let sockets = &self.fastpath.doors.sockets;
        // One that is not there is as good.
        let _ = sockets.remove(&made.index);
        let open = sockets.set(&made.index, made.fd()).is_ok();
        self.shut.set(!open);
        open
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // What this thread connects to, and puts nowhere, is a stranger's from now on.
        let _ = self.fastpath.thread.ask(&[0, 0]);
        if let Some(made) = self.made.take().filter(|_| !self.shut.get()) {
            self.fastpath.doors.free().push(made);
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        // Whoever claims it takes it away.
        if !self.pair.has_server() {
            let _ = self.pair.fastpath().tuples.remove(&self.tuple);
        }
    }
}
