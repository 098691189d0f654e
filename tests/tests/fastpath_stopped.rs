//! Readers that merely do not read: however long they do so, nothing takes them for one that splices, and they get all
//! that was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::splice::{PORT, Program, both_ways, create, is_spared, renamed, room, splicer};
use wormhole_tests::traffic::{Again, connect, endless, listen};
use wormhole_tests::{require, run, skip, wait, wait_until};

fn signal(program: &Program, signal: Signal) {
    kill_process(Pid::from_raw(program.pid().cast_signed()).unwrap(), signal).unwrap();
}

/// Waits for as long as it takes to find two splicers one after the other, which is longer than the watchdog's patience.
fn longer_than_its_patience(room: &Room) -> Result<(), String> {
    for (round, way) in ["waiting", "polling"].into_iter().enumerate() {
        let (port, exe) = (7010 + round, format!("patience-{way}"));
        let addr = format!("127.0.0.1:{port}");
        let _server = Program::start(splicer(room, &exe, ["serve", way], &addr)?);
        room.wait_port("tcp", u16::try_from(port).unwrap());
        let made = room.create(&format!("--fastpath on url :0 tail url {addr}"));
        for _ in 0..2 {
            let client = connect(&room.ns(), made.addr()).unwrap();
            let _ = both_ways(&client, 1000);
            drop(client);
            room.wait_idle(&made.id);
        }
        assert!(is_spared(room, &exe), "{exe} was not found: {}", room.status());
    }
    Ok(())
}

/// Sends until the kernel stops it; gives how many bytes it took.
fn fill(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    wait::poll("the sender to be stopped", SOON, || {
        let before = taken;
        while let Ok(len) = stream.write(endless(taken, 1 << 16)) {
            taken += len;
        }
        if taken == before && taken > 0 { Ok(()) } else { Err(format!("{taken} bytes")) }
    })
    .unwrap();
    stream.set_nonblocking(false).unwrap();
    taken
}

fn read(mut stream: &TcpStream, len: usize) {
    let mut all = vec![0; len];
    Again(&mut stream).read_exact(&mut all).unwrap();
    assert!(all.chunks(1 << 16).zip((0..).step_by(1 << 16)).all(|(chunk, at)| chunk == endless(at, chunk.len())));
}

#[test]
fn a_reader_that_does_not_read_is_left_alone() {
    let room = require!(@ room());
    let listener = listen(&room.ns(), &format!("127.0.0.1:{PORT}"));
    let made = create(&room, "");
    let talk = || {
        let client = connect(&room.ns(), made.addr()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    };
    // One is full, one has a few bytes before it, and one is asked for something now and then.
    let (full, few, more) = (talk(), talk(), talk());
    wait_until("the fast path", SOON, || {
        let view = room.view(&made.id);
        view["open"].as_array()?.iter().all(|open| open["path"] == "fastpath").then_some(())
    });
    let taken = fill(&full.0);
    (&few.0).write_all(endless(0, 10)).unwrap();
    // All the while this process has threads that compute, that call the kernel, and that splice elsewhere.
    let stop = AtomicBool::new(false);
    let mut asked = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        scope.spawn(|| {
            let (_out, into) = rustix::pipe::pipe().unwrap();
            while !stop.load(Relaxed) {
                let zero = std::fs::File::open("/dev/null").unwrap();
                let _ = rustix::pipe::splice(&zero, None, &into, None, 1, rustix::pipe::SpliceFlags::NONBLOCK);
            }
        });
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(Relaxed) {
                (&more.0).write_all(endless(asked, 10)).unwrap();
                asked += 10;
                thread::sleep(std::time::Duration::from_millis(300));
            }
            asked
        });
        let waited = longer_than_its_patience(&room);
        stop.store(true, Relaxed);
        asked = asking.join().unwrap();
        if let Err(why) = waited {
            skip::record(&why);
        }
    });
    read(&full.1, taken);
    read(&few.1, 10);
    read(&more.1, asked);
    let view = room.view(&made.id);
    assert_eq!((&view["connections"]["reset"], &view["fallbacks"]["spliced"]), (&0.into(), &Value::Null), "{view}");
}

#[test]
fn a_process_that_is_stopped_is_left_alone() {
    let room = require!(@ room());
    let Some(socat) = run::find("socat") else { skip!("no socat (package socat)") };
    let mut command = renamed(&room, &socat, "stopped");
    command.args(["-t0", &format!("TCP4-LISTEN:{PORT},bind=127.0.0.1,reuseaddr"), "PIPE"]);
    let server = Program::serve(&room, command);
    let made = create(&room, "");
    let client = connect(&room.ns(), made.addr()).unwrap();
    both_ways(&client, 1000).unwrap();
    signal(&server, Signal::STOP);
    let mut writer = &client;
    writer.write_all(endless(0, 100_000)).unwrap();
    let waited = longer_than_its_patience(&room);
    signal(&server, Signal::CONT);
    read(&client, 100_000);
    if let Err(why) = waited {
        skip!("{why}");
    }
}
