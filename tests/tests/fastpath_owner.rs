//! In `auto` it is the server's executable, too, that decides about the fast path. The executables are socat under
//! several names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use serde_json::Value;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{ask, connect};
use wormhole_tests::{require, wait_until};

/// Longer than the kernel compares.
const SPARED: &str = "an-executable-that-uses-splice-and-has-a-long-name";
const OTHER: &str = "another-executable";
const PORT: u16 = 7001;

/// A server that sends everything back. Dropping ends it, and its listener is gone then.
struct Server(Child);

impl Server {
    fn start(room: &Room, name: &str) -> Self {
        let exe = room.daemon.dir().join(name);
        if !exe.exists() {
            std::fs::copy(wormhole_tests::run::find("socat").expect("socat"), &exe).unwrap();
        }
        let server = Self::run(room, &exe);
        room.wait_port("tcp", PORT);
        server
    }

    // One process: a child that outlived it would hold the port.
    fn run(room: &Room, exe: &Path) -> Self {
        let mut command = room.netns.command(&exe.to_string_lossy());
        command.args(["-t0", &format!("TCP4-LISTEN:{PORT},bind=127.0.0.1,reuseaddr,fork"), "PIPE"]);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A room whose daemon has a fast path, or why it has none.
fn room() -> Result<Room, String> {
    wormhole_tests::run::find("socat").ok_or("needs socat")?;
    let room = Room::with(None, &["--fastpath-except", SPARED]);
    let fast = room.status()["fastpath"].clone();
    if fast["active"] == true { Ok(room) } else { Err(format!("no fast path: {}", fast["summary"])) }
}

/// Talks once over a new connection; the connection, and what `inspect` says about it.
fn talk(room: &Room, made: &Made) -> (TcpStream, Value) {
    let mut client = connect(&room.ns(), made.addr()).unwrap();
    ask(&mut client, "there and back").unwrap();
    let open = room.view(&made.id)["open"][0].clone();
    (client, open)
}

/// As [`talk`], and waits for the end of the connection.
fn look(room: &Room, made: &Made) -> (String, String) {
    let (client, open) = talk(room, made);
    drop(client);
    room.wait_idle(&made.id);
    let text = |of: &str| open[of].as_str().unwrap_or_default().to_owned();
    (text("path"), text("reason"))
}

fn wait_fast(room: &Room, made: &Made) {
    wait_until("the fast path", SOON, || (look(room, made).0 == "fastpath").then_some(()));
}

fn create(room: &Room, options: &str) -> Made {
    room.create(&format!("{options} url :7000 tail url :{PORT}"))
}

#[test]
fn a_spared_server_is_relayed_and_its_successor_is_not() {
    require!(Box);
    let room = require!(@ room());
    let spared = Server::start(&room, SPARED);
    let made = create(&room, "");
    let (path, reason) = look(&room, &made);
    assert_eq!(path, "relay");
    assert!(reason.contains(SPARED), "{reason}");
    let view = room.view(&made.id);
    assert_eq!(view["fallbacks"]["server-spared"], 1, "{view}");
    assert_eq!(view["direct"]["to_head"], 0, "{view}");

    drop(spared);
    let other = Server::start(&room, OTHER);
    wait_fast(&room, &made);

    drop(other);
    let _spared = Server::start(&room, SPARED);
    wait_until("the relay", SOON, || look(&room, &made).1.contains(SPARED).then_some(()));
}

#[test]
fn a_server_that_comes_later_is_looked_at_first() {
    require!(Box);
    let room = require!(@ room());
    let made = create(&room, "");
    let spared = Server::start(&room, SPARED);
    wait_until("the reason", SOON, || {
        let (path, reason) = look(&room, &made);
        assert_eq!(path, "relay", "{reason}");
        reason.contains(SPARED).then_some(())
    });
    drop(spared);
    // Nobody listens; found out by the time of a connection that fails.
    let _other = Server::start(&room, OTHER);
    wait_fast(&room, &made);
}

#[test]
fn on_takes_every_server() {
    require!(Box);
    let room = require!(@ room());
    let _spared = Server::start(&room, SPARED);
    let made = create(&room, "--fastpath on");
    assert_eq!(look(&room, &made), ("fastpath".to_owned(), String::new()));
}

#[test]
fn a_chain_is_judged_by_its_last_server() {
    require!(Box);
    let room = require!(@ room());
    let spared = Server::start(&room, SPARED);
    let last = create(&room, "");
    let first = room.create(&format!("url :7002 tail url :{}", last.port()));
    let (client, open) = talk(&room, &first);
    assert_eq!(open["path"], "relay", "{open}");
    let open = room.view(&last.id)["open"][0].clone();
    assert!(open["reason"].as_str().is_some_and(|why| why.contains(SPARED)), "{open}");
    drop(client);

    drop(spared);
    let _other = Server::start(&room, OTHER);
    wait_fast(&room, &first);
}

#[test]
fn a_chain_through_a_head_that_is_off() {
    require!(Box);
    let room = require!(@ room());
    let _other = Server::start(&room, OTHER);
    let last = create(&room, "--fastpath off");
    for mode in ["auto", "on"] {
        let first = room.create(&format!("--fastpath {mode} url :0 tail url :{}", last.port()));
        // wormholed itself reads by splice(2), so what it accepts at such a head must never be enrolled.
        assert_eq!(look(&room, &first).0, "relay", "{mode}");
    }
}
