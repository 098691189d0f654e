//! io_uring on the applications' sockets: what it sends and receives, waits for and is told of ends. Who connects with a ring
//! takes the relay; who begins to use one later is left to TCP from its first send on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;
use wormhole_tests::chain::Chain;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::traffic::{self, Again, End, LARGEST, PATIENCE, Stream, bytes, drain, endless, inside, reset};
use wormhole_tests::{fast, raw, require, skip, stop, three_ways, wait_until};

three_ways!(
    what_is_there_is_received,
    a_receive_waits_for_data,
    a_large_send_is_taken_whole,
    a_send_waits_for_room,
    a_linked_send_and_receive,
    many_at_once_keep_their_order,
    a_receive_sees_the_end,
    a_receive_after_a_shutdown_waits_for_the_answer,
    a_receive_sees_a_reset,
    a_send_after_a_reset_fails,
    a_first_send_of_several_mib_may_lose_its_place,
);

/// A ring, if this machine allows one.
fn ring() -> Option<IoUring> {
    match IoUring::new(64) {
        Ok(ring) => Some(ring),
        Err(why) => {
            skip::record(&format!("io_uring: {why}"));
            None
        }
    }
}

/// Submits entries whose buffers live until their completions are here, and gives the results in the entries' order.
fn run(ring: &mut IoUring, entries: Vec<Entry>) -> Vec<io::Result<usize>> {
    let count = entries.len();
    for (index, entry) in entries.into_iter().enumerate() {
        // SAFETY: the caller's buffers outlive this function, which returns after all completions.
        unsafe { ring.submission().push(&entry.user_data(index as u64)) }.unwrap();
    }
    ring.submit_and_wait(count).unwrap();
    let mut done: Vec<_> = ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
    assert_eq!(done.len(), count);
    done.sort_unstable();
    let result = |(_, result): (u64, i32)| usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
    done.into_iter().map(result).collect()
}

fn recv(stream: &TcpStream, buffer: &mut [u8]) -> Entry {
    let length = u32::try_from(buffer.len()).unwrap();
    opcode::Recv::new(types::Fd(stream.as_raw_fd()), buffer.as_mut_ptr(), length).build()
}

/// With MSG_WAITALL the ring goes on until all is sent.
fn send(stream: &TcpStream, data: &[u8]) -> Entry {
    let length = u32::try_from(data.len()).unwrap();
    opcode::Send::new(types::Fd(stream.as_raw_fd()), data.as_ptr(), length).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build()
}

fn one(ring: &mut IoUring, entry: Entry) -> io::Result<usize> {
    run(ring, vec![entry]).remove(0)
}

/// Both ends of two connections, the near one once the client's and once the server's.
fn both_ways(lane: &Lane, mut case: impl FnMut(&mut IoUring, TcpStream, TcpStream)) {
    let pairs = [lane.pair(), lane.pair()];
    for ((client, server), swap) in pairs.into_iter().zip([false, true]) {
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            from.write_all(b"word").unwrap();
            to.read_exact(&mut [0; 4]).unwrap();
        }
        let Some(mut ring) = ring() else { return };
        if swap { case(&mut ring, server, client) } else { case(&mut ring, client, server) }
    }
}

/// By a small one, so that the socket is left to TCP before large ones come. It is noticed at once, though the same thread has
/// sent without a ring before.
fn begins_to_send(lane: &Lane, ring: &mut IoUring, near: &TcpStream, far: &mut TcpStream) {
    assert_eq!(one(ring, send(near, bytes(0, 4))).unwrap(), 4);
    // What the ring does in this thread's name breaks a read off, too.
    Again(far).read_exact(&mut [0; 4]).unwrap();
    if lane.way == Way::Fast {
        let ports = [near.local_addr(), far.local_addr()].map(|addr| addr.unwrap().port());
        wait_until("it to be left to TCP", SOON, || {
            let view = lane.view();
            let open = view["open"].as_array()?;
            let mine = |entry: &&serde_json::Value| {
                ports.iter().any(|port| entry["client"].as_str().is_some_and(|client| client.ends_with(&format!(":{port}"))))
            };
            let reason = open.iter().find(mine)?["reason"].as_str()?.to_owned();
            reason.contains("io_uring").then_some(())
        });
    }
}

/// What it sends goes by TCP alone, for the receiver is enrolled only when something has come: nobody is to wait until it is in a queue.
#[test]
fn a_chain_to_a_server_that_is_accepted_late() {
    const SIZE: usize = 64 << 10;
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let (chain, listener) = Chain::new(&room, 2);
    raw::set_number(&listener, raw::DEFER_ACCEPT, 5).unwrap();
    let client = traffic::connect(&room.ns(), chain.made.addr()).unwrap();
    let Some(mut ring) = ring() else { return };
    let mut server = None;
    for at in (0..64).map(|write| write * SIZE) {
        assert_eq!(one(&mut ring, send(&client, endless(at, SIZE))).unwrap(), SIZE);
        let server = server.get_or_insert_with(|| listener.accept().unwrap().0);
        server.patience(PATIENCE).unwrap();
        stop::read(server, at, SIZE);
    }
}

#[test]
fn who_connects_with_a_ring_takes_the_relay() {
    require!(Box);
    let lane = require!(@ Lane::open(Way::Fast));
    let client = inside(&lane.near(), || {
        let Some(mut ring) = ring() else { return Ok(None) };
        assert_eq!(one(&mut ring, opcode::Nop::new().build()).unwrap(), 0);
        let client = TcpStream::connect(lane.addr).unwrap();
        assert_eq!(one(&mut ring, send(&client, endless(0, 1000))).unwrap(), 1000);
        Ok(Some(client))
    });
    let Some(client) = client.unwrap() else { return };
    let mut server = lane.accept();
    let mut got = [0; 1000];
    server.read_exact(&mut got).unwrap();
    assert!(got == *endless(0, 1000));
    let open = lane.view()["open"][0].clone();
    assert_eq!((open["path"].as_str(), open["reason"].as_str()), (Some("relay"), Some("the client uses io_uring")), "{open}");
    drop((client, server));
}

fn what_is_there_is_received(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        far.write_all(bytes(0, 3000)).unwrap();
        wait_until("the data", SOON, || near.peek(&mut [0; 3000]).is_ok_and(|n| n == 3000).then_some(()));
        let mut got = [0; 3000];
        assert_eq!(one(ring, recv(&near, &mut got)).unwrap(), 3000);
        assert!(got == *bytes(0, 3000));
    });
}

fn a_receive_waits_for_data(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        for round in 0..20 {
            let mut got = [0; 100];
            let entry = recv(&near, &mut got);
            let result = thread::scope(|scope| {
                let waiting = scope.spawn(|| one(ring, entry));
                thread::sleep(Duration::from_millis(2));
                far.write_all(bytes(round, 100)).unwrap();
                waiting.join().unwrap()
            });
            assert_eq!(result.unwrap(), 100, "round {round}");
            assert!(got == *bytes(round, 100), "round {round}");
        }
    });
}

fn a_large_send_is_taken_whole(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        let data = endless(0, LARGEST);
        begins_to_send(lane, ring, &near, &mut far);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut got = vec![0; LARGEST];
                far.read_exact(&mut got).unwrap();
                got
            });
            assert_eq!(one(ring, send(&near, data)).unwrap(), LARGEST);
            assert!(reader.join().unwrap() == *data);
        });
    });
}

fn a_send_waits_for_room(lane: &Lane) {
    const PIECE: usize = 1 << 20;
    both_ways(lane, |ring, near, mut far| {
        begins_to_send(lane, ring, &near, &mut far);
        // More than anybody's buffers hold while the other side does not read.
        const PIECES: usize = 48;
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                for piece in 0..PIECES {
                    assert_eq!(one(ring, send(&near, endless(piece * PIECE, PIECE))).unwrap(), PIECE);
                }
            });
            thread::sleep(Duration::from_millis(100));
            let mut got = vec![0; PIECE];
            for piece in 0..PIECES {
                far.read_exact(&mut got).unwrap();
                assert!(got == *endless(piece * PIECE, PIECE), "piece {piece}");
            }
            sender.join().unwrap();
        });
    });
}

fn a_linked_send_and_receive(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut word = [0; 8];
                for _ in 0..50 {
                    far.read_exact(&mut word).unwrap();
                    far.write_all(&word).unwrap();
                }
            });
            for round in 0..50 {
                let (data, mut got) = (bytes(round, 8), [0; 8]);
                let entries = vec![send(&near, data).flags(io_uring::squeue::Flags::IO_LINK), recv(&near, &mut got)];
                let results = run(ring, entries);
                assert!(results.iter().all(|r| r.as_ref().is_ok_and(|n| *n == 8)), "{results:?}");
                assert!(got == *data);
            }
        });
    });
}

fn many_at_once_keep_their_order(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        let sends: Vec<_> =
            (0..32).map(|index| send(&near, endless(index * 5000, 5000)).flags(io_uring::squeue::Flags::IO_LINK)).collect();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut got = vec![0; 32 * 5000];
                far.read_exact(&mut got).unwrap();
                got
            });
            assert!(run(ring, sends).iter().all(|r| r.as_ref().is_ok_and(|n| *n == 5000)));
            assert!(reader.join().unwrap() == *endless(0, 32 * 5000));
        });
    });
}

fn a_receive_sees_the_end(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        far.write_all(b"last words").unwrap();
        far.end().unwrap();
        let mut got = Vec::new();
        loop {
            let mut some = [0; 100];
            let len = one(ring, recv(&near, &mut some)).unwrap();
            if len == 0 {
                break;
            }
            got.extend_from_slice(&some[..len]);
        }
        assert_eq!(got, b"last words");
        assert_eq!(one(ring, send(&near, b"an answer")).unwrap(), 9);
        drop(near);
        assert_eq!(drain(&mut far), (b"an answer".to_vec(), End::Eof));
    });
}

fn a_receive_after_a_shutdown_waits_for_the_answer(lane: &Lane) {
    both_ways(lane, |ring, near, mut far| {
        let shutdown = opcode::Shutdown::new(types::Fd(near.as_raw_fd()), libc::SHUT_WR).build();
        let mut got = [0; 10];
        let entries = vec![shutdown.flags(io_uring::squeue::Flags::IO_LINK), recv(&near, &mut got)];
        let results = thread::scope(|scope| {
            let waiting = scope.spawn(|| run(ring, entries));
            assert_eq!(drain(&mut far), (vec![], End::Eof));
            // Longer than an acknowledgement may be delayed.
            thread::sleep(Duration::from_millis(250));
            far.write_all(b"the answer").unwrap();
            waiting.join().unwrap()
        });
        assert_eq!(results.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 10]);
        assert_eq!(&got, b"the answer");
    });
}

fn a_receive_sees_a_reset(lane: &Lane) {
    both_ways(lane, |ring, near, far| {
        let mut got = [0; 10];
        let entry = recv(&near, &mut got);
        let first = thread::scope(|scope| {
            let waiting = scope.spawn(|| one(ring, entry));
            thread::sleep(Duration::from_millis(20));
            reset(far);
            waiting.join().unwrap()
        });
        let error = first.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{:?}: {error}", lane.way);
    });
}

fn a_send_after_a_reset_fails(lane: &Lane) {
    both_ways(lane, |ring, near, far| {
        reset(far);
        wait_until("the reset to be seen", SOON, || {
            let sent = one(ring, send(&near, b"into the void"));
            let kind = sent.as_ref().err().map(io::Error::kind);
            assert!(lane.way != Way::Direct || kind.is_none_or(|k| k != io::ErrorKind::PermissionDenied));
            match kind {
                None => None,
                Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Some(()),
                Some(other) => panic!("{other}"),
            }
        });
    });
}

/// A ring that was set up after the connection was there, and the first thing that it does is a send for which there is no room.
fn a_first_send_of_several_mib_may_lose_its_place(lane: &Lane) {
    let (near, mut far) = lane.used();
    let Some(mut ring) = ring() else { return };
    let data = endless(0, LARGEST);
    let (sent, got) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = one(&mut ring, send(&near, data)).unwrap();
            near.shutdown(Shutdown::Write).unwrap();
            sent
        });
        // Long enough for it to fill whatever there is.
        thread::sleep(Duration::from_millis(50));
        let (got, end) = drain(&mut far);
        assert_eq!(end, End::Eof);
        (sender.join().unwrap(), got)
    });
    assert_eq!(sent, got.len(), "it says how much was sent");
    if lane.way == Way::Fast {
        // What is missing is missing in its midst.
        let begin = got.iter().zip(data).take_while(|(got, sent)| got == sent).count();
        let end = got.iter().rev().zip(data.iter().rev()).take_while(|(got, sent)| got == sent).count();
        assert!(begin + end >= got.len(), "{begin} and {end} of {} bytes are right", got.len());
    } else {
        assert!(got == data);
    }
}
