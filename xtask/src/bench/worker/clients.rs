//! Clients that ask what becomes of an end: half-close, reset, a reader that stops.

use super::{Report, report, server::ANSWER};
use crate::bench::net::Endpoint;
use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Sends a request, shuts its own side down and expects the whole answer, `times` over.
pub fn half_close(to: &Endpoint, times: u32) -> Report {
    let arrived = (0..times).filter(|_| matches!(half_close_once(to), Ok(ANSWER))).count();
    report([("arrived", arrived as f64), ("of", f64::from(times))])
}

fn half_close_once(to: &Endpoint) -> Result<usize> {
    let mut socket = to.connect()?;
    socket.write_all(&[b'q'; 10_000])?;
    socket.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    Ok(answer.len())
}

/// Has the server reset a connection and looks at what arrives here; then resets one itself (the server counts those).
pub fn reset(to: &Endpoint, times: u32) -> Report {
    let arrived = (0..times).filter(|_| matches!(reset_by_server(to), Ok(true))).count();
    let sent = (0..times).filter(|_| reset_by_client(to).is_ok()).count();
    report([("arrived", arrived as f64), ("sent", sent as f64), ("of", f64::from(times))])
}

fn reset_by_server(to: &Endpoint) -> Result<bool> {
    let mut socket = to.connect()?;
    socket.write_all(b"R")?;
    Ok(matches!(socket.read(&mut [0]), Err(e) if e.kind() == ErrorKind::ConnectionReset))
}

fn reset_by_client(to: &Endpoint) -> Result<()> {
    let mut socket = to.connect()?;
    socket.write_all(b"W")?;
    socket.read_exact(&mut [0])?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// Pushes into a reader that does not read, until nothing has gone for half a second, `limit` bytes have, or five seconds.
pub fn stall(to: &Endpoint, limit: usize) -> Result<Report> {
    let mut socket = to.connect()?;
    socket.set_nonblocking(true)?;
    let block = vec![b's'; 64 << 10];
    let end = Instant::now() + Duration::from_secs(5);
    let still = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    let mut pushed = 0;
    while pushed < limit && Instant::now() < end {
        match socket.write(&block) {
            Ok(written) => pushed += written,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&still))? == 0 {
                    break;
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(report([("pushed", pushed as f64)]))
}
