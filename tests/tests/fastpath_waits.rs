//! What breaks a blocking read off, with EAGAIN, that waits on a socket of the fast path. The kernel waits once there, and takes
//! whatever wakes it for the answer (`tcp_msg_wait_data`, net/ipv4/tcp_bpf.c); nothing is lost by it. By TCP it never happens; on
//! the fast path each of these does it, mostly or now and then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::process::{Pid, Signal, kill_process};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::raw;
use wormhole_tests::room::SOON;
use wormhole_tests::stop::{fill, read};
use wormhole_tests::traffic::{End, PATIENCE, Stream, drain, endless, reset};
use wormhole_tests::{three_ways, wait_until};

three_ways!(
    a_reset_breaks_a_waiting_read_off,
    a_shutdown_by_another_thread_breaks_a_waiting_read_off,
    an_end_with_answers_unread_breaks_a_waiting_read_off,
    a_signal_breaks_a_waiting_read_off,
    a_process_that_was_stopped_has_its_read_broken_off,
    another_reader_breaks_a_waiting_read_off,
    a_write_of_another_thread_breaks_a_waiting_read_off,
    room_for_a_write_that_did_not_wait_breaks_a_waiting_read_off,
);

/// Tries it until a read was broken off; by TCP once, and there it must not be. `case` tells whether it was.
fn breaks_off(lane: &Lane, case: impl Fn() -> bool) {
    /// What needs the other side to be at the right place at the right time is seen every third time, or oftener.
    const TRIES: usize = 40;
    if lane.way == Way::Fast {
        let seen = (1..=TRIES).find(|_| case());
        assert!(seen.is_some(), "no read was broken off in {TRIES} tries: the README says otherwise");
        println!("seen at try {}", seen.unwrap_or_default());
    } else {
        assert!(!case(), "a read was broken off");
    }
}

/// Waits in a read until something happens, and reads on until it gives something or fails for another reason. Tells whether it was
/// broken off, and what came in the end.
fn read_on(mut stream: &TcpStream) -> (bool, std::io::Result<usize>) {
    let (began, mut broken_off) = (Instant::now(), false);
    loop {
        match stream.read(&mut [0; 10]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && began.elapsed() < PATIENCE / 2 => broken_off = true,
            other => return (broken_off, other),
        }
    }
}

/// As above, when it is to be an answer.
#[track_caller]
fn answered((broken_off, got): (bool, std::io::Result<usize>)) -> bool {
    assert_eq!(got.unwrap(), b"answer".len());
    broken_off
}

/// Gives a thread the time to begin to wait; there is no sign of it that one could wait for.
fn asleep<T>(thread: &thread::ScopedJoinHandle<'_, T>) {
    thread::sleep(Duration::from_millis(50));
    assert!(!thread.is_finished(), "it did not wait");
}

/// Never a clean end, and the reset comes with the next read.
fn a_reset_breaks_a_waiting_read_off(lane: &Lane) {
    for swap in [false, true] {
        breaks_off(lane, || {
            let (client, server) = lane.used();
            let (near, far) = if swap { (server, client) } else { (client, server) };
            thread::scope(|scope| {
                let reader = scope.spawn(|| read_on(&near));
                asleep(&reader);
                reset(far);
                let (broken_off, end) = reader.join().unwrap();
                assert!(end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{end:?}");
                broken_off
            })
        });
    }
}

fn a_shutdown_by_another_thread_breaks_a_waiting_read_off(lane: &Lane) {
    breaks_off(lane, || {
        let (client, mut server) = lane.used();
        thread::scope(|scope| {
            let reader = scope.spawn(|| read_on(&client));
            asleep(&reader);
            client.end().unwrap();
            assert_eq!(drain(&mut server), (vec![], End::Eof));
            // Longer than an acknowledgement may be delayed.
            thread::sleep(Duration::from_millis(50));
            server.write_all(b"answer").unwrap();
            answered(reader.join().unwrap())
        })
    });
}

/// In one thread: shut down while an answer waits, read it, then wait for the next one. The other side's kernel acknowledges
/// the end meanwhile. With nothing unread it does not happen, see `fastpath_ends`.
fn an_end_with_answers_unread_breaks_a_waiting_read_off(lane: &Lane) {
    breaks_off(lane, || {
        let (mut client, mut server) = lane.used();
        server.write_all(b"first").unwrap();
        wait_until("the first answer", SOON, || client.peek(&mut [0; 5]).is_ok_and(|n| n == 5).then_some(()));
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                client.end().unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
                read_on(&client)
            });
            assert_eq!(drain(&mut server), (vec![], End::Eof));
            // Longer than an acknowledgement may be delayed.
            thread::sleep(Duration::from_millis(300));
            server.write_all(b"answer").unwrap();
            answered(reader.join().unwrap())
        })
    });
}

/// By TCP it is taken up again when the handler asked for that (SA_RESTART), and when there is none.
fn a_signal_breaks_a_waiting_read_off(lane: &Lane) {
    raw::ignore_by_handler(libc::SIGUSR1).unwrap();
    breaks_off(lane, || {
        let (client, mut server) = lane.used();
        // With a limit TCP is broken off as well, with EINTR.
        client.set_read_timeout(None).unwrap();
        thread::scope(|scope| {
            let (tell, who) = mpsc::channel();
            let client = &client;
            let reader = scope.spawn(move || {
                tell.send(raw::this_thread()).unwrap();
                read_on(client)
            });
            let who = who.recv().unwrap();
            asleep(&reader);
            raw::signal(who, libc::SIGUSR1).unwrap();
            thread::sleep(Duration::from_millis(50));
            server.write_all(b"answer").unwrap();
            answered(reader.join().unwrap())
        })
    });
}

/// SIGSTOP and SIGCONT, as by Ctrl-Z and `fg`. The process is dd, which reads once and takes EAGAIN for a failure. (Not every cat reads:
/// that of busybox has its input sent to its output.)
fn a_process_that_was_stopped_has_its_read_broken_off(lane: &Lane) {
    breaks_off(lane, || {
        let (client, mut server) = lane.used();
        client.set_read_timeout(None).unwrap();
        let mut dd = Command::new("dd");
        dd.args(["bs=10", "count=1"]).env("LC_ALL", "C");
        dd.stdin(OwnedFd::from(client)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let dd = dd.spawn().unwrap();
        let pid = Pid::from_raw(dd.id().cast_signed()).unwrap();
        let is = |states: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", dd.id())).unwrap();
            let state = stat.rsplit_once(") ").unwrap().1.chars().next().unwrap();
            states.contains(state).then_some(())
        };
        let reads = || {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", dd.id())).ok()?;
            call.starts_with(&format!("{} 0x0 ", libc::SYS_read)).then_some(())
        };
        wait_until("dd to wait in a read", SOON, || is("S").and(reads()));
        kill_process(pid, Signal::STOP).unwrap();
        wait_until("it to be stopped", SOON, || is("T"));
        kill_process(pid, Signal::CONT).unwrap();
        wait_until("it to go on, or to end", SOON, || is("SZ"));
        // It may have gone, and taken its socket with it.
        let _ = server.write_all(b"answer");
        let _ = server.end();
        let said = dd.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr);
        if said.status.success() {
            assert_eq!(said.stdout, b"answer", "{error}");
        } else {
            assert!(error.contains("Resource temporarily unavailable"), "{error}");
        }
        !said.status.success()
    });
}

/// Of two that wait one gets what comes, and the other is woken, too.
fn another_reader_breaks_a_waiting_read_off(lane: &Lane) {
    breaks_off(lane, || {
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
            !broken.is_empty()
        })
    });
}

/// One thread waits in a read, another one in a write until there is room.
fn a_write_of_another_thread_breaks_a_waiting_read_off(lane: &Lane) {
    const ALL: usize = 32 << 20;
    breaks_off(lane, || {
        let (client, mut server) = lane.used();
        thread::scope(|scope| {
            let reader = scope.spawn(|| read_on(&client));
            asleep(&reader);
            scope.spawn(|| (0..ALL).step_by(1 << 20).for_each(|at| (&client).write_all(endless(at, 1 << 20)).unwrap()));
            // Longer than it takes to fill whatever there is.
            thread::sleep(Duration::from_millis(50));
            read(&server, 0, ALL);
            server.write_all(b"answer").unwrap();
            answered(reader.join().unwrap())
        })
    });
}

/// In one thread: write without waiting until there is no room, then wait in a read.
fn room_for_a_write_that_did_not_wait_breaks_a_waiting_read_off(lane: &Lane) {
    breaks_off(lane, || {
        let (client, mut server) = lane.used();
        let sent = fill(&client, 0, 1 << 16);
        thread::scope(|scope| {
            let reader = scope.spawn(|| read_on(&client));
            asleep(&reader);
            read(&server, 0, sent);
            // Longer than what goes by TCP may take.
            thread::sleep(Duration::from_millis(300));
            server.write_all(b"answer").unwrap();
            answered(reader.join().unwrap())
        })
    });
}
