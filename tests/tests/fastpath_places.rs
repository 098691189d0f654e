//! Who talks to whom, from where, and who speaks first: addresses, namespaces, early data, the switches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::netns::Netns;
use wormhole_tests::raw::{self, FASTOPEN_CONNECT};
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{self, End, PATIENCE, Stream, ask, bytes, connect, drain, endless, serve};
use wormhole_tests::{fast, require, skip, three_ways, wait_until};

three_ways!(
    the_server_speaks_first,
    the_client_sends_before_anybody_accepts,
    much_before_anybody_accepts,
    a_first_word_and_then_the_rest,
    the_same_client_port_again_and_again,
    a_fast_open_client,
    a_write_that_waits_for_the_connection,
    a_multipath_client,
);

fn the_server_speaks_first(lane: &Lane) {
    for round in 0..50_u8 {
        let mut client = lane.client();
        let mut server = lane.accept();
        server.write_all(&[round; 20]).unwrap();
        client.read_exact(&mut [0; 20]).unwrap();
        ask_back(&mut client, &mut server, "word");
    }
    let (mut client, mut server) = lane.pair();
    server.write_all(bytes(0, 1000)).unwrap();
    let mut got = vec![0; 1000];
    client.read_exact(&mut got).unwrap();
    assert!(got == bytes(0, 1000));
    if lane.way == Way::Fast {
        // All of it, from the first byte on.
        lane.wait_direct(999, || {});
    }
}

#[track_caller]
fn ask_back(client: &mut TcpStream, server: &mut TcpStream, word: &str) {
    let mut got = vec![0; word.len()];
    client.write_all(word.as_bytes()).unwrap();
    server.read_exact(&mut got).unwrap();
    server.write_all(&got).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, word.as_bytes());
}

fn the_client_sends_before_anybody_accepts(lane: &Lane) {
    for len in [1, 100, 5000, 100_000] {
        let mut client = lane.client();
        client.write_all(bytes(1, len)).unwrap();
        let mut server = lane.accept();
        let mut got = vec![0; len];
        server.read_exact(&mut got).unwrap();
        assert!(got == bytes(1, len), "{len} bytes");
        // What was early does not keep the rest off the fast path.
        lane.settle(&client);
        let before = lane.direct();
        lane.wait_direct(before, || ask_back(&mut client, &mut server, "later"));
    }
}

/// More than any buffer takes, while the server sleeps; and on without a pause when it wakes up, until most of it goes from socket
/// to socket.
fn much_before_anybody_accepts(lane: &Lane) {
    const ALL: usize = 30 << 20;
    const DIRECT: u64 = 20 << 20;
    let (mut client, over) = (lane.client(), &AtomicBool::new(false));
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut at = 0;
            while at < ALL || !over.load(Relaxed) {
                client.write_all(endless(at, 100_000)).unwrap_or_else(|e| panic!("after {at} bytes: {e}"));
                at += 100_000;
            }
            client.end().unwrap();
            at
        });
        // What is tried here is what happens when the server takes its time.
        thread::sleep(Duration::from_millis(100));
        let (mut server, mut at, mut buffer, began) = (lane.accept(), 0, vec![0; 1 << 16], Instant::now());
        loop {
            let len = server.read(&mut buffer).unwrap_or_else(|e| panic!("after {at} bytes: {e}"));
            if len == 0 {
                break;
            }
            assert!(buffer[..len] == *endless(at, len), "wrong bytes between {at} and {}", at + len);
            if at >> 22 != (at + len) >> 22 {
                over.store(lane.way != Way::Fast || lane.direct() > DIRECT || began.elapsed() > SOON, Relaxed);
            }
            at += len;
        }
        assert_eq!(at, writer.join().unwrap());
        assert!(lane.way != Way::Fast || lane.direct() > DIRECT, "{} of {at} bytes were direct", lane.direct());
    });
}

/// The first word takes the relay, and the flood behind it must not overtake it.
fn a_first_word_and_then_the_rest(lane: &Lane) {
    for round in 0..200 {
        let mut client = lane.client();
        client.write_all(endless(0, 10 + round)).unwrap();
        client.write_all(endless(10 + round, 3000)).unwrap();
        client.write_all(endless(3010 + round, 1)).unwrap();
        client.end().unwrap();
        let (got, end) = drain(&mut lane.accept());
        assert!((got.as_slice(), end) == (endless(0, 3011 + round), End::Eof), "round {round}: {} bytes, {end:?}", got.len());
    }
}

/// Nothing is left in any table that the next connection with the same addresses could find.
fn the_same_client_port_again_and_again(lane: &Lane) {
    for round in 0..100_u32 {
        let mut client = traffic::inside(&lane.near(), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&"127.0.0.1:4000".parse::<SocketAddr>().unwrap().into())?;
            // It leaves nothing behind (TIME_WAIT) when it is reset.
            socket.set_linger(Some(Duration::ZERO))?;
            socket.connect(&lane.addr.into())?;
            Ok(TcpStream::from(socket))
        })
        .unwrap();
        client.patience(PATIENCE).unwrap();
        let mut server = lane.accept();
        ask_back(&mut client, &mut server, &format!("round {round}"));
        if round % 10 == 0 {
            lane.settle(&client);
        }
        drop(client);
        assert_eq!(drain(&mut server), (vec![], End::Reset), "round {round}");
    }
}

/// Its first bytes are with the kernel before the connection is there, and no program sees them.
fn a_fast_open_client(lane: &Lane) {
    let netns = lane.room.as_ref().map_or(lane.far(), |room| &room.netns);
    // Clients, servers, and servers that did not ask for it.
    netns.run(&["sh", "-c", "echo 1027 > /proc/sys/net/ipv4/tcp_fastopen"]).unwrap();
    for round in 0..20 {
        let mut client = traffic::inside(&lane.near(), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            raw::set_number(&socket, FASTOPEN_CONNECT, 1)?;
            socket.connect(&lane.addr.into())?;
            Ok(TcpStream::from(socket))
        })
        .unwrap();
        client.patience(PATIENCE).unwrap();
        let len = [10, 1000, 10_000, 200_000][round % 4];
        client.write_all(endless(0, len)).unwrap();
        client.write_all(endless(len, 1000)).unwrap();
        let mut server = lane.accept();
        client.write_all(endless(len + 1000, 1000)).unwrap();
        client.end().unwrap();
        let (got, end) = drain(&mut server);
        assert!((got.as_slice(), end) == (endless(0, len + 2000), End::Eof), "round {round}: {} of {len}, {end:?}", got.len());
    }
}

/// The SYN is lost, so connect() is not done when the first write comes; it waits inside the kernel.
fn a_write_that_waits_for_the_connection(lane: &Lane) {
    if wormhole_tests::run::find("iptables").is_none() {
        wormhole_tests::skip!("needs iptables");
    }
    let netns = lane.room.as_ref().map_or(lane.far(), |room| &room.netns);
    for len in [10, 300_000] {
        let socket = traffic::inside(&lane.near(), || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))).unwrap();
        socket.set_nonblocking(true).unwrap();
        let port = lane.addr.port().to_string();
        netns.run(&["iptables", "-I", "INPUT", "-p", "tcp", "--dport", &port, "--syn", "-j", "DROP"]).unwrap();
        let error = socket.connect(&lane.addr.into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INPROGRESS.raw_os_error()));
        netns.run(&["iptables", "-F", "INPUT"]).unwrap();
        socket.set_nonblocking(false).unwrap();
        let mut client = TcpStream::from(socket);
        client.patience(PATIENCE).unwrap();
        // Comes back after a second, when the SYN is sent again.
        client.write_all(endless(0, len)).unwrap();
        client.write_all(endless(len, 1000)).unwrap();
        let mut server = lane.accept();
        client.write_all(endless(len + 1000, 1000)).unwrap();
        client.end().unwrap();
        let (got, end) = drain(&mut server);
        assert!((got.as_slice(), end) == (endless(0, len + 2000), End::Eof), "{len}: {} bytes, {end:?}", got.len());
    }
}

/// Multipath TCP is relayed: sockets of that kind do not belong into the kernel's maps.
fn a_multipath_client(lane: &Lane) {
    let made = traffic::inside(&lane.near(), || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)));
    let Ok(socket) = made else { skip!("this kernel has no Multipath TCP") };
    socket.connect_timeout(&lane.addr.into(), SOON).unwrap();
    let (mut client, mut server) = (TcpStream::from(socket), lane.accept());
    client.patience(PATIENCE).unwrap();
    ask_back(&mut client, &mut server, "several paths");
    if let Some(room) = &lane.room {
        let open = room.view(&lane.made.as_ref().unwrap().id)["open"][0].clone();
        assert_eq!(open["path"], "relay", "{open}");
        assert!(lane.way != Way::Fast || open["reason"].to_string().to_lowercase().contains("multipath"), "{open}");
    }
    client.end().unwrap();
    assert_eq!(drain(&mut server), (vec![], End::Eof));
}

// === addresses ===

/// A client socket of the other family that says `::ffff:127.0.0.1`.
fn mapped(lane: &Lane) -> TcpStream {
    let SocketAddr::V4(addr) = lane.addr else { panic!("the lane is IPv4") };
    let addr = SocketAddr::from((addr.ip().to_ipv6_mapped(), addr.port()));
    let stream = traffic::inside(&lane.near(), || {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.connect(&SockAddr::from(addr))?;
        Ok(TcpStream::from(socket))
    })
    .unwrap();
    stream.patience(PATIENCE).unwrap();
    stream
}

fn talk(lane: &Lane, mut client: TcpStream, what: &str) {
    let mut server = lane.accept();
    lane.settle(&client);
    let before = lane.direct();
    ask_back(&mut client, &mut server, what);
    if lane.way == Way::Fast {
        lane.wait_direct(before + 2 * what.len() as u64 - 1, || {});
    }
}

#[test]
fn every_family_of_addresses() {
    require!(Box);
    for way in [Way::Direct, Way::Relay, Way::Fast] {
        // The head, the tail, where the server listens.
        for (head, tail, server) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]", "[::1]"),
            ("127.0.0.1", "[::1]", "[::1]"),
            ("[::1]", "127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "0.0.0.0"),
            // A dual-stack server sees an IPv4 client in IPv6.
            ("127.0.0.1", "127.0.0.1", "[::]"),
            ("127.0.0.1", "[::1]", "[::]"),
            ("127.0.0.5", "127.0.0.7", "127.0.0.7"),
        ] {
            let lane = require!(@ Lane::between(way, head, tail, server));
            let what = format!("{way:?}: {head} -> {tail}, server {server}");
            println!("{what}");
            talk(&lane, lane.client(), &what);
            if lane.addr.is_ipv4() {
                talk(&lane, mapped(&lane), &what);
            }
            lane.finish();
        }
    }
}

/// Everybody is at 127.0.0.1:700 and has clients at the same ports; nobody hears what is meant for somebody else.
#[test]
fn equal_addresses_in_many_namespaces() {
    require!(Box);
    const PLACES: usize = 5;
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let mut places: Vec<(Netns, Netns, Made)> = Vec::new();
    for number in 0..PLACES {
        let (near, far) = (Netns::create("n").unwrap(), Netns::create("f").unwrap());
        let name = format!("place {number}");
        serve(traffic::listen(&far.ns(), "127.0.0.1:700"), move |mut stream: TcpStream| {
            stream.write_all(name.as_bytes()).unwrap();
            let (got, _) = drain(&mut stream);
            stream.write_all(&got).unwrap();
        });
        let made = room.create(&format!("url {}@127.0.0.1:700 tail url {}@127.0.0.1:700", near.name, far.name));
        // Both names stay: a segment one of whose places is gone resets its connections.
        places.push((near, far, made));
    }
    let from_port = |near: &Netns, port: u16| {
        let stream = traffic::inside(&near.ns(), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.connect(&SocketAddr::from(([127, 0, 0, 1], 700)).into())?;
            Ok(TcpStream::from(socket))
        })
        .unwrap();
        stream.patience(PATIENCE).unwrap();
        stream
    };
    for port in 4000..4020 {
        let mut clients: Vec<_> = places.iter().map(|(near, ..)| from_port(near, port)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let mut name = [0; 7];
            client.read_exact(&mut name).unwrap();
            assert_eq!(name, format!("place {number}").as_bytes());
            client.write_all(bytes(number as u64, 5000)).unwrap();
            client.end().unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let (got, end) = drain(client);
            assert!((got.as_slice(), end) == (bytes(number as u64, 5000), End::Eof), "place {number}, port {port}");
        }
    }
    for (.., made) in &places {
        let view = room.wait_idle(&made.id);
        assert!(fast::sum(&view, "direct") > 0, "{view}");
        assert_eq!(fast::sum(&view, "bytes"), 20 * (7 + 5000 + 5000), "{view}");
    }
    fast::wait_no_pair(&room);
}

// === the switches ===

/// What `inspect` says about the one open connection once it has a path.
fn path(room: &Room, made: &Made) -> (String, String) {
    wait_until("a path", SOON, || {
        let open = &room.view(&made.id)["open"][0];
        let path = open["path"].as_str()?.to_owned();
        (path != "connecting").then(|| (path, open["reason"].as_str().unwrap_or_default().to_owned()))
    })
}

#[test]
fn off_for_a_daemon_and_for_a_segment() {
    require!(Box);
    for (daemon, segment, fast_one) in [
        ("on", "", true),
        ("on", "off", false),
        ("off", "", false),
        ("off", "on", false),
        ("auto", "off", false),
        ("auto", "on", true),
    ] {
        let room = Room::with(None, &["--fastpath", daemon]);
        if daemon != "off"
            && let Err(why) = fast::available(&room)
        {
            skip!("{why}");
        }
        let far = Netns::create("f").unwrap();
        traffic::echo(&far.ns(), "127.0.0.1:700");
        let words = format!("url :701 tail url {}@:700", far.name);
        let made = room.create(&if segment.is_empty() { words } else { format!("--fastpath {segment} {words}") });
        let mut client = connect(&room.ns(), made.addr()).unwrap();
        for _ in 0..3 {
            ask(&mut client, "word").unwrap();
        }
        let (path, reason) = path(&room, &made);
        assert_eq!(path == "fastpath", fast_one, "daemon {daemon}, segment {segment:?}: {path}, {reason}");
        assert!(
            fast_one || reason.contains("off") || daemon == "off" && reason.contains("status"),
            "daemon {daemon}, segment {segment:?}: {reason:?}"
        );
        drop(client);
        let view = room.wait_idle(&made.id);
        assert_eq!(fast::sum(&view, "direct") > 0, fast_one, "{view}");
    }
}
