//! What is different on the fast path, each difference a test, so that the list in the README is true.
//!
//! | call | by TCP | on the fast path |
//! | --- | --- | --- |
//! | a blocking read while nothing is there | waits | may be broken off with EAGAIN by a reset, by another thread's shutdown or write, or by one's own shutdown while answers were unread |
//! | MSG_WAITALL | waits for all | takes what is there |
//! | SO_RCVLOWAT | waits for so many | ignored |
//! | MSG_OOB | beside the stream | in the stream |
//! | SO_ZEROCOPY, TCP_ULP | taken | refused with EPERM, so that libraries fall back |
//! | SO_SNDBUF, asked for by a sender that had to wait | what the kernel gave | 128 KiB |
//! | SO_RCVBUF, asked for | grows with what arrives | what it may grow to |
//! | FIONREAD, on kernels before redirected bytes were counted (6.1) | says what can be read | 0 |
//! | splice(2) from a socket | gives what arrived | does not see it; programs that do this are not enrolled |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::raw::{self, RCVLOWAT, ULP, ZEROCOPY};
use wormhole_tests::room::SOON;
use wormhole_tests::traffic::{End, PATIENCE, Stream, bytes, drain, reset};
use wormhole_tests::{three_ways, wait_until};

three_ways!(
    msg_waitall_takes_what_is_there,
    so_rcvlowat_is_ignored,
    urgent_data_is_in_the_stream,
    zero_copy_is_refused,
    an_upper_protocol_is_refused,
    a_reset_breaks_a_waiting_read_off,
    a_shutdown_by_another_thread_breaks_a_waiting_read_off,
    an_end_with_answers_unread_may_break_a_waiting_read_off,
    the_send_buffer_may_be_shown_small,
    the_receive_buffer_is_shown_large,
    fionread_says_nothing_where_the_kernel_does_not_count,
);

/// Puts a socket's queue to use, so that it is one of the fast path in every respect.
fn used(lane: &Lane) -> (TcpStream, TcpStream) {
    let (client, server) = lane.pair();
    for (mut from, mut to) in [(&client, &server), (&server, &client)] {
        from.write_all(b"word").unwrap();
        to.read_exact(&mut [0; 4]).unwrap();
    }
    (client, server)
}

fn msg_waitall_takes_what_is_there(lane: &Lane) {
    let (mut client, server) = used(lane);
    client.write_all(bytes(0, 500)).unwrap();
    wait_until("500 bytes", SOON, || server.peek(&mut [0; 500]).is_ok_and(|n| n == 500).then_some(()));
    let mut got = [0; 1000];
    thread::scope(|scope| {
        let reader = scope.spawn(|| recv(&server, &mut got[..], RecvFlags::WAITALL).unwrap().0);
        if lane.way == Way::Fast {
            assert_eq!(reader.join().unwrap(), 500);
            client.write_all(bytes(0, 500)).unwrap();
        } else {
            thread::sleep(Duration::from_millis(100));
            assert!(!reader.is_finished(), "MSG_WAITALL did not wait");
            client.write_all(bytes(500, 500)).unwrap();
            assert_eq!(reader.join().unwrap(), 1000);
        }
    });
    assert!(got[..500] == *bytes(0, 500));
}

fn so_rcvlowat_is_ignored(lane: &Lane) {
    let (mut client, mut server) = used(lane);
    raw::set_number(&server, RCVLOWAT, 1000).unwrap();
    client.write_all(bytes(0, 500)).unwrap();
    let mut got = [0; 1000];
    thread::scope(|scope| {
        let reader = scope.spawn(|| server.read(&mut got).unwrap());
        if lane.way == Way::Fast {
            assert_eq!(reader.join().unwrap(), 500);
        } else {
            thread::sleep(Duration::from_millis(100));
            assert!(!reader.is_finished(), "SO_RCVLOWAT did not hold");
            // Enough by itself: some kernels do not count what the reader has taken already.
            client.write_all(bytes(500, 1000)).unwrap();
            assert_eq!(reader.join().unwrap(), 1000);
        }
    });
}

fn urgent_data_is_in_the_stream(lane: &Lane) {
    let (mut client, mut server) = used(lane);
    client.write_all(b"before").unwrap();
    assert_eq!(send(&client, b"!", SendFlags::OOB).unwrap(), 1);
    client.write_all(b"after").unwrap();
    client.end().unwrap();
    let (got, end) = drain(&mut server);
    let expected: &[u8] = if lane.way == Way::Direct { b"beforeafter" } else { b"before!after" };
    assert_eq!((String::from_utf8_lossy(&got), end), (String::from_utf8_lossy(expected), End::Eof));
}

fn zero_copy_is_refused(lane: &Lane) {
    let (client, server) = used(lane);
    for stream in [&client, &server] {
        let answer = raw::set_number(stream, ZEROCOPY, 1);
        match lane.way {
            Way::Fast => assert_eq!(answer.unwrap_err().kind(), ErrorKind::PermissionDenied),
            _ => answer.unwrap(),
        }
    }
}

fn an_upper_protocol_is_refused(lane: &Lane) {
    let (client, server) = used(lane);
    for stream in [&client, &server] {
        let answer = raw::set(stream, ULP, b"tls");
        if lane.way == Way::Fast {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::PermissionDenied);
        } else if let Err(error) = answer {
            // A kernel without kTLS says ENOENT, and no library takes that for more than it is.
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
    }
    // Without keys a socket with an upper protocol carries plain bytes as before; so does one without.
    (&client).write_all(b"plain").unwrap();
    let mut got = [0; 5];
    (&server).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"plain");
}

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

/// Never a clean end, and the reset comes with the next read.
fn a_reset_breaks_a_waiting_read_off(lane: &Lane) {
    for swap in [false, true] {
        let (client, server) = used(lane);
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
    let (client, mut server) = used(lane);
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
    let (mut client, mut server) = used(lane);
    server.write_all(b"first").unwrap();
    wait_until("the first answer", SOON, || client.peek(&mut [0; 5]).is_ok_and(|n| n == 5).then_some(()));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            client.end().unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
            let mut broken_off = 0;
            loop {
                match client.read(&mut [0; 10]) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock && broken_off < 3 => broken_off += 1,
                    other => return (broken_off, other.unwrap()),
                }
            }
        });
        assert_eq!(drain(&mut server), (vec![], End::Eof));
        // Longer than an acknowledgement may be delayed.
        thread::sleep(Duration::from_millis(300));
        server.write_all(b"answer").unwrap();
        let (broken_off, got) = reader.join().unwrap();
        assert_eq!(got, 6);
        println!("{:?}: broken off {broken_off} times", lane.way);
        assert!(broken_off == 0 || lane.way == Way::Fast);
    });
}

/// A sender that has to wait for its reader waits in TCP, whose buffer is made small for that.
fn the_send_buffer_may_be_shown_small(lane: &Lane) {
    const ALL: usize = 64 << 20;
    let (mut client, mut server) = used(lane);
    let before = socket2::SockRef::from(&client).send_buffer_size().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough for the sender to have to wait.
            thread::sleep(Duration::from_millis(100));
            let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
            while got < ALL {
                got += server.read(&mut buffer).unwrap();
                // It takes longer than a second, for a test has several threads and only one of them sends.
                if got % (1 << 20) < 1 << 16 {
                    thread::sleep(Duration::from_millis(20));
                }
            }
        });
        for _ in 0..ALL >> 16 {
            client.write_all(bytes(0, 1 << 16)).unwrap();
        }
    });
    let after = socket2::SockRef::from(&client).send_buffer_size().unwrap();
    assert!(if lane.way == Way::Fast { after < before } else { after >= before }, "{before}, and then {after}");
    // Who asks for a size gets it.
    socket2::SockRef::from(&client).set_send_buffer_size(100_000).unwrap();
    assert_eq!(socket2::SockRef::from(&client).send_buffer_size().unwrap(), 200_000);
}

fn the_receive_buffer_is_shown_large(lane: &Lane) {
    let (client, server) = used(lane);
    for socket in [socket2::SockRef::from(&client), socket2::SockRef::from(&server)] {
        // An accepted socket's at the first option that is set.
        socket.set_tcp_nodelay(true).unwrap();
        let size = socket.recv_buffer_size().unwrap();
        assert!(lane.way != Way::Fast || size > 2 << 20, "{size} bytes");
        assert!(lane.way == Way::Fast || size < 1 << 20, "{size} bytes");
        // Who asks for a size gets it.
        socket.set_recv_buffer_size(50_000).unwrap();
        assert_eq!(socket.recv_buffer_size().unwrap(), 100_000);
    }
}

fn fionread_says_nothing_where_the_kernel_does_not_count(lane: &Lane) {
    let (mut client, mut server) = used(lane);
    client.write_all(bytes(0, 500)).unwrap();
    wait_until("500 bytes", SOON, || server.peek(&mut [0; 500]).is_ok_and(|n| n == 500).then_some(()));
    let says = if lane.passes("fionread-redirected") { 500 } else { 0 };
    assert_eq!(rustix::io::ioctl_fionread(&server).unwrap(), says);
    server.read_exact(&mut [0; 500]).unwrap();
}
