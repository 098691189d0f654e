//! Streams of long messages by a process of one thread: while the receiver's queue is full such a one sleeps in TCP, behind the
//! end of a message that the relay carries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::net::sockopt::set_tcp_cork;
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::chain::Chain;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::room::Room;
use wormhole_tests::stop::read;
use wormhole_tests::traffic::{self, End, Random, Stream, drain, endless};
use wormhole_tests::wait::{is_emulated, patient};
use wormhole_tests::{fast, kernel, require, three_ways};

three_ways!(of_every_length, what_is_held_back_holds_up_no_more, mostly_direct_on_one_cpu);

/// A process of one thread, as this one is not, that does `work` with what this one has open.
struct Sender(Pid);

impl Sender {
    fn new(work: impl FnOnce()) -> Self {
        // What it needs is made before, as nothing may be waited for in there that another thread was about to do.
        endless(0, 1);
        // SAFETY: the child does no more than work that takes no lock, and leaves.
        match unsafe { libc::fork() } {
            0 => {
                let done = catch_unwind(AssertUnwindSafe(work));
                // SAFETY: no destructor of the parent's things may run here.
                unsafe { libc::_exit(i32::from(done.is_err())) }
            }
            pid => Self(Pid::from_raw(pid).expect("a child")),
        }
    }

    #[track_caller]
    fn wait(self) {
        let (_, status) = waitpid(Some(self.0), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "what the sender said is above");
    }
}

fn pin(task: Option<Pid>, cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(task, &cpus).unwrap();
}

/// Pins the relay, if there is one, to the first cpu.
fn pin_relay(lane: &Lane) {
    let Some(room) = &lane.room else { return };
    for task in std::fs::read_dir(format!("/proc/{}/task", room.daemon.pid())).unwrap() {
        pin(Pid::from_raw(task.unwrap().file_name().into_string().unwrap().parse().unwrap()), 0);
    }
}

/// As [`read`], on the first cpu.
fn read_there(server: &TcpStream, at: usize, len: usize) {
    let reads = || {
        pin(None, 0);
        read(server, at, len);
    };
    thread::scope(|scope| scope.spawn(reads).join().unwrap());
}

/// What a sender waits for in a chain, the relay of its first segment acknowledges, which puts nothing into a queue.
#[test]
fn no_timer_acknowledges_to_the_sender_of_a_chain() {
    const WRITES: usize = 200;
    const SIZE: usize = 300_000;
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let (chain, listener) = Chain::new(&room, 3);
    let delayed = || -> u64 {
        let places = chain.places().chain([room.ns()]);
        places.map(|place| kernel::delayed_acknowledgements(&place).unwrap()).sum()
    };
    let client = traffic::connect(&room.ns(), chain.made.addr()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nodelay(true).unwrap();
    let before = delayed();
    let sender = Sender::new(|| {
        pin(None, 0);
        for at in (0..WRITES).map(|write| write * SIZE) {
            (&client).write_all(endless(at, SIZE)).unwrap();
        }
    });
    read_there(&server, 0, WRITES * SIZE);
    sender.wait();
    let delayed = delayed() - before;
    println!("{delayed} acknowledgements came from the kernel's timer");
    // One may when the stream begins and one when it ends; else a fifth of the writes waited for one.
    assert!(delayed < WRITES as u64 / 20, "{delayed} acknowledgements came from the kernel's timer");
}

/// The receiver reads all, and rests every now and then, so that its queue is full before it goes on.
fn of_every_length(lane: &Lane) {
    const ALL: usize = 64 << 20;
    for (round, no_delay) in [(0, true), (1, false)] {
        let (client, mut server) = lane.used();
        for (from, to) in [(&client, &server), (&server, &client)] {
            from.set_nodelay(no_delay).unwrap();
            let sender = Sender::new(|| {
                let (mut random, mut done, mut from) = (Random::new(round + 10), 0, from);
                while done < ALL {
                    let len = if random.one_in(4) { random.size(1 << 17) } else { random.below(3 << 20) as usize };
                    let len = len.clamp(1, ALL - done);
                    from.write_all(endless(done, len)).unwrap_or_else(|e| panic!("after {done} bytes: {e}"));
                    done += len;
                }
            });
            let (mut random, mut done) = (Random::new(round), 0);
            while done < ALL {
                let len = (random.below(4 << 20) as usize).min(ALL - done);
                read(to, done, len);
                done += len;
                // Most rests are short, and some longer than TCP's timers.
                let rest = if random.one_in(20) { 300 } else { random.below(10) };
                thread::sleep(Duration::from_millis(rest));
            }
            sender.wait();
        }
        client.end().unwrap();
        assert_eq!(drain(&mut server), (vec![], End::Eof));
    }
}

/// By MSG_MORE and TCP_CORK the end of a message waits for the next one. A sender that sleeps before that would have to be
/// helped out by a timer of TCP's, and twice it is.
fn what_is_held_back_holds_up_no_more(lane: &Lane) {
    const WRITES: usize = 256;
    /// Two, and some for a machine that does something else as well. Without an end to it there are more than twice as many.
    const MOST: usize = 12;
    const SIZE: usize = 1 << 20;
    /// As long as that timer takes, or somewhat less.
    const TIMER: Duration = Duration::from_millis(150);
    pin_relay(lane);
    for flags in [SendFlags::MORE, SendFlags::empty()] {
        let (client, server) = lane.used();
        set_tcp_cork(&client, flags.is_empty()).unwrap();
        let sender = Sender::new(|| {
            pin(None, 0);
            let mut long = 0;
            for at in (0..WRITES).map(|write| write * SIZE) {
                let (began, mut done) = (Instant::now(), 0);
                while done < SIZE {
                    done += send(&client, endless(at + done, SIZE - done), flags).unwrap();
                }
                long += usize::from(began.elapsed() > patient(TIMER));
            }
            assert!(long <= MOST, "{long} of {WRITES} writes took longer than {TIMER:?} with {flags:?}");
        });
        // The last of it comes when there is an end.
        read_there(&server, 0, (WRITES - 1) * SIZE);
        sender.wait();
        client.end().unwrap();
        read(&server, (WRITES - 1) * SIZE, SIZE);
    }
}

/// Client, server and relay share a cpu, and the client writes more than the queue takes.
fn mostly_direct_on_one_cpu(lane: &Lane) {
    const ALL: usize = 256 << 20;
    pin_relay(lane);
    for size in [256 << 10, 1 << 20] {
        let (client, server) = lane.used();
        client.set_nodelay(true).unwrap();
        let before = lane.direct();
        let sender = Sender::new(|| {
            pin(None, 0);
            for at in (0..ALL).step_by(size) {
                (&client).write_all(endless(at, size)).unwrap();
            }
        });
        read_there(&server, 0, ALL);
        sender.wait();
        let share = (lane.direct() - before) as f64 / ALL as f64;
        println!("{:?}: {:.0} % of {} KiB writes direct", lane.way, 100.0 * share, size >> 10);
        assert!(
            lane.way != Way::Fast || is_emulated() || share > 0.45,
            "{:.0} % of writes of {size} bytes went direct",
            100.0 * share
        );
    }
}
