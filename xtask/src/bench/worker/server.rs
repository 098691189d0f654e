//! The server behind the proxies: one mode a measurement.

use super::block::Block;
use super::{idle, integrity, report};
use crate::bench::net::Endpoint;
use anyhow::{Context, Result};
use socket2::Socket;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Sends back what comes.
    Echo,
    /// Reads 256 KiB at a time and counts.
    Sink,
    /// The same after a byte of greeting.
    GreetingSink,
    /// Answers with 1 MiB after the client's end of file, not before.
    AfterEof,
    /// `R`: resets the connection. `W`: answers, then waits for the client's reset.
    Reset,
    /// See [`integrity`].
    Integrity,
    /// Sends back what comes, from one thread, for any number of connections.
    Idle,
    /// Never reads.
    Stall,
}

/// Threads that wait in accept(). Each serves its connection to the end, so this is also the most that are served at a time;
/// 16 clients are the most that ask at a time.
const THREADS: usize = 48;

/// The length of the answer in [`Mode::AfterEof`].
pub const ANSWER: usize = 1 << 20;

/// What all threads add to.
#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    active: AtomicU64,
    bytes: AtomicU64,
    resets: AtomicU64,
    ends: AtomicU64,
    /// First and last moment at which a byte was read.
    span: Mutex<Option<(Instant, Instant)>>,
    /// Connections kept open and unread.
    held: Mutex<Vec<Socket>>,
}

/// Serves until standard input ends, then lets open connections finish for a moment and reports.
pub fn serve(mode: Mode, endpoints: &[Endpoint]) -> Result<()> {
    let tally = Arc::new(Tally::default());
    for endpoint in endpoints {
        let listener = Arc::new(endpoint.listen()?);
        if mode == Mode::Idle {
            let thread = std::thread::Builder::new();
            thread.spawn(move || idle::serve(&listener)).context("start the server's thread")?;
            continue;
        }
        for _ in 0..THREADS {
            let (listener, endpoint, tally) = (Arc::clone(&listener), endpoint.clone(), Arc::clone(&tally));
            let thread = std::thread::Builder::new();
            thread.spawn(move || accept(&listener, &endpoint, mode, &tally)).context("start a server thread")?;
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    drop(out);
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    let patience = Instant::now() + Duration::from_secs(3);
    while mode != Mode::Stall && tally.active.load(Relaxed) > 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    let seconds = lock(&tally.span).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    super::print(report([
        ("accepted", tally.accepted.load(Relaxed) as f64),
        ("bytes", tally.bytes.load(Relaxed) as f64),
        ("resets", tally.resets.load(Relaxed) as f64),
        ("ends", tally.ends.load(Relaxed) as f64),
        ("seconds", seconds),
    ]))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &Socket, endpoint: &Endpoint, mode: Mode, tally: &Tally) {
    loop {
        let Ok((socket, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        tally.accepted.fetch_add(1, Relaxed);
        tally.active.fetch_add(1, Relaxed);
        // A failed connection is what several columns count; the client's side tells which one failed.
        let _ = endpoint.prepare(&socket).and_then(|()| connection(socket, mode, tally));
        tally.active.fetch_sub(1, Relaxed);
    }
}

fn connection(mut socket: Socket, mode: Mode, tally: &Tally) -> Result<()> {
    match mode {
        Mode::Echo | Mode::Idle => echo(&mut socket)?,
        Mode::Sink => sink(&mut socket, tally)?,
        Mode::GreetingSink => {
            socket.write_all(b"g")?;
            sink(&mut socket, tally)?;
        }
        Mode::AfterEof => {
            let mut request = Vec::new();
            socket.read_to_end(&mut request)?;
            // A proxy that is going to throw the other direction away gets the time to do so.
            std::thread::sleep(Duration::from_millis(20));
            socket.write_all(&vec![b'a'; ANSWER])?;
        }
        Mode::Reset => reset(&mut socket, tally)?,
        Mode::Integrity => integrity::server(&socket)?,
        Mode::Stall => lock(&tally.held).push(socket),
    }
    Ok(())
}

fn echo(socket: &mut Socket) -> Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            read => socket.write_all(&buffer[..read])?,
        }
    }
}

fn sink(socket: &mut Socket, tally: &Tally) -> Result<()> {
    let mut buffer = Block::new(256 << 10);
    let mut first = None;
    loop {
        let read = socket.read(buffer.bytes())?;
        let now = Instant::now();
        if read == 0 {
            *lock(&tally.span) = first.map(|first| (first, now));
            return Ok(());
        }
        first.get_or_insert(now);
        tally.bytes.fetch_add(read as u64, Relaxed);
    }
}

fn reset(socket: &mut Socket, tally: &Tally) -> Result<()> {
    let mut byte = [0];
    socket.read_exact(&mut byte)?;
    if byte == *b"R" {
        // Dropped with a linger time of zero, the kernel sends RST instead of FIN.
        socket.set_linger(Some(Duration::ZERO))?;
        return Ok(());
    }
    socket.write_all(&byte)?;
    match socket.read(&mut byte) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => tally.resets.fetch_add(1, Relaxed),
        _ => tally.ends.fetch_add(1, Relaxed),
    };
    let _ = socket.shutdown(Shutdown::Both);
    Ok(())
}
