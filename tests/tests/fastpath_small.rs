//! Streams of small messages. They gather in the sender by Nagle's algorithm and go into the receiver's queue in large pieces;
//! here they do so whatever their rate, which would be too high for some machines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::net::sockopt::set_tcp_cork;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use wormhole_tests::chain::Chain;
use wormhole_tests::lane::{self, Lane, Way};
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::stop::{MOST, fill, read};
use wormhole_tests::traffic::{self, End, PATIENCE, Random, Stream, bytes, drain, endless};
use wormhole_tests::{fast, require, three_ways, wait_until};

three_ways!(
    by crate::run: a_stream_of_small_messages,
    both_directions_at_once,
    from_large_to_small_and_back,
    a_conversation_stays,
    a_half_close_after_a_stream,
    a_shutdown_with_answers_unread,
    nodelay_comes_back,
    what_the_application_sets_stands,
    what_is_corked,
    a_reader_that_stopped,
    others_join_in,
);

/// As [`lane::run`], with a daemon that gathers.
#[track_caller]
fn run(way: Way, case: fn(&Lane)) {
    lane::run_with(way, &["--fastpath-gather", "1"], case);
}

/// Messages that were gathered so far; none on the other ways.
fn gathered(lane: &Lane) -> u64 {
    if lane.way != Way::Fast {
        return 0;
    }
    lane.room().status()["fastpath"]["fallbacks"]["gathered"].as_u64().unwrap_or(0)
}

/// Fails on the fast path if nothing was since `before`.
#[track_caller]
fn must_gather(lane: &Lane, before: u64) {
    let now = gathered(lane);
    assert!(lane.way != Way::Fast || now > before + 1000, "{before} before, {now} now");
}

/// A word back and forth, more often than it takes to see that it is no stream.
fn talk(near: &TcpStream, far: &TcpStream) {
    for round in 0..200 {
        for (mut from, mut to) in [(near, far), (far, near)] {
            let mut word = [0; 100];
            from.write_all(bytes(round, 100)).unwrap();
            to.read_exact(&mut word).unwrap();
            assert!(word == *bytes(round, 100), "round {round}");
        }
    }
}

/// Bytes of a stream.
const ALL: usize = 12 << 20;

fn stream(mut from: &TcpStream, at: usize, all: usize, seed: u64, most: u64) {
    let (mut random, mut done) = (Random::new(seed), 0);
    while done < all {
        let len = random.size(most).clamp(1, all - done);
        from.write_all(endless(at + done, len)).unwrap_or_else(|e| panic!("after {done} bytes: {e}"));
        done += len;
    }
}

#[track_caller]
fn arrives(mut to: &TcpStream, at: usize, all: usize) {
    let (mut done, mut buffer) = (0, vec![0; 1 << 16]);
    while done < all {
        let most = buffer.len().min(all - done);
        let got = to.read(&mut buffer[..most]).unwrap_or_else(|e| panic!("{done} of {all} bytes: {e}"));
        assert_ne!(got, 0, "the end after {done} of {all} bytes");
        assert!(buffer[..got] == *endless(at + done, got), "wrong bytes after {done}");
        done += got;
    }
}

/// How `inspect` shows the only connection.
fn shown(lane: &Lane) -> Value {
    lane.view()["open"][0].clone()
}

/// Both ends of a connection that has carried such a stream, near end first.
fn used(lane: &Lane, swap: bool) -> (TcpStream, TcpStream) {
    let (client, server) = lane.pair();
    let (near, far) = if swap { (server, client) } else { (client, server) };
    flows(lane, &near, &far);
    (near, far)
}

/// Carries such a stream.
fn flows(lane: &Lane, near: &TcpStream, far: &TcpStream) {
    let before = gathered(lane);
    carries(near, far, 1);
    must_gather(lane, before);
}

/// The same, whether it gathers or not.
fn carries(near: &TcpStream, far: &TcpStream, seed: u64) {
    thread::scope(|scope| {
        scope.spawn(|| stream(near, 0, ALL, seed, 200));
        arrives(far, 0, ALL);
    });
}

fn a_stream_of_small_messages(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = used(lane, swap);
        // Both directions go on, and end as ever.
        far.write_all(b"an answer").unwrap();
        let mut word = [0; 9];
        near.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"an answer");
        near.end().unwrap();
        assert_eq!(drain(&mut far), (vec![], End::Eof));
        far.end().unwrap();
        assert_eq!(drain(&mut near), (vec![], End::Eof));
        if let (Some(room), Some(made)) = (&lane.room, &lane.made) {
            room.wait_idle(&made.id);
        }
    }
}

fn both_directions_at_once(lane: &Lane) {
    let (client, server) = lane.pair();
    thread::scope(|scope| {
        for (stream_, mine, theirs) in [(&client, 0, ALL), (&server, ALL, 0)] {
            scope.spawn(move || stream(stream_, mine, ALL, mine as u64, 300));
            scope.spawn(move || {
                let (mut to, mut done, mut buffer) = (stream_, 0, vec![0; 1 << 16]);
                while done < ALL {
                    let most = buffer.len().min(ALL - done);
                    let got = traffic::Again(&mut to).read(&mut buffer[..most]).unwrap();
                    assert_ne!(got, 0);
                    assert!(buffer[..got] == *endless(theirs + done, got), "wrong bytes after {done}");
                    done += got;
                }
            });
        }
    });
}

fn from_large_to_small_and_back(lane: &Lane) {
    for swap in [false, true] {
        let (client, server) = lane.pair();
        let (near, far) = if swap { (&server, &client) } else { (&client, &server) };
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                for (index, most) in [1 << 17, 100, 1 << 17, 100, 1 << 20].into_iter().enumerate() {
                    stream(near, at, ALL, index as u64, most);
                    at += ALL;
                }
            });
            arrives(far, 0, 5 * ALL);
        });
    }
}

fn a_conversation_stays(lane: &Lane) {
    let (mut client, server) = lane.pair();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, mut word) = (&server, [0; 20]);
            for _ in 0..10_000 {
                server.read_exact(&mut word).unwrap();
                server.write_all(&word).unwrap();
            }
        });
        for round in 0..10_000 {
            let mut word = [0; 20];
            client.write_all(bytes(round, 20)).unwrap();
            client.read_exact(&mut word).unwrap();
            assert!(word == *bytes(round, 20), "round {round}");
        }
    });
    if lane.way == Way::Fast {
        assert_eq!(shown(lane)["path"], "fastpath");
        assert_eq!(gathered(lane), 0, "whoever waits for answers would wait for acknowledgements, too");
    }
}

fn a_half_close_after_a_stream(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = used(lane, swap);
        near.end().unwrap();
        assert_eq!(drain(&mut far), (vec![], End::Eof));
        let sender = thread::spawn(move || {
            stream(&far, 0, ALL, 2, 1 << 16);
            far
        });
        arrives(&near, 0, ALL);
        drop(sender.join().unwrap());
        assert_eq!(drain(&mut near), (vec![], End::Eof));
        if let (Some(room), Some(made)) = (&lane.room, &lane.made) {
            room.wait_idle(&made.id);
        }
    }
}

/// The other side has answered and ended; this one ends too, and reads then.
fn a_shutdown_with_answers_unread(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = used(lane, swap);
        far.write_all(bytes(0, 1000)).unwrap();
        far.end().unwrap();
        wait_until("the answer", SOON, || near.peek(&mut [0; 1000]).is_ok_and(|n| n == 1000).then_some(()));
        near.end().unwrap();
        assert_eq!(drain(&mut far), (vec![], End::Eof));
        assert_eq!(drain(&mut near), (bytes(0, 1000).to_vec(), End::Eof));
        if let (Some(room), Some(made)) = (&lane.room, &lane.made) {
            room.wait_idle(&made.id);
        }
    }
}

fn nodelay_comes_back(lane: &Lane) {
    for (swap, wanted) in [(false, true), (false, false), (true, true), (true, false)] {
        let (client, server) = lane.pair();
        let (near, far) = if swap { (&server, &client) } else { (&client, &server) };
        near.set_nodelay(wanted).unwrap();
        flows(lane, near, far);
        // While it streams it is off.
        talk(near, far);
        assert_eq!(near.nodelay().unwrap(), wanted);
        lane.is_direct(&(client, server));
    }
}

/// The first segment's relay acknowledges the end of a stream before anybody can answer it, though it puts nothing into a queue.
#[test]
fn nodelay_comes_back_through_a_chain() {
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on", "--fastpath-gather", "1"]);
    require!(@ fast::available(&room));
    let (chain, listener) = Chain::new(&room, 3);
    let gathered = || room.status()["fastpath"]["fallbacks"]["gathered"].as_u64().unwrap_or(0);
    for swap in [false, true] {
        let client = traffic::connect(&room.ns(), chain.made.addr()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (near, far) = if swap { (&server, &client) } else { (&client, &server) };
        for stream in [near, far] {
            stream.set_nodelay(true).unwrap();
            stream.patience(PATIENCE).unwrap();
        }
        let before = gathered();
        carries(near, far, 1);
        assert!(gathered() > before + 1000, "it did not gather");
        talk(near, far);
        assert!(near.nodelay().unwrap());
    }
}

fn what_the_application_sets_stands(lane: &Lane) {
    for (swap, had) in [(false, true), (false, false), (true, true), (true, false)] {
        let (client, server) = lane.pair();
        let (near, far) = if swap { (&server, &client) } else { (&client, &server) };
        near.set_nodelay(had).unwrap();
        let before = gathered(lane);
        thread::scope(|scope| {
            scope.spawn(|| stream(near, 0, 4 * ALL, 1, 200));
            let reader = scope.spawn(|| arrives(far, 0, 4 * ALL));
            if lane.way == Way::Fast {
                let streams = || gathered(lane) > before && !near.nodelay().unwrap();
                wait_until("Nagle's algorithm", SOON, || streams().then_some(()));
                let says = || shown(lane)["reason"].as_str().is_some_and(|why| why.contains("--fastpath-gather"));
                wait_until("inspect to say that it gathers", SOON, || says().then_some(()));
            }
            near.set_nodelay(true).unwrap();
            reader.join().unwrap();
        });
        assert!(near.nodelay().unwrap());
        let before = gathered(lane);
        carries(near, far, 2);
        assert!(near.nodelay().unwrap());
        assert_eq!(gathered(lane), before);
    }
}

/// Bytes that wait for more on top.
fn what_is_corked(lane: &Lane) {
    for swap in [false, true] {
        let (client, server) = lane.pair();
        let (near, far) = if swap { (&server, &client) } else { (&client, &server) };
        let before = gathered(lane);
        thread::scope(|scope| {
            scope.spawn(|| {
                for (part, at) in (0..ALL).step_by(ALL / 64).enumerate() {
                    set_tcp_cork(near, part % 2 == 0).unwrap();
                    stream(near, at, ALL / 64, part as u64, 200);
                }
                set_tcp_cork(near, false).unwrap();
            });
            arrives(far, 0, ALL);
        });
        must_gather(lane, before);
        talk(near, far);
    }
}

fn a_reader_that_stopped(lane: &Lane) {
    for swap in [false, true] {
        let (near, far) = used(lane, swap);
        let taken = fill(&near, 0, 100);
        assert!(lane.way != Way::Fast || taken <= MOST, "{taken} bytes in front of a stopped reader");
        read(&far, 0, taken);
        // One that had to wait is held, and several tasks of such a one do not gather.
        carries(&near, &far, 3);
    }
}

/// Records of several threads on one socket, one of which has streamed before: whole, and each thread's in order.
fn others_join_in(lane: &Lane) {
    const RECORDS: u64 = 50_000;
    let record = |writer: u64, serial: u64| (writer << 32 | serial).to_be_bytes();
    let write = |mut to: &TcpStream, writer: u64| {
        for serial in 0..RECORDS {
            to.write_all(&record(writer, serial)).unwrap_or_else(|e| panic!("record {serial} of {writer}: {e}"));
        }
    };
    for swap in [false, true] {
        let (near, far) = used(lane, swap);
        thread::scope(|scope| {
            scope.spawn(|| {
                write(&near, 0);
                thread::scope(|scope| {
                    for writer in 1..4 {
                        let near = &near;
                        scope.spawn(move || write(near, writer));
                    }
                });
            });
            let (mut next, mut word) = ([0; 4], [0; 8]);
            for _ in 0..4 * RECORDS {
                traffic::Again(&mut &far).read_exact(&mut word).unwrap();
                let writer = usize::from(word[3]);
                assert_eq!(word, record(writer as u64, next[writer]), "of writer {writer}");
                next[writer] += 1;
            }
        });
    }
}
