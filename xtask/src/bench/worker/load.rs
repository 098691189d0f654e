//! The load generators: round trips, streams, connections.

use super::block::Block;
use super::{Report, report};
use crate::bench::net::{Endpoint, PATIENCE};
use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// Round trips that are not counted: the scheduler settles, and a fast path that needs a first message gets it.
const WARM_UP: u64 = 200;

/// One byte there and back on one connection, until `count` or `seconds` is reached. Microseconds.
pub fn rtt(to: &Endpoint, seconds: f64, count: u64) -> Result<Report> {
    let mut socket = to.connect()?;
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).context("make the histogram")?;
    let mut byte = [b'p'];
    let mut end = Instant::now() + Duration::from_secs(30);
    for turn in 0..WARM_UP + count {
        let start = Instant::now();
        socket.write_all(&byte).context("send the byte")?;
        socket.read_exact(&mut byte).context("read the byte")?;
        let now = Instant::now();
        if turn == WARM_UP {
            end = now + Duration::from_secs_f64(seconds);
        }
        if turn >= WARM_UP {
            histogram.saturating_record((now - start).as_nanos() as u64);
        }
        if now > end {
            break;
        }
    }
    if histogram.is_empty() {
        bail!("not one round trip after the warm-up in 30 s");
    }
    let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(report([("count", histogram.len() as f64), ("p50", us(0.5)), ("p99", us(0.99)), ("p999", us(0.999))]))
}

/// Writes blocks of `size` bytes for `seconds`, then closes. The server counts what arrived and how long it took. `greeted`:
/// only after the server has said something.
pub fn stream(to: &Endpoint, seconds: f64, size: usize, greeted: bool) -> Result<Report> {
    let mut socket = to.connect()?;
    if greeted {
        socket.read_exact(&mut [0]).context("read the server's greeting")?;
    }
    let mut block = Block::new(size);
    let block = block.bytes();
    // The clock is read once per MiB: at 64 B a read of it would cost as much as the write.
    let burst = ((1 << 20) / size).max(1);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut bytes = 0_u64;
    while Instant::now() < end {
        for _ in 0..burst {
            socket.write_all(block).context("send a block")?;
            bytes += size as u64;
        }
    }
    Ok(report([("bytes", bytes as f64)]))
}

/// Connect, one byte there and back, close; from `clients` threads, until `count` in all or `seconds` is reached.
pub fn connects(to: &Endpoint, seconds: f64, count: u64, clients: usize) -> Result<Report> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let each = count.div_ceil(clients as u64);
    let (good, failed) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| connect_loop(to, end, each))).collect();
        threads.into_iter().try_fold((0, 0), |(good, failed), thread| {
            let (g, f) = thread.join().map_err(|_| anyhow!("a client thread panicked"))?;
            Ok::<_, anyhow::Error>((good + g, failed + f))
        })
    })?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(report([("good", good as f64), ("failed", failed as f64), ("per_s", good as f64 / seconds)]))
}

fn connect_loop(to: &Endpoint, end: Instant, count: u64) -> (u64, u64) {
    let (mut good, mut failed) = (0, 0);
    while good + failed < count && Instant::now() < end {
        match connect_once(to) {
            Ok(()) => good += 1,
            // The client's own ports have run out for the moment: no proxy's fault, and it passes within a second.
            Err(e) if is(&e, ErrorKind::AddrNotAvailable) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => failed += 1,
        }
    }
    (good, failed)
}

fn connect_once(to: &Endpoint) -> Result<()> {
    let mut socket = to.connect()?;
    socket.write_all(b"c")?;
    socket.read_exact(&mut [0])?;
    Ok(())
}

fn is(error: &anyhow::Error, kind: ErrorKind) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == kind)
}

/// The longest a load of `seconds` may take before the bench gives it up.
pub fn deadline(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds) + 2 * PATIENCE + Duration::from_secs(30)
}
