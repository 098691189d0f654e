//! Every kind of end in every kind of place: UDP, unix, IPv6, named namespaces, processes, chains, children.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use wormhole_tests::docker::{Container, Docker};
use wormhole_tests::images::Image;
use wormhole_tests::kernel::Ns;
use wormhole_tests::netns::Netns;
use wormhole_tests::room::{Made, Room};
use wormhole_tests::traffic::{self, Stream, ask, connect, echo, echo_udp, echo_unix};
use wormhole_tests::{boxed, require, run};

/// One word through a TCP head, from inside `ns`.
#[track_caller]
fn says(ns: &Ns, made: &Made, word: &str) {
    let mut stream = connect(ns, made.addr()).unwrap_or_else(|e| panic!("connect to {}: {e:#}", made.url));
    ask(&mut stream, word).unwrap_or_else(|e| panic!("{}: {e:#}", made.url));
}

fn dir() -> PathBuf {
    boxed::fresh_dir().unwrap()
}

#[track_caller]
fn says_unix(path: &Path, word: &str) {
    let mut stream = UnixStream::connect(path).unwrap_or_else(|e| panic!("connect to {}: {e}", path.display()));
    stream.patience(traffic::PATIENCE).unwrap();
    ask(&mut stream, word).unwrap();
}

fn started(docker: &Docker, image: Image, port: (&str, u16)) -> Container {
    let container = docker.container(image, &[]).unwrap();
    container.wait_listening(port.0, port.1).unwrap();
    container
}

#[test]
fn udp_to_a_real_dns_server() {
    let docker = require!(Docker);
    let (room, dns) = (Room::docker(docker), started(docker, Image::Dns, ("udp", 53)));
    let app = docker.container(Image::Client, &[]).unwrap();
    let made = room.create(&format!("url udp://:53 docker-ns {} tail docker-ns {}", app.id, dns.id));
    assert_eq!(made.url, format!("udp://docker:{}@127.0.0.1:53", &app.id[..12]));
    room.create(&format!("url udp://:5353 tail docker-ns {} url :53", dns.id));
    let drill = |args: &[&str]| app.exec(&[&["drill", "-Q", "@127.0.0.1"], args].concat()).unwrap().ok().to_owned();
    assert_eq!(drill(&["wormhole.test"]), "192.0.2.53");
    assert_eq!(drill(&["-b", "4096", "big.wormhole.test", "TXT"]).matches("wwwwww").count(), 160);
    let here = ["drill", "-Q", "-p", "5353", "@127.0.0.1", "wormhole.test"];
    assert_eq!(room.netns.run(&here).unwrap(), "192.0.2.53");
    // DNS over TCP beside it, on the same number.
    room.create(&format!("url :53 docker-ns {} tail docker-ns {}", app.id, dns.id));
    assert_eq!(drill(&["-t", "wormhole.test"]), "192.0.2.53");
    assert!(room.view(&made.id)["connections"]["total"].as_u64().unwrap() >= 2);
}

#[test]
fn udp_sessions_do_not_mix() {
    require!(Box);
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let server = echo_udp(&far.ns(), "127.0.0.1:7001");
    let made = room.create(&format!("url udp://:7000 tail url udp://{}@{server}", far.name));
    let clients: Vec<_> = (0..50).map(|_| traffic::udp(&room.ns(), "127.0.0.1:0")).collect();
    let datagram = |number: u64, round: u64| {
        traffic::bytes(number * 100 + round, usize::try_from((number * 331 + round * 97) % 9000).unwrap())
    };
    let numbered: Vec<_> = (0_u64..).zip(&clients).collect();
    for round in 0..20 {
        // Only as many at once as any socket's buffer holds: UDP drops the rest, and that would be no fault of ours.
        for some in numbered.chunks(8) {
            for (number, client) in some {
                client.send_to(datagram(*number, round), made.addr()).unwrap();
            }
            for (number, client) in some {
                let mut buffer = vec![0; 10_000];
                let (got, from) = client.recv_from(&mut buffer).unwrap_or_else(|e| panic!("client {number}, round {round}: {e}"));
                assert_eq!(from, made.addr());
                assert!(buffer[..got] == *datagram(*number, round), "client {number} got another's datagram");
            }
        }
    }
    let view = room.view(&made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["open"]), (&50.into(), &50.into()), "{view}");
    assert_eq!(view["open"].as_array().unwrap().len(), 50);
    room.delete(&made.id);
    assert!(!room.has_port("udp", 7000));
}

#[test]
fn unix_and_tcp_both_ways() {
    require!(Box);
    let (room, dir) = (Room::alone(), dir());
    let (server, socket) = (echo(&room.ns(), "127.0.0.1:7001"), dir.join("server"));
    echo_unix(&socket);
    let (socket, head) = (socket.display(), dir.join("head"));

    let made = room.create(&format!("url unix://{} tail url {server}", head.display()));
    assert_eq!(made.url, format!("unix://{}", head.display()));
    let meta = std::fs::metadata(&head).unwrap();
    assert!(meta.file_type().is_socket() && meta.permissions().mode() & 0o777 == 0o666, "{meta:?}");
    says_unix(&head, "unix to tcp");

    let to_unix = room.create(&format!("url :7000 tail url unix://{socket}"));
    says(&room.ns(), &to_unix, "tcp to unix");

    let both = dir.join("both");
    room.create(&format!("url unix://{} tail url unix://{socket}", both.display()));
    says_unix(&both, "unix to unix");

    room.delete(&made.id);
    assert!(!head.exists(), "the socket file is left");
    room.daemon.ok(&["delete", "--all"]);
    assert!(!both.exists());
}

#[test]
fn unix_inside_a_container() {
    let docker = require!(Docker);
    let (room, redis) = (Room::docker(docker), started(docker, Image::Redis, ("tcp", 6379)));
    let app = docker.container(Image::Client, &[]).unwrap();
    let dir = dir();
    let ping = |container: &Container, args: &[&str]| container.exec(&[&["redis-cli"], args, &["ping"]].concat()).unwrap();

    // A path is seen from inside the place of its end.
    room.create(&format!("docker-ns {} url :6379 tail docker-ns {} url unix:///run/redis/redis.sock", app.id, redis.id));
    assert_eq!(ping(&app, &[]).ok(), "PONG");
    let head = room.create(&format!("docker-ns {} url unix:///tmp/r.sock tail docker-ns {} url :6379", app.id, redis.id));
    assert_eq!(ping(&app, &["-s", "/tmp/r.sock"]).ok(), "PONG");
    assert!(!Path::new("/tmp/r.sock").exists(), "the head is in the wrong place");
    let here = dir.join("s").display().to_string();
    room.create(&format!("url unix://{here} tail docker-ns {} url unix:///run/redis/redis.sock", redis.id));
    assert_eq!(run::text(&mut run::command("redis-cli", ["-s", &here, "ping"])).unwrap(), "PONG");
    room.delete(&head.id);
    assert_ne!(app.exec(&["ls", "/tmp/r.sock"]).unwrap().code(), 0, "the socket file is left in the container");
}

#[test]
fn a_link_in_a_container_does_not_lead_out_of_it() {
    let docker = require!(Docker);
    let (room, dir) = (Room::docker(docker), dir());
    let app = docker.container(Image::Client, &[]).unwrap();
    app.exec(&["ln", "-s", &dir.display().to_string(), "/tmp/out"]).unwrap().ok();
    let words = format!("docker-ns {} url unix:///tmp/out/s tail url :9", app.id);
    room.refused(&words, 1, &["/tmp/out/s", "the directory must exist inside that place"]);
    assert!(!dir.join("s").exists(), "a container's link led the daemon onto the host");
}

#[test]
fn ipv6() {
    require!(Box);
    if !Path::new("/proc/net/if_inet6").exists() {
        wormhole_tests::skip!("no IPv6 here");
    }
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    let (six, four) = (echo(&far.ns(), "[::1]:7001"), echo(&far.ns(), "127.0.0.1:7002"));
    let far = &far.name;
    for (words, word) in [
        (format!("url [::1]:7000 tail url {far}@{six}"), "v6 to v6"),
        (format!("url 127.0.0.1:7000 tail url {far}@{six}"), "v4 to v6"),
        (format!("url [::1]:7003 tail url {far}@{four}"), "v6 to v4"),
        (format!("url [::]:7004 tail url {far}@[::1]:7001"), "everywhere"),
    ] {
        let made = room.create(&words);
        says(&room.ns(), &made, word);
        let mut stream = connect(&room.ns(), format!("[::1]:{}", made.port()).parse().unwrap());
        // Only those that were told to listen there do.
        assert_eq!(stream.is_ok(), made.addr().is_ipv6() || made.port() == 7000, "{words}");
        if let Ok(stream) = &mut stream {
            ask(stream, word).unwrap();
        }
    }
    let datagrams = echo_udp(&room.ns(), "[::1]:7010");
    let made = room.create(&format!("url udp://[::1]:7011 tail url udp://{datagrams}"));
    let client = traffic::udp(&room.ns(), "[::1]:0");
    client.send_to(b"datagram", made.addr()).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(client.recv(&mut buffer).map(|n| &buffer[..n]).unwrap(), b"datagram");
}

#[test]
fn ipv6_in_a_container_works_or_is_refused_with_the_reason() {
    let docker = require!(Docker);
    let (room, app) = (Room::docker(docker), docker.container(Image::Client, &[]).unwrap());
    let server = echo(&room.ns(), "127.0.0.1:7001");
    let words = format!("docker-ns {} url [::1]:7000 tail url {server}", app.id);
    let has = std::fs::read_to_string(format!("/proc/{}/net/if_inet6", app.pid().unwrap())).unwrap_or_default();
    if has.contains("00000000000000000000000000000001") {
        says(&app.ns().unwrap(), &room.create(&words), "IPv6 in a container");
    } else {
        room.refused(&words, 5, &["that namespace has no such address", "a container may be without IPv6"]);
        assert_eq!(room.list().len(), 0);
    }
}

#[test]
fn named_namespaces_processes_and_containers_as_parts_of_an_url() {
    let docker = require!(Docker);
    let room = Room::docker(docker);
    let (a, b) = (Netns::create("a").unwrap(), Netns::create("b").unwrap());
    let server = echo(&b.ns(), "127.0.0.1:7001");
    let made = room.create(&format!("url tcp://{}@:7000 tail url tcp://{}@:7001", a.name, b.name));
    assert_eq!((made.url.clone(), server.port()), (format!("tcp://{}@127.0.0.1:7000", a.name), 7001));
    says(&a.ns(), &made, "named to named");
    assert!(!room.has_port("tcp", 7000));

    let mut process = b.command("sleep").arg("1000").spawn().unwrap();
    // nsenter becomes sleep only a moment later.
    wormhole_tests::wait_until("the process to be inside", wormhole_tests::room::SOON, || {
        let ns = std::fs::metadata(format!("/proc/{}/ns/net", process.id())).ok()?;
        let named = std::fs::metadata(format!("/run/netns/{}", b.name)).ok()?;
        (std::os::unix::fs::MetadataExt::ino(&ns) == std::os::unix::fs::MetadataExt::ino(&named)).then_some(())
    });
    let made = room.create(&format!("url :7002 tail url pid:{}@:7001", process.id()));
    says(&room.ns(), &made, "a process");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(room.wait_waiting(&made.id).contains(&process.id().to_string()));

    let redis = started(docker, Image::Redis, ("tcp", 6379));
    let made = room.create(&format!("url :6379 tail url docker:{}@", redis.name));
    let cli = room.netns.run(&["redis-cli", "-p", &made.port().to_string(), "ping"]).unwrap();
    assert_eq!(cli, "PONG");
}

#[test]
fn a_namespace_that_is_deleted_and_made_again_comes_back() {
    require!(Box);
    let (room, a) = (Room::alone(), Netns::named("comes-back").unwrap());
    echo(&room.ns(), "127.0.0.1:7001");
    let made = room.create("url comes-back@:7000 tail url :7001");
    says(&a.ns(), &made, "before");
    a.delete().unwrap();
    assert!(room.wait_waiting(&made.id).contains("comes-back"));
    let a = Netns::named("comes-back").unwrap();
    room.wait_listening(&made.id);
    says(&a.ns(), &made, "after");
}

#[test]
fn a_free_port() {
    require!(Box);
    let room = Room::alone();
    let server = echo(&room.ns(), "127.0.0.1:7001");
    let made: Vec<Made> =
        ["tail", "url :0 tail", "url tcp:// tail"].iter().map(|head| room.create(&format!("{head} url {server}"))).collect();
    for one in &made {
        says(&room.ns(), one, "a free port");
        assert_eq!(room.view(&one.id)["head"], one.url.as_str());
    }
    let ports: std::collections::BTreeSet<u16> = made.iter().map(Made::port).collect();
    assert!(ports.len() == 3 && !ports.contains(&0), "{ports:?}");
}

#[test]
fn a_chain_of_two_and_of_five() {
    require!(Box);
    let room = Room::alone();
    let places: Vec<Netns> = (0..5).map(|_| Netns::create("p").unwrap()).collect();
    let names: Vec<&str> = places.iter().map(|p| p.name.as_str()).collect();
    echo(&places[4].ns(), "127.0.0.1:7006");
    echo(&places[0].ns(), "127.0.0.1:7100");

    let two = room.create(&format!("id two url :7000 chain id end url {}@:7001 tail url {}@:7100", names[0], names[0]));
    assert_eq!((two.id.as_str(), two.port()), ("two", 7000));
    says(&room.ns(), &two, "two");
    says(&places[0].ns(), &Made { id: String::new(), url: "tcp://127.0.0.1:7001".into() }, "half way");

    let five = room.create(&format!(
        "url :7001 chain url {}@:7002 chain url {}@:7003 chain url {}@:7004 chain url {}@:7005 tail url {}@:7006",
        names[0], names[1], names[2], names[3], names[4]
    ));
    for round in 0..10 {
        says(&room.ns(), &five, &format!("five {round}"));
    }
    let mut parent = None;
    let chain: Vec<_> = room.list().into_iter().skip_while(|v| v["id"] != five.id.as_str()).take(5).collect();
    for view in &chain {
        room.wait_idle(view["id"].as_str().unwrap());
        let view = room.view(view["id"].as_str().unwrap());
        assert_eq!(view["connections"]["total"], 10, "{view}");
        assert_eq!((view["parent"].as_str(), view["bytes"]["to_tail"].as_u64()), (parent.as_deref(), Some(60)), "{view}");
        parent = view["id"].as_str().map(str::to_owned);
    }
    let gone = room.delete(&five.id);
    assert_eq!(gone.lines().count(), 5, "{gone}");
    assert_eq!(room.delete("two").lines().collect::<Vec<_>>(), ["two", "end"]);
    for (place, port) in [(&places[0], 7001), (&places[0], 7002), (&places[3], 7005)] {
        assert!(connect(&place.ns(), ([127, 0, 0, 1], port).into()).is_err(), "{port} is still there");
    }
    assert_eq!(room.list().len(), 0);
}

#[test]
fn a_part_of_a_chain_is_deleted() {
    require!(Box);
    let room = Room::alone();
    echo(&room.ns(), "127.0.0.1:7004");
    let made = room.create("id a url :7001 chain id b url :7002 chain id c url :7003 tail url :7004");
    says(&room.ns(), &made, "whole");
    assert_eq!(room.delete("b").lines().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(room.list().len(), 1);
    assert!(room.has_port("tcp", 7001) && !room.has_port("tcp", 7002) && !room.has_port("tcp", 7003));
}

#[test]
fn a_child_starts_where_its_parent_leads_to() {
    let docker = require!(Docker);
    let (room, redis) = (Room::docker(docker), started(docker, Image::Redis, ("tcp", 6379)));
    let app = docker.container(Image::Client, &[]).unwrap();
    echo(&app.ns().unwrap(), "127.0.0.1:80");
    let made = room.create(&format!("url :8000 tail docker-ns {} url :80 child url :6379 tail docker-ns {}", app.id, redis.id));
    says(&room.ns(), &made, "the application");
    assert_eq!(app.exec(&["redis-cli", "ping"]).unwrap().ok(), "PONG");
    assert!(!room.has_port("tcp", 6379));
    assert_eq!(room.delete(&made.id).lines().count(), 2);
    assert_ne!(app.exec(&["redis-cli", "ping"]).unwrap().code(), 0);
}
