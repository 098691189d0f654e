//! What the daemon makes it takes away again: after a delete, after a create that fails at any step, after SIGTERM, and
//! what a crash leaves is what the next start needs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use wormhole_tests::daemon::Daemon;
use wormhole_tests::images::Image;
use wormhole_tests::kernel::{self, KernelState, Ns};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{self, End, PATIENCE, Stream, ask, connect, drain, echo, echo_udp, listen, serve};
use wormhole_tests::{boxed, require, wait, wait_until};

/// Everything that went out of or into the room or the places of `others` is as before.
#[track_caller]
fn unchanged(room: &Room, others: &[(&str, Ns)], before: &KernelState) {
    before.wait_equal(|| room.state(others));
}

#[test]
fn create_traffic_and_delete_leave_the_kernel_as_it_was() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let dir = boxed::fresh_dir().unwrap();
    let others = [("far", far.ns())];
    echo(&far.ns(), "127.0.0.1:7001");
    echo_udp(&far.ns(), "127.0.0.1:7001");
    let before = room.settled(&others);
    for round in 0..3 {
        let tcp = room.create(&format!("url :7000 tail url {}@:7001", far.name));
        let chain = room.create(&format!("url :7002 chain url {f}@:7003 tail url {f}@:7001", f = far.name));
        let udp = room.create(&format!("url udp://:7000 tail url udp://{}@:7001", far.name));
        let unix = room.create(&format!("url unix://{}/s tail url {}@:7001", dir.display(), far.name));
        let with = room.state(&others).unwrap();
        assert!(before.diff(&with).contains("+ far: listeners: tcp 127.0.0.1:7003"), "{}", before.diff(&with));
        for made in [&tcp, &chain] {
            for _ in 0..20 {
                ask(&mut connect(&room.ns(), made.addr()).unwrap(), "traffic").unwrap();
            }
        }
        let client = traffic::udp(&room.ns(), "127.0.0.1:0");
        client.send_to(b"x", udp.addr()).unwrap();
        client.recv(&mut [0; 10]).unwrap();
        let open = connect(&room.ns(), tcp.addr()).unwrap();
        drop(client);
        for made in [tcp, chain, udp, unix] {
            room.delete(&made.id);
        }
        drop(open);
        unchanged(&room, &others, &before);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "round {round}");
    }
}

#[test]
fn containers_are_left_as_they_were() {
    let docker = require!(Docker);
    let room = Room::docker(docker);
    let (app, redis) = (docker.container(Image::Client, &[]).unwrap(), docker.container(Image::Redis, &[]).unwrap());
    redis.wait_listening("tcp", 6379).unwrap();
    let others = [("app", app.ns().unwrap()), ("redis", redis.ns().unwrap())];
    room.wait_docker();
    // Its own.
    let own = room.daemon.holds().namespaces;
    assert_eq!(own.len(), 1, "{own:?}");
    let words = [
        format!("url :6379 docker-ns {} tail docker-ns {}", app.id, redis.id),
        format!("docker-ns {} url unix:///tmp/r.sock tail docker-ns {} url unix:///run/redis/redis.sock", app.id, redis.id),
    ];
    let talk = || {
        let made: Vec<Made> = words.iter().map(|words| room.create(words)).collect();
        for args in [&["redis-cli", "ping"][..], &["redis-cli", "-s", "/tmp/r.sock", "ping"]] {
            assert_eq!(app.exec(args).unwrap().ok(), "PONG");
        }
        for made in made {
            room.delete(&made.id);
        }
    };
    // The client of the engine keeps a connection for a while once it was used.
    talk();
    let places = || KernelState::of(&others);
    let before = places().unwrap();
    for _ in 0..3 {
        talk();
    }
    before.wait_equal(places);
    wait_until("the daemon to let go", SOON, || (room.daemon.holds().namespaces == own).then_some(()));
    assert_eq!(app.exec(&["ls", "/tmp"]).unwrap().ok(), "");
}

#[test]
fn a_create_that_fails_at_any_step_leaves_nothing() {
    let docker = require!(Docker);
    let (room, far) = (Room::docker(docker), Netns::create("f").unwrap());
    let stopped = docker.container(Image::Client, &[]).unwrap();
    stopped.stop(5).unwrap();
    let dir = boxed::fresh_dir().unwrap();
    let at = dir.display();
    let taken = UnixListener::bind(dir.join("taken")).unwrap();
    std::fs::write(dir.join("file"), "a file of somebody").unwrap();
    let stranger = listen(&far.ns(), "127.0.0.1:7009");
    room.create("id first url :7100 tail url :7101");
    room.wait_docker();
    let f = &far.name;
    let long = "x".repeat(120);
    let chain = format!("url :7000 chain url {f}@:7001 chain");
    let cases: Vec<(String, i32, &str)> = vec![
        (format!("url {f}@:7009 tail url :1"), 5, "something else listens there already"),
        // The last segment is made first, so here the first one fails, and here the last, and one in the middle.
        (format!("url {f}@:7009 chain url :7001 chain url :7002 tail url :1"), 5, "something else listens there already"),
        (format!("{chain} url {f}@:7009 tail url :1"), 5, "something else listens there already"),
        (format!("url :7000 chain url {f}@:7009 chain url :7001 tail url :1"), 5, "something else listens there already"),
        (format!("{chain} url nowhere@:7001 tail url :1"), 4, "nowhere"),
        (format!("{chain} url pid:2000000000@:7001 tail url :1"), 4, "2000000000"),
        (format!("{chain} docker-ns nosuch url :7001 tail url :1"), 4, "there is no container"),
        ("url :7000 tail docker-ns nosuch".to_owned(), 4, "there is no container"),
        (format!("url :7000 tail docker-ns {}", stopped.id), 5, "is not running"),
        (format!("{chain} docker-ns {} url :7001 tail url :1", stopped.id), 5, "is not running"),
        (format!("{chain} url unix://{at}/none/s tail url :1"), 1, "directory"),
        (format!("{chain} url unix://{at}/taken tail url :1"), 5, "something listens there already"),
        (format!("{chain} url unix://{at}/file tail url :1"), 5, "there is a file of another kind"),
        (format!("{chain} url unix://{at}/{long} tail url :1"), 2, "path"),
        (format!("{chain} url 192.0.2.1:7002 tail url :1"), 5, "has no such address"),
        (format!("{chain} url :7002 tail url no-such-host.invalid:80"), 4, "no-such-host.invalid"),
        ("url :7000 chain url :7100 tail url :1".to_owned(), 5, "is already the head of segment first"),
        ("url :7000 chain id first url :7001 tail url :1".to_owned(), 5, "the id first is taken"),
    ];
    let others = [("far", far.ns())];
    // A first failure of each kind may open what stays open, e.g. the connection to the engine.
    for (words, code, fragment) in &cases {
        room.refused(words, *code, &[fragment]);
    }
    let before = room.idle_docker(&others);
    let listed = room.list();
    for (words, code, fragment) in &cases {
        room.refused(words, *code, &[fragment]);
        assert_eq!(room.list(), listed, "{words}");
        let after = KernelState::of(&[("room", room.ns()), ("far", far.ns())]).unwrap();
        let diff = before.diff(&after);
        let kernel: Vec<&str> = diff.lines().filter(|l| !l.contains("wormholed:")).collect();
        assert!(kernel.is_empty(), "{words} left\n{}", kernel.join("\n"));
    }
    let after = room.idle_docker(&others);
    assert_eq!(before.diff(&after), "");
    assert!(std::fs::read_to_string(dir.join("file")).unwrap() == "a file of somebody" && dir.join("taken").exists());
    let mut left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["file", "taken"]);
    drop((taken, stranger));
}

#[test]
fn the_same_head_twice_is_refused_with_the_first_ones_id() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let dir = boxed::fresh_dir().unwrap();
    let (f, at) = (&far.name, dir.display());
    room.create(&format!("id one url {f}@:7000 tail url :1"));
    room.create(&format!("id all url {f}@0.0.0.0:7010 tail url :1"));
    room.create(&format!("id sock url unix://{at}/s tail url :1"));
    room.create(&format!("id udp url udp://{f}@:7000 tail url udp://:1"));
    for (words, id) in [
        (format!("url {f}@:7000 tail url :2"), "one"),
        (format!("url {f}@0.0.0.0:7000 tail url :2"), "one"),
        (format!("url {f}@:7010 tail url :2"), "all"),
        (format!("url unix://{at}/s tail url :2"), "sock"),
        (format!("url udp://{f}@:7000 tail url udp://:2"), "udp"),
        (format!("url :7000 chain url {f}@:7000 tail url :2"), "one"),
    ] {
        room.refused(&words, 5, &[&format!("is already the head of segment {id}"), &format!("wormhole delete {id}")]);
    }
    assert_eq!(room.list().len(), 4);
    assert!(!room.has_port("tcp", 7000));
    room.delete("one");
    room.create(&format!("url {f}@:7000 tail url :2"));
}

#[test]
fn self_connections_and_loops_are_refused() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let f = &far.name;
    let before = room.settled(&[("far", far.ns())]);
    room.refused("url :7000 tail url :7000", 2, &["would connect to itself", "^"]);
    room.refused("url 0.0.0.0:7000 tail url 127.0.0.1:7000", 2, &["would connect to itself"]);
    room.refused("url :7000 chain url :7001 tail url :7000", 2, &["circle"]);
    // Two names of one place: only the daemon can know.
    let own = format!("pid:{}@", room.daemon.pid());
    room.refused(&format!("url :7000 tail url {own}:7000"), 5, &["would connect to itself"]);
    unchanged(&room, &[("far", far.ns())], &before);

    room.create(&format!("id there url :7000 tail url {f}@:7001"));
    room.refused(&format!("url {f}@:7001 tail url {own}:7000"), 5, &["would connect to itself through there"]);
    room.create(&format!("id back url {f}@:7001 tail url :7002"));
    room.refused("url :7002 tail url :7000", 5, &["would connect to itself through there, back"]);
    // What only meets without closing the circle is fine.
    room.create("url :7002 tail url :7003");
    assert_eq!(room.list().len(), 3);
}

// === ends of the daemon ===

/// A connection through the room, both ends in hand.
fn pair(room: &Room, made: &Made, accepted: &Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let mut client = connect(&room.ns(), made.addr()).unwrap();
    client.write_all(b"x").unwrap();
    let mut server = accepted.recv_timeout(SOON).unwrap();
    server.patience(PATIENCE).unwrap();
    server.read_exact(&mut [0]).unwrap();
    (client, server)
}

fn tail(ns: &Ns, addr: &str) -> Receiver<TcpStream> {
    let (sender, accepted) = channel();
    serve(listen(ns, addr), move |stream: TcpStream| drop(sender.send(stream)));
    accepted
}

/// Looked up and not tried out: a try that succeeds is one more open connection.
#[track_caller]
fn head_closed(ns: &Ns, made: &Made) {
    let closed = || !kernel::listeners(ns).unwrap().iter().any(|l| l.is("tcp", made.port()));
    wait_until("the head to be closed", SOON, || closed().then_some(()));
}

#[test]
fn sigterm_leaves_nothing() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let dir = boxed::fresh_dir().unwrap();
    let places = || KernelState::of(&[("room", room.netns.ns()), ("far", far.ns())]);
    echo(&far.ns(), "127.0.0.1:7009");
    let control = format!("- room: listeners: unix {}\n", room.daemon.socket().display());
    let before = places().unwrap();
    let head = room.create(&format!("url :7000 tail url {}@:7009", far.name));
    room.create(&format!("url udp://:7000 chain url udp://{f}@:7001 tail url udp://{f}@:7002", f = far.name));
    room.create(&format!("url unix://{}/s tail url {}@:7001", dir.display(), far.name));
    ask(&mut connect(&room.ns(), head.addr()).unwrap(), "x").unwrap();
    room.wait_idle(&head.id);
    let Room { daemon, netns } = room;
    let began = Instant::now();
    daemon.stop();
    assert!(began.elapsed() < Duration::from_secs(5), "with nothing open it took {:?}", began.elapsed());
    let after = wait::poll("nothing to be left", SOON, || {
        let after = KernelState::of(&[("room", netns.ns()), ("far", far.ns())]).map_err(|e| e.to_string())?;
        let diff = before.diff(&after);
        // Unix sockets are told by namespace too: the control socket is gone with the daemon.
        if diff.is_empty() || diff == control { Ok(()) } else { Err(diff) }
    });
    after.unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_drain_lets_open_connections_finish() {
    require!(Box);
    let room = Room::with(None, &["--drain", "60s"]);
    let accepted = tail(&room.ns(), "127.0.0.1:700");
    let made = room.create("url :701 tail url :700");
    let (mut client, mut server) = pair(&room, &made, &accepted);
    let Room { mut daemon, netns } = room;
    daemon.signal_term();
    head_closed(&netns.ns(), &made);
    client.write_all(b"last words").unwrap();
    client.end().unwrap();
    assert_eq!(drain(&mut server), (b"last words".to_vec(), End::Eof));
    server.write_all(b"the same to you").unwrap();
    drop(server);
    assert_eq!(drain(&mut client), (b"the same to you".to_vec(), End::Eof));
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn the_drains_deadline_resets_the_rest() {
    require!(Box);
    let room = Room::with(None, &["--drain", "1s"]);
    let accepted = tail(&room.ns(), "127.0.0.1:700");
    let made = room.create("url :701 tail url :700");
    let (mut client, mut server) = pair(&room, &made, &accepted);
    let Room { mut daemon, netns } = room;
    let began = Instant::now();
    daemon.signal_term();
    assert!(daemon.wait().unwrap().success());
    assert!(began.elapsed() >= Duration::from_millis(950), "only {:?} of a drain of 1 s", began.elapsed());
    assert_eq!((drain(&mut client).1, drain(&mut server).1), (End::Reset, End::Reset));
    drop(netns);
}

#[test]
fn a_second_signal_ends_the_wait() {
    require!(Box);
    let room = Room::with(None, &["--drain", "300s"]);
    let accepted = tail(&room.ns(), "127.0.0.1:700");
    let made = room.create("url :701 tail url :700");
    let (mut client, server) = pair(&room, &made, &accepted);
    let Room { mut daemon, netns } = room;
    daemon.signal_term();
    head_closed(&netns.ns(), &made);
    daemon.signal_term();
    assert!(daemon.wait().unwrap().success());
    assert_eq!(drain(&mut client).1, End::Reset);
    drop(server);
}

#[test]
fn kill_9_resets_both_sides_and_the_next_start_brings_segments_back() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let dir = boxed::fresh_dir().unwrap();
    let accepted = tail(&far.ns(), "127.0.0.1:700");
    let made = room.create(&format!("id kept url :701 tail url {}@:700", far.name));
    let free = room.create(&format!("url :0 chain url {f}@:702 tail url {f}@:700", f = far.name));
    room.create(&format!("id sock url unix://{}/s tail url {}@:700", dir.display(), far.name));
    room.create("id gone url :703 tail url :1");
    room.delete("gone");
    let before: Vec<_> =
        room.list().iter().map(|v| (v["id"].clone(), v["head"].clone(), v["tail"].clone(), v["created"].clone())).collect();
    // Idle, half-closed both ways, and with bytes on their way.
    let (mut a, mut b) = pair(&room, &made, &accepted);
    let (mut c, mut d) = pair(&room, &free, &accepted);
    let (mut e, f) = pair(&room, &made, &accepted);
    e.end().unwrap();
    let (mut g, mut h) = pair(&room, &made, &accepted);
    h.end().unwrap();
    assert_eq!(g.read(&mut [0]).unwrap(), 0);

    let room = room.again(None, |daemon| daemon.crash().unwrap());
    for (name, stream) in [("client", &mut a), ("server", &mut b), ("chain's client", &mut c), ("chain's server", &mut d)] {
        assert_eq!(drain(stream), (vec![], End::Reset), "{name}");
    }
    assert_eq!(drain(&mut e), (vec![], End::Reset), "the client that had ended its direction took a truncated answer for whole");
    assert_eq!(drain(&mut h), (vec![], End::Reset), "the server that had ended its direction took a truncated request for whole");
    drop((f, g));

    let after: Vec<_> =
        room.list().iter().map(|v| (v["id"].clone(), v["head"].clone(), v["tail"].clone(), v["created"].clone())).collect();
    assert_eq!(after, before);
    pair(&room, &made, &accepted);
    pair(&room, &free, &accepted);
    std::os::unix::net::UnixStream::connect(dir.join("s")).unwrap();
    room.daemon.ok(&["delete", "--all"]);
    assert!(!dir.join("s").exists() && !room.has_port("tcp", 701) && !room.has_port("tcp", free.port()));
    // Also after a clean end.
    room.create("id again url :701 tail url :700");
    let room = room.again(None, |daemon: Daemon| {
        let dir = daemon.dir().to_owned();
        daemon.stop();
        dir
    });
    assert_eq!(room.list().len(), 1);
    assert_eq!(room.view("again")["state"], "listening");
}

#[test]
fn a_second_daemon_does_not_take_the_first_ones_place() {
    require!(Box);
    let room = Room::alone();
    room.create("id mine url :701 tail url :700");
    let second = wormhole_tests::daemon::Setup::below(room.daemon.dir().to_owned()).unwrap();
    let done = second.docker("unix:///nonexistent/docker.sock").netns(&room.netns).refused().unwrap();
    assert_eq!(done.code(), 1, "{}", done.stderr);
    assert_eq!(room.view("mine")["state"], "listening");
    let said = done.stderr;
    assert!(said.contains("another wormholed") || said.contains("in use"), "{said}");
    room.delete("mine");
}
