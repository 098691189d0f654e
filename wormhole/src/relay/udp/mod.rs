//! UDP in userspace: a session for each client address, so that every answer finds the client that asked.
//!
//! One thread, `wormhole-udp`, serves all UDP heads with one epoll instance. For each ready socket and wake-up it moves
//! one batch of at most 64 datagrams with `recvmmsg` (Linux 2.6.33) and `sendmmsg` (Linux 3.0) and goes on to the next
//! socket; epoll is level-triggered and hands out ready sockets in turn, so a busy one cannot starve the others.
//!
//! A session is a client address and port, the local address that the client sent to, and a socket in the tail's
//! namespace, connected to the tail. Datagrams of one session keep their order. Errors that a datagram provokes (ICMP)
//! are noted in `last_error` and end nothing; a full buffer drops the datagram, as it does between two applications.
//!
//! **Memory.** The buffers, 64 x 64 KiB, belong to the thread and are shared by all sessions; pages that no datagram has
//! reached yet cost nothing. An idle session costs at most 1 KiB of userspace memory, and less than half of that while
//! the tables are not just doubled: its record (addresses, two times, two counters, its place in two lists) and an entry
//! of its head's table. What the kernel keeps for the socket
//! and its epoll entry comes on top.

mod batch;
mod engine;
mod head;
mod lru;
mod table;
mod tail;
#[cfg(test)]
mod tests;

use super::Route;
use crate::model::ConnectionView;
use engine::{Engine, WAKE};
use head::Head;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use tokio::sync::oneshot;

/// `inspect` shows at most so many sessions of a head.
const MAX_VIEWS: usize = 1000;

/// Limits of a [`UdpEngine`].
#[derive(Clone, Copy, Debug)]
pub struct UdpConfig {
    /// At most so many sessions over all heads; the one that was silent for longest makes room. Each holds one file
    /// descriptor. 0 counts as 1.
    pub max_sessions_total: usize,
}

/// A head that an engine serves. Never used twice by one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadId(u64);

/// The thread that relays all UDP heads. It ends, and closes every socket that it was given, when this is dropped.
#[derive(Debug)]
pub struct UdpEngine {
    shared: Arc<Shared>,
    next_head: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and its handle share.
#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    // A std Mutex: it is held for a push or a swap, never across a wait.
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// False once the thread has ended: whoever asks then gets its sender dropped instead of waiting for ever.
    open: bool,
    commands: Vec<Command>,
}

/// What the thread can be asked to do.
#[derive(Debug)]
enum Command {
    Add(HeadId, Box<Head>),
    Remove(HeadId, oneshot::Sender<()>),
    Retarget(HeadId, oneshot::Sender<()>),
    Sessions(HeadId, oneshot::Sender<Vec<ConnectionView>>),
    Stop,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, command: Command) {
        let mut queue = self.queue();
        if queue.open {
            queue.commands.push(command);
            drop(queue);
            self.wake();
        }
    }

    fn wake(&self) {
        // The only possible error is EAGAIN, a counter about to overflow: then the thread is woken anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Command> {
        let mut counter = [0; 8];
        // EAGAIN: nothing to reset.
        let _ = rustix::io::read(&self.wake, &mut counter);
        mem::take(&mut self.queue().commands)
    }
}

/// Closes the queue when the thread ends, whichever way it ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.open = false;
        let left = mem::take(&mut queue.commands);
        drop(queue);
        drop(left);
    }
}

impl UdpEngine {
    /// Starts the thread.
    ///
    /// Minimum kernel: 2.6.33 (`recvmmsg`), 3.0 (`sendmmsg`); recvmmsg(2), sendmmsg(2).
    ///
    /// # Errors
    /// EMFILE and the like when epoll, the eventfd or the thread cannot be made.
    pub fn start(config: UdpConfig) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let queue = Mutex::new(Queue { open: true, commands: Vec::new() });
        let shared = Arc::new(Shared { epoll, wake, queue });
        let closing = Closing(Arc::clone(&shared));
        let thread = Builder::new().name("wormhole-udp".to_owned()).spawn(move || {
            // Moved in as a whole, and before the engine: it is dropped last, when all sockets are closed.
            let closing = closing;
            Engine::new(Arc::clone(&closing.0), config.max_sessions_total).run();
        })?;
        Ok(Self { shared, next_head: AtomicU64::new(1), thread: Some(thread) })
    }

    /// Serves a bound UDP socket, IPv4 or IPv6, from now on. Bound to a wildcard address (dual-stack or not), answers
    /// leave from the address that the client sent to (`IP_PKTINFO`, ip(7), Linux 2.2; `IPV6_PKTINFO`, ipv6(7),
    /// Linux 2.6.14). The receive buffer is enlarged to 1 MiB as far as the kernel allows, since the requests of all
    /// clients go through it.
    ///
    /// # Errors
    /// EINVAL when this is not a bound UDP socket, ENOSPC at `fs.epoll.max_user_watches`, EPIPE when the thread has
    /// died.
    pub fn add(&self, head: OwnedFd, route: Arc<Route>) -> io::Result<HeadId> {
        let id = HeadId(self.next_head.fetch_add(1, Relaxed));
        let head = Head::new(head, route)?;
        let mut queue = self.shared.queue();
        if !queue.open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // Under the lock, so that the thread learns of the head before it can hear from it.
        epoll::add(&self.shared.epoll, &head.fd, id.event(), epoll::EventFlags::IN)?;
        queue.commands.push(Command::Add(id, Box::new(head)));
        drop(queue);
        self.shared.wake();
        Ok(id)
    }

    /// Closes a head and its sessions. The receiver resolves when every socket of it is closed; an error of the
    /// receiver means that the engine is gone, and the sockets with it. An unknown head is closed already.
    pub fn remove(&self, head: HeadId) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        self.shared.push(Command::Remove(head, done));
        receiver
    }

    /// Closes the sessions of a head, so that each client's next datagram goes where the route leads then: for a tail
    /// that was restarted or moved. Call it after [`Route::set_tail`]. The receiver resolves, as with
    /// [`UdpEngine::remove`], when nothing of the head holds the old tail's namespace any more.
    pub fn retarget(&self, head: HeadId) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        self.shared.push(Command::Retarget(head, done));
        receiver
    }

    /// The sessions of a head, newest first, at most 1000; none for an unknown head. An error of the receiver means
    /// that the engine is gone.
    pub fn sessions(&self, head: HeadId) -> oneshot::Receiver<Vec<ConnectionView>> {
        let (reply, receiver) = oneshot::channel();
        self.shared.push(Command::Sessions(head, reply));
        receiver
    }

    /// Closes all heads and ends the thread. Waits for at most one round of the thread, some milliseconds; dropping the
    /// engine does the same.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.push(Command::Stop);
            if thread.join().is_err() {
                tracing::error!("the UDP thread panicked; its sockets are closed");
            }
        }
    }
}

impl Drop for UdpEngine {
    fn drop(&mut self) {
        self.stop();
    }
}
