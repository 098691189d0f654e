//! However much waits in front of a reader, the kernel takes every packet for it, even while the reader copies: one that is
//! dropped may be a reset, which nobody sends again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;
use wormhole_tests::kernel::dropped_packets;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::raw;
use wormhole_tests::three_ways;
use wormhole_tests::traffic::{Again, End, reset};

three_ways!(
    what_waits_stays_below_what_the_kernel_endures,
    a_reset_reaches_a_reader_that_copies,
    a_reset_reaches_one_that_several_send_to,
    a_reset_reaches_one_that_sends_much_itself,
);

/// So long somebody has to be the only one that sends before wormholed believes it, and a little more.
const ALONE: Duration = Duration::from_millis(1300);
/// A sender that the kernel has not let write for so long is stopped.
const STOPPED: Duration = Duration::from_millis(200);
/// A write so large that it fills a queue at once.
const WRITE: usize = 1 << 20;

/// Writes until told to stop, or until the connection is reset.
fn send(mut stream: &TcpStream, stop: &AtomicBool) {
    let data = vec![7; WRITE];
    while !stop.load(SeqCst) {
        match stream.write_all(&data) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return,
            Err(e) => panic!("a write: {e}"),
        }
    }
}

/// Reads, nearly always inside the kernel, until told to stop; gives the end of the connection when that comes before.
#[track_caller]
fn read(mut stream: &TcpStream, stop: &AtomicBool) -> Option<End> {
    let mut buffer = vec![0; 4 * WRITE];
    while !stop.load(SeqCst) {
        match Again(&mut stream).read(&mut buffer) {
            Ok(0) => return Some(End::Eof),
            Ok(len) => assert!(buffer[..len].iter().step_by(4099).all(|byte| *byte == 7), "wrong bytes"),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Some(End::Reset),
            Err(e) => panic!("it was not told of the reset: {e}"),
        }
    }
    None
}

/// Who sends on a connection before it is reset.
#[derive(Clone, Copy)]
struct Load {
    threads: usize,
    time: Duration,
    /// The reader sends too.
    both_ways: bool,
}

/// Loads a connection; then whoever sent resets it.
fn reset_under(load: Load, from: TcpStream, to: &TcpStream) {
    let (stop, never) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let reader = scope.spawn(|| read(to, &never));
        if load.both_ways {
            scope.spawn(|| send(to, &never));
        }
        thread::scope(|scope| {
            for _ in 0..load.threads {
                scope.spawn(|| send(&from, &stop));
            }
            if load.both_ways {
                scope.spawn(|| assert_eq!(read(&from, &stop), None));
            }
            thread::sleep(load.time);
            stop.store(true, SeqCst);
        });
        reset(from);
        let end = reader.join().unwrap();
        // The kernel tells one thread of a reset; the other one finds the connection ended.
        assert!(end == Some(End::Reset) || (load.both_ways && end == Some(End::Eof)), "{end:?}");
    });
}

/// Several connections at once, some times, either way round.
fn nothing_is_dropped(lane: &Lane, load: Load) {
    let dropped = || dropped_packets(&lane.near()).unwrap() + dropped_packets(&lane.far().ns()).unwrap();
    let before = dropped();
    for _ in 0..4 {
        let pairs: Vec<_> = (0..4).map(|_| lane.pair()).collect();
        thread::scope(|scope| {
            for (number, (client, server)) in pairs.into_iter().enumerate() {
                let (from, to) = if number % 2 == 0 { (client, server) } else { (server, client) };
                scope.spawn(move || reset_under(load, from, &to));
            }
        });
    }
    // Some kernels drop a few without the fast path, too.
    assert!(lane.way != Way::Fast || dropped() == before, "{} packets were dropped", dropped() - before);
}

/// One that does not read, with the kernel's buffers and with small ones, and one or several that send to it until they
/// are stopped.
fn what_waits_stays_below_what_the_kernel_endures(lane: &Lane) {
    for (size, threads) in [(None, 1), (None, 6), (Some(25_000), 1), (Some(25_000), 6)] {
        let (client, server) = lane.pair();
        for (from, to) in [(&client, &server), (&server, &client)] {
            if let Some(size) = size {
                SockRef::from(to).set_recv_buffer_size(size).unwrap();
                SockRef::from(to).set_send_buffer_size(size).unwrap();
            }
            from.set_write_timeout(Some(STOPPED)).unwrap();
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| fill(from));
                }
            });
            let memory = Memory::of(to);
            println!("{:?}, {size:?}, {threads} senders: {memory:?}", lane.way);
            // The 64 KiB that the kernel grants on top are for packets.
            let most = memory.receive_buffer + memory.send_buffer / 2;
            assert!(lane.way != Way::Fast || memory.waiting <= most, "{size:?}, {threads} senders: {memory:?}");
        }
    }
}

/// Writes until the kernel stops it.
fn fill(mut stream: &TcpStream) {
    let data = vec![7; WRITE];
    loop {
        match stream.write(&data) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(e) => panic!("a write: {e}"),
        }
    }
}

/// A socket's memory as the kernel counts it (SO_MEMINFO), in bytes.
#[derive(Debug)]
struct Memory {
    waiting: u32,
    receive_buffer: u32,
    send_buffer: u32,
}

impl Memory {
    fn of(stream: &TcpStream) -> Self {
        let words = raw::memory(stream).unwrap();
        Self { waiting: words[0], receive_buffer: words[1], send_buffer: words[3] }
    }
}

fn a_reset_reaches_a_reader_that_copies(lane: &Lane) {
    nothing_is_dropped(lane, Load { threads: 1, time: ALONE, both_ways: false });
}

fn a_reset_reaches_one_that_several_send_to(lane: &Lane) {
    nothing_is_dropped(lane, Load { threads: 6, time: Duration::from_millis(300), both_ways: false });
}

/// Whoever had to wait for room to send has a small send buffer from then on; as much may wait in front of it as before.
fn a_reset_reaches_one_that_sends_much_itself(lane: &Lane) {
    nothing_is_dropped(lane, Load { threads: 1, time: ALONE, both_ways: true });
}
