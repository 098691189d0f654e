//! Every end of a connection is the end that the other side meant: directly, through the relay, on the fast path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use wormhole_tests::lane::Lane;
use wormhole_tests::room::SOON;
use wormhole_tests::traffic::{End, Stream, bytes, drain, reset};
use wormhole_tests::{three_ways, wait_until};

three_ways!(
    half_close_by_the_client_first,
    half_close_by_the_server_first,
    half_close_after_much,
    a_shutdown_and_then_a_blocking_read,
    an_answer_from_one_who_has_not_read_the_end,
    closed_at_once,
    both_close_at_the_same_moment,
    idle_and_then_closed,
    a_reset_before_any_byte,
    a_reset_after_data_that_was_read,
    a_reset_after_data_that_was_not_read,
    a_reset_at_once,
    closed_with_unread_data,
    closed_with_much_unread_data,
    half_closed_and_then_closed_with_unread_data,
    writes_after_the_other_side_closed,
    writes_after_the_other_side_closed_with_unread_data,
    a_process_that_is_killed_ends_its_connection,
    a_process_that_is_killed_with_unread_data_resets,
    writes_after_the_other_process_was_killed,
);

/// Both ends of a new connection, near end first; `swap`: the near one is the server's.
#[track_caller]
fn ends(lane: &Lane, swap: bool) -> (TcpStream, TcpStream) {
    let (client, server) = lane.pair();
    if swap { (server, client) } else { (client, server) }
}

/// Waits until `len` bytes can be read.
#[track_caller]
fn arrived(stream: &TcpStream, len: usize) {
    let mut buffer = vec![0; len];
    wait_until("the data to arrive", SOON, || stream.peek(&mut buffer).is_ok_and(|n| n == len).then_some(()));
}

/// A process that holds the only descriptor of this socket and does nothing with it.
fn holder(stream: TcpStream) -> Child {
    Command::new("sleep").arg("600").stdin(OwnedFd::from(stream)).spawn().unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Writes until the kernel refuses, which it has to do the way TCP does.
#[track_caller]
fn write_until_refused(stream: &mut TcpStream, what: &str) {
    let block = bytes(0, 4096);
    let error = wait_until("a write to be refused", SOON, || stream.write_all(block).err());
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{what}: {error}");
    // And so for ever.
    let again = stream.write_all(block).unwrap_err();
    assert!(matches!(again.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{what}: first {error}, then {again}");
}

fn half_close_by_the_client_first(lane: &Lane) {
    let (mut client, mut server) = lane.pair();
    client.write_all(b"question").unwrap();
    client.end().unwrap();
    assert_eq!(drain(&mut server), (b"question".to_vec(), End::Eof));
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(drain(&mut client), (b"answer".to_vec(), End::Eof));
}

fn half_close_by_the_server_first(lane: &Lane) {
    let (mut client, mut server) = lane.pair();
    server.write_all(b"greeting").unwrap();
    server.end().unwrap();
    assert_eq!(drain(&mut client), (b"greeting".to_vec(), End::Eof));
    client.write_all(b"late").unwrap();
    drop(client);
    assert_eq!(drain(&mut server), (b"late".to_vec(), End::Eof));
}

/// One thread, blocking calls only: the read waits for the answer, whatever the other side's kernel says meanwhile.
fn a_shutdown_and_then_a_blocking_read(lane: &Lane) {
    for (round, pause) in [0, 1, 10, 60].into_iter().cycle().take(40).enumerate() {
        let (mut near, mut far) = ends(lane, round % 2 == 1);
        // Its queue was in use before, on every third connection.
        if round % 3 == 0 {
            far.write_all(b"hello").unwrap();
            near.read_exact(&mut [0; 5]).unwrap();
        }
        near.write_all(bytes(0, 1000)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(drain(&mut far), (bytes(0, 1000).to_vec(), End::Eof));
                // On some, longer than an acknowledgement may be delayed.
                thread::sleep(Duration::from_millis(pause));
                far.write_all(b"answer").unwrap();
                far.end().unwrap();
            });
            near.end().unwrap();
            let mut answer = [0; 6];
            let mut got = 0;
            while got < answer.len() {
                // Not read_exact, which would go on after an EINTR only; no error is right here.
                let len = near.read(&mut answer[got..]).unwrap_or_else(|e| panic!("round {round}: {e}"));
                assert_ne!(len, 0, "round {round}: the end before the answer");
                got += len;
            }
            assert_eq!(&answer, b"answer");
            assert_eq!(near.read(&mut [0; 6]).unwrap(), 0, "round {round}");
        });
    }
}

/// The end of the other side has arrived and is not read; the socket is closed. That is no unread data.
fn an_answer_from_one_who_has_not_read_the_end(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = ends(lane, swap);
        near.write_all(b"question").unwrap();
        far.read_exact(&mut [0; 8]).unwrap();
        near.end().unwrap();
        // Without reading it.
        wait_until("the end to arrive", SOON, || far.peek(&mut [0; 1]).is_ok_and(|n| n == 0).then_some(()));
        far.write_all(b"answer").unwrap();
        drop(far);
        assert_eq!(drain(&mut near), (b"answer".to_vec(), End::Eof));
    }
}

/// The end stands behind megabytes that are still on their way.
fn half_close_after_much(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = ends(lane, swap);
        let data = bytes(7, 5 << 20);
        all_and_the_end(&mut near, &mut far, data, &format!("swap: {swap}"));
        all_and_the_end(&mut far, &mut near, data, &format!("swap: {swap}, back"));
    }
}

#[track_caller]
fn all_and_the_end(from: &mut TcpStream, to: &mut TcpStream, data: &[u8], what: &str) {
    thread::scope(|scope| {
        scope.spawn(|| {
            from.write_all(data).unwrap();
            from.end().unwrap();
        });
        let (got, end) = drain(to);
        assert!((got.as_slice(), end) == (data, End::Eof), "{what}: {} bytes, {end:?}", got.len());
    });
}

fn closed_at_once(lane: &Lane) {
    for _ in 0..20 {
        drop(lane.client());
        assert_eq!(drain(&mut lane.accept()), (vec![], End::Eof));
    }
    // Data, and gone before anybody accepted.
    for number in 0..20_u8 {
        let mut client = lane.client();
        client.write_all(&[number; 100]).unwrap();
        drop(client);
        assert_eq!(drain(&mut lane.accept()), (vec![number; 100], End::Eof));
    }
}

fn both_close_at_the_same_moment(lane: &Lane) {
    for round in 0..20 {
        let (client, server) = lane.pair();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            for (mut stream, mine, theirs) in [(client, 1, 2), (server, 2, 1)] {
                let barrier = &barrier;
                scope.spawn(move || {
                    stream.write_all(bytes(mine, 1000)).unwrap();
                    barrier.wait();
                    stream.end().unwrap();
                    let (got, end) = drain(&mut stream);
                    assert!(
                        (got.as_slice(), end) == (bytes(theirs, 1000), End::Eof),
                        "round {round}: {} bytes, {end:?}",
                        got.len()
                    );
                });
            }
        });
    }
}

fn idle_and_then_closed(lane: &Lane) {
    let (mut client, mut server) = lane.pair();
    for stream in [&mut client, &mut server] {
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    }
    for (near, far) in [(&client, &server), (&server, &client)] {
        let (mut near, mut far) = (near, far);
        near.write_all(b"still there").unwrap();
        let mut word = [0; 11];
        far.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"still there");
    }
    client.end().unwrap();
    server.end().unwrap();
    assert_eq!(drain(&mut client), (vec![], End::Eof));
    assert_eq!(drain(&mut server), (vec![], End::Eof));
}

fn a_reset_before_any_byte(lane: &Lane) {
    for swap in [false, true] {
        let (near, mut far) = ends(lane, swap);
        reset(near);
        assert_eq!(drain(&mut far), (vec![], End::Reset), "swap: {swap}");
    }
}

fn a_reset_after_data_that_was_read(lane: &Lane) {
    for swap in [false, true] {
        let (near, mut far) = ends(lane, swap);
        for (mut from, mut to) in [(&near, &far), (&far, &near)] {
            from.write_all(b"word").unwrap();
            to.read_exact(&mut [0; 4]).unwrap();
        }
        reset(near);
        assert_eq!(drain(&mut far), (vec![], End::Reset), "swap: {swap}");
    }
}

fn a_reset_after_data_that_was_not_read(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = ends(lane, swap);
        near.write_all(b"last words").unwrap();
        arrived(&far, 10);
        reset(near);
        assert_eq!(drain(&mut far), (b"last words".to_vec(), End::Reset), "swap: {swap}");
    }
}

/// Nobody can say how much arrives, but it is the beginning of what was sent, and never a clean end.
fn a_reset_at_once(lane: &Lane) {
    for len in [1, 1000, 100_000] {
        let mut client = lane.client();
        client.write_all(bytes(3, len)).unwrap();
        reset(client);
        let mut server = lane.accept();
        let (got, end) = drain(&mut server);
        assert_eq!(end, End::Reset, "{len} bytes sent, {} arrived", got.len());
        assert_eq!(Some(got.as_slice()), bytes(3, len).get(..got.len()));
    }
}

fn closed_with_unread_data(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        near.write_all(b"never read").unwrap();
        arrived(&far, 10);
        drop(far);
        assert_eq!(drain(&mut near), (vec![], End::Reset), "swap: {swap}");
    }
}

fn closed_with_much_unread_data(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, mut far) = ends(lane, swap);
        near.write_all(bytes(0, 200_000)).unwrap();
        far.read_exact(&mut [0; 100]).unwrap();
        arrived(&far, 1000);
        drop(far);
        assert_eq!(drain(&mut near), (vec![], End::Reset), "swap: {swap}");
    }
}

/// The reader said that it will send no more, which arrives; then it closes without having read everything.
fn half_closed_and_then_closed_with_unread_data(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        near.write_all(b"word").unwrap();
        (&far).read_exact(&mut [0; 4]).unwrap();
        far.end().unwrap();
        assert_eq!(drain(&mut near), (vec![], End::Eof), "swap: {swap}");
        near.write_all(b"never read").unwrap();
        arrived(&far, 10);
        drop(far);
        write_until_refused(&mut near, &format!("swap: {swap}"));
    }
}

fn writes_after_the_other_side_closed(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        near.write_all(b"word").unwrap();
        (&far).read_exact(&mut [0; 4]).unwrap();
        drop(far);
        write_until_refused(&mut near, &format!("swap: {swap}"));
    }
}

fn writes_after_the_other_side_closed_with_unread_data(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        near.write_all(b"never read").unwrap();
        arrived(&far, 10);
        drop(far);
        write_until_refused(&mut near, &format!("swap: {swap}"));
    }
}

fn a_process_that_is_killed_ends_its_connection(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        (&far).write_all(b"last words").unwrap();
        kill(holder(far));
        assert_eq!(drain(&mut near), (b"last words".to_vec(), End::Eof), "swap: {swap}");
    }
}

fn a_process_that_is_killed_with_unread_data_resets(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        near.write_all(b"never read").unwrap();
        arrived(&far, 10);
        kill(holder(far));
        assert_eq!(drain(&mut near), (vec![], End::Reset), "swap: {swap}");
    }
}

fn writes_after_the_other_process_was_killed(lane: &Lane) {
    for swap in [false, true] {
        let (mut near, far) = ends(lane, swap);
        let far = holder(far);
        near.write_all(bytes(0, 50_000)).unwrap();
        kill(far);
        write_until_refused(&mut near, &format!("swap: {swap}"));
    }
}
