//! What is different on the fast path, each difference a test, so that the list in the README is true.
//!
//! | call | by TCP | on the fast path |
//! | --- | --- | --- |
//! | a blocking read while nothing is there | waits | may be broken off with EAGAIN: `fastpath_waits` |
//! | MSG_WAITALL | waits for all | takes what is there |
//! | SO_RCVLOWAT | waits for so many | ignored |
//! | MSG_OOB | beside the stream | in the stream |
//! | recv(2) with MSG_TRUNC | throws bytes away | gives them, as without it |
//! | TCP_INQ, SO_TIMESTAMP | tell more beside the bytes | tell nothing |
//! | SO_PEEK_OFF | peeks go on behind the last one | each begins at the front |
//! | MSG_MORE, TCP_CORK | hold little back | send it at once |
//! | TCP_INFO | counts all bytes | counts those that went by TCP |
//! | SO_ZEROCOPY, TCP_ULP | taken | refused with EPERM, so that libraries fall back |
//! | SO_SNDBUF, asked for by a sender that had to wait | what the kernel gave | 128 KiB or less |
//! | SO_RCVBUF, asked for | grows with what arrives | what it may grow to |
//! | FIONREAD, on kernels before redirected bytes were counted (6.1) | says what can be read | 0 |
//! | splice(2) from a socket | gives what arrived | does not see it; programs that do this are not enrolled |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::raw::{self, RCVLOWAT, ULP, ZEROCOPY};
use wormhole_tests::room::SOON;
use wormhole_tests::traffic::{End, Stream, bytes, drain};
use wormhole_tests::{three_ways, wait_until};

three_ways!(
    msg_waitall_takes_what_is_there,
    so_rcvlowat_is_ignored,
    urgent_data_is_in_the_stream,
    msg_trunc_throws_nothing_away,
    nothing_is_told_beside_the_bytes,
    peeks_begin_at_the_front,
    nothing_is_held_back,
    tcp_info_counts_what_went_by_tcp,
    zero_copy_is_refused,
    an_upper_protocol_is_refused,
    the_send_buffer_may_be_shown_small,
    the_receive_buffer_is_shown_large,
    fionread_says_nothing_where_the_kernel_does_not_count,
    a_large_write_may_be_interrupted,
);

fn msg_waitall_takes_what_is_there(lane: &Lane) {
    let (mut client, server) = lane.used();
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
    let (mut client, mut server) = lane.used();
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
    let (mut client, mut server) = lane.used();
    client.write_all(b"before").unwrap();
    assert_eq!(send(&client, b"!", SendFlags::OOB).unwrap(), 1);
    client.write_all(b"after").unwrap();
    client.end().unwrap();
    let (got, end) = drain(&mut server);
    let expected: &[u8] = if lane.way == Way::Direct { b"beforeafter" } else { b"before!after" };
    assert_eq!((String::from_utf8_lossy(&got), end), (String::from_utf8_lossy(expected), End::Eof));
}

fn msg_trunc_throws_nothing_away(lane: &Lane) {
    let (mut client, mut server) = lane.used();
    client.write_all(bytes(0, 500)).unwrap();
    wait_until("500 bytes", SOON, || server.peek(&mut [0; 500]).is_ok_and(|n| n == 500).then_some(()));
    // Without a place to put them.
    let thrown = raw::throw_away(&server, 200);
    if lane.way == Way::Fast {
        assert_eq!(thrown.unwrap_err().raw_os_error(), Some(libc::EFAULT));
    } else {
        assert_eq!(thrown.unwrap(), 200);
    }
    let rest = if lane.way == Way::Fast { 500 } else { 300 };
    let mut got = vec![0; rest];
    server.read_exact(&mut got).unwrap();
    assert!(got == bytes(0, 500)[500 - rest..], "not the bytes that were left");
}

fn nothing_is_told_beside_the_bytes(lane: &Lane) {
    for option in [raw::INQ, raw::TIMESTAMP] {
        let (mut client, mut server) = lane.used();
        raw::set_number(&server, option, 1).unwrap();
        let mut told = || {
            client.write_all(bytes(0, 500)).unwrap();
            wait_until("500 bytes", SOON, || server.peek(&mut [0; 500]).is_ok_and(|n| n == 500).then_some(()));
            let mut got = [0; 400];
            let (len, control) = raw::receive(&server, &mut got).unwrap();
            assert!((len, &got[..]) == (400, bytes(0, 400)));
            server.read_exact(&mut got[..100]).unwrap();
            control > 0
        };
        if lane.way == Way::Fast {
            assert!(!(0..20).any(|_| told()), "{option:?}");
        } else {
            // The kernel begins to note the time a while after it was asked to.
            wait_until("it to be told", SOON, || told().then_some(()));
        }
    }
}

fn peeks_begin_at_the_front(lane: &Lane) {
    let (mut client, server) = lane.used();
    match raw::set_number(&server, raw::PEEK_OFF, 0) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            wormhole_tests::skip!("TCP has SO_PEEK_OFF since Linux 6.9");
        }
        set => set.unwrap(),
    }
    client.write_all(b"abcdef").unwrap();
    wait_until("6 bytes", SOON, || rustix::io::ioctl_fionread(&server).is_ok_and(|n| n == 6 || !counts(lane)).then_some(()));
    let mut got = [0; 6];
    let (first, second) = got.split_at_mut(3);
    for part in [first, second] {
        assert_eq!(server.peek(part).unwrap(), 3);
    }
    assert_eq!(&got, if lane.way == Way::Fast { b"abcabc" } else { b"abcdef" });
}

/// Whether FIONREAD tells what can be read.
fn counts(lane: &Lane) -> bool {
    lane.passes("fionread-redirected")
}

/// Bytes that wait for more are for TCP's sake, which has fewer packets so; here there are none.
fn nothing_is_held_back(lane: &Lane) {
    let (mut client, mut server) = lane.used();
    for cork in [false, true] {
        if cork {
            raw::set_number(&client, raw::CORK, 1).unwrap();
            client.write_all(b"some").unwrap();
        } else {
            send(&client, b"some", SendFlags::MORE).unwrap();
        }
        if lane.way == Way::Fast {
            // Nothing else comes meanwhile.
            server.read_exact(&mut [0; 4]).unwrap();
        } else {
            thread::sleep(Duration::from_millis(20));
            assert_eq!(recv(&server, &mut [0; 4][..], RecvFlags::DONTWAIT).unwrap_err(), rustix::io::Errno::AGAIN);
        }
        client.write_all(b"more").unwrap();
        if cork {
            raw::set_number(&client, raw::CORK, 0).unwrap();
        }
        let mut got = vec![0; if lane.way == Way::Fast { 4 } else { 8 }];
        server.read_exact(&mut got).unwrap();
    }
}

fn tcp_info_counts_what_went_by_tcp(lane: &Lane) {
    let (mut client, mut server) = lane.used();
    for _ in 0..10 {
        client.write_all(bytes(0, 1000)).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
    }
    let received = raw::bytes_received(&server).unwrap();
    assert_eq!(received < 1000, lane.way == Way::Fast, "{received}");
}

fn zero_copy_is_refused(lane: &Lane) {
    let (client, server) = lane.used();
    for stream in [&client, &server] {
        let answer = raw::set_number(stream, ZEROCOPY, 1);
        match lane.way {
            Way::Fast => assert_eq!(answer.unwrap_err().kind(), ErrorKind::PermissionDenied),
            _ => answer.unwrap(),
        }
    }
}

fn an_upper_protocol_is_refused(lane: &Lane) {
    let (client, server) = lane.used();
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

/// A sender that has to wait for its reader waits in TCP, whose buffer is made small for that.
fn the_send_buffer_may_be_shown_small(lane: &Lane) {
    const ALL: usize = 64 << 20;
    let (mut client, mut server) = lane.used();
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
    let (client, server) = lane.used();
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
    let (mut client, mut server) = lane.used();
    client.write_all(bytes(0, 500)).unwrap();
    wait_until("500 bytes", SOON, || server.peek(&mut [0; 500]).is_ok_and(|n| n == 500).then_some(()));
    let says = if counts(lane) { 500 } else { 0 };
    assert_eq!(rustix::io::ioctl_fionread(&server).unwrap(), says);
    server.read_exact(&mut [0; 500]).unwrap();
}

/// One thread writes so much that the kernel cuts it into three, and another one a word as soon as the first bytes are there. A piece
/// waits while the receiver copies, into memory that it has not touched yet.
fn a_large_write_may_be_interrupted(lane: &Lane) {
    /// Less than what a send buffer has room for at first.
    const LARGE: usize = 1500 << 10;
    const WORD: [u8; 16] = [1; 16];
    let large = vec![0; LARGE];
    let interrupted = |_| {
        let (client, server) = lane.used();
        let mut got = vec![0; LARGE + WORD.len()];
        thread::scope(|scope| {
            scope.spawn(|| (&client).write_all(&large).unwrap());
            server.peek(&mut [0]).unwrap();
            scope.spawn(|| (&client).write_all(&WORD).unwrap());
            (&server).read_exact(&mut got).unwrap();
        });
        let at = got.iter().position(|byte| *byte == 1).unwrap();
        assert_eq!(got.get(at..at + WORD.len()), Some(&WORD[..]), "a small write is whole");
        at < LARGE
    };
    if lane.way == Way::Fast {
        assert!((0..500).any(interrupted), "it was never interrupted: the README says otherwise");
    } else {
        assert!(!(0..20).any(interrupted), "TCP was interrupted");
    }
}
