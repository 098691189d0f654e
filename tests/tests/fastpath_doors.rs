//! The sockets by which the relay puts bytes into queues, one for each of its threads, and what it announces to the programs:
//! what goes wrong for one connection is not felt by the next one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use wormhole_tests::fast::{self, Held, wait_unused};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::traffic::{self, End, Stream, ask, connect, drain, endless};
use wormhole_tests::{require, wait_until};

/// Both ends of a new connection whose first `len` bytes are sent before the relay has seen it, and so go by it.
fn early(lane: &Lane, len: usize) -> (TcpStream, TcpStream) {
    let pid = lane.room().daemon.pid();
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path().join("stat"));
    // One that has ended meanwhile does nothing either.
    let rests = |stat: &PathBuf| fs::read_to_string(stat).map_or(true, |stat| stat.rsplit_once(") ").unwrap().1.starts_with('T'));
    let signal = |signal| kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    wait_until("the daemon to rest", SOON, || tasks().all(|stat| rests(&stat)).then_some(()));
    let mut client = lane.client();
    client.write_all(endless(0, len)).unwrap();
    signal(Signal::CONT);
    let server = lane.accept();
    lane.settle(&client);
    (client, server)
}

/// The kernel keeps a program's refusal, and would give it to whoever comes next (`psock->eval`).
#[test]
fn a_refusal_is_forgotten() {
    require!(Box);
    let lane = require!(@ Lane::open(Way::Fast));
    let doors = || Held::by(lane.room().daemon.pid()).keys("WH_DOOR_SOCKS");
    let before = doors();
    assert!(before > 0);
    let gone = || lane.room().status()["fastpath"]["fallbacks"]["gone"].as_u64().unwrap_or_default();
    for round in 0..40 {
        let (mut client, mut server) = early(&lane, 1000);
        server.read_exact(&mut [0; 1000]).unwrap();
        let count = gone();
        drop(server);
        wait_until("the server's end", SOON, || (client.read(&mut [0]).unwrap() == 0).then_some(()));
        // By TCP, for the server has left the map; and the relay, which has put what came before into its queue, is refused.
        client.write_all(b"too late").unwrap();
        let (got, end) = drain(&mut client);
        assert!(got.is_empty() && matches!(end, End::Reset | End::Eof), "round {round}: {got:?}, {end:?}");
        wait_until("both refusals", SOON, || (gone() >= count + 2).then_some(()));
        let error = client.write_all(b"and later").map_or_else(|error| error.kind(), |()| ErrorKind::Other);
        assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "round {round}: {error:?}");

        // Whatever thread has this one: its bytes go where they belong.
        let (mut client, mut server) = early(&lane, 5000);
        let direct = lane.direct();
        lane.wait_direct(direct, || client.write_all(endless(5000, 100)).unwrap());
        client.end().unwrap();
        let (got, end) = drain(&mut server);
        let sent = endless(0, got.len());
        assert!(got == sent && got.len() >= 5100 && end == End::Eof, "round {round}: {} bytes, {end:?}", got.len());
    }
    assert_eq!(doors(), before);
    lane.room().wait_idle(&lane.made.as_ref().unwrap().id);
    wait_unused(lane.room());
}

/// A tail in another namespace, or where nobody listens, is announced, and nobody of this one accepts.
#[test]
fn what_was_announced_in_vain_is_taken_back() {
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let other = Netns::create("o").unwrap();
    room.netns.join("10.9.0.1/24", &other, "10.9.0.2/24").unwrap();
    traffic::echo(&other.ns(), "10.9.0.2:701");
    let made = room.create("url 127.0.0.1:701 tail url 10.9.0.2:701");
    let nobody = room.create("url 127.0.0.1:702 tail url 127.0.0.1:709");
    let held = Held::by(room.daemon.pid());
    let head = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let mut open: Vec<_> = (0..20).map(|_| connect(&room.ns(), head(701)).unwrap()).collect();
    for client in &mut open {
        ask(client, "word").unwrap();
    }
    assert_eq!(held.keys("WH_TUPLES"), open.len(), "of as many connections whose server is elsewhere");
    for _ in 0..20 {
        let mut client = connect(&room.ns(), head(702)).unwrap();
        assert_eq!(drain(&mut client).1, End::Reset);
    }
    room.wait_idle(&nobody.id);
    assert_eq!(held.keys("WH_TUPLES"), open.len());
    drop(open);
    room.wait_idle(&made.id);
    wait_unused(&room);
}
