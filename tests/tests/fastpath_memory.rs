//! TCP's memory is short (`net.ipv4.tcp_mem`): calls wait, as they do without the fast path, and none fails.
//!
//! The limits are those of the whole kernel, so that these tests run only where it is theirs (`cargo xtask vm-test`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;
use wormhole_tests::crowd::{Crowd, Door, number};
use wormhole_tests::lane::{self, Lane, Way};
use wormhole_tests::skip;
use wormhole_tests::talk::Kind;
use wormhole_tests::three_ways;
use wormhole_tests::traffic::{Again, bytes};

three_ways!(
    by crate::run:
    no_call_fails_for_want_of_memory,
    readers_that_stopped_leave_some_to_others,
    beyond_the_last_limit_it_goes_on,
);

/// Where the kernel is ours.
fn run(way: Way, case: fn(&Lane)) {
    match skip::own_kernel() {
        Ok(()) => lane::run(way, case),
        Err(why) => skip::record(&why),
    }
}

/// The limits, until this is dropped.
struct Limits {
    before: String,
}

impl Limits {
    const PATH: &str = "/proc/sys/net/ipv4/tcp_mem";

    fn set(pages: [u64; 3]) -> Self {
        let before = fs::read_to_string(Self::PATH).unwrap();
        fs::write(Self::PATH, pages.map(|n| n.to_string()).join(" ")).unwrap();
        Self { before }
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        fs::write(Self::PATH, &self.before).unwrap();
    }
}

/// How often something went by TCP because its memory was short.
fn avoided(lane: &Lane) -> u64 {
    lane.room().status()["fastpath"]["fallbacks"]["memory"].as_u64().unwrap_or(0)
}

/// All but those of several threads: where TCP waits for memory, another thread's bytes may come in between.
const KINDS: &[Kind] =
    &[Kind::Both, Kind::ClientFirst, Kind::ServerFirst, Kind::Turns, Kind::ShutWhileReading, Kind::Unread, Kind::Vanish];

/// Much more is sent at a time than there is memory for. The third limit is out of reach: beyond it TCP itself resets what
/// nobody holds any more.
fn no_call_fails_for_want_of_memory(lane: &Lane) {
    let _limits = Limits::set([2000, 3000, 12_000]);
    let crowd = Crowd::new(number("CONNECTIONS").unwrap_or(100).min(200), KINDS, 16 << 20);
    crowd.serve(lane.listener.try_clone().unwrap());
    crowd.run(&[Door::Tcp(lane.near(), lane.addr)], 64);
    crowd.check();
    assert!(lane.way != Way::Fast || avoided(lane) > 0, "the memory was never short: {}", lane.room().status());
}

/// What a stopped reader is sent.
const STREAM: usize = 4 << 20;

/// Writes as much as the kernel takes.
fn fill(mut stream: &TcpStream) -> usize {
    let mut sent = 0;
    while sent < STREAM {
        match stream.write(&bytes(0, STREAM)[sent..STREAM.min(sent + (64 << 10))]) {
            Ok(len) => sent += len,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("after {sent} bytes: {e}"),
        }
    }
    sent
}

/// Readers that stopped have taken what there is; then somebody else comes.
fn readers_that_stopped_leave_some_to_others(lane: &Lane) {
    let _limits = Limits::set([8000, 12_000, 40_000]);
    let stopped: Vec<_> = (0..40).map(|_| lane.pair()).collect();
    let sent: Vec<usize> = thread::scope(|scope| {
        let fill = |(client, _): &(TcpStream, TcpStream)| {
            client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            fill(client)
        };
        let writers: Vec<_> = stopped.iter().map(|pair| scope.spawn(move || fill(pair))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    println!("{:?}: {} MB were sent", lane.way, sent.iter().sum::<usize>() / 1_000_000);
    assert!(lane.way != Way::Fast || avoided(lane) > 0, "the memory was never short: {}", lane.room().status());

    let (mut client, mut server) = lane.pair();
    for turn in 0..100 {
        let (question, answer) = (bytes(turn, 100), bytes(turn + 1, 1000));
        let (mut asked, mut told) = ([0; 100], [0; 1000]);
        client.write_all(question).unwrap();
        Again(&mut server).read_exact(&mut asked).unwrap();
        server.write_all(answer).unwrap();
        Again(&mut client).read_exact(&mut told).unwrap();
        assert!(asked == question && told == answer, "turn {turn}");
    }
    thread::scope(|scope| {
        scope.spawn(|| client.write_all(bytes(7, STREAM)).unwrap());
        let mut got = vec![0; STREAM];
        Again(&mut server).read_exact(&mut got).unwrap();
        assert!(got == bytes(7, STREAM), "the stream is another one");
    });

    // They go on, all at once: what the kernel dropped for want of memory is sent again after a time that doubles.
    thread::scope(|scope| {
        for ((_, server), sent) in stopped.iter().zip(sent) {
            scope.spawn(move || {
                let (mut server, mut got) = (server, vec![0; sent]);
                Again(&mut server).read_exact(&mut got).unwrap();
                assert!(got == bytes(0, sent), "a stopped reader's bytes are others");
            });
        }
    });
    let before = lane.direct();
    lane.wait_direct(before + (1 << 20), || {
        client.write_all(bytes(0, 1 << 20)).unwrap();
        Again(&mut server).read_exact(&mut vec![0; 1 << 20]).unwrap();
    });
}

/// Beyond the last limit the kernel still takes a packet for a queue that is empty.
fn beyond_the_last_limit_it_goes_on(lane: &Lane) {
    let (client, server) = lane.pair();
    let exchange = |turn| {
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            let mut got = [0; 5000];
            from.write_all(bytes(turn, got.len())).unwrap();
            Again(&mut to).read_exact(&mut got).unwrap();
            assert!(got == bytes(turn, got.len()), "turn {turn}");
        }
    };
    // On its way; it depends on what the cpu has in reserve whether anything takes that way later.
    exchange(0);
    let _limits = Limits::set([1; 3]);
    (1..20).for_each(exchange);
    if lane.way == Way::Fast && lane.view()["open"][0]["path"] == "relay" {
        let reason = lane.view()["open"][0]["reason"].to_string();
        assert!(reason.contains("no memory"), "{reason}");
    }
}
