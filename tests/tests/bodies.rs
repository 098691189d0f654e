//! Requests to the control API that are wrong, sent with curl to the real daemon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use serde_json::{Value, json};
use std::path::Path;
use wormhole_tests::room::Room;
use wormhole_tests::run::{self};
use wormhole_tests::{process, require, wait_until};

/// `curl --unix-socket`: status and answer.
fn curl(socket: &Path, args: &[&str]) -> (u16, Value) {
    let socket = socket.to_str().unwrap();
    let common = ["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--unix-socket", socket];
    let text = run::text(&mut run::command("curl", [&common[..], args].concat())).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|e| panic!("{args:?}: {body:?} is no JSON: {e}")))
}

#[test]
fn wrong_bodies_of_the_api() {
    require!(Box);
    let room = Room::alone();
    room.create("id mine url :7100 tail url :1");
    let socket = room.daemon.socket();
    let post =
        |body: &str| curl(&socket, &["-H", "content-type: application/json", "--data-binary", body, "http://x/v1/segments"]);
    let end = |port: u16| json!({ "proto": "tcp", "port": port });
    let spec = |head: Value, tail: Value| json!({ "spec": { "head": head, "tail": tail } }).to_string();
    let head = |name: &str, value: Value| {
        let mut head = end(7000);
        head[name] = value;
        spec(head, end(1))
    };
    let deep = {
        let mut spec = json!({ "head": end(7000), "tail": end(1) });
        for port in 0..62 {
            spec = json!({ "head": end(7001 + port), "tail": end(1), "link": { "via": { "kind": "child" }, "spec": spec } });
        }
        json!({ "spec": spec }).to_string()
    };
    let cases: Vec<(String, u16, &str)> = vec![
        ("{".to_owned(), 400, "the body: EOF"),
        ("[]".to_owned(), 400, "the body:"),
        ("{}".to_owned(), 400, "missing field `spec`"),
        ("null".to_owned(), 400, "the body:"),
        ("\u{0}".to_owned(), 400, ""),
        (json!({ "spec": {} }).to_string(), 400, "missing field `head`"),
        (json!({ "spec": { "head": end(1) } }).to_string(), 400, "missing field `tail`"),
        (json!({ "spec": { "head": end(1), "tail": end(2) }, "extra": 1 }).to_string(), 400, "unknown field `extra`"),
        (head("prot", json!("tcp")), 400, "unknown field `prot`"),
        (head("proto", json!("sctp")), 400, "sctp"),
        (head("port", json!(70000)), 400, "70000"),
        (head("port", json!("80")), 400, "invalid type"),
        (head("port", json!(-1)), 400, "-1"),
        (head("host", json!("a b")), 400, "a b"),
        (head("path", json!("/x")), 400, "spec.head.path: a tcp end has no path"),
        (head("place", json!({ "kind": "moon" })), 400, "moon"),
        (head("place", json!({ "kind": "host", "name": "blue" })), 400, "unknown field `name`"),
        (head("place", json!({ "kind": "named", "name": "../etc" })), 400, "spec.head.place.name"),
        (head("place", json!({ "kind": "pid", "pid": 0 })), 400, "is not a process id"),
        (head("place", json!({ "kind": "docker", "name": "-x" })), 400, "is not the id or name of a container"),
        (head("place", json!({ "kind": "parent" })), 400, "the first segment has no parent"),
        (spec(json!({ "proto": "unix", "path": "relative" }), end(1)), 400, "is not absolute"),
        (spec(json!({ "proto": "unix", "path": "" }), end(1)), 400, "needs a path"),
        (spec(json!({ "proto": "unix", "path": format!("/{}", "x".repeat(120)) }), end(1)), 400, "the kernel takes 107"),
        (spec(json!({ "proto": "unix", "path": "/a\u{0}b" }), end(1)), 400, "NUL"),
        (spec(json!({ "proto": "udp", "port": 1 }), end(1)), 400, "a udp head cannot lead to a tcp tail"),
        (spec(end(7000), end(7000)), 409, "would connect to itself"),
        (spec(end(7100), end(1)), 409, "is already the head of segment mine"),
        (json!({ "spec": { "id": "a b", "head": end(7000), "tail": end(1) } }).to_string(), 400, "spec.id"),
        (json!({ "spec": { "id": "mine", "head": end(7000), "tail": end(1) } }).to_string(), 409, "is taken"),
        (
            json!({ "spec": { "head": end(7000), "tail": end(1), "options": { "udp_timeout_ms": 0 } } }).to_string(),
            400,
            "out of range",
        ),
        (
            json!({ "spec": { "head": end(7000), "tail": end(1), "options": { "fast": 1 } } }).to_string(),
            400,
            "unknown field `fast`",
        ),
        (json!({ "spec": { "head": end(7000), "tail": end(1), "trigger": true } }).to_string(), 501, "not in this build"),
        (deep, 400, ""),
        ("x".repeat(300_000), 413, "larger than"),
    ];
    let (before, listed) = (room.settled(&[]), room.list());
    let file = room.daemon.dir().join("body");
    for (body, status, fragment) in &cases {
        // Through a file: some are longer than an argument may be, or hold NUL.
        std::fs::write(&file, body).unwrap();
        let shown: String = body.chars().take(100).collect();
        let (got, failure) = post(&format!("@{}", file.display()));
        assert_eq!(got, *status, "{shown}: {failure}");
        assert!(failure["message"].as_str().unwrap().contains(fragment), "{shown}: {fragment:?} is missing in {failure}");
        assert_eq!(room.list(), listed, "{shown} changed something");
    }
    for (args, status, fragment) in [
        (&["-XPOST", "http://x/v1/segments"][..], 400, "the body is empty"),
        (&["--data-binary", "{}", "http://x/v1/segments"], 415, "application/json"),
        (&["http://x/v1/nothing"], 404, "/v1/nothing"),
        (&["http://x/"], 404, "openapi"),
        (&["-XPUT", "http://x/v1/segments"], 405, ""),
        (&["-XDELETE", "http://x/v1/segments/nosuch"], 404, "there is no segment nosuch"),
        (&["-XDELETE", "http://x/v1/segments/%2e%2e"], 400, "is not an id"),
        (&["http://x/v1/segments/%ff"], 400, "id"),
    ] {
        let (got, failure) = curl(&socket, args);
        assert_eq!(got, status, "{args:?}: {failure}");
        assert!(failure.to_string().contains(fragment), "{args:?}: {fragment:?} is missing in {failure}");
    }
    assert_eq!(room.list(), listed);
    before.wait_equal(|| room.state(&[]));
    assert_eq!(curl(&socket, &["http://x/v1/segments"]).0, 200);
}

#[test]
fn no_client_can_hold_the_daemon_up() {
    require!(Box);
    let room = Room::alone();
    let before = room.settled(&[]);
    // Connections that say nothing, half a request, rubbish.
    let mut held = Vec::new();
    for part in [
        &b""[..],
        b"GET /v1/status HT",
        b"\x16\x03\x01\x02\x00\x01",
        &[b'x'; 100_000],
        b"POST /v1/segments HTTP/1.1\r\ncontent-length: 10\r\n\r\n{",
    ] {
        for _ in 0..20 {
            use std::io::Write;
            let mut client = std::os::unix::net::UnixStream::connect(room.daemon.socket()).unwrap();
            // Rubbish may be answered by hanging up at once.
            let _ = client.write_all(part);
            held.push(client);
        }
    }
    room.create("url :7000 tail url :1");
    assert_eq!(room.list().len(), 1);
    room.daemon.ok(&["delete", "--all"]);
    drop(held);
    before.wait_equal(|| room.state(&[]));
    let cpu = process::cpu_time(room.daemon.pid()).unwrap();
    let mut quiet = cpu;
    wait_until("the daemon to rest", wormhole_tests::room::SOON, || {
        let now = process::cpu_time(room.daemon.pid()).ok()?;
        let rests = now == quiet;
        quiet = now;
        rests.then_some(())
    });
}
