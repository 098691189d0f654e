//! Through the real daemon every end is the end that the other side meant, and what runs out is waited for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{Again, End, PATIENCE, Stream, ask, bytes, connect, drain, echo, listen, reset, serve};
use wormhole_tests::{process, require, run, wait_until};

/// A room whose segment leads to a listener of ours; both ends of a connection through it.
struct Pair {
    room: Room,
    made: Made,
    accepted: Receiver<TcpStream>,
}

impl Pair {
    #[track_caller]
    fn new(args: &[&str]) -> Self {
        let room = Room::with(None, args);
        let listener = listen(&room.ns(), "127.0.0.1:700");
        let (sender, accepted) = channel();
        serve(listener, move |stream: TcpStream| {
            stream.patience(PATIENCE).unwrap();
            // The test may be over.
            let _ = sender.send(stream);
        });
        let made = room.create("url :701 tail url :700");
        Self { room, made, accepted }
    }

    fn client(&self) -> TcpStream {
        connect(&self.room.ns(), self.made.addr()).unwrap()
    }

    /// Clients that connect, send a byte, wait for the answer and are gone.
    fn askers(&self, count: usize) -> Vec<JoinHandle<(Vec<u8>, End)>> {
        let ask = |mut client: TcpStream| {
            client.write_all(b"x").unwrap();
            thread::spawn(move || drain(&mut client))
        };
        (0..count).map(|_| ask(self.client())).collect()
    }

    #[track_caller]
    fn both(&self) -> (TcpStream, TcpStream) {
        let client = self.client();
        (client, self.accepted.recv_timeout(SOON).expect("the tail got no connection"))
    }
}

#[track_caller]
fn all_answered(askers: Vec<JoinHandle<(Vec<u8>, End)>>) {
    for (number, asker) in askers.into_iter().enumerate() {
        assert_eq!(asker.join().unwrap(), (b"y".to_vec(), End::Eof), "client {number}");
    }
}

#[test]
fn half_close_in_both_orders() {
    require!(Box);
    let pair = Pair::new(&[]);
    let (mut client, mut server) = pair.both();
    client.write_all(b"question").unwrap();
    client.end().unwrap();
    assert_eq!(drain(&mut server), (b"question".to_vec(), End::Eof));
    server.write_all(b"answer").unwrap();
    drop(server);
    assert_eq!(drain(&mut client), (b"answer".to_vec(), End::Eof));

    let (mut client, mut server) = pair.both();
    server.write_all(b"greeting").unwrap();
    server.end().unwrap();
    assert_eq!(drain(&mut client), (b"greeting".to_vec(), End::Eof));
    client.write_all(b"late").unwrap();
    drop(client);
    assert_eq!(drain(&mut server), (b"late".to_vec(), End::Eof));
    let view = pair.room.wait_idle(&pair.made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["reset"]), (&2.into(), &0.into()), "{view}");
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    require!(Box);
    let pair = Pair::new(&[]);
    for talked in [false, true] {
        for from_client in [true, false] {
            let (mut client, mut server) = pair.both();
            if talked {
                client.write_all(b"x").unwrap();
                server.read_exact(&mut [0]).unwrap();
            }
            let (near, mut far) = if from_client { (client, server) } else { (server, client) };
            reset(near);
            assert_eq!(drain(&mut far), (vec![], End::Reset), "talked: {talked}, from the client: {from_client}");
        }
    }
    let view = pair.room.wait_idle(&pair.made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["reset"]), (&4.into(), &4.into()), "{view}");
}

#[test]
fn closing_with_unread_data_is_a_reset() {
    require!(Box);
    let pair = Pair::new(&[]);
    let (mut client, server) = pair.both();
    client.write_all(b"never read").unwrap();
    // Wait until it is there; the kernel resets a socket that is closed with data in it.
    wait_until("the data", SOON, || server.peek(&mut [0; 10]).is_ok_and(|n| n == 10).then_some(()));
    drop(server);
    assert_eq!(drain(&mut client), (vec![], End::Reset));
}

#[test]
fn a_tail_that_refuses_resets_the_client_and_is_told() {
    require!(Box);
    let room = Room::alone();
    let made = room.create("url :701 tail url :9");
    for _ in 0..3 {
        match connect(&room.ns(), made.addr()) {
            Ok(mut client) => assert_eq!(drain(&mut client), (vec![], End::Reset)),
            Err(e) => assert_eq!(e.downcast::<std::io::Error>().unwrap().kind(), ErrorKind::ConnectionReset),
        }
    }
    let view = room.wait_view(&made.id, "failed", |v| v["connections"]["failed"] == 3);
    let why = view["connections"]["last_error"].as_str().unwrap();
    assert!(why.contains("127.0.0.1:9") && why.contains("nothing listens there"), "{why}");
    assert_eq!(view["state"], "listening");
    assert!(room.daemon.log().contains("nothing listens there"), "{}", room.daemon.log());
    assert!(room.daemon.ok(&["list"]).contains("nothing listens there"));
    // It recovers by itself.
    echo(&room.ns(), "127.0.0.1:9");
    ask(&mut connect(&room.ns(), made.addr()).unwrap(), "now").unwrap();
}

#[test]
fn a_tail_that_does_not_answer_is_given_up() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    room.netns.join("10.9.0.1/24", &far, "10.9.0.2/24").unwrap();
    // Nobody has this address, and the neighbour entry keeps the kernel from finding out.
    room.netns
        .run(&["sh", "-c", "ip neigh add 10.9.0.77 lladdr 02:00:00:00:00:77 dev $(ip -o link | grep -o 'v[0-9-]*@' | tr -d @)"])
        .unwrap();
    let made = room.daemon.ok(&["create", "--connect-timeout", "300ms", "url", ":701", "tail", "url", "10.9.0.77:80"]);
    let id = made.split(' ').next().unwrap();
    let mut client = connect(&room.ns(), ([127, 0, 0, 1], 701).into()).unwrap();
    let began = Instant::now();
    assert_eq!(drain(&mut client), (vec![], End::Reset));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let view = room.view(id);
    assert!(view["connections"]["last_error"].as_str().unwrap().contains("no answer"), "{view}");
}

// === limits ===

#[test]
fn more_clients_than_connections_are_allowed_wait_for_their_turn() {
    require!(Box);
    let pair = Pair::new(&["--max-connections", "8"]);
    let clients = pair.askers(20);
    let mut served: Vec<TcpStream> = (0..8).map(|_| pair.accepted.recv_timeout(SOON).unwrap()).collect();
    assert_eq!(pair.room.status()["limits"]["connections"], 8);
    let cpu = process::cpu_time(pair.room.daemon.pid()).unwrap();
    assert!(pair.accepted.recv_timeout(Duration::from_millis(500)).is_err(), "a ninth was accepted");
    let spent = process::cpu_time(pair.room.daemon.pid()).unwrap() - cpu;
    assert!(spent < Duration::from_millis(100), "{spent:?} of cpu time while it had nothing to do");
    for number in 0..20 {
        let mut one = if served.is_empty() { pair.accepted.recv_timeout(SOON).expect("not served") } else { served.remove(0) };
        one.read_exact(&mut [0]).unwrap_or_else(|e| panic!("client {number}: {e}"));
        one.write_all(b"y").unwrap();
    }
    all_answered(clients);
    let view = pair.room.wait_idle(&pair.made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["failed"]), (&20.into(), &0.into()), "{view}");
}

#[test]
fn without_descriptors_clients_wait_and_the_daemon_rests() {
    require!(Box);
    let pair = Pair::new(&[]);
    let pid = pair.room.daemon.pid();
    pair.room.daemon.ok(&["status"]);
    // Behind its back, so that it cannot count: what is open now and ten more.
    let limit = pair.room.daemon.holds().count() + 10;
    let limit = format!("--nofile={limit}:{limit}");
    run::text(&mut run::command("prlimit", ["--pid", &pid.to_string(), &limit])).unwrap();
    let clients = pair.askers(30);
    let mut served = vec![pair.accepted.recv_timeout(SOON).unwrap()];
    while let Ok(one) = pair.accepted.recv_timeout(Duration::from_millis(500)) {
        served.push(one);
    }
    assert!(served.len() < 10, "{} connections with ten descriptors", served.len());
    let cpu = process::cpu_time(pid).unwrap();
    // A second of real time is what is measured here.
    thread::sleep(Duration::from_secs(1));
    let spent = process::cpu_time(pid).unwrap() - cpu;
    assert!(spent < Duration::from_millis(150), "{spent:?} of cpu time in a second without descriptors");
    let lines = pair.room.daemon.log().matches("accepting pauses").count();
    assert!((1..=16).contains(&lines), "{lines} lines in the log, at most one for each relay thread and ten seconds");
    for number in 0..30 {
        let mut one = if served.is_empty() { pair.accepted.recv_timeout(SOON).expect("not served") } else { served.remove(0) };
        one.read_exact(&mut [0]).unwrap_or_else(|e| panic!("client {number}: {e}"));
        one.write_all(b"y").unwrap();
    }
    all_answered(clients);
    let view = pair.room.wait_idle(&pair.made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["failed"]), (&30.into(), &0.into()), "{view}");
    pair.room.daemon.stop();
}

#[test]
fn a_daemon_that_starts_with_few_descriptors_knows_its_limit() {
    require!(Box);
    let room = Room::started(None, |setup| setup.limit_fds(200));
    let echo = echo(&room.ns(), "127.0.0.1:700");
    let made = room.create(&format!("url :701 tail url {echo}"));
    let status = room.status();
    assert_eq!((&status["limits"]["max_fds"], &status["limits"]["max_connections"]), (&200.into(), &36.into()), "{status}");
    assert!(status["notes"].to_string().contains("200 descriptors allow 36 connections"), "{status}");
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connect(&room.ns(), made.addr()).unwrap()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(b"x").unwrap();
        // Only the first ones are served before others end.
        if number < 36 {
            client.read_exact(&mut [0]).unwrap();
        }
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        if number >= 36 {
            client.read_exact(&mut [0]).unwrap_or_else(|e| panic!("client {number}: {e}"));
        }
    }
    // The control API has descriptors of its own all the while.
    assert_eq!(room.wait_idle(&made.id)["connections"]["total"], 100);
}

#[test]
fn readers_that_stopped_cost_a_bounded_amount() {
    require!(Box);
    const STALLED: usize = 100;
    // What one direction may keep in userspace.
    const BOUND: u64 = 256 * 1024;
    let pair = Pair::new(&[]);
    // The kernel's own buffers, 400 times two of them, would be more than the memory that it has for all TCP (tcp_mem);
    // then it drops segments, and minutes pass before it tries them again.
    let small = "for way in r w; do echo 4096 65536 262144 > /proc/sys/net/ipv4/tcp_${way}mem; done";
    pair.room.netns.run(&["sh", "-c", small]).unwrap();
    let pid = pair.room.daemon.pid();
    let (mut ends, before) = (Vec::new(), process::rss(pid).unwrap());
    for _ in 0..STALLED {
        let (client, server) = pair.both();
        for stream in [&client, &server] {
            stream.set_nonblocking(true).unwrap();
        }
        ends.push((client, server));
    }
    let idle = process::rss(pid).unwrap();
    let (mut sent, mut quiet) = (vec![[0_usize; 2]; STALLED], 0);
    let block = bytes(0, 1 << 20);
    wait_until("all to be stuck", Duration::from_secs(60), || {
        let mut moved = 0;
        for ((client, server), sent) in ends.iter_mut().zip(&mut sent) {
            for (stream, sent) in [client, server].into_iter().zip(sent) {
                let start = *sent % (1 << 16);
                if let Ok(len) = stream.write(&block[start..start + (1 << 17)]) {
                    *sent += len;
                    moved += len;
                }
            }
        }
        quiet = if moved == 0 { quiet + 1 } else { 0 };
        (quiet == 20).then_some(())
    });
    let stuck = process::rss(pid).unwrap();
    let (buffered, grown) = (stuck.saturating_sub(idle), idle.saturating_sub(before));
    println!("{STALLED} idle: {} KiB, stalled both ways: {} KiB more", grown >> 10, buffered >> 10);
    assert!(grown < 2 << 20, "{STALLED} idle connections cost {grown} bytes");
    assert!(buffered < 2 * STALLED as u64 * BOUND + (2 << 20), "{buffered} bytes for {STALLED} stalled connections");
    // All of it is still there.
    for ((client, server), sent) in ends.into_iter().zip(sent) {
        for (reader, sent) in [(&server, sent[0]), (&client, sent[1])] {
            reader.set_nonblocking(false).unwrap();
            let mut left = sent;
            let (mut reader, mut buffer) = (reader, vec![0; 1 << 16]);
            while left > 0 {
                // In one thread: that there is room again for what was written last may break a read off, see `fastpath_waits`.
                left -=
                    Again(&mut reader).read(&mut buffer).unwrap_or_else(|e| panic!("{left} of {sent} bytes are missing: {e}"));
            }
        }
    }
    pair.room.wait_idle(&pair.made.id);
}
