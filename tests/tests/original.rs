//! What the first wormhole's own functional tests showed, as far as no second machine is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::path::{Path, PathBuf};
use wormhole_tests::daemon::{self, Daemon, Setup};
use wormhole_tests::kernel::listeners;
use wormhole_tests::room::{Made, Room};
use wormhole_tests::traffic::{ask, connect, echo};
use wormhole_tests::{boxed, require, wait_until};

const NO_DOCKER: &str = "unix:///nonexistent/docker.sock";

/// A fresh key, as the command makes it.
fn keygen() -> PathBuf {
    let path = boxed::fresh_dir().unwrap().join("key.secret");
    daemon::cli(&["keygen", path.to_str().unwrap()]).ok();
    path
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A number of milliseconds that could be a round trip on one machine.
#[track_caller]
fn is_latency(text: &str) {
    let ms: f64 = text.trim().parse().unwrap_or_else(|e| panic!("{text:?} is no number of milliseconds: {e}"));
    assert!(ms > 0.0 && ms < 10_000.0, "{ms} ms");
}

#[test]
fn starts_and_ends_cleanly_on_sigterm() {
    require!(Box);
    let room = Room::alone();
    room.create("url :7000 tail url :7001");
    let socket = room.daemon.socket();
    room.daemon.ok(&["status"]);
    room.daemon.stop();
    assert!(!socket.exists(), "the control socket is left");
    assert!(listeners(&room.netns.ns()).unwrap().iter().all(|l| !l.is("tcp", 7000)));
    // And the command says that nobody is there.
    let done = daemon::cli(&["-H", &format!("unix://{}", socket.display()), "list"]);
    assert_eq!(done.code(), 3, "{}", done.stderr);
    assert!(done.stderr.contains("hint:"), "{}", done.stderr);
}

#[test]
fn another_port() {
    require!(Box);
    let key = keygen();
    let room = Room::with(None, &["-K", str(&key), "-H", "tcp://127.0.0.1:7777"]);
    room.wait_port("tcp", 7777);
    let host = "tcp://127.0.0.1:7777";
    echo(&room.ns(), "127.0.0.1:7001");
    let said = room.cli_at(host, &["-K", str(&key), "create", "url", ":7000", "tail", "url", ":7001"]).ok().to_owned();
    let (id, url) = said.split_once(' ').unwrap();
    assert_eq!(url, "tcp://127.0.0.1:7000");
    ask(&mut connect(&room.ns(), ([127, 0, 0, 1], 7000).into()).unwrap(), "made over TLS").unwrap();
    assert_eq!(room.cli_at(host, &["-K", str(&key), "delete", id]).ok(), id);
    is_latency(room.cli_at(host, &["-K", str(&key), "ping"]).ok());
    // Nothing but the port that was asked for, and the server of this test.
    let all: Vec<String> =
        listeners(&room.ns()).unwrap().iter().map(ToString::to_string).filter(|l| l.starts_with("tcp")).collect();
    assert_eq!(all, ["tcp 127.0.0.1:7001", "tcp 127.0.0.1:7777"]);
}

#[test]
fn ping_over_unix_and_through_a_second_daemon() {
    require!(Box);
    let key = keygen();
    // Two daemons on one machine.
    let room = Room::with(None, &["-K", str(&key), "-H", "tcp://127.0.0.1:7777", "-I", "127.0.0.1"]);
    let second = Setup::new().unwrap().args(&["-K", str(&key), "-H", "tcp://127.0.0.1:8888", "-I", "127.0.0.2"]);
    let second: Daemon = second.docker(NO_DOCKER).netns(&room.netns).start().unwrap();
    is_latency(&room.daemon.ok(&["ping"]));
    is_latency(&second.ok(&["ping"]));
    is_latency(&room.daemon.ok(&["ping", "127.0.0.1:8888"]));
    is_latency(&second.ok(&["ping", "127.0.0.1:7777"]));
    is_latency(&room.daemon.ok(&["ping", "localhost:8888"]));
    let reply: serde_json::Value = serde_json::from_str(&room.daemon.ok(&["-o", "json", "ping", "127.0.0.1:8888"])).unwrap();
    assert!(reply["peer_ms"].as_f64().unwrap() > 0.0, "{reply}");
    // They do not stand in each other's way.
    room.create("url :7000 tail url :7001");
    assert_eq!(second.ok(&["-o", "json", "list"]).replace(char::is_whitespace, ""), "[]");
    second.stop();
    let done = room.daemon.cli(&["ping", "127.0.0.1:8888"]);
    assert_eq!(done.code(), 1, "{}", done.stderr);
    assert!(done.stderr.contains("127.0.0.1:8888") && done.stderr.contains("hint:"), "{}", done.stderr);
    room.daemon.stop();
}

#[test]
fn a_wrong_key_is_refused() {
    require!(Box);
    let (key, other) = (keygen(), keygen());
    let room = Room::with(None, &["-K", str(&key), "-H", "tcp://127.0.0.1:7777"]);
    let second = Setup::new().unwrap().args(&["-K", str(&other), "-H", "tcp://127.0.0.1:8888"]);
    let second = second.docker(NO_DOCKER).netns(&room.netns).start().unwrap();
    for (what, args) in
        [("list", &["list"][..]), ("create", &["create", "url", ":7000", "tail", "url", ":7001"]), ("ping", &["ping"])]
    {
        let done = room.cli_at("tcp://127.0.0.1:7777", &[&["-K", str(&other)], args].concat());
        assert!(matches!(done.code(), 3 | 5), "{what} with a wrong key: {} {}", done.status, done.stderr);
        assert!(done.stderr.contains("key") && done.stdout.is_empty(), "{what}: {}{}", done.stdout, done.stderr);
    }
    let done = room.daemon.cli(&["ping", "127.0.0.1:8888"]);
    assert!(!done.status.success() && done.stderr.contains("key"), "{}", done.stderr);
    assert_eq!(room.list().len(), 0);
    wait_until("a line in the log", wormhole_tests::room::SOON, || second.log().contains("key").then_some(()));
    // Without any key, and without TLS.
    let done = room.cli_at("tcp://127.0.0.1:7777", &["-K", "/nonexistent/key", "list"]);
    assert!(!done.status.success() && done.stderr.contains("wormhole keygen"), "{} {}", done.status, done.stderr);
    let curl = "curl -sS --max-time 5 http://127.0.0.1:7777/v1/segments";
    assert!(room.netns.run(&["sh", "-c", curl]).is_err(), "plain HTTP was answered");
}

#[test]
fn create_and_delete_leave_nothing_listening() {
    require!(Box);
    let room = Room::alone();
    let before = listeners(&room.ns()).unwrap();
    for round in 0..20 {
        let made = room.create("url :7000 tail url :7001");
        room.create("id udp url udp://:7000 tail url udp://:7001");
        assert_eq!(listeners(&room.ns()).unwrap().difference(&before).count(), 2, "round {round}");
        room.delete(&made.id);
        room.delete("udp");
        assert_eq!(listeners(&room.ns()).unwrap(), before, "round {round}");
    }
    let done = room.daemon.cli(&["delete", "udp"]);
    assert_eq!(done.code(), 4, "{}", done.stderr);
}

#[test]
fn a_chain_of_two() {
    require!(Box);
    let room = Room::alone();
    echo(&room.ns(), "127.0.0.1:7002");
    let made = room.create("url :7000 chain url :7001 tail url :7002");
    for port in [7000, 7001] {
        let one = Made { id: String::new(), url: format!("tcp://127.0.0.1:{port}") };
        ask(&mut connect(&room.ns(), one.addr()).unwrap(), "chain").unwrap();
    }
    assert_eq!(room.delete(&made.id).lines().count(), 2);
    assert!(!room.has_port("tcp", 7000) && !room.has_port("tcp", 7001));
}

/// What is a word of the language and not carried out yet. A later build turns these lines into examples.
const LATER: [(&str, &str); 8] = [
    ("url :7000 trigger url :7001", "`trigger` is"),
    ("url :7000 tail docker-run wormhole/mysql", "`docker-run` is"),
    ("url :7000 trigger docker-run wormhole/mysql", "`trigger` and `docker-run` are"),
    ("url :7000 remote 192.0.2.1 tail url :7001", "`remote` is"),
    ("url :7000 tunnel 192.0.2.1 tail url :7001", "`tunnel` is"),
    ("url :7000 udptunnel 192.0.2.1 tail url :7001", "`udptunnel` is"),
    ("url :7000 chain url :7001 tail url :7003 child url :7002 remote 192.0.2.1", "`remote` is"),
    (
        "url :7000 trigger docker-run wormhole/wordpress child url :3306 trigger docker-run wormhole/mysql",
        "`trigger` and `docker-run` are",
    ),
];

#[test]
fn later_words_are_refused_as_such_and_nothing_is_made() {
    require!(Box);
    let room = Room::alone();
    let before = room.settled(&[]);
    for (words, missing) in LATER {
        room.refused(words, 5, &[&format!("{missing} not in this build"), "hint:"]);
        assert_eq!(room.list().len(), 0, "{words}");
    }
    before.wait_equal(|| room.state(&[]));
}

#[test]
fn docker_run_with_an_explicit_tail_is_planned() {
    // No daemon is asked.
    let plan = |words: &[&str]| {
        let done = daemon::cli(&[&["-H", "unix:///nonexistent/s", "create", "--dry-run"], words].concat());
        done.ok().to_owned()
    };
    let text = plan(&["url", ":8080", "tail", "docker-run", "-e A=b -v data:/data wormhole/nginx", "url", ":80"]);
    for part in ["tcp://127.0.0.1:8080", "tcp://127.0.0.1:80", "-e A=b -v data:/data wormhole/nginx", "nothing has been done"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    for (words, missing) in LATER {
        let words: Vec<&str> = words.split(' ').collect();
        let text = plan(&words);
        for word in missing.split('`').skip(1).step_by(2) {
            assert!(text.contains(word), "{word} is missing in\n{text}");
        }
    }
    // What is printed as the whole line is the same plan again.
    let line = text.lines().find_map(|l| l.split_once("wormhole create ")).unwrap().1;
    assert!(line.contains("docker-run"), "{line}");
}

#[test]
fn status_shows_the_version_of_the_embedded_ebpf_object() {
    require!(Box);
    let object = daemon::binary("wormholed").unwrap().parent().unwrap().join("../ebpf/wormhole.o");
    if !object.is_file() {
        wormhole_tests::skip!("built without the eBPF object: cargo xtask build-ebpf");
    }
    let room = Room::alone();
    let status = room.status();
    assert_eq!(status["build"]["ebpf"], env!("CARGO_PKG_VERSION"), "{status}");
    assert!(room.daemon.ok(&["status"]).contains(&format!("ebpf         {}", env!("CARGO_PKG_VERSION"))));
}
