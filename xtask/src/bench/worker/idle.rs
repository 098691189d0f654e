//! Thousands of connections that do nothing: both ends.

use super::{print, report};
use crate::bench::net::Endpoint;
use anyhow::{Context, Result};
use rustix::event::epoll;
use socket2::Socket;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

/// Opens `connections`, proves each with one byte there and back, prints how many stand, and keeps them until standard
/// input ends.
pub fn client(to: &Endpoint, connections: usize) -> Result<()> {
    let mut held = Vec::with_capacity(connections);
    let mut failed = 0_u32;
    for _ in 0..connections {
        match open(to) {
            Ok(socket) => held.push(socket),
            Err(_) => failed += 1,
        }
        // Each failure may cost the whole patience: a proxy at its limit shall not hold up the run.
        if failed >= 3 {
            break;
        }
    }
    print(report([("open", held.len() as f64), ("failed", f64::from(failed))]))?;
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    Ok(())
}

fn open(to: &Endpoint) -> Result<Socket> {
    let mut socket = to.connect()?;
    socket.write_all(b"i")?;
    socket.read_exact(&mut [0])?;
    Ok(socket)
}

/// Accepts and echoes from one thread: a thread for each of 10,000 connections would be what is measured.
pub fn serve(listener: &Socket) -> Result<()> {
    const LISTENER: u64 = u64::MAX;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll_create")?;
    listener.set_nonblocking(true)?;
    epoll::add(&poll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut held: HashMap<u64, Socket> = HashMap::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e).context("epoll_wait"),
        }
        for event in &events {
            let id = event.data.u64();
            if id == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    let id = socket.as_raw_fd() as u64;
                    socket.set_nonblocking(true)?;
                    epoll::add(&poll, &socket, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
                    held.insert(id, socket);
                }
            } else if held.get_mut(&id).is_some_and(|socket| !echo(socket)) {
                held.remove(&id);
            }
        }
    }
}

/// Echoes once; false when the connection is over.
fn echo(socket: &mut Socket) -> bool {
    let mut buffer = [0; 64];
    match socket.read(&mut buffer) {
        Ok(0) => false,
        Ok(read) => socket.write_all(&buffer[..read]).is_ok(),
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    }
}
