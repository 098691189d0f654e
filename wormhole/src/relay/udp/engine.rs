//! The thread: waits, moves one batch for each socket that is ready, obeys commands, lets sessions expire.

use super::batch::{Batch, Sent};
use super::head::Key;
use super::table::{Session, Table};
use super::{Command, HeadId, Shared, tail};
use crate::relay::Tail;
use nix::errno::Errno;
use rustix::event::{Timespec, epoll};
use rustix::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What epoll reports for the wake-up; heads count from 1.
pub(super) const WAKE: u64 = 0;

/// Set in what epoll reports for a session, whose slot is in the lower bits. An event of a session that is gone may name
/// one that took its slot in the same round: that one is then asked for datagrams and has none.
const SESSION: u64 = 1 << 63;

/// Sockets that one wait reports; more are ready the next time, those that had no turn first.
const EVENTS: usize = 256;

/// Sessions expire at most so often, and so may live longer by so much.
const SWEEP: Duration = Duration::from_millis(10);

/// Sessions that one round closes when they expire, so that many at once do not hold up the rest.
const EXPIRE: usize = 1024;

/// Everything that the thread owns.
pub(super) struct Engine {
    shared: Arc<Shared>,
    table: Table,
    batch: Batch,
    max_total: usize,
    /// No session expires before; none: there is none that could. Traffic only moves deadlines away, so this is brought
    /// up to date when it has passed and not with each datagram.
    next_sweep: Option<Instant>,
    /// The time of this round.
    now: Instant,
}

impl Engine {
    pub(super) fn new(shared: Arc<Shared>, max_total: usize) -> Self {
        Self { shared, table: Table::default(), batch: Batch::new(), max_total, next_sweep: None, now: Instant::now() }
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.shared.epoll, rustix::buffer::spare_capacity(&mut events), self.timeout().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    // EBADF, EFAULT and EINVAL are all there is, and none can be mended.
                    tracing::error!(%error, "the UDP thread cannot wait for its sockets; it ends");
                    break;
                }
            }
            self.now = Instant::now();
            let mut woken = false;
            for event in &events {
                match event.data.u64() {
                    WAKE => woken = true,
                    session if session & SESSION != 0 => self.tail_ready(session as u32),
                    head => self.head_ready(HeadId(head)),
                }
            }
            // After the datagrams: a command's "done" also means that no event of before is still to come.
            if woken && !self.obey() {
                break;
            }
            self.sweep();
        }
        for id in self.table.ids() {
            self.close_head(id);
        }
    }

    /// Time to the next sweep, rounded up so that the wait does not end just before it.
    fn timeout(&self) -> Option<Timespec> {
        let left = self.next_sweep?.saturating_duration_since(Instant::now()).min(Duration::from_secs(3600));
        Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    /// Carries out what was asked for; false for the end.
    fn obey(&mut self) -> bool {
        // Whether somebody still waits for an answer is not the thread's business: errors of `send` are ignored.
        for command in self.shared.take() {
            match command {
                Command::Add(id, head) => self.table.add(id, *head),
                Command::Remove(id, done) => {
                    self.close_head(id);
                    let _ = done.send(());
                }
                Command::Retarget(id, done) => {
                    self.close_sessions(id);
                    if let Some(head) = self.table.head_mut(id) {
                        head.first_addr = 0;
                    }
                    let _ = done.send(());
                }
                Command::Sessions(id, reply) => {
                    let _ = reply.send(self.table.views(id, self.now));
                }
                Command::Stop => return false,
            }
        }
        true
    }

    /// Datagrams of clients wait at a head.
    fn head_ready(&mut self, id: HeadId) {
        // None: the command that adds it is still in the queue, or it was removed in this round.
        let Some(head) = self.table.head(id) else { return };
        match self.batch.recv_head(head.fd.as_fd(), head.bound) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            // Reading the error cleared it; epoll comes back for the datagrams.
            Err(error) => return head.route.counters.note(&format!("udp head: {error}")),
        }
        let mut left = self.batch.all();
        while let Some(key) = self.batch.pick_next(&mut left) {
            let Some(at) = self.table.find(id, &key).or_else(|| self.open(id, key)) else { continue };
            let Some((session, head)) = self.table.session(at) else { continue };
            let sent = self.batch.send_tail(session.fd.as_fd());
            session.to_tail += sent.bytes;
            head.route.counters.to_tail.fetch_add(sent.bytes, Relaxed);
            self.sent(at, sent);
        }
    }

    /// Datagrams of the tail, or an ICMP error, wait at a session.
    fn tail_ready(&mut self, at: u32) {
        let Some((session, head)) = self.table.session(at) else { return };
        match self.batch.recv_tail(session.fd.as_fd()) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(error) => return self.tail_error(at, error),
        }
        session.doubtful = false;
        let sent = self.batch.send_head(head.fd.as_fd(), &session.key);
        session.to_head += sent.bytes;
        head.route.counters.to_head.fetch_add(sent.bytes, Relaxed);
        if let Some(error) = sent.error {
            head.route.counters.note(&format!("udp client {}: {error}", session.key.client));
        }
        self.table.touch(at, self.now);
    }

    /// What follows from sending to a tail. Datagrams that never left do not keep a session alive: one whose socket has
    /// become useless, because the address it is bound to is gone, expires even if its client goes on asking.
    fn sent(&mut self, at: u32, sent: Sent) {
        if sent.datagrams > 0 {
            self.table.touch(at, self.now);
        }
        if let Some(error) = sent.error {
            self.tail_error(at, error);
        }
    }

    /// An error that a datagram to the tail provoked. It ends nothing, but for one case: nobody listens on this address
    /// of the tail, nobody ever answered from it, and the tail has others (`localhost` is ::1 and 127.0.0.1).
    fn tail_error(&mut self, at: u32, error: Errno) {
        let Some((session, head)) = self.table.session(at) else { return };
        head.route.counters.note(&format!("udp tail {}: {error}", session.tail));
        if session.doubtful && error == Errno::ECONNREFUSED {
            head.first_addr = head.first_addr.wrapping_add(1);
            self.end(at);
        }
    }

    /// Opens a session. None when that fails, which is counted: the datagram is dropped.
    fn open(&mut self, id: HeadId, key: Key) -> Option<u32> {
        let tail = self.table.head(id)?.route.tail().clone();
        let connected = match &*tail {
            Tail::Absent(reason) => Err(reason.clone()),
            Tail::Ready(target) => {
                // First, because it may be the last free file descriptor that is made room for.
                while let Some(oldest) = self.table.superfluous(id, self.max_total) {
                    self.end(oldest);
                }
                tail::open(target, self.table.head(id)?.first_addr)
            }
        };
        let opened = connected.and_then(|tail| {
            let slot = self.table.next_slot().ok_or("too many UDP sessions")?;
            let data = epoll::EventData::new_u64(SESSION | u64::from(slot));
            epoll::add(&self.shared.epoll, &tail.fd, data, epoll::EventFlags::IN)
                .map_err(|error| format!("udp tail {}: cannot wait for its answers: {error}", tail.addr))?;
            Ok((slot, tail))
        });
        let head = self.table.head_mut(id)?;
        match opened {
            Ok((slot, tail)) => {
                if let Some(deadline) = self.now.checked_add(head.route.options.udp_timeout) {
                    self.next_sweep = Some(self.next_sweep.map_or(deadline, |next| next.min(deadline)));
                }
                self.table.insert(Session::new(tail.fd, id, key, tail.addr, tail.alternatives, self.now));
                Some(slot)
            }
            Err(error) => {
                head.fail(key.client, &error, self.now);
                None
            }
        }
    }

    /// Ends sessions whose time has come.
    fn sweep(&mut self) {
        if self.next_sweep.is_none_or(|next| next > self.now) {
            return;
        }
        let mut budget = EXPIRE;
        let mut next: Option<Instant> = None;
        for id in self.table.ids() {
            while let Some(deadline) = self.table.deadline(id) {
                let due = deadline <= self.now;
                if !due || budget == 0 {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                    break;
                }
                budget -= 1;
                if let Some(oldest) = self.table.oldest(id) {
                    self.end(oldest);
                }
            }
        }
        let pause = if budget == 0 { Duration::ZERO } else { SWEEP };
        self.next_sweep = next.map(|next| next.max(self.now + pause));
    }

    /// Ends a session and closes its socket.
    fn end(&mut self, at: u32) {
        if let Some(session) = self.table.remove(at) {
            // Closing would do, unless a process was forked this moment and still holds a copy.
            let _ = epoll::delete(&self.shared.epoll, &session.fd);
        }
    }

    fn close_sessions(&mut self, id: HeadId) {
        while let Some(oldest) = self.table.oldest(id) {
            self.end(oldest);
        }
    }

    fn close_head(&mut self, id: HeadId) {
        self.close_sessions(id);
        if let Some(head) = self.table.remove_head(id) {
            let _ = epoll::delete(&self.shared.epoll, &head.fd);
        }
    }
}
