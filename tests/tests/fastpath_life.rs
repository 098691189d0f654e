//! What becomes of open connections of the fast path, and of what the kernel holds for them, when a daemon, a segment or a
//! namespace goes, whatever the connections were doing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{Read, Write};
use std::net::TcpStream;
use wormhole_tests::fast::{self, Held, wait_unused};
use wormhole_tests::images::Image;
use wormhole_tests::kernel::{Ns, tcp_sockets};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::netns::Marker;
use wormhole_tests::open::Open;
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::traffic::{End, Stream, bytes, connect, drain};
use wormhole_tests::{require, run, wait_until};

const ON: &[&str] = &["--fastpath", "on"];

/// A lane, or the end of the test with the reason why there is none.
macro_rules! lane {
    ($open:expr) => {{
        require!(Box);
        require!(@ $open)
    }};
}

/// How many TCP sockets there are in the namespaces of a lane.
fn sockets(lane: &Lane) -> u64 {
    tcp_sockets(&lane.near()).unwrap() + tcp_sockets(&lane.far().ns()).unwrap()
}

#[track_caller]
fn wait_sockets(lane: &Lane, before: u64) {
    wait_until("all sockets to go", SOON, || (sockets(lane) == before).then_some(()));
}

/// New connections take the fast path, and leave nothing.
#[track_caller]
fn works(lane: &Lane) {
    for _ in 0..3 {
        lane.is_direct(&lane.pair());
    }
    lane.room().wait_idle(&lane.made.as_ref().unwrap().id);
    wait_unused(lane.room());
}

// === ends of the daemon ===

#[test]
fn kill_9_resets_both_sides_in_every_state_and_the_next_start_is_clean() {
    let mut lane = lane!(Lane::open(Way::Fast));
    let (before, fds) = (sockets(&lane), lane.room().settled(&[]));
    for _ in 0..2 {
        let (open, held) = (Open::all(|| lane.pair()), Held::by(lane.room().daemon.pid()));
        assert_eq!(lane.view()["connections"]["open"], open.count());
        assert!(held.is_whole(), "{held:?}");
        let room = lane.room.take().unwrap();
        lane.room = Some(room.again_with(None, ON, |daemon| daemon.crash().unwrap()));
        held.wait_detached();
        open.all_reset();
        held.wait_gone();
        wait_sockets(&lane, before);
        works(&lane);
    }
    // The second daemon after the crash holds what the first one did.
    fds.wait_equal(|| lane.room().state(&[]));
}

#[test]
fn sigterm_lets_pairs_run_direct_until_they_end() {
    let mut lane = lane!(Lane::with(Way::Fast, &["--drain", "60s"]));
    let held = Held::by(lane.room().daemon.pid());
    let (first, second) = (lane.pair(), lane.pair());
    lane.is_direct(&first);
    lane.room().daemon.signal_term();
    let port = lane.addr.port();
    wait_until("the head to be closed", SOON, || (!lane.room().has_port("tcp", port)).then_some(()));
    for _ in 0..3 {
        lane.is_direct(&first);
        lane.is_direct(&second);
    }
    // The end of one of them, in two halves, is no end for the other.
    let (mut client, mut server) = first;
    client.write_all(bytes(1, 1 << 16)).unwrap();
    client.end().unwrap();
    assert!(drain(&mut server) == (bytes(1, 1 << 16).to_vec(), End::Eof));
    server.write_all(bytes(2, 1 << 16)).unwrap();
    drop(server);
    assert!(drain(&mut client) == (bytes(2, 1 << 16).to_vec(), End::Eof));
    wait_until("one connection to be left", SOON, || (lane.view()["connections"]["open"] == 1).then_some(()));
    lane.is_direct(&second);
    drop((second, client));
    assert!(lane.room.take().unwrap().daemon.wait().unwrap().success());
    held.wait_gone();
}

#[test]
fn the_drains_deadline_resets_every_state() {
    let mut lane = lane!(Lane::with(Way::Fast, &["--drain", "1s"]));
    let (before, held) = (sockets(&lane), Held::by(lane.room().daemon.pid()));
    let open = Open::all(|| lane.pair());
    let Room { mut daemon, netns } = lane.room.take().unwrap();
    daemon.signal_term();
    assert!(daemon.wait().unwrap().success());
    open.all_reset();
    held.wait_gone();
    let both = || tcp_sockets(&netns.ns()).unwrap() + tcp_sockets(&lane.far().ns()).unwrap();
    // The head is gone too.
    wait_until("all sockets to go", SOON, || (both() == before - 1).then_some(()));
}

// === ends of a segment, and of a place ===

#[test]
fn delete_resets_every_state_and_leaves_nothing() {
    let mut lane = lane!(Lane::open(Way::Fast));
    let (before, fds) = (sockets(&lane), lane.room().settled(&[]));
    for _ in 0..3 {
        let open = Open::all(|| lane.pair());
        lane.room().delete(&lane.made.as_ref().unwrap().id);
        open.all_reset();
        wait_unused(lane.room());
        // The head is gone too.
        wait_sockets(&lane, before - 1);
        lane.made = Some(lane.room().create(&format!("url :701 tail url {}@:700", lane.far().name)));
        fds.wait_equal(|| lane.room().state(&[]));
    }
    works(&lane);
}

/// The name goes while connections are open. The namespace lives on as long as somebody's sockets are in it; those of the
/// daemon are none of them.
#[test]
fn a_namespace_that_is_removed_under_open_connections() {
    for tail in [false, true] {
        let mut lane = lane!(Lane::apart(Way::Fast));
        let id = lane.made.as_ref().unwrap().id.clone();
        let Ns::Named(place) = (if tail { lane.far().ns() } else { lane.near() }) else { panic!("no name") };
        let marker = Marker::new(&lane.room().netns, &place).unwrap();
        let open = Open::all(|| lane.pair());
        run::text(&mut run::command("ip", ["netns", "del", &place])).unwrap();
        assert!(lane.room().wait_waiting(&id).contains(&place));
        open.all_reset();
        lane.room().wait_idle(&id);
        wait_unused(lane.room());
        let room = lane.room.take().unwrap();
        // The server's listener is in there too.
        drop(lane);
        marker.wait_gone();
        let held = || room.daemon.holds().namespaces;
        room.delete(&id);
        wait_until("the daemon to let go of both places", SOON, || (held().len() <= 1).then_some(()));
    }
}

/// Its processes go with a container, whatever they had in hand.
#[test]
fn a_container_that_is_killed_under_open_connections() {
    let docker = require!(Docker);
    let room = Room::with(Some(docker), ON);
    require!(@ fast::available(&room));
    let (app, redis) = (docker.container(Image::Client, &[]).unwrap(), docker.container(Image::Redis, &[]).unwrap());
    redis.wait_listening("tcp", 6379).unwrap();
    let made = room.create(&format!("url :6379 docker-ns {} tail docker-ns {}", app.id, redis.id));
    for side in [&redis, &app] {
        let marker = Marker::new(&room.netns, &side.pid().unwrap().to_string()).unwrap();
        let mut all: Vec<TcpStream> = (0..20)
            .map(|_| {
                let mut client = connect(&app.ns().unwrap(), made.addr()).unwrap();
                for _ in 0..2 {
                    client.write_all(b"PING\r\n").unwrap();
                    client.read_exact(&mut [0; 7]).unwrap();
                }
                client
            })
            .collect();
        let view = room.view(&made.id);
        let fast = view["open"].as_array().unwrap().iter().filter(|one| one["path"] == "fastpath").count();
        assert_eq!(fast, all.len(), "{view}");
        side.kill().unwrap();
        room.wait_waiting(&made.id);
        if side.name == redis.name {
            // It had read all that it was sent, so its kernel says FIN, or the daemon cuts the connection.
            for client in &mut all {
                drain(client);
            }
        }
        // The test's own sockets would keep the place of the clients.
        drop(all);
        room.wait_idle(&made.id);
        wait_unused(&room);
        marker.wait_gone();
        side.start().unwrap();
        redis.wait_listening("tcp", 6379).unwrap();
        room.wait_listening(&made.id);
    }
}
