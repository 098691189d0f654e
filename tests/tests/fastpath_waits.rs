//! What breaks a blocking read off, with EAGAIN, that waits on a socket of the fast path. The kernel waits once there, and takes
//! whatever wakes it for the answer (`tcp_msg_wait_data`, net/ipv4/tcp_bpf.c); nothing is lost by it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::raw;
use wormhole_tests::room::SOON;
use wormhole_tests::stop::{fill, read};
use wormhole_tests::traffic::{End, PATIENCE, Stream, drain, reset};
use wormhole_tests::{three_ways, wait_until};

three_ways!(
    a_reset_breaks_a_waiting_read_off,
    a_shutdown_by_another_thread_breaks_a_waiting_read_off,
    an_end_with_answers_unread_may_break_a_waiting_read_off,
    a_signal_breaks_a_waiting_read_off,
    another_reader_breaks_a_waiting_read_off,
    room_for_a_write_that_did_not_wait_may_break_a_waiting_read_off,
);

/// Waits in a read until something happens; gives how that ended, and how the read after it did.
fn two_reads(mut stream: &TcpStream) -> [std::io::Result<usize>; 2] {
    let began = Instant::now();
    let first = stream.read(&mut [0; 10]);
    assert!(began.elapsed() < PATIENCE / 2, "nobody woke the reader");
    [first, stream.read(&mut [0; 10])]
}

fn is(read: &std::io::Result<usize>, kind: ErrorKind) -> bool {
    read.as_ref().is_err_and(|e| e.kind() == kind)
}

/// How often a read was broken off before it gave bytes, and how many those were.
fn read_again_and_again(mut stream: &TcpStream) -> (usize, usize) {
    let mut broken_off = 0;
    loop {
        match stream.read(&mut [0; 10]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && broken_off < 3 => broken_off += 1,
            other => return (broken_off, other.unwrap()),
        }
    }
}

#[track_caller]
fn may_have_been_broken_off(lane: &Lane, (broken_off, got): (usize, usize)) {
    assert_eq!(got, b"answer".len());
    println!("{:?}: broken off {broken_off} times", lane.way);
    assert!(broken_off == 0 || lane.way == Way::Fast);
}

/// Never a clean end, and the reset comes with the next read.
fn a_reset_breaks_a_waiting_read_off(lane: &Lane) {
    for swap in [false, true] {
        let (client, server) = lane.used();
        let (near, far) = if swap { (server, client) } else { (client, server) };
        thread::scope(|scope| {
            let reader = scope.spawn(|| two_reads(&near));
            asleep(&reader);
            reset(far);
            let [first, second] = reader.join().unwrap();
            match lane.way {
                Way::Fast if is(&first, ErrorKind::WouldBlock) => {
                    assert!(is(&second, ErrorKind::ConnectionReset), "{second:?}");
                }
                _ => assert!(is(&first, ErrorKind::ConnectionReset), "{first:?}"),
            }
        });
    }
}

/// Gives a thread the time to begin to wait; there is no sign of it that one could wait for.
fn asleep<T>(thread: &thread::ScopedJoinHandle<'_, T>) {
    thread::sleep(Duration::from_millis(50));
    assert!(!thread.is_finished(), "it did not wait");
}

fn a_shutdown_by_another_thread_breaks_a_waiting_read_off(lane: &Lane) {
    let (client, mut server) = lane.used();
    thread::scope(|scope| {
        let reader = scope.spawn(|| two_reads(&client));
        asleep(&reader);
        client.end().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(drain(&mut server), (vec![], End::Eof));
        server.write_all(b"answer").unwrap();
        drop(server);
        let [first, second] = reader.join().unwrap();
        match lane.way {
            // Nothing is lost by it.
            Way::Fast if is(&first, ErrorKind::WouldBlock) => {
                let more =
                    second.or_else(|e| if e.kind() == ErrorKind::WouldBlock { (&client).read(&mut [0; 10]) } else { Err(e) });
                assert_eq!(more.unwrap(), 6);
            }
            _ => assert_eq!((first.unwrap(), second.unwrap()), (6, 0)),
        }
    });
}

/// In one thread: shut down while an answer waits, read it, then wait for the next one. The other side's kernel acknowledges
/// the end meanwhile. Nothing is lost by it. With nothing unread it does not happen, see `fastpath_ends`.
fn an_end_with_answers_unread_may_break_a_waiting_read_off(lane: &Lane) {
    let (mut client, mut server) = lane.used();
    server.write_all(b"first").unwrap();
    wait_until("the first answer", SOON, || client.peek(&mut [0; 5]).is_ok_and(|n| n == 5).then_some(()));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            client.end().unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
            read_again_and_again(&client)
        });
        assert_eq!(drain(&mut server), (vec![], End::Eof));
        // Longer than an acknowledgement may be delayed.
        thread::sleep(Duration::from_millis(300));
        server.write_all(b"answer").unwrap();
        may_have_been_broken_off(lane, reader.join().unwrap());
    });
}

/// By TCP it is taken up again when the handler asked for that (SA_RESTART), and when there is none.
fn a_signal_breaks_a_waiting_read_off(lane: &Lane) {
    let (client, mut server) = lane.used();
    // With a limit TCP is broken off as well, with EINTR.
    client.set_read_timeout(None).unwrap();
    raw::ignore_by_handler(libc::SIGUSR1).unwrap();
    thread::scope(|scope| {
        let (tell, who) = mpsc::channel();
        let client = &client;
        let reader = scope.spawn(move || {
            tell.send(raw::this_thread()).unwrap();
            two_reads(client)
        });
        let who = who.recv().unwrap();
        asleep(&reader);
        raw::signal(who, libc::SIGUSR1).unwrap();
        thread::sleep(Duration::from_millis(50));
        server.write_all(b"answer").unwrap();
        drop(server);
        let [first, second] = reader.join().unwrap();
        match lane.way {
            Way::Fast if is(&first, ErrorKind::WouldBlock) => assert_eq!(second.unwrap(), 6),
            _ => assert_eq!((first.unwrap(), second.unwrap()), (6, 0)),
        }
    });
}

/// Of two that wait one gets what comes, and the other is woken, too.
fn another_reader_breaks_a_waiting_read_off(lane: &Lane) {
    let (client, mut server) = lane.used();
    thread::scope(|scope| {
        let read = || {
            let mut got = [0; 10];
            (&client).read(&mut got).map(|len| got[..len].to_vec())
        };
        let readers = [scope.spawn(read), scope.spawn(read)];
        readers.iter().for_each(asleep);
        server.write_all(b"first").unwrap();
        wait_until("a reader to have it", SOON, || readers.iter().any(thread::ScopedJoinHandle::is_finished).then_some(()));
        thread::sleep(Duration::from_millis(50));
        server.write_all(b"second").unwrap();
        let got = readers.map(|reader| reader.join().unwrap());
        let (broken, read): (Vec<_>, Vec<_>) = got.into_iter().partition(Result::is_err);
        assert!(broken.len() <= usize::from(lane.way == Way::Fast), "{broken:?}");
        assert!(broken.iter().flat_map(|e| e.as_ref().err()).all(|e| e.kind() == ErrorKind::WouldBlock), "{broken:?}");
        let mut all: Vec<u8> = Vec::new();
        let mut read: Vec<_> = read.into_iter().map(Result::unwrap).collect();
        read.sort();
        read.iter().for_each(|part| all.extend(part));
        if !broken.is_empty() {
            let mut rest = [0; 6];
            (&client).read_exact(&mut rest).unwrap();
            all.extend(rest);
        }
        assert_eq!(all, b"firstsecond");
    });
}

/// In one thread: write without waiting until there is no room, then wait in a read. Nothing is lost by it.
fn room_for_a_write_that_did_not_wait_may_break_a_waiting_read_off(lane: &Lane) {
    let (client, mut server) = lane.used();
    let sent = fill(&client, 0, 1 << 16);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_again_and_again(&client));
        asleep(&reader);
        read(&server, 0, sent);
        // Longer than what goes by TCP may take.
        thread::sleep(Duration::from_millis(300));
        server.write_all(b"answer").unwrap();
        may_have_been_broken_off(lane, reader.join().unwrap());
    });
}
