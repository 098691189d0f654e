//! How a connection begins when it does not begin as most do: with bytes in the SYN, on a socket that had another connection
//! before, to a server that is asleep until there is something to read, or to a port that only looks like a head's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::io::ioctl_fionread;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::netns::Netns;
use wormhole_tests::raw::{self, DEFER_ACCEPT, FASTOPEN_CONNECT};
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::traffic::{self, End, PATIENCE, Stream, ask, connect, drain, endless};
use wormhole_tests::{fast, require, three_ways, wait_until};

three_ways!(
    a_stream_that_begins_in_the_syn,
    a_socket_that_is_connected_again,
    a_server_that_waits_for_the_first_byte,
    a_reset_before_the_server_is_there
);

/// The relay is behind by exactly one message again and again, and the next one must not take its place.
fn a_stream_that_begins_in_the_syn(lane: &Lane) {
    const WRITES: usize = 60;
    let netns = lane.room.as_ref().map_or(lane.far(), |room| &room.netns);
    // Clients, and servers that did not ask for it, without a cookie.
    netns.run(&["sh", "-c", "echo 1543 > /proc/sys/net/ipv4/tcp_fastopen"]).unwrap();
    let open = || {
        let client = traffic::inside(&lane.near(), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_tcp_nodelay(true)?;
            raw::set_number(&socket, FASTOPEN_CONNECT, 1)?;
            socket.connect(&lane.addr.into())?;
            Ok(TcpStream::from(socket))
        })
        .unwrap();
        client.patience(PATIENCE).unwrap();
        client
    };
    // What was in the SYN is counted: the client goes direct once that is injected, and not before.
    let mut client = open();
    client.write_all(endless(0, 1000)).unwrap();
    let mut server = lane.accept();
    server.read_exact(&mut [0; 1000]).unwrap();
    lane.settle(&client);
    let before = lane.direct();
    lane.wait_direct(before, || {
        let mut word = [0; 4];
        client.write_all(b"word").and_then(|()| server.read_exact(&mut word)).unwrap();
        assert_eq!(&word, b"word");
    });
    drop((client, server));
    for (round, len) in [100, 1000, 1400].repeat(30).into_iter().enumerate() {
        let mut client = open();
        thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..WRITES {
                    client.write_all(endless(number * len, len)).unwrap();
                }
                client.end().unwrap();
            });
            let (got, end) = drain(&mut lane.accept());
            assert!((got.as_slice(), end) == (endless(0, WRITES * len), End::Eof), "round {round}: {} bytes, {end:?}", got.len());
        });
    }
}

/// What waited for it in the connection before is no part of the next one.
fn a_socket_that_is_connected_again(lane: &Lane) {
    let (client, mut server) = lane.pair();
    server.write_all(&[b'o'; 1000]).unwrap();
    let before = lane.direct();
    for round in 0..10 {
        rustix::net::connect_unspec(&client).unwrap();
        assert_eq!(drain(&mut server).1, End::Reset, "round {round}");
        rustix::net::connect(&client, &lane.addr).unwrap();
        server = lane.accept();
        lane.settle(&client);
        server.write_all(&[b'n'; 500]).unwrap();
        let mut got = [0; 500];
        (&client).read_exact(&mut got).unwrap();
        assert!(got == [b'n'; 500], "round {round}: {}", String::from_utf8_lossy(&got));
        server.write_all(&[b'o'; 1000]).unwrap();
    }
    lane.wait_direct(before, || {});
}

/// Its socket is there only when the first bytes are.
fn a_server_that_waits_for_the_first_byte(lane: &Lane) {
    raw::set_number(&lane.listener, DEFER_ACCEPT, 5).unwrap();
    for round in 0..20 {
        let mut client = lane.client();
        thread::scope(|scope| {
            scope.spawn(|| {
                for at in 0..50 {
                    client.write_all(endless(at * 1000, 1000)).unwrap();
                }
                if lane.way == Way::Fast {
                    // It cannot go direct any more, and that is what it says.
                    let late =
                        |view: &serde_json::Value| view["open"][0]["reason"].as_str()?.contains("TCP_DEFER_ACCEPT").then_some(());
                    wait_until("the reason", SOON, || late(&lane.view()));
                }
                client.end().unwrap();
                // The answer.
                assert_eq!(drain(&mut client), (vec![7; 1000], End::Eof), "round {round}");
            });
            let mut server = lane.accept();
            if lane.passes("fionread-redirected") {
                // Who asks before each wait would otherwise wait for ever.
                wait_until("50,000 bytes by FIONREAD", SOON, || (ioctl_fionread(&server).unwrap() == 50_000).then_some(()));
            }
            let (got, end) = drain(&mut server);
            assert!((got.as_slice(), end) == (endless(0, 50_000), End::Eof), "round {round}: {} bytes, {end:?}", got.len());
            server.write_all(&[7; 1000]).unwrap();
            server.end().unwrap();
        });
    }
}

/// The relay waits for a moment until the server's socket is there; a reset that comes meanwhile does not take away what came before.
fn a_reset_before_the_server_is_there(lane: &Lane) {
    raw::set_number(&lane.listener, DEFER_ACCEPT, 5).unwrap();
    for round in 0..5 {
        let mut client = lane.client();
        client.write_all(b"last words").unwrap();
        traffic::reset(client);
        assert_eq!(drain(&mut lane.accept()), (b"last words".to_vec(), End::Reset), "round {round}");
    }
}

/// A head on every address of this machine is none on another machine's.
#[test]
fn the_same_port_of_another_machine() {
    require!(Box);
    let room = Room::with(None, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let (far, other) = (Netns::create("f").unwrap(), Netns::create("o").unwrap());
    room.netns.join("10.9.0.1/24", &other, "10.9.0.2/24").unwrap();
    traffic::echo(&far.ns(), "127.0.0.1:700");
    traffic::echo(&other.ns(), "10.9.0.2:701");
    let made = room.create(&format!("url 0.0.0.0:701 tail url {}@:700", far.name));
    let total = || room.status()["fastpath"]["pairs"]["total"].as_u64().unwrap();
    for (addr, enrolled) in [("127.0.0.1", 1), ("127.0.0.9", 1), ("10.9.0.1", 1), ("10.9.0.2", 0)] {
        let before = total();
        let mut client = connect(&room.ns(), SocketAddr::new(addr.parse().unwrap(), 701)).unwrap();
        for _ in 0..3 {
            ask(&mut client, "word").unwrap();
        }
        // Refused on an enrolled socket only.
        let taken = Socket::from(client.try_clone().unwrap());
        assert_eq!(raw::set_number(&taken, raw::ZEROCOPY, 1).is_err(), enrolled == 1, "{addr}");
        drop((client, taken));
        room.wait_idle(&made.id);
        assert_eq!(total() - before, enrolled, "{addr}");
    }
    fast::wait_no_pair(&room);
}
