//! What programs call on their sockets: every way to read and to write, and every way to ask whether one can.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::event::{Timespec, epoll};
use rustix::fs::sendfile;
use rustix::io::ioctl_fionread;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::lane::Lane;
use wormhole_tests::room::SOON;
use wormhole_tests::traffic::{Again, End, LARGEST, Stream, bytes, drain, endless, reset};
use wormhole_tests::{boxed, three_ways, wait_until};

three_ways!(
    sendfile_to_a_socket,
    fionread_says_what_can_be_read,
    fionread_of_early_data,
    peek_takes_nothing,
    level_triggered_epoll,
    edge_triggered_epoll,
    epoll_sees_ends_and_resets,
    poll_wakes_a_reader,
    vectors,
    large_writes,
    single_bytes,
    small_writes_without_a_pause,
    corked_messages,
    timeouts,
    non_blocking_reads,
    a_reader_that_waits_while_another_thread_writes,
    two_threads_read_one_socket,
);

/// Both ends, each once as the writer.
fn both_ways(lane: &Lane, case: impl Fn(&TcpStream, &TcpStream)) {
    let (client, server) = lane.pair();
    case(&client, &server);
    case(&server, &client);
}

#[track_caller]
fn arrives(mut stream: &TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == expected, "wrong bytes");
}

/// As [`arrives`], for a reader that shares its socket with another thread: see [`Again`].
fn arrives_again(mut stream: &TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    Again(&mut stream).read_exact(&mut got).unwrap();
    assert!(got == expected, "wrong bytes");
}

fn sendfile_to_a_socket(lane: &Lane) {
    let (path, data) = (boxed::fresh_dir().unwrap().join("file"), bytes(1, 5 << 20));
    std::fs::write(&path, data).unwrap();
    both_ways(lane, |from, to| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (file, mut sent) = (File::open(&path).unwrap(), 0);
                while sent < data.len() {
                    sent += sendfile(from, &file, None, data.len() - sent).unwrap();
                }
            });
            arrives(to, data);
        });
        // Between two writes, so that its place in the stream shows.
        let file = File::open(&path).unwrap();
        for at in [0, 100_000, 200_000] {
            let (mut from, mut offset) = (from, at);
            from.write_all(b"head").unwrap();
            assert_eq!(sendfile(from, &file, Some(&mut offset), 5000).unwrap(), 5000);
            from.write_all(b"foot").unwrap();
            let at = usize::try_from(at).unwrap();
            arrives(to, &[b"head", &data[at..at + 5000], b"foot"].concat());
        }
    });
}

fn fionread_says_what_can_be_read(lane: &Lane) {
    if !lane.passes("fionread-redirected") {
        wormhole_tests::skip!("this kernel's FIONREAD does not count redirected bytes");
    }
    both_ways(lane, |mut from, to| {
        assert_eq!(ioctl_fionread(to).unwrap(), 0);
        from.write_all(bytes(0, 1000)).unwrap();
        wait_until("1000 bytes by FIONREAD", SOON, || (ioctl_fionread(to).unwrap() == 1000).then_some(()));
        arrives(to, &bytes(0, 1000)[..400]);
        assert_eq!(ioctl_fionread(to).unwrap(), 600);
        from.write_all(bytes(5, 500)).unwrap();
        wait_until("1100 bytes by FIONREAD", SOON, || (ioctl_fionread(to).unwrap() == 1100).then_some(()));
        arrives(to, &bytes(0, 1000)[400..]);
        assert_eq!(ioctl_fionread(to).unwrap(), 500);
        arrives(to, bytes(5, 500));
        assert_eq!(ioctl_fionread(to).unwrap(), 0);
    });
}

fn fionread_of_early_data(lane: &Lane) {
    if !lane.passes("fionread-redirected") {
        wormhole_tests::skip!("this kernel's FIONREAD does not count redirected bytes");
    }
    // What a receiver takes that has not read yet: its first window is 64 KiB.
    for len in [1, 1000, 40_000] {
        let mut client = lane.client();
        client.write_all(bytes(2, len)).unwrap();
        let server = lane.accept();
        wait_until(&format!("{len} bytes by FIONREAD"), SOON, || (ioctl_fionread(&server).unwrap() == len as u64).then_some(()));
        arrives(&server, bytes(2, len));
        assert_eq!(ioctl_fionread(&server).unwrap(), 0);
    }
}

fn peek_takes_nothing(lane: &Lane) {
    both_ways(lane, |mut from, to| {
        from.write_all(b"first ").unwrap();
        let mut buffer = [0; 100];
        assert_eq!(to.peek(&mut buffer[..3]).unwrap(), 3);
        assert_eq!(&buffer[..3], b"fir");
        from.write_all(b"second").unwrap();
        wait_until("a peek over two messages", SOON, || (to.peek(&mut buffer).unwrap() == 12).then_some(()));
        assert_eq!(&buffer[..12], b"first second");
        arrives(to, b"first");
        assert_eq!(to.peek(&mut buffer).unwrap(), 7);
        assert_eq!(&buffer[..7], b" second");
        arrives(to, b" second");
    });
}

/// What epoll says within `wait`; empty when it says nothing.
fn events(epoll: &impl std::os::fd::AsFd, wait: Duration) -> epoll::EventFlags {
    let mut events = Vec::with_capacity(1);
    let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
    epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
    events.first().map_or(epoll::EventFlags::empty(), |e| e.flags)
}

fn watch(stream: &TcpStream, flags: epoll::EventFlags) -> std::os::fd::OwnedFd {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    epoll::add(&epoll, stream, epoll::EventData::new_u64(1), flags).unwrap();
    epoll
}

const NOW: Duration = Duration::ZERO;
const QUIET: Duration = Duration::from_millis(50);

fn level_triggered_epoll(lane: &Lane) {
    use epoll::EventFlags as F;
    both_ways(lane, |mut from, to| {
        let epoll = watch(to, F::IN | F::OUT | F::RDHUP);
        // Twice: a level stays.
        for _ in 0..2 {
            assert_eq!(events(&epoll, NOW), F::OUT);
        }
        let epoll = watch(to, F::IN | F::RDHUP);
        assert_eq!(events(&epoll, QUIET), F::empty());
        from.write_all(b"data").unwrap();
        for _ in 0..2 {
            assert_eq!(events(&epoll, SOON), F::IN);
        }
        arrives(to, b"da");
        assert_eq!(events(&epoll, NOW), F::IN, "half of it is still there");
        arrives(to, b"ta");
        assert_eq!(events(&epoll, QUIET), F::empty(), "nothing is left");
    });
}

fn edge_triggered_epoll(lane: &Lane) {
    use epoll::EventFlags as F;
    both_ways(lane, |mut from, to| {
        let epoll = watch(to, F::IN | F::RDHUP | F::ET);
        assert_eq!(events(&epoll, QUIET), F::empty());
        for round in 0..100_u8 {
            from.write_all(&[round; 10]).unwrap();
            assert_eq!(events(&epoll, SOON), F::IN, "round {round}");
            if round % 2 == 0 {
                arrives(to, &[round; 10]);
            } else {
                // What is left of an edge is no new one, but what arrives is.
                arrives(to, &[round; 5]);
                assert_eq!(events(&epoll, NOW), F::empty(), "round {round}");
                from.write_all(&[round; 5]).unwrap();
                assert_eq!(events(&epoll, SOON), F::IN, "round {round}");
                arrives(to, &[round; 10]);
            }
        }
    });
}

fn epoll_sees_ends_and_resets(lane: &Lane) {
    use epoll::EventFlags as F;
    for swap in [false, true] {
        for data in [&b""[..], b"last words"] {
            let (client, server) = lane.pair();
            let (mut near, mut far) = if swap { (client, server) } else { (server, client) };
            let epoll = watch(&near, F::IN | F::RDHUP);
            far.write_all(data).unwrap();
            far.end().unwrap();
            wait_until("EPOLLRDHUP", SOON, || events(&epoll, NOW).contains(F::IN | F::RDHUP).then_some(()));
            assert_eq!(drain(&mut near), (data.to_vec(), End::Eof));
            near.end().unwrap();
            wait_until("EPOLLHUP", SOON, || events(&epoll, NOW).contains(F::HUP).then_some(()));

            let (client, server) = lane.pair();
            let (mut near, mut far) = if swap { (client, server) } else { (server, client) };
            let epoll = watch(&near, F::IN | F::RDHUP);
            far.write_all(data).unwrap();
            if !data.is_empty() {
                assert_eq!(events(&epoll, SOON), F::IN);
            }
            reset(far);
            wait_until("EPOLLERR", SOON, || events(&epoll, NOW).contains(F::ERR | F::HUP).then_some(()));
            assert_eq!(drain(&mut near), (data.to_vec(), End::Reset));
        }
    }
}

fn poll_wakes_a_reader(lane: &Lane) {
    both_ways(lane, |mut from, to| {
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                for round in 0..200_u8 {
                    let mut fds = [rustix::event::PollFd::new(to, rustix::event::PollFlags::IN)];
                    let timeout = Timespec { tv_sec: 15, tv_nsec: 0 };
                    assert_eq!(
                        rustix::event::poll(&mut fds, Some(&timeout)).unwrap(),
                        1,
                        "round {round}: nobody woke the reader"
                    );
                    arrives(to, &[round]);
                    let mut to = to;
                    to.write_all(&[round]).unwrap();
                }
            });
            for round in 0..200_u8 {
                from.write_all(&[round]).unwrap();
                arrives(from, &[round]);
            }
            reader.join().unwrap();
        });
    });
}

fn vectors(lane: &Lane) {
    let data = bytes(9, 300_000);
    both_ways(lane, |mut from, mut to| {
        // Many pieces, some empty, none as long as its neighbours; and as many as the kernel takes at once.
        let mut pieces: Vec<IoSlice<'_>> = Vec::new();
        let (mut at, mut len) = (0, 0);
        while at < data.len() && pieces.len() < 1024 {
            let end = (at + len).min(data.len());
            pieces.push(IoSlice::new(&data[at..end]));
            (at, len) = (end, (len + 37) % 611);
        }
        let sent = from.write_vectored(&pieces).unwrap();
        assert_eq!(sent, at, "a blocking writev takes everything");
        let mut done = 0;
        while done < sent {
            let mut buffers = [vec![0; 1], vec![0; 7000], vec![0; 0], vec![0; 20_000]];
            let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let got = to.read_vectored(&mut slices).unwrap();
            assert_ne!(got, 0);
            assert!(buffers.concat()[..got] == data[done..done + got], "wrong bytes between {done} and {}", done + got);
            done += got;
        }
    });
}

fn large_writes(lane: &Lane) {
    both_ways(lane, |mut from, to| {
        for len in [1 << 20, (1 << 20) + 1, LARGEST, 65_536, 65_537] {
            thread::scope(|scope| {
                // One call; a blocking write takes all of it.
                scope.spawn(|| assert_eq!(from.write(bytes(4, len)).unwrap(), len));
                arrives(to, bytes(4, len));
            });
        }
    });
}

fn single_bytes(lane: &Lane) {
    both_ways(lane, |mut from, to| {
        from.set_nodelay(true).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for at in 0..20_000 {
                    from.write_all(endless(at, 1)).unwrap();
                }
            });
            arrives(to, endless(0, 20_000));
        });
    });
}

/// Nobody reads while they are written: what is counted per message must not stop the sender early or run over.
fn small_writes_without_a_pause(lane: &Lane) {
    both_ways(lane, |mut from, to| {
        for at in 0..3000 {
            from.write_all(endless(at * 10, 10)).unwrap();
        }
        arrives(to, endless(0, 30_000));
    });
}

/// MSG_MORE holds a message back until the next one; none may overtake it, and none is forgotten.
fn corked_messages(lane: &Lane) {
    both_ways(lane, |from, to| {
        for round in 0..50 {
            let at = round * 300;
            send(from, endless(at, 100), SendFlags::MORE).unwrap();
            send(from, endless(at + 100, 150), SendFlags::MORE).unwrap();
            send(from, endless(at + 250, 50), SendFlags::empty()).unwrap();
            arrives(to, endless(at, 300));
        }
        // One that nothing follows goes out by itself, and before the end.
        send(from, b"alone", SendFlags::MORE).unwrap();
        arrives(to, b"alone");
    });
}

fn timeouts(lane: &Lane) {
    const LIMIT: Duration = Duration::from_millis(100);
    both_ways(lane, |mut from, mut to| {
        let before = to.read_timeout().unwrap();
        to.set_read_timeout(Some(LIMIT)).unwrap();
        let began = Instant::now();
        assert_eq!(to.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(began.elapsed() >= LIMIT * 9 / 10, "{:?}", began.elapsed());
        from.write_all(b"x").unwrap();
        to.set_read_timeout(before).unwrap();
        arrives(to, b"x");
    });
}

fn non_blocking_reads(lane: &Lane) {
    both_ways(lane, |mut from, to| {
        let nothing = || {
            let mut to = to;
            to.read(&mut [0]).unwrap_err().kind()
        };
        to.set_nonblocking(true).unwrap();
        assert_eq!(nothing(), ErrorKind::WouldBlock);
        from.write_all(b"xy").unwrap();
        let mut got = [0; 2];
        wait_until("two bytes", SOON, || to.peek(&mut got).is_ok_and(|n| n == 2).then_some(()));
        arrives(to, b"xy");
        assert_eq!(nothing(), ErrorKind::WouldBlock);
        to.set_nonblocking(false).unwrap();
        // The same by the flag of one call.
        assert_eq!(recv(to, &mut got[..], RecvFlags::DONTWAIT).unwrap_err(), rustix::io::Errno::AGAIN);
    });
}

/// Full duplex on one socket: a thread waits in read() while another one writes.
fn a_reader_that_waits_while_another_thread_writes(lane: &Lane) {
    let (client, server) = lane.pair();
    thread::scope(|scope| {
        for (stream, mine, theirs) in [(&client, 0, 500_000), (&server, 500_000, 0)] {
            scope.spawn(move || arrives_again(stream, endless(theirs, 3_000_000)));
            scope.spawn(move || {
                let mut stream = stream;
                for at in (0..3_000_000).step_by(10_000) {
                    stream.write_all(endless(mine + at, 10_000)).unwrap();
                }
            });
        }
    });
}

fn two_threads_read_one_socket(lane: &Lane) {
    const ALL: usize = 4 << 20;
    let (mut client, server) = lane.pair();
    let (got, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut buffer = vec![0; 30_000];
                loop {
                    let len = Again(&mut &server).read(&mut buffer).unwrap();
                    if len == 0 {
                        break;
                    }
                    got.fetch_add(len, SeqCst);
                    total.fetch_add(buffer[..len].iter().map(|b| usize::from(*b)).sum(), SeqCst);
                }
            });
        }
        client.write_all(bytes(6, ALL)).unwrap();
        client.end().unwrap();
    });
    assert_eq!(got.load(SeqCst), ALL);
    assert_eq!(total.load(SeqCst), bytes(6, ALL).iter().map(|b| usize::from(*b)).sum::<usize>());
}
