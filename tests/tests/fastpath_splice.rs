//! Applications that read their sockets by splice(2), which does not see redirected bytes: in `auto` those that are known
//! are relayed, and the others are noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wormhole_tests::images::Image;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::splice::{PORT, Program, both_ways, create, is_reset, is_spared, renamed, room, splicer, tells};
use wormhole_tests::traffic::{End, connect, drain, echo, listen};
use wormhole_tests::{fast, require, run, skip, wait_until};

/// Where the server behind it listens.
const BEHIND: &str = "127.0.0.1:7002";
const PAYLOAD: usize = 5 << 20;
const SOCKET_PROXYD: [&str; 2] = ["/lib/systemd/systemd-socket-proxyd", "/usr/lib/systemd/systemd-socket-proxyd"];

fn open(room: &Room, made: &Made) -> Value {
    room.wait_view(&made.id, "open", |view| view["open"][0].is_object())["open"][0].clone()
}

/// Carries the payload both ways over the relay, for a reason that names `exe`.
fn relayed(room: &Room, made: &Made, exe: &str) {
    let client = connect(&room.ns(), made.addr()).unwrap();
    both_ways(&client, PAYLOAD).unwrap();
    let open = open(room, made);
    assert_eq!(open["path"], "relay", "{open}");
    assert!(open["reason"].as_str().is_some_and(|why| why.contains(exe)), "{open}");
    drop(client);
    room.wait_idle(&made.id);
}

/// The first connection to an unknown splicer is rescued or reset; what one may know of it is told; the next one is relayed.
fn noticed(room: &Room, made: &Made, exe: &str) {
    let client = connect(&room.ns(), made.addr()).unwrap();
    let carried = both_ways(&client, PAYLOAD);
    drop(client);
    let view = room.wait_idle(&made.id);
    match &carried {
        Ok(()) => assert_eq!(view["connections"]["reset"], 0, "{view}"),
        Err(error) => {
            assert!(is_reset(error), "neither whole nor reset: {error}");
            assert!(view["connections"]["reset"].as_u64() >= Some(1), "{view}");
        }
    }
    println!("{exe}: {}", if carried.is_ok() { "rescued" } else { "reset" });
    assert_eq!(view["fallbacks"]["spliced"], 1, "{view}");
    let fast = &room.status()["fastpath"];
    assert_eq!(fast["fallbacks"]["spliced"], 1, "{fast}");
    assert!(fast["off_for"].as_array().unwrap().iter().any(|name| name == exe), "{fast}");
    let log = room.daemon.log();
    let told = log.lines().find(|line| line.contains("WARN") && line.contains(exe)).unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains(&made.id) && told.contains("--fastpath-except"), "{told}");
    relayed(room, made, exe);
    fast::wait_no_pair(room);
}

// === those that are known ===

/// `systemd-socket-activate` gives the program its listening socket.
fn socket_proxyd(room: &Room, program: &str) -> Command {
    let mut command = room.netns.command("systemd-socket-activate");
    command.args(["-l", &format!("127.0.0.1:{PORT}"), program, BEHIND]);
    command
}

#[test]
fn systemd_socket_proxyd_is_relayed() {
    let room = require!(@ room());
    let Some(program) = SOCKET_PROXYD.into_iter().find(|path| Path::new(path).is_file()) else {
        skip!("no systemd-socket-proxyd (package systemd)");
    };
    echo(&room.ns(), BEHIND);
    let _proxy = Program::serve(&room, socket_proxyd(&room, program));
    let made = create(&room, "");
    // Until somebody connects, who listens does it on somebody's behalf.
    relayed(&room, &made, "not known yet");
    wait_until("the proxy to be known", SOON, || {
        let client = connect(&room.ns(), made.addr()).unwrap();
        both_ways(&client, 1).unwrap();
        let open = open(&room, &made);
        assert_eq!(open["path"], "relay", "{open}");
        drop(client);
        room.wait_idle(&made.id);
        open["reason"].as_str().is_some_and(|why| why.contains("systemd-socket-proxyd")).then_some(())
    });
    relayed(&room, &made, "systemd-socket-proxyd");
    assert_eq!(fast::sum(&room.view(&made.id), "direct"), 0);
}

/// Writes a configuration in which everything that can be spliced is; `auto`: in which HAProxy decides.
fn haproxy(room: &Room, auto: bool) -> PathBuf {
    let options = if auto { "option splice-auto" } else { "option splice-request\n option splice-response" };
    let dir = room.daemon.dir();
    let text = format!(
        "global\n maxconn 50\n nbthread 1\n maxpipes 50\n tune.pipesize 262144\n stats socket {}\ndefaults\n mode tcp\n \
         timeout connect 5s\n timeout client 60s\n timeout server 60s\n {options}\nlisten l\n bind 127.0.0.1:{PORT}\n \
         server s {BEHIND}\n",
        dir.join("h").display()
    );
    let path = dir.join("haproxy.cfg");
    std::fs::write(&path, text).unwrap();
    path
}

/// How many pipes HAProxy has made, which it does only to splice.
fn pipes(room: &Room) -> u64 {
    let mut stats = UnixStream::connect(room.daemon.dir().join("h")).unwrap();
    stats.write_all(b"show info\n").unwrap();
    let mut info = String::new();
    stats.read_to_string(&mut info).unwrap();
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap();
    of("PipesUsed:") + of("PipesFree:")
}

#[test]
fn haproxy_is_relayed() {
    let room = require!(@ room());
    let Some(program) = run::find("haproxy") else { skip!("no haproxy (package haproxy)") };
    echo(&room.ns(), BEHIND);
    let mut command = room.netns.command(&program.to_string_lossy());
    command.arg("-db").arg("-f").arg(haproxy(&room, true));
    let _proxy = Program::serve(&room, command);
    let made = create(&room, "");
    relayed(&room, &made, "haproxy");
    assert_eq!(fast::sum(&room.view(&made.id), "direct"), 0);
    wait_until("HAProxy to splice", SOON, || {
        relayed(&room, &made, "haproxy");
        (pipes(&room) > 0).then_some(())
    });
}

#[test]
fn docker_proxy_is_relayed() {
    let docker = require!(Docker);
    let room = require!(@ room());
    // The engine's own namespace, where it publishes; both ends are in there.
    let host = format!("pid:{}", std::process::id());
    let published = docker.container(Image::Redis, &["--network", "bridge", "-p", "127.0.0.1:7001:6380"]);
    let container = match published {
        Ok(container) => container,
        Err(error) => skip!("no published port: {error:#}"),
    };
    echo(&container.ns().unwrap(), "0.0.0.0:6380");
    let made = room.create(&format!("url {host}@:7000 tail url {host}@:{PORT}"));
    let own = wormhole_tests::kernel::Ns::Own;
    let carry = |exe: &str| {
        let client = connect(&own, made.addr()).unwrap();
        both_ways(&client, PAYLOAD).unwrap();
        let open = open(&room, &made);
        assert_eq!(open["path"], "relay", "{open}");
        assert!(open["reason"].as_str().is_some_and(|why| why.contains(exe)), "{open}");
        drop(client);
        room.wait_idle(&made.id);
    };
    carry("docker-proxy");

    // As a client: it connects to the container's address, from another namespace, and is not seen there.
    let behind = echo(&room.ns(), BEHIND);
    let inner = docker.container(Image::Redis, &["--network", "bridge", "-p", "127.0.0.1:7003:6381"]).unwrap();
    let pid = inner.pid().unwrap();
    let into = room.create(&format!("url pid:{pid}@0.0.0.0:6381 tail url {behind}"));
    let client = connect(&own, SocketAddr::from(([127, 0, 0, 1], 7003))).unwrap();
    both_ways(&client, PAYLOAD).unwrap();
    let open = open(&room, &into);
    assert_eq!(open["path"], "relay", "{open}");
}

// === those that are not ===

#[test]
fn a_server_that_waits_in_splice_is_noticed() {
    unknown_server("waiting");
}

#[test]
fn a_server_that_polls_and_splices_is_noticed() {
    unknown_server("polling");
}

#[test]
fn a_server_that_asks_for_edges_and_splices_is_noticed() {
    unknown_server("edges");
}

fn unknown_server(way: &str) {
    let room = require!(@ room());
    if way == "edges" && !tells(&room) {
        skip!("where no program may watch the kernel's functions, it looks like one that does not read");
    }
    let exe = format!("unknown-{way}");
    let command = match splicer(&room, &exe, ["serve", way], &format!("127.0.0.1:{PORT}")) {
        Ok(command) => command,
        Err(why) => skip!("{why}"),
    };
    let _server = Program::serve(&room, command);
    noticed(&room, &create(&room, ""), &exe);
}

#[test]
fn an_unknown_client_is_noticed() {
    let room = require!(@ room());
    let listener = listen(&room.ns(), &format!("127.0.0.1:{PORT}"));
    let made = create(&room, "");
    // What a client prints of a greeting; nothing when its connection was reset.
    let greet = |listener: &TcpListener| {
        let mut command = splicer(&room, "unknown-client", ["connect", "waiting"], &made.addr().to_string())?;
        let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        let (mut server, _) = listener.accept().unwrap();
        // It is there and waits.
        open(&room, &made);
        server.write_all(b"hello").unwrap();
        wait_until("the greeting to be read, or a reset", SOON, || {
            let read = room.view(&made.id)["open"][0].is_null() || tells(&room) || is_spared(&room, "unknown-client");
            read.then_some(())
        });
        server.shutdown(std::net::Shutdown::Write).ok();
        let end = drain(&mut server).1;
        let done = client.wait_with_output().unwrap();
        Ok::<_, String>((String::from_utf8(done.stdout).unwrap(), end))
    };
    match greet(&listener) {
        Ok((said, end)) => {
            println!("{said:?}, {end:?}");
            assert!(said == "hello" && end == End::Eof || said.is_empty() && end == End::Reset, "{said:?}, {end:?}");
        }
        Err(why) => skip!("{why}"),
    }
    room.wait_idle(&made.id);
    wait_until("it to be kept off", SOON, || is_spared(&room, "unknown-client").then_some(()));
    assert_eq!(greet(&listener).unwrap(), ("hello".to_owned(), End::Eof));
    let view = room.wait_idle(&made.id);
    assert_eq!((&view["fallbacks"]["spliced"], &view["fallbacks"]["client-spared"]), (&1.into(), &1.into()), "{view}");
}

#[test]
fn socket_proxyd_under_another_name_is_noticed() {
    let room = require!(@ room());
    let Some(program) = SOCKET_PROXYD.into_iter().find(|path| Path::new(path).is_file()) else {
        skip!("no systemd-socket-proxyd (package systemd)");
    };
    let copy = room.daemon.dir().join("unknown-proxyd");
    std::fs::copy(program, &copy).unwrap();
    echo(&room.ns(), BEHIND);
    let _proxy = Program::serve(&room, socket_proxyd(&room, &copy.to_string_lossy()));
    // Now, so that its executable is known when the segment is made.
    both_ways(&connect(&room.ns(), SocketAddr::from(([127, 0, 0, 1], PORT))).unwrap(), 10).unwrap();
    noticed(&room, &create(&room, ""), "unknown-proxyd");
}

#[test]
fn haproxy_under_another_name_is_noticed() {
    let room = require!(@ room());
    let Some(program) = run::find("haproxy") else { skip!("no haproxy (package haproxy)") };
    echo(&room.ns(), BEHIND);
    let mut command = renamed(&room, &program, "unknown-haproxy");
    command.arg("-db").arg("-f").arg(haproxy(&room, false));
    let _proxy = Program::serve(&room, command);
    noticed(&room, &create(&room, ""), "unknown-haproxy");
    assert!(pipes(&room) > 0, "HAProxy has not spliced");
}

/// `on` is the user's word: every connection is enrolled, and none hangs.
#[test]
fn on_resets_rather_than_hangs() {
    let room = require!(@ room());
    let command = match splicer(&room, "unknown-on", ["serve", "waiting"], &format!("127.0.0.1:{PORT}")) {
        Ok(command) => command,
        Err(why) => skip!("{why}"),
    };
    let _server = Program::serve(&room, command);
    let made = create(&room, "--fastpath on");
    for round in 1..3 {
        let client = connect(&room.ns(), made.addr()).unwrap();
        if let Err(error) = both_ways(&client, PAYLOAD) {
            assert!(is_reset(&error), "round {round}: {error}");
        }
        drop(client);
        let view = room.wait_idle(&made.id);
        assert_eq!(view["fallbacks"]["spliced"], round, "{view}");
    }
}

#[test]
fn a_chain_to_an_unknown_server_is_reset_as_a_whole() {
    let room = require!(@ room());
    let command = match splicer(&room, "unknown-last", ["serve", "waiting"], &format!("127.0.0.1:{PORT}")) {
        Ok(command) => command,
        Err(why) => skip!("{why}"),
    };
    let _server = Program::serve(&room, command);
    let last = create(&room, "");
    let first = room.create(&format!("url :7005 tail url 127.0.0.1:{}", last.port()));
    let client = connect(&room.ns(), first.addr()).unwrap();
    if let Err(error) = both_ways(&client, PAYLOAD) {
        assert!(is_reset(&error), "{error}");
    }
    drop(client);
    room.wait_idle(&first.id);
    room.wait_idle(&last.id);
    relayed(&room, &last, "unknown-last");
    both_ways(&connect(&room.ns(), first.addr()).unwrap(), PAYLOAD).unwrap();
}
