//! Streams of long messages by one sender: while the receiver's queue is full such a one sleeps in TCP, behind the end of a
//! message that the relay carries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::net::sockopt::set_tcp_cork;
use rustix::net::{SendFlags, send};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::stop::read;
use wormhole_tests::three_ways;
use wormhole_tests::traffic::{End, Random, Stream, drain, endless};
use wormhole_tests::wait::patient;

three_ways!(of_every_length, what_is_held_back_holds_up_no_more, mostly_direct_on_one_cpu);

/// Both ends of a connection each of whose ends is known for its only sender.
fn alone(lane: &Lane) -> (TcpStream, TcpStream) {
    /// Longer than that takes.
    const LONG: Duration = Duration::from_millis(1200);
    let (client, server) = lane.pair();
    let began = Instant::now();
    while began.elapsed() < LONG {
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            from.write_all(b"word").unwrap();
            to.read_exact(&mut [0; 4]).unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    }
    (client, server)
}

/// The receiver reads all, and rests every now and then, so that its queue is full before it goes on.
fn of_every_length(lane: &Lane) {
    const ALL: usize = 48 << 20;
    for (round, no_delay) in [(0, true), (1, false)] {
        let (client, server) = alone(lane);
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.set_nodelay(no_delay).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut random, mut done) = (Random::new(round), 0);
                    while done < ALL {
                        let len = (random.below(4 << 20) as usize).min(ALL - done);
                        read(to, done, len);
                        done += len;
                        thread::sleep(Duration::from_millis(random.below(10)));
                    }
                });
                let (mut random, mut done, mut from) = (Random::new(round + 10), 0, from);
                while done < ALL {
                    let len = if random.one_in(4) { random.size(1 << 17) } else { random.below(3 << 20) as usize };
                    let len = len.clamp(1, ALL - done);
                    from.write_all(endless(done, len)).unwrap_or_else(|e| panic!("after {done} bytes: {e}"));
                    done += len;
                }
            });
        }
        let mut server = server;
        client.end().unwrap();
        assert_eq!(drain(&mut server), (vec![], End::Eof));
    }
}

/// By MSG_MORE and TCP_CORK the end of a message waits for the next one. A sender that sleeps before that would have to be
/// helped out by a timer of TCP's, and twice it is.
fn what_is_held_back_holds_up_no_more(lane: &Lane) {
    const WRITES: usize = 64;
    const SIZE: usize = 1 << 20;
    /// As long as that timer takes, or somewhat less.
    const TIMER: Duration = Duration::from_millis(150);
    for flags in [SendFlags::MORE, SendFlags::empty()] {
        let (client, server) = alone(lane);
        set_tcp_cork(&client, flags.is_empty()).unwrap();
        let long = thread::scope(|scope| {
            scope.spawn(|| read(&server, 0, WRITES * SIZE));
            let mut long = 0;
            for at in (0..WRITES).map(|write| write * SIZE) {
                let (began, mut done) = (Instant::now(), 0);
                while done < SIZE {
                    done += send(&client, endless(at + done, SIZE - done), flags).unwrap();
                }
                long += usize::from(began.elapsed() > patient(TIMER));
            }
            client.end().unwrap();
            long
        });
        assert!(long < WRITES / 2, "{long} of {WRITES} writes took longer than {TIMER:?} with {flags:?}");
    }
}

/// Client, server and relay share a cpu, and the client writes more than the queue takes.
fn mostly_direct_on_one_cpu(lane: &Lane) {
    const ALL: usize = 256 << 20;
    let mut cpu = CpuSet::new();
    cpu.set(0);
    if let Some(room) = &lane.room {
        for task in std::fs::read_dir(format!("/proc/{}/task", room.daemon.pid())).unwrap() {
            let task = task.unwrap().file_name().into_string().unwrap().parse().unwrap();
            sched_setaffinity(Pid::from_raw(task), &cpu).unwrap();
        }
    }
    for size in [1 << 20, 256 << 10] {
        let (client, server) = alone(lane);
        client.set_nodelay(true).unwrap();
        let before = lane.direct();
        thread::scope(|scope| {
            scope.spawn(|| {
                sched_setaffinity(None, &cpu).unwrap();
                read(&server, 0, ALL);
            });
            // By the task that is known for the only sender.
            let usual = sched_getaffinity(None).unwrap();
            sched_setaffinity(None, &cpu).unwrap();
            for at in (0..ALL).step_by(size) {
                (&client).write_all(endless(at, size)).unwrap();
            }
            sched_setaffinity(None, &usual).unwrap();
        });
        let share = (lane.direct() - before) as f64 / ALL as f64;
        println!("{:?}: {:.0} % of {} KiB writes direct", lane.way, 100.0 * share, size >> 10);
        // Where the processor is emulated one task sleeps and another one wakes as they never do otherwise.
        let is_usual = patient(Duration::from_secs(1)) == Duration::from_secs(1);
        assert!(
            lane.way != Way::Fast || !is_usual || share > 0.45,
            "{:.0} % of writes of {size} bytes went direct",
            100.0 * share
        );
    }
}
