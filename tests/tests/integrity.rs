//! Bytes through the real daemon: a thousand random connections, byte by byte, and thirty thousand one after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::{self};
use std::time::{Duration, Instant};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::Room;
use wormhole_tests::traffic::{self, PATIENCE, Random, Stream, bytes, connect, listen, serve};
use wormhole_tests::{boxed, require};

/// What happens on one connection, which follows from its number and the seed alone, so that both ends know it.
#[derive(Debug)]
struct Plan {
    number: u64,
    random: Random,
    to_server: &'static [u8],
    to_client: &'static [u8],
    order: Order,
}

/// Who ends first.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Both send at once.
    Both,
    /// The server sends only after the client's end, the client reads on after its own.
    ClientFirst,
    /// The client sends only after the server's end.
    ServerFirst,
}

impl Plan {
    fn new(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x1234_5678_9ABC_DEF1));
        let largest = traffic::LARGEST as u64;
        let to_server = bytes(random.draw(), random.size(largest));
        let to_client = bytes(random.draw(), random.size(largest));
        let order = [Order::Both, Order::ClientFirst, Order::ServerFirst][usize::try_from(random.below(3)).unwrap()];
        Self { number, random, to_server, to_client, order }
    }
}

/// Sends all of it in pieces of random sizes, with pauses, and ends.
fn send(stream: &mut impl Stream, data: &[u8], random: &mut Random) -> Result<(), String> {
    let mut rest = data;
    while !rest.is_empty() {
        let piece = random.size(rest.len() as u64).clamp(1, rest.len());
        let (now, later) = rest.split_at(piece);
        stream.write_all(now).map_err(|e| format!("{} of {} bytes not sent: {e}", rest.len(), data.len()))?;
        rest = later;
        if random.one_in(8) {
            thread::sleep(Duration::from_millis(random.below(8)));
        }
    }
    stream.end().map_err(|e| format!("cannot end: {e}"))
}

/// Reads to the end, at a random pace, and compares.
fn receive(stream: &mut impl Stream, expected: &[u8], random: &mut Random) -> Result<(), String> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let want = random.size(256 * 1024).clamp(1, buffer.len());
        match stream.read(&mut buffer[..want]) {
            Ok(0) if at == expected.len() => return Ok(()),
            Ok(0) => return Err(format!("the end after {at} of {} bytes", expected.len())),
            Ok(len) if expected.get(at..at + len) == Some(&buffer[..len]) => at += len,
            Ok(len) => return Err(format!("wrong bytes between {at} and {} of {}", at + len, expected.len())),
            Err(e) => return Err(format!("after {at} of {} bytes: {e}", expected.len())),
        }
        if random.one_in(16) {
            thread::sleep(Duration::from_millis(random.below(8)));
        }
    }
}

/// Both directions of one end. `first`: this end sends before it reads.
fn carry<S: Stream>(stream: &mut S, out: &[u8], back: &[u8], random: &Random, both: bool, first: bool) -> Result<(), String> {
    let (mut sending, mut receiving) = (random.clone(), Random::new(random.clone().draw()));
    if both {
        let mut twin = stream.twin().map_err(|e| e.to_string())?;
        return thread::scope(|scope| {
            let sender = scope.spawn(|| send(&mut twin, out, &mut sending));
            let received = receive(stream, back, &mut receiving);
            sender.join().unwrap().and(received)
        });
    }
    if first {
        send(stream, out, &mut sending)?;
        return receive(stream, back, &mut receiving);
    }
    receive(stream, back, &mut receiving)?;
    send(stream, out, &mut sending)
}

/// The client's end of connection `number`. The number goes ahead as early data.
fn client<S: Stream>(mut stream: S, seed: u64, number: u64) -> Result<(), String> {
    let plan = Plan::new(seed, number);
    stream.patience(PATIENCE).map_err(|e| e.to_string())?;
    stream.write_all(&number.to_be_bytes()).map_err(|e| format!("early data: {e}"))?;
    let (both, first) = (matches!(plan.order, Order::Both), matches!(plan.order, Order::ClientFirst));
    carry(&mut stream, plan.to_server, plan.to_client, &plan.random, both, first)
        .map_err(|e| format!("client {} ({:?}): {e}", plan.number, plan.order))
}

fn server<S: Stream>(mut stream: S, seed: u64) -> Result<(), String> {
    stream.patience(PATIENCE).map_err(|e| e.to_string())?;
    let mut number = [0; 8];
    stream.read_exact(&mut number).map_err(|e| format!("server: no number: {e}"))?;
    let plan = Plan::new(seed, u64::from_be_bytes(number));
    let (both, first) = (matches!(plan.order, Order::Both), matches!(plan.order, Order::ServerFirst));
    let random = Random::new(plan.random.clone().draw() ^ 1);
    carry(&mut stream, plan.to_client, plan.to_server, &random, both, first)
        .map_err(|e| format!("server {} ({:?}): {e}", plan.number, plan.order))
}

#[test]
fn a_thousand_random_connections_arrive_byte_by_byte() {
    require!(Box);
    const AT_ONCE: usize = 16;
    // Each way carries a quarter.
    let connections = traffic::connections(1000).next_multiple_of(4);
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        u64::from(std::process::id()) ^ u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() & 0xFFFF_FFFF).unwrap()
    });
    println!("SEED={seed}");
    let (room, far, dir) = (Room::alone(), Netns::create("f").unwrap(), boxed::fresh_dir().unwrap());
    let (wrong, problems) = channel();
    let answer = |wrong: std::sync::mpsc::Sender<String>| {
        move |result: Result<(), String>| {
            if let Err(why) = result {
                wrong.send(why).unwrap();
            }
        }
    };
    let (tcp, unix) = (listen(&far.ns(), "127.0.0.1:7001"), UnixListener::bind(dir.join("server")).unwrap());
    let say = answer(wrong.clone());
    serve(tcp, {
        let say = say.clone();
        move |stream: TcpStream| say(server(stream, seed))
    });
    serve(unix, {
        let say = say.clone();
        move |stream: UnixStream| say(server(stream, seed))
    });
    let (path, head) = (dir.join("server").display().to_string(), dir.join("head").display().to_string());
    let far = &far.name;
    // Each a kind of route: across namespaces, a chain, unix to TCP, TCP to unix.
    let ways = [
        room.create(&format!("url :7000 tail url {far}@:7001")),
        room.create(&format!("url :7002 chain url {far}@:7003 tail url {far}@:7001")),
        room.create(&format!("url :7004 tail url unix://{path}")),
        room.create(&format!("url unix://{head} tail url {far}@:7001")),
    ];
    let (next, began) = (std::sync::atomic::AtomicU64::new(0), Instant::now());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (next, ways, room, wrong, head) = (&next, &ways, &room, wrong.clone(), &head);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= connections {
                        break;
                    }
                    let done = match usize::try_from(number % 4).unwrap() {
                        3 => client(UnixStream::connect(head).unwrap(), seed, number),
                        way => connect(&room.ns(), ways[way].addr())
                            .map_err(|e| format!("{e:#}"))
                            .and_then(|s| client(s, seed, number)),
                    };
                    if let Err(why) = done {
                        wrong.send(why).unwrap();
                    }
                }
            });
        }
    });
    let mut total = (0, 0);
    for way in &ways {
        let view = room.wait_idle(&way.id);
        assert_eq!(
            (&view["connections"]["total"], &view["connections"]["failed"]),
            (&(connections / 4).into(), &0.into()),
            "{view}"
        );
        assert_eq!(view["connections"]["reset"], 0, "{view}");
        total.0 += view["bytes"]["to_tail"].as_u64().unwrap();
        total.1 += view["bytes"]["to_head"].as_u64().unwrap();
    }
    drop((wrong, say));
    let problems: Vec<String> = problems.try_iter().collect();
    assert!(
        problems.is_empty(),
        "SEED={seed}: {} wrong, among them:\n{}",
        problems.len(),
        problems[..problems.len().min(10)].join("\n")
    );
    let planned = (0..connections)
        .map(|n| Plan::new(seed, n))
        .fold((0, 0), |(a, b), p| (a + 8 + p.to_server.len() as u64, b + p.to_client.len() as u64));
    assert_eq!(total, planned, "the counters of `list`");
    println!("{connections} connections, {} MB, {:.1} s", (total.0 + total.1) / 1_000_000, began.elapsed().as_secs_f64());
}

#[test]
fn thirty_thousand_connections_one_after_the_other() {
    require!(Box);
    const CONNECTIONS: u64 = 30_000;
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    for netns in [&room.netns, &far] {
        // More than the default range: one that ended stays in TIME_WAIT for a minute.
        netns.run(&["sh", "-c", "echo 1024 65000 > /proc/sys/net/ipv4/ip_local_port_range"]).unwrap();
    }
    let listener = listen(&far.ns(), "127.0.0.1:700");
    thread::spawn(move || {
        // One thread for all: they come one after the other.
        for stream in listener.incoming() {
            let (mut stream, mut word) = (stream.unwrap(), [0; 8]);
            if stream.read_exact(&mut word).is_ok() {
                let _ = stream.write_all(&word);
            }
        }
    });
    let made = room.create(&format!("url :701 tail url {}@:700", far.name));
    let before = room.settled(&[]);
    let addr = made.addr();
    let (began, failed) = (Instant::now(), AtomicUsize::new(0));
    traffic::inside(&room.ns(), || {
        for number in 0..CONNECTIONS {
            let ask = || -> std::io::Result<bool> {
                let mut stream = TcpStream::connect(addr)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&number.to_be_bytes())?;
                let mut back = [0; 8];
                stream.read_exact(&mut back)?;
                Ok(back == number.to_be_bytes())
            };
            match ask() {
                Ok(true) => {}
                other => {
                    println!("connection {number}: {other:?}");
                    failed.fetch_add(1, SeqCst);
                }
            }
        }
        Ok(())
    })
    .unwrap();
    println!("{CONNECTIONS} connections in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(failed.load(SeqCst), 0);
    let view = room.wait_idle(&made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["failed"]), (&CONNECTIONS.into(), &0.into()), "{view}");
    before.wait_equal(|| room.state(&[]));
}
