//! What this kernel gets by default: `status` says it, connections do it, and where the kernel cannot, they are relayed.
//! `cargo xtask vm-test` runs this on the kernels that users have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use serde_json::Value;
use std::io::{Read, Write};
use wormhole_tests::fast::sum;
use wormhole_tests::netns::Netns;
use wormhole_tests::require;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{Stream, ask, bytes, connect, echo};
use wormhole_tests::wait::poll;

/// A room whose head :7000 leads to a server that sends everything back.
fn room_with_echo(room: Room) -> (Room, Netns, Made) {
    let far = Netns::create("f").unwrap();
    echo(&far.ns(), "127.0.0.1:7001");
    let made = room.create(&format!("url :7000 tail url {}@:7001", far.name));
    (room, far, made)
}

/// Sends a text through a new connection, and gives what `inspect` says about it while it is open.
fn carry(room: &Room, made: &Made) -> Value {
    let mut stream = connect(&room.ns(), made.addr()).unwrap();
    // The second message is the first that can go from socket to socket.
    ask(&mut stream, "first").unwrap();
    let text = bytes(1, 1 << 20);
    let mut twin = stream.twin().unwrap();
    let back = std::thread::scope(|scope| {
        scope.spawn(|| twin.write_all(text).unwrap());
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap();
        back
    });
    assert!(back == text, "the text came back changed");
    let view = room.view(&made.id);
    stream.end().unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "more than the text came back");
    view
}

/// Carries texts until a connection takes the path `wanted`: who listens at the tail may not be known to the first ones.
#[track_caller]
fn carry_by(wanted: &str, room: &Room, made: &Made) -> Value {
    let done = poll(&format!("a connection on the path {wanted:?}"), SOON, || {
        let view = carry(room, made);
        let paths: Vec<&Value> = view["open"].as_array().unwrap().iter().map(|open| &open["path"]).collect();
        if paths.iter().any(|path| *path == wanted) { Ok(view.clone()) } else { Err(view["open"].to_string()) }
    });
    done.unwrap_or_else(|e| panic!("{e:#}; {}", room.status()["fastpath"]))
}

/// Everything of a room was relayed, and every connection says why.
fn is_relayed(room: &Room, made: &Made) {
    let view = carry_by("relay", room, made);
    let open = &view["open"][0];
    assert!(open["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason: {open}");
    assert_eq!((sum(&view, "direct"), sum(&view, "injected")), (0, 0), "{view}");
    let view = room.wait_idle(&made.id);
    assert_eq!(sum(&view, "bytes"), 2 * (5 + (1 << 20)), "{view}");
    assert_eq!((&view["connections"]["failed"], &view["connections"]["reset"]), (&0.into(), &0.into()), "{view}");
}

/// Locked down for confidentiality, a kernel lets no eBPF program read its memory.
fn locked_down() -> bool {
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    lockdown.contains("[confidentiality]")
}

#[test]
fn connections_take_the_path_that_status_promises() {
    require!(Box);
    for mode in ["auto", "on"] {
        let (room, _far, made) = room_with_echo(Room::with(None, &["--fastpath", mode]));
        let status = room.status()["fastpath"].clone();
        println!("{status}");
        assert_eq!(status["mode"], mode);
        assert!(status["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "no summary: {status}");
        if status[if mode == "on" { "active" } else { "auto" }] == true {
            assert!(!locked_down(), "active on a kernel that is locked down: {status}");
            let view = carry_by("fastpath", &room, &made);
            // The first message passes by TCP and is injected, the rest is direct until the reader falls behind.
            assert!(sum(&view, "direct") > 0, "{view}");
        } else {
            let says = status["summary"].as_str().unwrap();
            assert!(!locked_down() || says.contains("locked down"), "lockdown is not named: {says}");
            is_relayed(&room, &made);
        }
        room.daemon.stop();
    }
}

#[test]
fn a_daemon_without_the_right_to_load_programs_relays_and_says_so() {
    require!(Box);
    // Without CAP_SYS_ADMIN, which implies most others, no namespace can be entered: all is in that of the daemon.
    let all: &[&str] = &["sys_admin", "net_admin", "bpf", "perfmon"];
    for (mode, rights) in [("auto", all), ("on", all), ("on", &["sys_admin", "bpf"]), ("on", &["sys_admin", "perfmon"])] {
        let room = Room::started(None, |setup| setup.args(&["--fastpath", mode]).without(rights));
        echo(&room.ns(), "127.0.0.1:7001");
        let made = room.create("url :7000 tail url :7001");
        let status = room.status()["fastpath"].clone();
        assert_eq!(status["active"], false, "{status}");
        let names: Vec<String> = rights.iter().map(|name| format!("CAP_{}", name.to_uppercase())).collect();
        let says = |name: &String| status["summary"].as_str().is_some_and(|summary| summary.contains(name.as_str()));
        assert!(names.iter().all(says), "{names:?} are not all in {status}");
        is_relayed(&room, &made);
        room.daemon.stop();
    }
}
