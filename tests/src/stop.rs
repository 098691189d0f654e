//! Readers that stop, and senders that are stopped by that.

use crate::traffic::{Again, PATIENCE, endless};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What may stand in front of a reader that has stopped, on the fast path, in bytes.
pub const MOST: usize = 8 << 20;
/// A sender that the kernel has not let write for so long is stopped.
pub const STOPPED: Duration = Duration::from_millis(200);
/// And so is one that gets rid of less than this in twice that time: small writes trickle into the last receive buffer.
const DRIBBLE: usize = 256 << 10;

/// True when a write would be taken, within `patience`.
fn writable(stream: &TcpStream, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    let mut fds = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut fds, Some(&timeout)).expect("the kernel's answer");
    fds[0].revents().contains(PollFlags::OUT)
}

/// Writes to the endless stream from place `at` on until the kernel stops it; gives how many bytes it took.
///
/// # Panics
/// When it fails, or nothing stops it.
#[track_caller]
pub fn fill(stream: &TcpStream, at: usize, write: usize) -> usize {
    stream.set_nonblocking(true).expect("the kernel's answer");
    let (mut taken, mut stream, began) = (0, stream, Instant::now());
    let mut last = (began, 0);
    loop {
        match stream.write(endless(at + taken, write)) {
            Ok(len) => taken += len,
            Err(e) if e.kind() == ErrorKind::WouldBlock && !writable(stream, STOPPED) => break,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("after {taken} bytes: {e}"),
        }
        if last.0.elapsed() > 2 * STOPPED {
            if taken - last.1 < DRIBBLE {
                break;
            }
            last = (Instant::now(), taken);
        }
        assert!(began.elapsed() < PATIENCE && taken < 512 << 20, "nothing stops the sender: {taken} bytes");
    }
    stream.set_nonblocking(false).expect("the kernel's answer");
    taken
}

/// Reads `len` bytes of the endless stream from place `at` on.
///
/// # Panics
/// When they are others, or end before.
#[track_caller]
pub fn read(mut stream: &TcpStream, at: usize, len: usize) {
    let (mut done, mut buffer) = (0, vec![0; 1 << 16]);
    while done < len {
        let most = buffer.len().min(len - done);
        // The documented difference: another thread that waited for room to write was woken, and so was this one.
        let got = Again(&mut stream).read(&mut buffer[..most]).unwrap_or_else(|e| panic!("{done} of {len} bytes: {e}"));
        assert_ne!(got, 0, "the end after {done} of {len} bytes");
        assert!(buffer[..got] == *endless(at + done, got), "wrong bytes between {done} and {} of {len}", done + got);
        done += got;
    }
}
