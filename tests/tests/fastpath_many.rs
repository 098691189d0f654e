//! Many short connections with every kind of end, and more at once than there are places: afterwards nothing is in use.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SEED` | repeats a run |
//! | `CONNECTIONS` | how many instead of the default; 100,000 is a good number |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Instant;
use wormhole_tests::crowd::{number, seed};
use wormhole_tests::fast::{self, Held, sum, wait_unused};
use wormhole_tests::kernel::tcp_sockets;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::netns::Netns;
use wormhole_tests::require;
use wormhole_tests::room::{Made, Room};
use wormhole_tests::traffic::{self, Again, End, PATIENCE, Random, Stream, bytes, connect, drain, echo, inside, reset, serve};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client says that it will send no more, the server answers and closes.
    FinByClient,
    /// The server says so, the client answers and closes.
    FinByServer,
    ResetByClient,
    ResetByServer,
    /// The server closes with bytes unread.
    UnreadByServer,
    /// The client does.
    UnreadByClient,
    /// The client is gone before anybody at the other end can have accepted.
    GoneAtOnce,
    /// The same with a reset.
    ResetAtOnce,
    /// Nobody listens at the tail.
    Refused,
}

const ENDINGS: &[Ending] = &[
    Ending::FinByClient,
    Ending::FinByServer,
    Ending::ResetByClient,
    Ending::ResetByServer,
    Ending::UnreadByServer,
    Ending::UnreadByClient,
    Ending::GoneAtOnce,
    Ending::ResetAtOnce,
    Ending::Refused,
];

/// The most bytes that go each way.
const LARGEST: u64 = 4096;

/// What connection `number` is about: its end, and what goes to the server and back.
fn plan(seed: u64, number: u64) -> (Ending, &'static [u8], &'static [u8]) {
    let mut random = Random::new(seed ^ number.wrapping_mul(0x1234_5678_9ABC_DEF1));
    let ending = ENDINGS[usize::try_from(random.below(ENDINGS.len() as u64)).unwrap()];
    // At least one byte, which can be left unread.
    let mut text = || bytes(random.draw(), random.size(LARGEST).max(1));
    (ending, text(), text())
}

type Said = Result<(), String>;

fn expect(what: &str, got: &(Vec<u8>, End), text: &[u8], end: End) -> Said {
    if (got.0.as_slice(), got.1) == (text, end) {
        return Ok(());
    }
    Err(format!("{what}: {:?} after {} bytes, expected {end:?} after {}", got.1, got.0.len(), text.len()))
}

fn said<T>(done: io::Result<T>, what: &str) -> Result<T, String> {
    done.map_err(|e| format!("{what}: {e}"))
}

/// Reads exactly `text`, and nothing more.
fn exactly(stream: &mut TcpStream, text: &[u8]) -> Said {
    let mut got = vec![0; text.len()];
    said(Again(stream).read_exact(&mut got), "reading")?;
    if got == text { Ok(()) } else { Err("other bytes".to_owned()) }
}

fn client(mut stream: TcpStream, seed: u64, number: u64) -> Said {
    let (ending, up, down) = plan(seed, number);
    said(stream.patience(PATIENCE), "a timeout")?;
    let hello = [&number.to_be_bytes(), up].concat();
    match ending {
        Ending::GoneAtOnce => return Ok(()),
        Ending::ResetAtOnce => {
            reset(stream);
            return Ok(());
        }
        Ending::Refused => return expect("refused", &drain(&mut stream), &[], End::Reset),
        _ => said(stream.write_all(&hello), "hello")?,
    }
    match ending {
        Ending::FinByClient => {
            said(stream.end(), "the end")?;
            expect("the answer", &drain(&mut stream), down, End::Eof)
        }
        Ending::FinByServer => {
            expect("the greeting", &drain(&mut stream), down, End::Eof)?;
            said(stream.write_all(up), "the answer")
        }
        Ending::ResetByClient => {
            exactly(&mut stream, down)?;
            reset(stream);
            Ok(())
        }
        Ending::ResetByServer => {
            exactly(&mut stream, down)?;
            said(stream.write_all(&[0]), "the word that it was read")?;
            expect("nothing", &drain(&mut stream), &[], End::Reset)
        }
        Ending::UnreadByServer => expect("nothing", &drain(&mut stream), &[], End::Reset),
        _ => {
            // The first byte says that the others are there.
            exactly(&mut stream, &down[..1])?;
            said(stream.peek(&mut [0]), "what is left unread").map(drop)
        }
    }
}

fn server(mut stream: TcpStream, seed: u64) -> Said {
    said(stream.patience(PATIENCE), "a timeout")?;
    let mut number = [0; 8];
    if Again(&mut stream).read_exact(&mut number).is_err() {
        // Gone at once, which is for the client to decide.
        return Ok(());
    }
    let number = u64::from_be_bytes(number);
    let (ending, up, down) = plan(seed, number);
    let done = (|| {
        if ending == Ending::UnreadByServer {
            return said(stream.peek(&mut [0]), "what is left unread").map(drop);
        }
        exactly(&mut stream, up)?;
        match ending {
            Ending::FinByClient => {
                expect("the end", &drain(&mut stream), &[], End::Eof)?;
                said(stream.write_all(down), "the answer")
            }
            Ending::FinByServer => {
                said(stream.write_all(down), "the greeting")?;
                said(stream.end(), "the end")?;
                expect("the answer", &drain(&mut stream), up, End::Eof)
            }
            Ending::ResetByClient => {
                said(stream.write_all(down), "the greeting")?;
                expect("nothing", &drain(&mut stream), &[], End::Reset)
            }
            Ending::ResetByServer => {
                said(stream.write_all(down), "the greeting")?;
                exactly(&mut stream, &[0])?;
                said(stream.vanish(), "SO_LINGER")
            }
            Ending::UnreadByClient => {
                said(stream.write_all(&[down, &[0]].concat()), "the greeting")?;
                expect("nothing", &drain(&mut stream), &[], End::Reset)
            }
            other => Err(format!("a connection that is {other:?} came to the server")),
        }
    })();
    done.map_err(|e| format!("server {number} ({ending:?}): {e}"))
}

/// Holds all connections, `at_once` at a time, from inside the clients' namespace; gives what went wrong.
fn hold(lane: &Lane, refusing: SocketAddr, seed: u64, count: u64, at_once: u64) -> Vec<String> {
    let (next, wrong, near) = (AtomicU64::new(0), Mutex::new(Vec::new()), lane.near());
    let work = || {
        loop {
            let number = next.fetch_add(1, SeqCst);
            if number >= count {
                return Ok(());
            }
            let (ending, ..) = plan(seed, number);
            let addr = if ending == Ending::Refused { refusing } else { lane.addr };
            let done = said(TcpStream::connect(addr), "connecting").and_then(|stream| client(stream, seed, number));
            if let Err(why) = done {
                wrong.lock().unwrap().push(format!("client {number} ({ending:?}): {why}"));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| inside(&near, work).unwrap());
        }
    });
    wrong.into_inner().unwrap()
}

#[test]
fn every_kind_of_end_many_times_leaves_nothing() {
    require!(Box);
    let lane = require!(@ Lane::open(Way::Fast));
    let (seed, count) = (seed(), number("CONNECTIONS").unwrap_or(3000));
    let at_once = Random::new(seed).below(49) + 16;
    let (room, made) = (lane.room(), lane.made.as_ref().unwrap());
    let refusing = room.create(&format!("url :702 tail url {}@:699", lane.far().name));
    let wrong: &'static Mutex<Vec<String>> = Box::leak(Box::default());
    serve(lane.listener.try_clone().unwrap(), move |stream: TcpStream| {
        if let Err(why) = server(stream, seed) {
            wrong.lock().unwrap().push(why);
        }
    });
    // What a daemon, a kernel and this process have once in their lives, they have after the first few.
    assert_eq!(hold(&lane, refusing.addr(), seed, 50, at_once), [""; 0]);
    let idle = || [made, &refusing].map(|made| room.wait_idle(&made.id));
    idle();
    wait_unused(room);
    let all_sockets = || tcp_sockets(&lane.near()).unwrap() + tcp_sockets(&lane.far().ns()).unwrap();
    let (held, sockets, state) = (Held::by(room.daemon.pid()), all_sockets(), room.settled(&[]));
    let (memory, pairs) = (held.memory(), room.status()["fastpath"]["pairs"]["total"].as_u64().unwrap());

    let began = Instant::now();
    let mut problems = hold(&lane, refusing.addr(), seed, count, at_once);
    println!("{count} connections, {at_once} at a time, in {:.1} s", began.elapsed().as_secs_f64());
    let [view, refused] = idle();
    wait_unused(room);
    problems.append(&mut wrong.lock().unwrap());
    assert!(problems.is_empty(), "{} wrong, among them:\n{}", problems.len(), problems[..problems.len().min(10)].join("\n"));
    state.wait_equal(|| room.state(&[]));
    assert_eq!((all_sockets(), held.memory()), (sockets, memory), "sockets, and memory of maps");

    let of = |what: fn(Ending) -> bool| {
        let some = |upto| (0..upto).filter(|n| what(plan(seed, *n).0)).count() as u64;
        some(50) + some(count)
    };
    let is_refused = |ending| ending == Ending::Refused;
    assert_eq!(refused["connections"]["failed"], of(is_refused), "{refused}");
    assert_eq!(view["connections"]["total"], of(|ending| ending != Ending::Refused), "{view}");
    // All clients were enrolled. The relay hears of none that is gone before it can look.
    let status = room.status()["fastpath"].clone();
    let seen = status["pairs"]["total"].as_u64().unwrap() - pairs;
    let stayed = (0..count).filter(|n| !matches!(plan(seed, *n).0, Ending::GoneAtOnce | Ending::ResetAtOnce)).count() as u64;
    assert!((stayed..=count).contains(&seen), "{seen} pairs of {stayed} to {count}: {status}");
    assert_eq!((&status["fallbacks"]["no-slot"], &status["fallbacks"]["no-room"]), (&Value::Null, &Value::Null), "{status}");
    assert!(sum(&view, "direct") > 0, "no byte went direct: {view}");
}

// === fewer places than connections ===

/// A room with four places, and a server that sends everything back behind `segments` of them.
fn four_places(segments: usize) -> Result<(Room, Made, Vec<Netns>), String> {
    let room = Room::with(None, &["--fastpath", "on", "--fastpath-pairs", "4"]);
    fast::available(&room)?;
    let places: Vec<Netns> = (0..segments).map(|_| Netns::create("c").unwrap()).collect();
    let (last, between) = places.split_last().unwrap();
    echo(&last.ns(), "127.0.0.1:700");
    let between: String = between.iter().map(|place| format!(" chain url {}@:701", place.name)).collect();
    let made = room.create(&format!("url :0{between} tail url {}@:700", last.name));
    Ok((room, made, places))
}

/// A new connection that has its path, which is known when the answer is there.
fn settled(room: &Room, made: &Made) -> TcpStream {
    let mut client = connect(&room.ns(), made.addr()).unwrap();
    carry(&mut client, 1, 10);
    client
}

/// Sends so many bytes and reads them back, at the same time.
fn carry(client: &mut TcpStream, start: u64, len: usize) {
    let (mut twin, text) = (client.twin().unwrap(), bytes(start, len));
    let back = thread::scope(|scope| {
        scope.spawn(|| twin.write_all(text).unwrap());
        let mut back = vec![0; len];
        Again(client).read_exact(&mut back).unwrap();
        back
    });
    assert!(back == text, "other bytes came back, of {len}");
}

/// How many of the open connections take the fast path; all others have to say that there was no place for them.
#[track_caller]
fn fast_ones(room: &Room, made: &Made, open: usize) -> usize {
    let view = room.view(&made.id);
    let all = view["open"].as_array().unwrap();
    assert_eq!(all.len(), open, "{view}");
    let (fast, relayed): (Vec<_>, Vec<_>) = all.iter().partition(|one| one["path"] == "fastpath");
    for one in relayed {
        assert!(one["path"] == "relay" && one["reason"].as_str().unwrap().contains("--fastpath-pairs"), "{one}");
    }
    fast.len()
}

#[test]
fn more_connections_than_places() {
    require!(Box);
    let (room, made, _places) = require!(@ four_places(1));
    for round in 1..=2_u64 {
        let mut all: Vec<TcpStream> = (0..100).map(|_| settled(&room, &made)).collect();
        assert_eq!(fast_ones(&room, &made, 100), 4);
        thread::scope(|scope| {
            for (number, client) in (0..).zip(&mut all) {
                scope.spawn(move || carry(client, number * 100 + round, 300_000));
            }
        });
        // Places are given out as they come free, not before.
        all.truncate(99);
        assert_eq!(fast_ones(&room, &made, 99), 4);
        drop(all);
        let view = room.wait_idle(&made.id);
        wait_unused(&room);
        assert_eq!(
            (&view["fallbacks"]["no-slot"], sum(&view, "bytes")),
            (&(96 * round).into(), 100 * round * 2 * 300_010),
            "{view}"
        );
    }
    let mut four: Vec<TcpStream> = (0..4).map(|_| settled(&room, &made)).collect();
    assert_eq!(fast_ones(&room, &made, 4), 4);
    let fifth = settled(&room, &made);
    assert_eq!(fast_ones(&room, &made, 5), 4);
    four.truncate(3);
    room.wait_view(&made.id, "one less", |view| view["connections"]["open"] == 4);
    four.push(settled(&room, &made));
    assert_eq!(fast_ones(&room, &made, 5), 4);
    drop((four, fifth));
    room.wait_idle(&made.id);
    wait_unused(&room);
}

/// However many segments a connection goes through, it is one on the fast path, and takes one place.
#[test]
fn a_chain_of_five_takes_one_place() {
    require!(Box);
    let (room, made, places) = require!(@ four_places(5));
    let mut four: Vec<TcpStream> = (0..4).map(|_| settled(&room, &made)).collect();
    let pairs = || room.status()["fastpath"]["pairs"]["open"].clone();
    assert_eq!((pairs(), fast_ones(&room, &made, 4)), (4.into(), 4));
    for (number, client) in (0..).zip(&mut four) {
        carry(client, number, 1000);
    }
    let segments: Vec<String> = room.list().iter().map(|view| view["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(segments.len(), places.len());
    let direct = sum(&room.view(&made.id), "direct");
    // Only the first message of each may have gone by TCP.
    assert!(direct >= 4 * (1000 + 1010), "{}", room.view(&made.id));
    for id in &segments {
        let view = room.view(id);
        assert_eq!((sum(&view, "bytes"), sum(&view, "direct")), (4 * 2 * 1010, direct), "{view}");
        assert!(view["open"].as_array().unwrap().iter().all(|one| one["path"] == "fastpath"), "{view}");
    }
    drop(four);
    for id in &segments {
        assert_eq!(room.wait_idle(id)["connections"]["total"], 4);
    }
    wait_unused(&room);
}

// === many at once ===

/// All of them on the fast path, all at the same time, and then none.
#[test]
fn thousands_at_once() {
    require!(Box);
    /// Each takes two descriptors here and two of the daemon's.
    const MOST: u64 = 4000;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let count = limit.maximum.map_or(MOST, |most| most / 3).min(MOST);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let place = Netns::create("c").unwrap();
    let listener = traffic::listen(&place.ns(), "127.0.0.1:700");
    let made = room.create(&format!("url :0 tail url {}@:700", place.name));
    let pair = |_| {
        let client = connect(&room.ns(), made.addr()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.patience(PATIENCE).unwrap();
        (client, server)
    };
    let pairs: Vec<_> = (0..count).map(pair).collect();
    for round in 0..3 {
        for (number, (client, server)) in (0..).zip(&pairs) {
            for (mut from, mut to) in [(client, server), (server, client)] {
                from.write_all(bytes(number + round, 100)).unwrap();
                let mut got = [0; 100];
                Again(&mut to).read_exact(&mut got).unwrap();
                assert!(got == *bytes(number + round, 100), "round {round}, connection {number}");
            }
        }
    }
    let view = room.view(&made.id);
    assert_eq!(room.status()["fastpath"]["pairs"]["open"], count, "{view}");
    // But for the first message, which may have come before all was ready.
    assert!(sum(&view, "direct") >= count * (5 * 100) && view["fallbacks"].is_null(), "{} of {}", view["direct"], view["bytes"]);
    drop(pairs);
    room.wait_idle(&made.id);
    wait_unused(&room);
}
