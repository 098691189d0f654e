//! What the probes work with.

use super::STEP;
use crate::fastpath::{Claim, Door, Fastpath, Gate, HeadGuard, Link, Role};
use crate::model::Mode;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::thread::gettid;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A head and a tail.
pub struct Rig<'a> {
    pub fastpath: &'a Arc<Fastpath>,
    gate: Gate,
    _guard: HeadGuard,
    head: TcpListener,
    tail: TcpListener,
    door: Door,
}

/// A client that was accepted at the head. Sockets first: they are closed before the slot is given back.
pub struct Begun {
    pub client: TcpStream,
    pub near: TcpStream,
    pub link: Link,
}

/// All four sockets, the outer two enrolled.
pub struct Joined {
    pub client: TcpStream,
    /// A: wormholed's end of the client's connection.
    pub near: TcpStream,
    /// B: wormholed's end of the server's connection.
    pub far: TcpStream,
    pub server: TcpStream,
    pub link: Link,
}

impl<'a> Rig<'a> {
    pub fn new(fastpath: &'a Arc<Fastpath>) -> io::Result<Self> {
        let (head, tail) = (listen()?, listen()?);
        let (guard, gate) = fastpath.watch(head.as_fd(), head.local_addr()?, Mode::On)?;
        let door = Door::take(fastpath).ok_or_else(|| io::Error::other("there is no door for it"))?;
        Ok(Self { fastpath, gate, _guard: guard, head, tail, door })
    }

    /// A client connects to the head.
    pub fn begin(&self) -> io::Result<Begun> {
        let client = bounded(TcpStream::connect_timeout(&self.head.local_addr()?, STEP)?)?;
        let (near, from) = self.head.accept()?;
        match self.gate.claim(near.as_fd(), from) {
            Claim::Joined(link) => Ok(Begun { client, near: bounded(near)?, link }),
            other => Err(io::Error::other(format!("the client was not enrolled ({other:?})"))),
        }
    }

    /// wormholed connects to the tail.
    pub fn complete(&self, begun: Begun) -> io::Result<Joined> {
        let Begun { client, near, link } = begun;
        let far = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let to = self.tail.local_addr()?.into();
        let (connected, announced) = self.door.announce(&link, || far.connect_timeout(&to, STEP));
        connected?;
        let (server, _) = self.tail.accept()?;
        if !until(|| link.pair().is_complete()) {
            return Err(io::Error::other("the server was not enrolled"));
        }
        drop(announced);
        Ok(Joined { client, near, far: bounded(far.into())?, server: bounded(server)?, link })
    }

    /// Puts bytes that came before into the server's queue, as the relay does.
    pub fn inject(&self, joined: &Joined, bytes: &[u8]) -> io::Result<()> {
        let Joined { link, far, .. } = joined;
        if !link.finds_queue(Role::Server, far.as_fd()) {
            return Err(io::Error::other("the server's socket was not enrolled"));
        }
        let (put, stop) = self.door.put(link, Role::Server, bytes);
        if put != bytes.len() {
            return Err(io::Error::other(format!("{put} of {} bytes could be put into its queue ({stop:?})", bytes.len())));
        }
        link.publish(Role::Server, bytes.len() as u64);
        Ok(())
    }

    /// Both.
    pub fn join(&self) -> io::Result<Joined> {
        self.complete(self.begin()?)
    }
}

fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    // An accept ends by this one, too.
    SockRef::from(&listener).set_read_timeout(Some(STEP))?;
    Ok(listener)
}

fn bounded(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads as many bytes as `wanted` has and compares.
pub fn expect(stream: &mut TcpStream, wanted: &[u8]) -> io::Result<()> {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got)?;
    if got == wanted {
        return Ok(());
    }
    let (got, wanted) = (String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
    Err(io::Error::other(format!("{got:?} arrived and not {wanted:?}")))
}

/// Waits for something that happens at once or never.
pub fn until(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > STEP {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    true
}

/// A call that blocks on another thread.
pub struct Blocked<T> {
    /// What it returned before it blocked.
    pub early: Option<T>,
    /// What it returns later.
    pub later: Receiver<T>,
}

/// Runs `call` on another thread and `then` here, once it has returned or waits in the kernel.
pub fn while_blocked<T: Send, U>(
    call: impl FnOnce() -> T + Send,
    then: impl FnOnce(Blocked<T>) -> io::Result<U>,
) -> io::Result<U> {
    std::thread::scope(|scope| {
        let (to, later) = channel();
        let (tell, tid) = channel();
        std::thread::Builder::new().name("self-test".to_owned()).spawn_scoped(scope, move || {
            // Nobody listens any more when the other thread has given up.
            let _ = tell.send(gettid());
            let _ = to.send(call());
        })?;
        let tid = tid.recv_timeout(STEP).map_err(|_| Errno::TIMEDOUT)?.as_raw_nonzero();
        let began = Instant::now();
        let mut early = None;
        while early.is_none() && !sleeps(tid.get()) && began.elapsed() < STEP {
            early = later.recv_timeout(Duration::from_millis(1)).ok();
        }
        then(Blocked { early, later })
    })
}

fn sleeps(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
    // The name is in parentheses and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}
