//! The stream engine: relay threads that accept at heads, connect to tails and move bytes between them. TCP and unix
//! streams, in any combination.

mod conn;
mod gather;
mod inject;
mod listener;
mod passage;
mod pipes;
mod pump;
mod socket;
#[cfg(test)]
mod tests;
mod timers;
mod token;
mod worker;

pub use socket::prepare_tcp;

use crate::fastpath::{Gate, Pair, Why};
use crate::model::ConnectionView;
use crate::relay::Route;
use listener::Listener;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;
use worker::Worker;

/// Names a listener within an [`Engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

/// The relay threads.
pub struct Engine {
    shared: Arc<Shared>,
    next: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the engine's owner share.
struct Shared {
    max_connections: usize,
    open: AtomicUsize,
    /// Threads that stopped accepting because the limit was reached.
    waiting: AtomicUsize,
    mailboxes: Vec<Mailbox>,
}

struct Mailbox {
    /// None once the thread has ended: what is sent to it then is dropped, and so answered.
    commands: Mutex<Option<Vec<Command>>>,
    wake: OwnedFd,
    /// Connections that the thread has, or is about to get.
    load: AtomicUsize,
}

impl Mailbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that was accepted and has no state yet.
struct Accepted {
    head: OwnedFd,
    /// The client; none for unix.
    remote: Option<SocketAddr>,
    at: Instant,
}

enum Command {
    /// A connection that a busier thread accepted at that time.
    Adopt(Arc<Listener>, Accepted),
    Listen(Arc<Listener>),
    Unlisten(u64, Arc<Done>),
    Reset(Arc<Route>, Instant, Arc<Done>),
    /// Resets what carries this connection, in all segments of a chain.
    Condemn(Arc<Pair>),
    View(Arc<Route>, oneshot::Sender<Vec<ConnectionView>>),
    Resume,
    Stop,
}

/// Dropped by the last thread that has carried a command out; tells whoever waits.
struct Done(Option<oneshot::Sender<()>>);

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            // Nobody has to wait.
            let _ = done.send(());
        }
    }
}

impl Shared {
    fn take_commands(&self, index: usize) -> Vec<Command> {
        let Some(mailbox) = self.mailboxes.get(index) else { return Vec::new() };
        // The eventfd first: a command that comes in between wakes once more, and that does no harm.
        let _ = rustix::io::read(&mailbox.wake, &mut [0u8; 8]);
        mailbox.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives the command back when the thread has ended.
    fn send(&self, index: usize, command: Command) -> Option<Command> {
        let Some(mailbox) = self.mailboxes.get(index) else { return Some(command) };
        match &mut *mailbox.lock() {
            Some(commands) => commands.push(command),
            None => return Some(command),
        }
        // Fails only when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&mailbox.wake, &1u64.to_ne_bytes());
        None
    }

    /// The thread that shall have a connection that thread `own` has accepted.
    fn place(&self, own: usize) -> usize {
        lighter(own, self.mailboxes.iter().map(|mailbox| mailbox.load.load(Relaxed)))
    }

    fn add_load(&self, index: usize) {
        if let Some(mailbox) = self.mailboxes.get(index) {
            mailbox.load.fetch_add(1, Relaxed);
        }
    }

    fn take_load(&self, index: usize) {
        if let Some(mailbox) = self.mailboxes.get(index) {
            mailbox.load.fetch_sub(1, Relaxed);
        }
    }

    /// Called by a thread that ends.
    fn close_mailbox(&self, index: usize) {
        let left = self.mailboxes.get(index).and_then(|mailbox| mailbox.lock().take());
        // Outside of the lock: what is dropped may close sockets and wake somebody.
        for command in left.into_iter().flatten() {
            if let Command::Adopt(..) = command {
                self.release();
            }
        }
    }

    fn send_all(&self, command: impl Fn() -> Command) {
        for index in 0..self.mailboxes.len() {
            // Dropped, and so answered, where the thread has ended.
            drop(self.send(index, command()));
        }
    }

    /// Takes a place for one more connection; false when all are taken.
    fn admit(&self) -> bool {
        self.open.fetch_update(SeqCst, SeqCst, |open| (open < self.max_connections).then_some(open + 1)).is_ok()
    }

    /// Gives a place back, and wakes those who wait for one.
    fn release(&self) {
        self.open.fetch_sub(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.wake_waiting();
        }
    }

    /// Called by a thread that stopped accepting at the limit.
    fn wait_for_room(&self) {
        self.waiting.fetch_add(1, SeqCst);
        if self.open.load(SeqCst) < self.max_connections {
            self.wake_waiting();
        }
    }

    fn wake_waiting(&self) {
        if self.waiting.swap(0, SeqCst) > 0 {
            self.send_all(|| Command::Resume);
        }
    }
}

impl Engine {
    /// Starts `workers` relay threads that together keep at most `max_connections` connections open.
    ///
    /// # Errors
    /// No descriptors or no threads to be had.
    pub fn start(workers: usize, max_connections: usize) -> io::Result<Self> {
        let mailbox = |_| {
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Mailbox { commands: Mutex::new(Some(Vec::new())), wake, load: AtomicUsize::new(0) })
        };
        let mailboxes = (0..workers.max(1)).map(mailbox).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared { max_connections, open: AtomicUsize::new(0), waiting: AtomicUsize::new(0), mailboxes });
        let engine = Self { shared: Arc::clone(&shared), next: AtomicU64::new(1), threads: Mutex::new(Vec::new()) };
        for (index, mailbox) in shared.mailboxes.iter().enumerate() {
            use rustix::fd::AsFd;
            let worker = Worker::new(Arc::clone(&shared), index, mailbox.wake.as_fd())?;
            let thread = std::thread::Builder::new().name(format!("relay-{index}")).spawn(move || worker.run())?;
            engine.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(engine)
    }

    /// Accepts connections from `fd` (bound, listening, non-blocking; for TCP prepared by [`prepare_tcp`]) for `route`.
    /// `gate` is where clients' enrolments are claimed, or why there are none.
    pub fn listen(&self, fd: OwnedFd, route: &Arc<Route>, unix: bool, gate: Result<Gate, Why>) -> ListenerId {
        let id = self.next.fetch_add(1, Relaxed);
        let listener = Arc::new(Listener { id, fd, route: Arc::clone(route), unix, gate });
        self.shared.send_all(|| Command::Listen(Arc::clone(&listener)));
        ListenerId(id)
    }

    /// Stops accepting. When the returned channel speaks, the listening socket is closed.
    pub fn unlisten(&self, id: ListenerId) -> oneshot::Receiver<()> {
        let (done, receiver) = done();
        self.shared.send_all(|| Command::Unlisten(id.0, Arc::clone(&done)));
        receiver
    }

    /// Resets the connections of `route` that were accepted before `before`. When the returned channel speaks, their
    /// sockets are closed.
    pub fn reset(&self, route: &Arc<Route>, before: Instant) -> oneshot::Receiver<()> {
        let (done, receiver) = done();
        self.shared.send_all(|| Command::Reset(Arc::clone(route), before, Arc::clone(&done)));
        receiver
    }

    /// Resets the connection that `pair` stands for: bytes of it are lost, and neither side may take it for whole.
    pub fn condemn(&self, pair: &Arc<Pair>) {
        // First: a thread that is about to hand an end on sees it.
        pair.condemn();
        self.shared.send_all(|| Command::Condemn(Arc::clone(pair)));
    }

    /// The open connections of `route`, at most 1000 a thread.
    pub async fn connections(&self, route: &Arc<Route>) -> Vec<ConnectionView> {
        let mut all = Vec::new();
        let ask = |index| {
            let (sender, receiver) = oneshot::channel();
            // A thread that has ended has no connections; the sender is dropped with the command.
            drop(self.shared.send(index, Command::View(Arc::clone(route), sender)));
            receiver
        };
        let asked: Vec<_> = (0..self.workers()).map(ask).collect();
        for receiver in asked {
            all.extend(receiver.await.unwrap_or_default());
        }
        all.sort_by_key(|view: &ConnectionView| view.age_s);
        all.truncate(1000);
        all
    }

    /// Connections of each thread.
    #[cfg(test)]
    fn loads(&self) -> Vec<usize> {
        self.shared.mailboxes.iter().map(|mailbox| mailbox.load.load(Relaxed)).collect()
    }

    /// Number of relay threads.
    pub fn workers(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// Connections open now, over all segments.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// The most connections that are open at once.
    pub fn max_connections(&self) -> usize {
        self.shared.max_connections
    }

    /// Stops the threads. What is still open is reset.
    pub fn stop(&self) {
        self.shared.send_all(|| Command::Stop);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a relay thread has panicked");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread `own`, unless another one has clearly less to do: the kernel wakes the same idle thread again and again, and
/// connections that stay would all be its. But those that come and go spread by themselves, and to hand one over costs a
/// wake-up.
fn lighter(own: usize, mut loads: impl Iterator<Item = usize> + Clone) -> usize {
    let Some((least, few)) = loads.clone().enumerate().min_by_key(|(_, load)| *load) else { return own };
    let most = few.saturating_add(1 + few / 2);
    if loads.nth(own).is_some_and(|load| load > most) { least } else { own }
}

fn done() -> (Arc<Done>, oneshot::Receiver<()>) {
    let (sender, receiver) = oneshot::channel();
    (Arc::new(Done(Some(sender))), receiver)
}
