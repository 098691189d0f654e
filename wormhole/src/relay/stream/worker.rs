//! A relay thread: one epoll instance, edge-triggered, that accepts, connects and moves bytes without ever waiting
//! for one connection.
//!
//! All threads hold all listeners with `EPOLLEXCLUSIVE` (Linux 4.5): the kernel wakes one of those that sleep. A
//! connection is handed to another thread when that one has far fewer, and stays there.

mod life;

use super::conn::Conn;
use super::listener::{BackOff, Listener, Reserve};
use super::pump::Tools;
use super::timers::Timers;
use super::token::Token;
use super::{Accepted, Command, Shared};
use crate::model::ConnectionView;
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use slab::Slab;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Connections accepted in one turn, so that open ones are not kept waiting.
const ACCEPTS: usize = 16;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// More views than this are of no use to a reader.
const VIEWS: usize = 1000;
/// At the limit each connection that ends makes room for one and the limit is reached again, and a pause without
/// descriptors follows the other: one line for all that.
const SAME_AGAIN: Duration = Duration::from_secs(10);

/// The state of one relay thread.
pub struct Worker {
    shared: Arc<Shared>,
    index: usize,
    epoll: OwnedFd,
    listeners: HashMap<u64, Arc<Listener>>,
    /// False while listeners are taken out of epoll: no descriptors, or the limit of connections is reached.
    accepting: bool,
    back_off: BackOff,
    /// When the log was last told that clients wait.
    wait_logged: Option<Instant>,
    reserve: Reserve,
    conns: Slab<Box<Conn>>,
    generation: u32,
    timers: Timers,
    /// Connections that used up their turn.
    again: Vec<(u32, u32)>,
    /// Connections whose receiver's redirected queue was full, and when to look again.
    full: Timers,
    tools: Tools,
}

impl Worker {
    /// Prepares a thread's state; `wake` becomes readable when there are commands.
    pub fn new(shared: Arc<Shared>, index: usize, wake: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, Token::Wake.pack(), EventFlags::IN)?;
        let mut reserve = Reserve::default();
        // Now, so that a daemon holds the same before and after its first connection. Accepting asks again.
        reserve.ensure();
        Ok(Self {
            shared,
            index,
            epoll,
            listeners: HashMap::new(),
            accepting: true,
            back_off: BackOff::default(),
            wait_logged: None,
            reserve,
            conns: Slab::new(),
            generation: 0,
            timers: Timers::default(),
            again: Vec::new(),
            full: Timers::default(),
            tools: Tools::new(pipes_allowed()),
        })
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "epoll_wait failed; relay thread {} ends", self.index);
                    return;
                }
            }
            let mut commands = false;
            for event in &events {
                match Token::unpack(event.data) {
                    Token::Wake => commands = true,
                    Token::Listener(id) => self.accept(id),
                    Token::Conn { slot, generation, side } => self.on_event(slot, generation, side, event.flags),
                }
            }
            for (slot, generation) in std::mem::take(&mut self.again) {
                if let Some(conn) = live(&mut self.conns, slot, generation) {
                    let step = conn.advance(&mut self.tools);
                    self.finish(slot, step);
                }
            }
            self.on_full();
            self.on_time();
            if commands && !self.obey() {
                return;
            }
        }
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        if !self.again.is_empty() {
            return rustix::event::Timespec::try_from(Duration::ZERO).ok();
        }
        // Rounded up: waking a moment too early would spin.
        let late = [self.timers.next(), self.back_off.until()].into_iter().flatten().min();
        let late = late.map(|at| at + Duration::from_millis(1));
        let next = late.into_iter().chain(self.full.next()).min()?;
        rustix::event::Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    // === commands ===

    fn obey(&mut self) -> bool {
        for command in self.shared.take_commands(self.index) {
            match command {
                Command::Adopt(listener, accepted) => self.begin(&listener, accepted),
                Command::Listen(listener) => {
                    if self.accepting
                        && let Err(error) = self.watch_listener(&listener)
                    {
                        tracing::error!(%error, segment = %listener.route.id, "cannot watch the head's listener");
                    }
                    self.listeners.insert(listener.id, listener);
                }
                Command::Unlisten(id, _done) => {
                    if let Some(listener) = self.listeners.remove(&id) {
                        let _ = epoll::delete(&self.epoll, &listener.fd);
                    }
                }
                Command::Reset(route, before, _done) => {
                    let meant = |c: &Conn| Arc::ptr_eq(&c.route, &route) && c.since < before;
                    let slots: Vec<usize> = self.conns.iter().filter(|(_, c)| meant(c)).map(|(slot, _)| slot).collect();
                    for slot in slots {
                        route.counters.reset.fetch_add(1, Relaxed);
                        self.remove(slot);
                    }
                }
                Command::Condemn(pair) => {
                    let meant = |c: &Conn| c.link.as_ref().is_ok_and(|link| Arc::ptr_eq(link.pair(), &pair));
                    let slots: Vec<usize> = self.conns.iter().filter(|(_, c)| meant(c)).map(|(slot, _)| slot).collect();
                    for slot in slots {
                        if let Some(conn) = self.conns.get(slot) {
                            conn.route.counters.reset.fetch_add(1, Relaxed);
                        }
                        self.remove(slot);
                    }
                }
                Command::View(route, views) => {
                    let now = Instant::now();
                    let of_route = self.conns.iter().filter(|(_, c)| Arc::ptr_eq(&c.route, &route));
                    let found: Vec<ConnectionView> = of_route.take(VIEWS).map(|(_, c)| c.view(now)).collect();
                    // The asker may have gone; that is its business.
                    let _ = views.send(found);
                }
                Command::Resume => self.resume(),
                Command::Stop => return false,
            }
        }
        true
    }

    // === accepting ===

    fn watch_listener(&self, listener: &Listener) -> Result<(), Errno> {
        epoll::add(&self.epoll, &listener.fd, Token::Listener(listener.id).pack(), EventFlags::IN | EventFlags::EXCLUSIVE)
    }

    fn accept(&mut self, id: u64) {
        let Some(listener) = self.listeners.get(&id).map(Arc::clone) else { return };
        for _ in 0..ACCEPTS {
            if !self.accepting {
                return;
            }
            if !self.reserve.ensure() {
                self.pause("no descriptor is left");
                return;
            }
            if !self.shared.admit() {
                self.stop_accepting();
                if self.tells() {
                    tracing::warn!(limit = self.shared.max_connections, "the limit of connections is reached; clients wait");
                }
                // One may have ended between the refusal and now, and have seen nobody waiting.
                self.shared.wait_for_room();
                return;
            }
            match rustix::net::acceptfrom_with(&listener.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((head, remote)) => {
                    self.back_off.reset();
                    let remote = remote.and_then(|any| any.try_into().ok());
                    self.settle(&listener, Accepted { head, remote, at: Instant::now() });
                }
                Err(error) => {
                    self.shared.release();
                    match error {
                        Errno::AGAIN => return,
                        Errno::INTR | Errno::CONNABORTED | Errno::PROTO => {}
                        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
                            self.pause(&error.to_string());
                            return;
                        }
                        Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP => {
                            // It listens no more, and epoll would say so for ever.
                            tracing::error!(%error, segment = %listener.route.id, "the head's listener is broken");
                            let _ = epoll::delete(&self.epoll, &listener.fd);
                            self.listeners.remove(&id);
                            return;
                        }
                        error => {
                            // Errors of the network that were pending on the new socket come out of accept(2) too.
                            tracing::debug!(%error, segment = %listener.route.id, "accept failed");
                        }
                    }
                }
            }
        }
    }

    /// True when it is time to tell the log again that clients wait.
    fn tells(&mut self) -> bool {
        let now = Instant::now();
        let tells = self.wait_logged.is_none_or(|last| now.saturating_duration_since(last) >= SAME_AGAIN);
        if tells {
            self.wait_logged = Some(now);
        }
        tells
    }

    /// Finds the thread for a connection that was accepted here.
    fn settle(&mut self, listener: &Arc<Listener>, accepted: Accepted) {
        let place = self.shared.place(self.index);
        self.shared.add_load(place);
        if place == self.index {
            self.begin(listener, accepted);
        } else if let Some(Command::Adopt(listener, accepted)) =
            self.shared.send(place, Command::Adopt(Arc::clone(listener), accepted))
        {
            // That thread has ended. What was added to its load stays, so that it is not the least for ever.
            self.shared.add_load(self.index);
            self.begin(&listener, accepted);
        }
    }

    fn stop_accepting(&mut self) {
        self.accepting = false;
        for listener in self.listeners.values() {
            let _ = epoll::delete(&self.epoll, &listener.fd);
        }
    }

    fn pause(&mut self, why: &str) {
        self.stop_accepting();
        let pause = self.back_off.pause(Instant::now());
        if self.tells() {
            tracing::warn!(why, ?pause, "accepting pauses; clients wait in the listen queue");
        }
    }

    fn resume(&mut self) {
        self.back_off.resume();
        if std::mem::replace(&mut self.accepting, true) {
            return;
        }
        for listener in self.listeners.values() {
            if let Err(error) = self.watch_listener(listener) {
                tracing::error!(%error, segment = %listener.route.id, "cannot watch the head's listener");
            }
        }
    }

    // === time ===

    fn on_full(&mut self) {
        if self.full.next().is_none() {
            return;
        }
        let now = Instant::now();
        while let Some((slot, generation)) = self.full.pop(now) {
            if let Some(conn) = live(&mut self.conns, slot, generation) {
                conn.look = None;
                let step = conn.retry(&mut self.tools);
                self.finish(slot, step);
            }
        }
    }

    fn on_time(&mut self) {
        if self.timers.next().is_none() && self.back_off.until().is_none() {
            return;
        }
        let now = Instant::now();
        if self.back_off.until().is_some_and(|until| until <= now) {
            self.resume();
        }
        while let Some((slot, generation)) = self.timers.pop(now) {
            self.on_deadline(slot, generation, now);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.listeners.clear();
        // SeqCst pairs with Shared::admit.
        self.shared.open.fetch_sub(self.conns.len(), SeqCst);
        for conn in self.conns.drain() {
            conn.close(&mut self.tools.pipes);
        }
        // Last: whoever waits for a command is told now, also of those that come too late.
        self.shared.close_mailbox(self.index);
    }
}

/// Pipes that one thread may have: few enough that connections do not starve for descriptors.
fn pipes_allowed() -> usize {
    const MOST: usize = 64;
    let fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    fds.and_then(|fds| usize::try_from(fds / 256).ok()).unwrap_or(MOST).min(MOST)
}

fn live(conns: &mut Slab<Box<Conn>>, slot: u32, generation: u32) -> Option<&mut Box<Conn>> {
    conns.get_mut(slot as usize).filter(|c| c.generation == generation)
}
