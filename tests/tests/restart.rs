//! Containers that come and go: the segment waits, says why, and comes back by itself; nothing of ours keeps a dead
//! container's namespace alive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use wormhole_tests::docker::{Container, Docker};
use wormhole_tests::engine::Engine;
use wormhole_tests::images::Image;
use wormhole_tests::kernel;
use wormhole_tests::netns::Marker;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{End, connect, drain};
use wormhole_tests::{require, wait_until};

/// A client and a server in containers, with a segment between them.
struct Case {
    room: Room,
    app: Container,
    redis: Container,
    made: Made,
}

impl Case {
    fn new(docker: &Docker) -> Self {
        let room = Room::docker(docker);
        let (app, redis) = (docker.container(Image::Client, &[]).unwrap(), docker.container(Image::Redis, &[]).unwrap());
        redis.wait_listening("tcp", 6379).unwrap();
        let made = room.create(&format!("url :6379 docker-ns {} tail docker-ns {}", app.id, redis.id));
        let case = Self { room, app, redis, made };
        case.works();
        case
    }

    /// The client gets its answer on its localhost.
    #[track_caller]
    fn works(&self) {
        self.room.wait_listening(&self.made.id);
        self.redis.wait_listening("tcp", 6379).unwrap();
        assert_eq!(self.app.exec(&["redis-cli", "ping"]).unwrap().ok(), "PONG");
    }

    /// A connection from the client's namespace that has talked once.
    fn open(&self) -> TcpStream {
        let mut open = connect(&self.app.ns().unwrap(), ([127, 0, 0, 1], 6379).into()).unwrap();
        open.write_all(b"PING\r\n").unwrap();
        open.read_exact(&mut [0; 7]).unwrap();
        open
    }
}

/// The namespace that a container is in, as `net:[…]`.
fn namespace(container: &Container) -> String {
    format!("net:[{}]", std::fs::metadata(format!("/proc/{}/ns/net", container.pid().unwrap())).unwrap().ino())
}

/// Nobody keeps the namespace: no process, no descriptor, and no socket of the daemon's either. A socket does not show
/// in /proc, but what was in the namespace does: a marker, a link that only its end removes from the other side.
#[track_caller]
fn gone(room: &Room, namespace: &str, marker: &Marker) {
    wait_until("the daemon to let go", SOON, || {
        let holds = room.daemon.holds();
        // Inodes are given again at once.
        let reused = || marker.gone() && kernel::namespaces().unwrap().contains_key(namespace);
        (!holds.namespaces.contains(namespace) || reused()).then_some(())
    });
    marker.wait_gone();
}

fn marker(room: &Room, container: &Container) -> Marker {
    Marker::new(&room.netns, &container.pid().unwrap().to_string()).unwrap()
}

/// The part of a head's URL that a restart must not change and that `create` does not shorten.
fn address(head: &serde_json::Value) -> String {
    head.as_str().unwrap().rsplit('@').next().unwrap().to_owned()
}

#[test]
fn the_head_side_restarts() {
    let docker = require!(Docker);
    let case = Case::new(docker);
    for _ in 0..3 {
        let (old, marker) = (namespace(&case.app), marker(&case.room, &case.app));
        case.app.restart().unwrap();
        case.works();
        gone(&case.room, &old, &marker);
    }
    assert_eq!(address(&case.room.view(&case.made.id)["head"]), address(&case.made.url.as_str().into()));
}

#[test]
fn the_tail_side_restarts() {
    let docker = require!(Docker);
    let case = Case::new(docker);
    for _ in 0..3 {
        let (old, marker) = (namespace(&case.redis), marker(&case.room, &case.redis));
        let mut open = case.open();
        case.redis.restart().unwrap();
        // The server's own end is passed on: redis ends its connections when it is told to stop.
        drain(&mut open);
        case.works();
        gone(&case.room, &old, &marker);
    }
}

#[test]
fn stop_and_start_of_either_side() {
    let docker = require!(Docker);
    let case = Case::new(docker);
    for side in [&case.app, &case.redis] {
        let (old, marker) = (namespace(side), marker(&case.room, side));
        side.stop(5).unwrap();
        let reason = case.room.wait_waiting(&case.made.id);
        assert!(reason.contains(&side.name) && reason.contains("is not running"), "{reason}");
        let listed = case.room.daemon.ok(&["list"]);
        assert!(listed.contains("waiting") && listed.contains("is not running"), "{listed}");
        gone(&case.room, &old, &marker);
        side.start().unwrap();
        case.works();
    }
}

#[test]
fn kill_of_either_side_resets_open_connections() {
    let docker = require!(Docker);
    let case = Case::new(docker);
    for side in [&case.redis, &case.app] {
        let (old, marker) = (namespace(side), marker(&case.room, side));
        let mut open = case.open();
        side.kill().unwrap();
        let reason = case.room.wait_waiting(&case.made.id);
        assert!(reason.contains("is not running"), "{reason}");
        if side.name == case.app.name {
            // The test's own socket is in the client's namespace and would keep that alive.
            drop(open);
            gone(&case.room, &old, &marker);
        } else {
            // redis was killed with nothing unread: its kernel says FIN, and so do we. The client goes on; the half of
            // the connection that is left would keep the dead namespace alive if it were not cut.
            drain(&mut open);
            gone(&case.room, &old, &marker);
            drop(open);
        }
        case.room.wait_idle(&case.made.id);
        side.start().unwrap();
        case.works();
    }
}

#[test]
fn a_client_is_reset_while_the_tail_is_away() {
    let docker = require!(Docker);
    let case = Case::new(docker);
    case.redis.stop(5).unwrap();
    case.room.wait_waiting(&case.made.id);
    let answer = connect(&case.app.ns().unwrap(), ([127, 0, 0, 1], 6379).into());
    if let Ok(mut client) = answer {
        assert_eq!(drain(&mut client), (vec![], End::Reset));
    }
    let view = case.room.wait_view(&case.made.id, "failed", |v| v["connections"]["failed"] == 1);
    assert!(view["connections"]["last_error"].as_str().unwrap().contains("is not running"), "{view}");
}

#[test]
fn a_container_that_is_deleted_and_one_of_its_name_that_comes() {
    let docker = require!(Docker);
    let room = Room::docker(docker);
    let name = wormhole_tests::run::unique("named");
    let start = || {
        let redis = docker.container(Image::Redis, &["--name", &name]).unwrap();
        redis.wait_listening("tcp", 6379).unwrap();
        redis
    };
    let redis = start();
    let made = room.create(&format!("url :6379 tail docker-ns {name}"));
    let ping = || room.netns.run(&["redis-cli", "ping"]).unwrap();
    assert_eq!(ping(), "PONG");
    let (old, marker) = (namespace(&redis), marker(&room, &redis));
    redis.remove().unwrap();
    let reason = room.wait_waiting(&made.id);
    assert!(reason.contains("there is no container") && reason.contains(&name), "{reason}");
    gone(&room, &old, &marker);
    // The head stays where it is, on the host.
    assert!(room.has_port("tcp", 6379));
    let _redis = start();
    room.wait_listening(&made.id);
    assert_eq!(ping(), "PONG");
}

#[test]
fn a_renamed_container() {
    let docker = require!(Docker);
    let mut case = Case::new(docker);
    let by_id = case.made.id.clone();
    let by_name = case.room.create(&format!("url :6380 docker-ns {} tail docker-ns {} url :6379", case.app.id, case.redis.name));
    let old = case.redis.name.clone();
    let new = wormhole_tests::run::unique("renamed");
    case.redis.rename(&new).unwrap();
    // Whoever said a name meant the name.
    let reason = case.room.wait_waiting(&by_name.id);
    assert!(reason.contains(&old), "{reason}");
    case.works();
    assert_eq!(case.room.view(&by_id)["state"], "listening");
    case.redis.rename(&old).unwrap();
    case.room.wait_listening(&by_name.id);
    assert_eq!(case.app.exec(&["redis-cli", "-p", "6380", "ping"]).unwrap().ok(), "PONG");
}

#[test]
fn udp_and_unix_heads_come_back_too() {
    let docker = require!(Docker);
    let room = Room::docker(docker);
    let (app, dns) = (docker.container(Image::Client, &[]).unwrap(), docker.container(Image::Dns, &[]).unwrap());
    dns.wait_listening("udp", 53).unwrap();
    let udp = room.create(&format!("url udp://:53 docker-ns {} tail docker-ns {}", app.id, dns.id));
    let unix = room.create(&format!("docker-ns {} url unix:///tmp/s tail docker-ns {} url :53", app.id, dns.id));
    let ask = || {
        room.wait_listening(&udp.id);
        room.wait_listening(&unix.id);
        dns.wait_listening("udp", 53).unwrap();
        assert_eq!(app.exec(&["drill", "-Q", "@127.0.0.1", "wormhole.test"]).unwrap().ok(), "192.0.2.53");
        assert_eq!(app.exec(&["test", "-S", "/tmp/s"]).unwrap().code(), 0);
    };
    ask();
    for side in [&app, &dns] {
        let (old, marker) = (namespace(side), marker(&room, side));
        side.restart().unwrap();
        ask();
        gone(&room, &old, &marker);
    }
}

#[test]
fn a_free_port_stays_the_same() {
    let docker = require!(Docker);
    let room = Room::docker(docker);
    let (app, redis) = (docker.container(Image::Client, &[]).unwrap(), docker.container(Image::Redis, &[]).unwrap());
    redis.wait_listening("tcp", 6379).unwrap();
    let made = room.create(&format!("url :0 docker-ns {} tail docker-ns {} url :6379", app.id, redis.id));
    let port = made.port().to_string();
    for _ in 0..2 {
        assert_eq!(app.exec(&["redis-cli", "-p", &port, "ping"]).unwrap().ok(), "PONG");
        app.restart().unwrap();
        room.wait_listening(&made.id);
        assert_eq!(address(&room.view(&made.id)["head"]), address(&made.url.as_str().into()));
    }
}

#[test]
fn the_engine_restarts() {
    require!(Docker);
    let mut engine = Engine::start_plain().unwrap();
    let docker = engine.docker();
    let case = Case::new(&docker);
    engine.restart().unwrap();
    // Without live-restore an engine stops its containers. Until it answers again the reason is that it does not.
    let stopped = |view: &serde_json::Value| view["reason"].as_str().is_some_and(|why| why.contains("is not running"));
    case.room.wait_view(&case.made.id, "waiting for its containers", stopped);
    case.redis.start().unwrap();
    case.app.start().unwrap();
    case.works();
    engine.stop().unwrap();
    let reason = case.room.wait_waiting(&case.made.id);
    assert!(reason.contains("cannot be reached") || reason.contains("is not running"), "{reason}");
    assert!(case.room.status()["docker"]["error"].is_string());
}
