//! Randomised connections of which every byte is compared: early data, both directions at once, pauses, half-close.
//!
//! A connection is drawn from its seed alone, so a failure can be repeated. The client sends a header and its bytes without
//! waiting for anything; the server checks them, sends its own bytes and a verdict; then the connection must end cleanly.

use super::{Report, report};
use crate::bench::net::Endpoint;
use anyhow::{Context, Result, anyhow, bail};
use socket2::Socket;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Connections open at a time.
const AT_ONCE: u64 = 8;
const HEADER: usize = 8;
/// Length of what the server counted (8 bytes) and its verdict (1 byte).
const TRAILER: usize = 9;

/// How the two directions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nobody half-closes before everything has arrived.
    Full,
    /// The client half-closes while the server sends.
    HalfClose,
    /// The server sends only after the client's end of file.
    AnswerAfterEof,
}

/// One connection, as drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    seed: u64,
    up: usize,
    down: usize,
    shape: Shape,
    chunk: usize,
    pause: Duration,
}

/// splitmix64: the n-th word of a sequence without the words before it.
fn word(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Byte `at` of the stream `seed`.
fn byte(seed: u64, at: usize) -> u8 {
    (word(seed, at as u64 / 8) >> (8 * (at % 8))) as u8
}

fn length(word: u64) -> usize {
    let word = word as usize;
    match word % 8 {
        0 => 0,
        1..=3 => (word >> 8) % 4096,
        _ => (word >> 8) % ((1 << 20) + 1),
    }
}

impl Plan {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            up: length(word(seed, 1)),
            down: length(word(seed, 2)),
            shape: [Shape::Full, Shape::HalfClose, Shape::AnswerAfterEof][(word(seed, 3) % 3) as usize],
            chunk: 1 + (word(seed, 4) % (128 << 10)) as usize,
            pause: Duration::from_micros([0, 0, 500, 3000][(word(seed, 5) % 4) as usize]),
        }
    }

    fn up_seed(&self) -> u64 {
        self.seed ^ 0x5555
    }

    fn down_seed(&self) -> u64 {
        self.seed ^ 0xAAAA
    }

    fn send(&self, socket: &Socket, seed: u64, length: usize) -> Result<()> {
        let bytes: Vec<u8> = (0..length).map(|at| byte(seed, at)).collect();
        let mut writer = socket;
        for chunk in bytes.chunks(self.chunk) {
            writer.write_all(chunk)?;
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
        Ok(())
    }
}

/// Reads `length` bytes of stream `seed`; how many came, and whether all were right.
fn receive(mut socket: &Socket, seed: u64, length: usize) -> (usize, bool) {
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    while at < length {
        let want = buffer.len().min(length - at);
        match socket.read(&mut buffer[..want]) {
            Ok(0) | Err(_) => return (at, false),
            Ok(read) => {
                if (0..read).any(|i| buffer[i] != byte(seed, at + i)) {
                    return (at + read, false);
                }
                at += read;
            }
        }
    }
    (at, true)
}

fn at_end(mut socket: &Socket) -> bool {
    matches!(socket.read(&mut [0]), Ok(0))
}

/// The server's side of one connection.
pub fn server(socket: &Socket) -> Result<()> {
    let mut header = [0; HEADER];
    let mut stream = socket;
    stream.read_exact(&mut header)?;
    let plan = Plan::new(u64::from_be_bytes(header));
    let take = || {
        let (count, right) = receive(socket, plan.up_seed(), plan.up);
        (count, right && (plan.shape == Shape::Full || at_end(socket)))
    };
    let give = || plan.send(socket, plan.down_seed(), plan.down);
    let (count, right) = if plan.shape == Shape::AnswerAfterEof {
        let taken = take();
        give()?;
        taken
    } else {
        std::thread::scope(|scope| {
            let giver = scope.spawn(give);
            let taken = take();
            giver.join().map_err(|_| anyhow!("the sender panicked"))??;
            Ok::<_, anyhow::Error>(taken)
        })?
    };
    let mut trailer = (count as u64).to_be_bytes().to_vec();
    trailer.push(u8::from(right));
    stream.write_all(&trailer)?;
    socket.shutdown(Shutdown::Write)?;
    at_end(socket);
    Ok(())
}

/// Makes `connections` and counts those with a wrong, missing or surplus byte, or a wrong end.
pub fn client(to: &Endpoint, connections: u64, seed: u64) -> Report {
    let next = AtomicU64::new(0);
    let wrong = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Relaxed);
                    if n >= connections {
                        break;
                    }
                    let plan = Plan::new(word(seed, n));
                    if let Err(error) = one(to, &plan) {
                        wrong.fetch_add(1, Relaxed);
                        eprintln!("{plan:?}: {error:#}");
                    }
                }
            });
        }
    });
    report([("wrong", wrong.load(Relaxed) as f64), ("of", connections as f64)])
}

fn one(to: &Endpoint, plan: &Plan) -> Result<()> {
    let socket = to.connect()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            let mut writer = &socket;
            writer.write_all(&plan.seed.to_be_bytes()).context("send the header")?;
            plan.send(&socket, plan.up_seed(), plan.up).context("send")?;
            if plan.shape != Shape::Full {
                socket.shutdown(Shutdown::Write).context("half-close")?;
            }
            Ok(())
        });
        let (count, right) = receive(&socket, plan.down_seed(), plan.down);
        let end = if right { verdict(&socket, plan.up) } else { Err(anyhow!("got {count} of {} bytes", plan.down)) };
        sender.join().map_err(|_| anyhow!("the sender panicked"))?.and(end)
    })
}

fn verdict(mut socket: &Socket, up: usize) -> Result<()> {
    let mut trailer = [0; TRAILER];
    socket.read_exact(&mut trailer).context("read the server's verdict")?;
    let [count @ .., right] = trailer;
    let count = u64::from_be_bytes(count);
    if right != 1 || count != up as u64 {
        bail!("the server got {count} of {up} bytes, right: {right}");
    }
    if !at_end(socket) {
        bail!("no clean end after the last byte");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_repeat_and_vary() {
        assert_eq!(Plan::new(7), Plan::new(7));
        let plans: Vec<Plan> = (0..300).map(|n| Plan::new(word(1, n))).collect();
        assert!(plans.iter().all(|p| p.up <= 1 << 20 && p.down <= 1 << 20 && p.chunk > 0));
        for shape in [Shape::Full, Shape::HalfClose, Shape::AnswerAfterEof] {
            assert!(plans.iter().any(|p| p.shape == shape));
        }
        assert!(plans.iter().any(|p| p.up == 0) && plans.iter().any(|p| p.up > 500_000));
    }

    #[test]
    fn a_pair_passes_and_a_swapped_byte_does_not() -> Result<()> {
        for (seed, spoil) in [(3, false), (4, true)] {
            let (a, b) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
            let mut bytes: Vec<u8> = (0..1000).map(|at| byte(seed, at)).collect();
            bytes[500] ^= u8::from(spoil);
            (&a).write_all(&bytes)?;
            assert_eq!(receive(&b, seed, 1000).1, !spoil);
        }
        Ok(())
    }
}
