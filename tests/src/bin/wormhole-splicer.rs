//! An application that reads its socket by splice(2), for the tests of those that do and are on no list:
//! `wormhole-splicer serve|connect waiting|polling|edges ADDR`. A server sends everything back; a client prints what it gets.

use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, pipe, splice};
use std::io::{self, Error};
use std::net::{Shutdown, TcpListener, TcpStream};

/// How it waits for bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In splice(2).
    Waiting,
    /// In poll(2).
    Polling,
    /// In epoll, for edges, as Go's runtime does.
    Edges,
}

const CHUNK: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::other("wormhole-splicer serve|connect waiting|polling|edges ADDR");
    let [what, way, addr] = words.as_slice() else { return Err(usage()) };
    let way = match way.as_str() {
        "waiting" => Way::Waiting,
        "polling" => Way::Polling,
        "edges" => Way::Edges,
        _ => return Err(usage()),
    };
    match what.as_str() {
        "serve" => {
            for stream in TcpListener::bind(addr)?.incoming() {
                let stream = stream?;
                std::thread::spawn(move || carry(&stream, stream.as_fd(), way).and_then(|()| stream.shutdown(Shutdown::Write)));
            }
            Ok(())
        }
        "connect" => carry(&TcpStream::connect(addr)?, io::stdout().as_fd(), way),
        _ => Err(usage()),
    }
}

/// From the socket to `to`, until the end.
fn carry(from: &TcpStream, to: BorrowedFd<'_>, way: Way) -> io::Result<()> {
    let (out, into) = pipe()?;
    from.set_nonblocking(way != Way::Waiting)?;
    let edges = if way == Way::Edges { Some(watch(from)?) } else { None };
    let flags = if way == Way::Waiting { SpliceFlags::empty() } else { SpliceFlags::NONBLOCK };
    loop {
        match splice(from, None, &into, None, CHUNK, flags) {
            Ok(0) => return Ok(()),
            Ok(len) => empty(&out, to, len)?,
            Err(Errno::AGAIN) => wait(from, edges.as_ref())?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn watch(socket: &TcpStream) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, socket, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
    Ok(epoll)
}

fn wait(socket: &TcpStream, edges: Option<&OwnedFd>) -> io::Result<()> {
    let done = match edges {
        Some(edges) => {
            let mut events = Vec::with_capacity(1);
            epoll::wait(edges, rustix::buffer::spare_capacity(&mut events), None).map(drop)
        }
        None => poll(&mut [PollFd::new(socket, PollFlags::IN)], None).map(drop),
    };
    // A signal.
    if done == Err(Errno::INTR) { Ok(()) } else { done.map_err(Into::into) }
}

fn empty(pipe: &OwnedFd, to: BorrowedFd<'_>, mut len: usize) -> io::Result<()> {
    while len > 0 {
        match splice(pipe, None, to, None, len, SpliceFlags::empty()) {
            Ok(moved) => len -= moved,
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
