//! A peer that vanishes without a word, as after a power cut: its link goes, no FIN and no reset comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::sync::mpsc::channel;
use wormhole_tests::netns::Netns;
use wormhole_tests::room::{Room, SOON};
use wormhole_tests::traffic::{self, End, PATIENCE, ask, connect, drain, listen, serve};
use wormhole_tests::{require, wait_until};

/// Two namespaces on one wire; `cut` takes it away.
struct Wire {
    near: Netns,
    far: Netns,
}

impl Wire {
    const NEAR: &str = "10.9.0.2";
    const FAR: &str = "10.9.0.1";

    fn new() -> Self {
        let (near, far) = (Netns::create("n").unwrap(), Netns::create("f").unwrap());
        near.join(&format!("{}/24", Self::NEAR), &far, &format!("{}/24", Self::FAR)).unwrap();
        Self { near, far }
    }

    fn cut(&self) {
        let links = self.near.run(&["ip", "-o", "link", "show", "type", "veth"]).unwrap();
        let link = links.split([':', '@']).nth(1).unwrap().trim();
        self.near.run(&["ip", "link", "set", link, "down"]).unwrap();
    }
}

fn open(room: &Room, id: &str) -> u64 {
    room.view(id)["connections"]["open"].as_u64().unwrap()
}

#[test]
fn a_client_that_vanished_is_a_reset_for_the_server() {
    require!(Box);
    let room = Room::with(None, &["--keepalive", "1s"]);
    let wire = Wire::new();
    let (ended, end) = channel();
    serve(listen(&room.ns(), "127.0.0.1:7001"), move |mut stream| {
        let mut word = [0; 5];
        std::io::Read::read_exact(&mut stream, &mut word).unwrap();
        std::io::Write::write_all(&mut stream, &word).unwrap();
        ended.send(drain(&mut stream)).unwrap();
    });
    let made = room.create(&format!("url {}@{}:7000 tail docker-ns url :7001", wire.far.name, Wire::FAR));
    let mut client = connect(&wire.near.ns(), format!("{}:7000", Wire::FAR).parse().unwrap()).unwrap();
    ask(&mut client, "there").unwrap();
    assert_eq!(open(&room, &made.id), 1);
    wire.cut();
    assert_eq!(end.recv_timeout(PATIENCE).unwrap(), (Vec::new(), End::Reset));
    wait_until("the connection is counted as closed", SOON, || (open(&room, &made.id) == 0).then_some(()));
}

#[test]
fn a_server_that_vanished_is_a_reset_for_the_client() {
    require!(Box);
    let room = Room::with(None, &["--keepalive", "1s"]);
    let wire = Wire::new();
    let addr = traffic::echo(&wire.far.ns(), &format!("{}:7001", Wire::FAR));
    let made = room.create(&format!("url :7000 tail url {}@{addr}", wire.near.name));
    let mut client = connect(&room.ns(), made.addr()).unwrap();
    ask(&mut client, "there").unwrap();
    wire.cut();
    assert_eq!(drain(&mut client), (Vec::new(), End::Reset));
    wait_until("the connection is counted as closed", SOON, || (open(&room, &made.id) == 0).then_some(()));
}
