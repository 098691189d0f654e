//! Readers that are slow or stop: the sender is stopped, what is in front of the reader is bounded and arrives later, and
//! epoll tells the truth.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::event::{Timespec, epoll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::chain::Chain;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::stop::{MOST, STOPPED, fill, read};
use wormhole_tests::traffic::{self, End, PATIENCE, Random, Stream, drain, endless};
use wormhole_tests::{fast, require, three_ways, wait_until};

three_ways!(
    a_stopped_reader_stops_the_sender,
    a_stopped_reader_stops_a_blocking_sender,
    both_readers_stopped,
    epollout_means_that_a_write_succeeds,
    edges_of_epollout_are_enough,
    slow_reader,
    again_and_again_stopped,
    many_stopped_readers,
    replies_while_the_other_direction_is_stopped,
    full_duplex_without_a_deadlock,
    an_acknowledgement_breaks_no_read_off,
);

/// The other two ways may hold what the kernel lets their buffers grow to.
#[track_caller]
fn bounded(lane: &Lane, taken: usize) {
    println!("{:?}: {} KiB in front of a reader that does not read", lane.way, taken >> 10);
    assert!(lane.way != Way::Fast || taken <= MOST, "{taken} bytes in front of a reader that does not read");
}

/// The connection is on the fast path again, after the reader has caught up.
fn taken_up_again(lane: &Lane, client: &TcpStream, server: &TcpStream) {
    for (mut from, mut to) in [(client, server), (server, client)] {
        let before = lane.direct();
        lane.wait_direct(before, || {
            from.write_all(b"again").unwrap();
            let mut word = [0; 5];
            to.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"again");
        });
    }
}

fn a_stopped_reader_stops_the_sender(lane: &Lane) {
    for write in [64 * 1024, 1 << 20, 1000] {
        let (client, server) = lane.pair();
        for (from, to) in [(&client, &server), (&server, &client)] {
            let taken = fill(from, 0, write);
            bounded(lane, taken);
            read(to, 0, taken);
        }
        taken_up_again(lane, &client, &server);
    }
}

fn a_stopped_reader_stops_a_blocking_sender(lane: &Lane) {
    let (client, server) = lane.pair();
    client.set_write_timeout(Some(STOPPED)).unwrap();
    let (mut taken, mut from) = (0, &client);
    let error = loop {
        match from.write(endless(taken, 1 << 18)) {
            Ok(len) => taken += len,
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    bounded(lane, taken);
    // One that waits without a limit is let go on when the reader reads.
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| (&client).write_all(endless(taken, 1 << 20)).unwrap());
        read(&server, 0, taken + (1 << 20));
    });
    taken_up_again(lane, &client, &server);
}

fn both_readers_stopped(lane: &Lane) {
    let (client, server) = lane.pair();
    let (up, down) = (fill(&client, 0, 1 << 16), fill(&server, 0, 1 << 16));
    bounded(lane, up);
    bounded(lane, down);
    read(&client, 0, down);
    read(&server, 0, up);
    taken_up_again(lane, &client, &server);
}

/// A sender that asks epoll first is not lied to: else it runs in a circle and takes all of a CPU.
fn epollout_means_that_a_write_succeeds(lane: &Lane) {
    let (client, server) = lane.pair();
    client.set_nonblocking(true).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, &client, epoll::EventData::new_u64(1), epoll::EventFlags::OUT).unwrap();
    let (mut taken, mut lies, mut truths, mut random) = (0, 0, 0, Random::new(1));
    let mut events = Vec::with_capacity(1);
    let mut offer = |wait: Duration| {
        events.clear();
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
        if events.is_empty() {
            return 0;
        }
        match (&client).write(endless(taken, random.size(1 << 17).max(1))) {
            Ok(len) => {
                taken += len;
                truths += 1;
                len
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}");
                lies += 1;
                1
            }
        }
    };
    let mut read_so_far = 0;
    for _ in 0..8 {
        let mut taken_now = 0;
        let began = Instant::now();
        loop {
            match offer(Duration::from_millis(200)) {
                0 => break,
                len => taken_now += len,
            }
            assert!(began.elapsed() < PATIENCE, "epoll says for ever that one can write");
        }
        assert!(taken_now < 64 << 20, "{taken_now} bytes in front of a reader that does not read");
        // Some of it is read, so that there is room again, and there is never an end to it.
        let some = 1 << 20;
        read(&server, read_so_far, some);
        read_so_far += some;
    }
    println!("{:?}: {truths} writes after EPOLLOUT succeeded, {lies} were refused", lane.way);
    assert!(lies * 20 <= truths, "EPOLLOUT {lies} times before a write that was refused, {truths} times before one that was not");
    client.set_nonblocking(false).unwrap();
    read(&server, read_so_far, taken - read_so_far);
    taken_up_again(lane, &client, &server);
}

/// Whoever was refused once gets an edge as soon as there is room; none is lost.
fn edges_of_epollout_are_enough(lane: &Lane) {
    const ALL: usize = 48 << 20;
    let (client, server) = lane.pair();
    client.set_nonblocking(true).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let edges = epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(&epoll, &client, epoll::EventData::new_u64(1), edges).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut at, mut random) = (0, Random::new(2));
            while at < ALL {
                let len = random.size(4 << 20).clamp(1, ALL - at);
                read(&server, at, len);
                at += len;
                thread::sleep(Duration::from_millis(random.below(10)));
            }
        });
        let (mut at, mut events) = (0, Vec::with_capacity(1));
        while at < ALL {
            match (&client).write(endless(at, (ALL - at).min(1 << 17))) {
                Ok(len) => at += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    events.clear();
                    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
                    epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
                    assert!(!events.is_empty(), "no edge in 10 s, after {at} of {ALL} bytes");
                }
                Err(e) => panic!("after {at} bytes: {e}"),
            }
        }
    });
    client.set_nonblocking(false).unwrap();
    taken_up_again(lane, &client, &server);
}

fn slow_reader(lane: &Lane) {
    const ALL: usize = 32 << 20;
    for swap in [false, true] {
        let (client, server) = lane.pair();
        let (from, to) = if swap { (&server, &client) } else { (&client, &server) };
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut from, mut at) = (from, 0);
                while at < ALL {
                    let len = (1 << 16).min(ALL - at);
                    from.write_all(endless(at, len)).unwrap_or_else(|e| panic!("after {at} bytes: {e}"));
                    at += len;
                }
            });
            for at in (0..ALL).step_by(1 << 18) {
                read(to, at, 1 << 18);
                thread::sleep(Duration::from_millis(1));
            }
        });
        taken_up_again(lane, &client, &server);
    }
}

/// From direct to stopped and back, with sizes that end anywhere.
fn again_and_again_stopped(lane: &Lane) {
    let ((client, server), mut random) = (lane.pair(), Random::new(3));
    let (mut sent, mut got) = (0, 0);
    for _ in 0..6 {
        sent += fill(&client, sent, random.size(1 << 18).max(1));
        bounded(lane, sent - got);
        let len = usize::try_from(random.below((sent - got) as u64 + 1)).unwrap();
        read(&server, got, len);
        got += len;
    }
    read(&server, got, sent - got);
    taken_up_again(lane, &client, &server);
}

/// One that stands still holds nobody else up.
fn many_stopped_readers(lane: &Lane) {
    let stopped: Vec<_> = (0..8).map(|_| lane.pair()).collect();
    let taken: Vec<_> = stopped.iter().map(|(client, _)| fill(client, 0, 1 << 16)).collect();
    let (client, server) = lane.pair();
    thread::scope(|scope| {
        scope.spawn(|| (&client).write_all(endless(0, 4 << 20)).unwrap());
        read(&server, 0, 4 << 20);
    });
    for ((_, server), taken) in stopped.iter().zip(taken) {
        bounded(lane, taken);
        read(server, 0, taken);
    }
}

fn replies_while_the_other_direction_is_stopped(lane: &Lane) {
    for swap in [false, true] {
        let (client, server) = lane.pair();
        let (from, to) = if swap { (&server, &client) } else { (&client, &server) };
        let taken = fill(from, 0, 1 << 16);
        let before = lane.direct();
        for at in 0..100 {
            let (mut to, len) = (to, 1000);
            to.write_all(endless(at * len, len)).unwrap();
            read(from, at * len, len);
        }
        if lane.way == Way::Fast {
            assert!(lane.direct() > before, "swap: {swap}: the direction that is not stopped left the fast path");
        }
        read(to, 0, taken);
        taken_up_again(lane, &client, &server);
    }
}

fn full_duplex_without_a_deadlock(lane: &Lane) {
    const ALL: usize = 64 << 20;
    let (client, server) = lane.pair();
    thread::scope(|scope| {
        // Other bytes each way, so that a byte that goes back to its sender shows.
        for (stream, mine, theirs) in [(&client, 0, ALL), (&server, ALL, 0)] {
            scope.spawn(move || {
                let (mut stream, mut random, mut at) = (stream, Random::new(4), mine);
                while at < mine + ALL {
                    let len = random.size(1 << 20).clamp(1, mine + ALL - at);
                    stream.write_all(endless(at, len)).unwrap_or_else(|e| panic!("after {at} bytes: {e}"));
                    at += len;
                }
                stream.end().unwrap();
            });
            scope.spawn(move || read(stream, theirs, ALL));
        }
    });
}

/// What goes by TCP because the queue is full is acknowledged later, while its sender waits for the answer. What is done about
/// its send buffer then must not wake it: a read in the map of sockets would take that for its end.
fn an_acknowledgement_breaks_no_read_off(lane: &Lane) {
    /// What goes directly to a reader that does not read.
    const DIRECT: usize = 2 << 20;
    const ALL: usize = DIRECT + 1000;
    let (mut client, mut server) = lane.pair();
    // Long enough to be known for the only one who sends.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1200) {
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            from.write_all(b"word").unwrap();
            to.read_exact(&mut [0; 4]).unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    }
    for round in 0..5 {
        let before = lane.direct();
        thread::scope(|scope| {
            let server = &mut server;
            scope.spawn(move || {
                // The client is to wait by then; there is no sign of it.
                thread::sleep(Duration::from_millis(100));
                read(server, 0, ALL);
                server.write_all(b"all").unwrap();
            });
            for at in (0..DIRECT).step_by(1 << 16) {
                client.write_all(endless(at, 1 << 16)).unwrap();
            }
            // Less than a segment, so that it is not acknowledged at once.
            client.write_all(endless(DIRECT, ALL - DIRECT)).unwrap();
            let mut answer = [0; 3];
            client.read_exact(&mut answer).unwrap_or_else(|e| panic!("round {round}: the answer: {e}"));
        });
        if lane.way == Way::Fast {
            let direct = usize::try_from(lane.direct() - before).unwrap();
            assert_eq!(direct, DIRECT + 3, "round {round}: the last of it should have gone by TCP");
        }
    }
}

/// A clean end would pass what has arrived for the whole, be it that the rest waits in the daemon or in front of it.
#[test]
fn an_idle_stream_with_undelivered_bytes_is_reset() {
    require!(Box);
    for way in [Way::Relay, Way::Fast] {
        let lane = require!(@ Lane::with(way, &["--idle-timeout", "2s"]));
        let (client, mut server) = lane.pair();
        let sent = fill(&client, 0, 1 << 16);
        let made = lane.made.as_ref().unwrap();
        lane.room().wait_idle(&made.id);
        let (got, end) = drain(&mut server);
        assert!(got.chunks(1 << 16).enumerate().all(|(at, part)| part == endless(at << 16, part.len())), "{way:?}: wrong bytes");
        assert!(
            end == End::Reset || end == End::Eof && got.len() == sent,
            "{way:?}: {end:?} after {} of {sent} bytes",
            got.len()
        );
        drop((client, server));
        lane.finish();
    }
}

/// However many segments are between: what goes by TCP meanwhile waits in the sockets between them, too.
#[test]
fn a_stopped_reader_stops_the_sender_of_a_chain() {
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    for len in [2, 5, 12] {
        let (chain, listener) = Chain::new(&room, len);
        let client = traffic::connect(&room.ns(), chain.made.addr()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.patience(PATIENCE).unwrap();
        }
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            wait_until("bytes to go from socket to socket", SOON, || {
                from.write_all(b"word").unwrap();
                to.read_exact(&mut [0; 4]).unwrap();
                (fast::sum(&room.view(&chain.made.id), "direct") > 0).then_some(())
            });
            let taken = fill(from, 0, 64 * 1024);
            println!("{len} segments: {} KiB in front of a reader that does not read", taken >> 10);
            assert!(taken <= MOST, "{taken} bytes in front of a reader that does not read");
            read(to, 0, taken);
        }
    }
}

/// An upload that begins before anybody has accepted, to a server that never reads.
#[test]
fn an_early_upload_to_a_stopped_reader_is_stopped() {
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    for len in [1, 2, 5, 12] {
        let (chain, listener) = Chain::new(&room, len);
        for _ in 0..5 {
            let client = traffic::connect(&room.ns(), chain.made.addr()).unwrap();
            let taken = fill(&client, 0, 64 * 1024);
            println!("{len} segments: {} KiB in front of a reader that does not read", taken >> 10);
            assert!(taken <= MOST, "{len} segments: {taken} bytes in front of a reader that does not read");
            let (server, _) = listener.accept().unwrap();
            server.patience(PATIENCE).unwrap();
            read(&server, 0, taken);
        }
    }
}
