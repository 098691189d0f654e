//! Streams of small messages, which are carried one by one on the fast path and merged by TCP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::room::SOON;
use wormhole_tests::traffic::{End, Random, Stream, bytes, drain, endless};
use wormhole_tests::{three_ways, wait_until};

three_ways!(
    a_stream_of_small_messages,
    both_directions_at_once,
    from_large_to_small_and_back,
    a_conversation_stays,
    a_half_close_after_a_stream,
    a_shutdown_with_answers_unread,
);

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
    thread::scope(|scope| {
        scope.spawn(|| stream(&near, 0, ALL, 1, 200));
        arrives(&far, 0, ALL);
    });
    (near, far)
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
                    let got = wormhole_tests::traffic::Again(&mut to).read(&mut buffer[..most]).unwrap();
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
