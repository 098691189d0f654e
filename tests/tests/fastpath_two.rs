//! Two daemons on one machine, each with programs and maps of its own at the root of the same cgroup hierarchy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{Read, Write};
use std::thread;
use wormhole_tests::daemon::Daemon;
use wormhole_tests::fast::{self, Held, wait_unused};
use wormhole_tests::lane::{Lane, Way};
use wormhole_tests::netns::Netns;
use wormhole_tests::open::{Flow, Open};
use wormhole_tests::room::{Made, Room};
use wormhole_tests::traffic::{End, Stream, ask, bytes, connect, drain, echo};
use wormhole_tests::{require, skip};

const ON: &[&str] = &["--fastpath", "on"];

fn lane() -> Result<Lane, String> {
    Lane::with(Way::Fast, &["--drain", "1s"])
}

/// One daemon ends by `end` and comes again, while the other one's connections go on, old ones and new ones.
fn the_end_of_one_is_nothing_to_the_other(end: fn(Daemon)) {
    require!(Box);
    let (mut one, two) = match (lane(), lane()) {
        (Ok(one), Ok(two)) => (one, two),
        (Err(why), _) | (_, Err(why)) => skip!("{why}"),
    };
    let (torn, open) = (Open::all(|| one.pair()), two.pair());
    let ((client, server), (client2, server2)) = (two.pair(), two.pair());
    let flows = [Flow::start(client, server), Flow::start(server2, client2)];
    let (gone, stays) = (Held::by(one.room().daemon.pid()), Held::by(two.room().daemon.pid()));
    let room = one.room.take().unwrap().again_with(None, ON, |daemon| {
        let dir = daemon.dir().to_owned();
        end(daemon);
        torn.all_reset();
        gone.wait_gone();
        assert!(stays.is_whole(), "{stays:?}");
        for flow in &flows {
            flow.wait_running(4 << 20);
        }
        two.is_direct(&open);
        two.is_direct(&two.pair());
        dir
    });
    one.room = Some(room);
    one.is_direct(&one.pair());
    two.is_direct(&open);
    two.is_direct(&two.pair());
    for flow in &flows {
        flow.wait_running(4 << 20);
    }
    // And the other way round: the older one goes, and the younger one stays.
    let Room { daemon, netns } = { two }.room.take().unwrap();
    let (last, open) = (open, one.pair());
    end(daemon);
    for flow in flows {
        flow.is_reset("of the daemon that ended last");
    }
    drop(last);
    stays.wait_gone();
    one.is_direct(&open);
    one.is_direct(&one.pair());
    drop((open, netns));
    wait_unused(one.room());
}

#[test]
fn a_daemon_that_is_killed_is_nothing_to_another_one() {
    the_end_of_one_is_nothing_to_the_other(|daemon| drop(daemon.crash().unwrap()));
}

#[test]
fn a_daemon_that_stops_is_nothing_to_another_one() {
    the_end_of_one_is_nothing_to_the_other(Daemon::stop);
}

/// The tail of one daemon is the head of another one: both see the sockets in between, and neither takes the other one's
/// for an application's: that one splices, and would get its bytes late, or never.
#[test]
fn a_segment_of_one_daemon_leads_to_a_segment_of_another_one() {
    require!(Box);
    for mode in ["on", "auto"] {
        let (one, two) = (Room::with(None, &["--fastpath", mode]), Room::with(None, &["--fastpath", mode]));
        require!(@ fast::available(&one));
        let far = Netns::create("f").unwrap();
        echo(&far.ns(), "127.0.0.1:700");
        let second = two.create(&format!("url :701 tail url {}@:700", far.name));
        let first = one.create(&format!("url :702 tail url {}@:701", two.netns.name));
        for round in 0..4 {
            through(&one, &first, &format!("{mode}, round {round}"));
        }
        for (room, made) in [(&one, &first), (&two, &second)] {
            let view = room.wait_idle(&made.id);
            assert_eq!(fast::sum(&view, "bytes"), 4 * 2 * (4 + (5 << 20)), "{mode}: {view}");
            assert_eq!(fast::sum(&view, "direct"), 0, "{mode}: {view}");
            wait_unused(room);
        }
    }
}

/// A word, and five megabytes there and back.
fn through(room: &Room, made: &Made, what: &str) {
    let mut client = connect(&room.ns(), made.addr()).unwrap();
    ask(&mut client, "word").unwrap_or_else(|e| panic!("{what}: {e:#}"));
    let text = bytes(3, 5 << 20);
    let mut twin = client.twin().unwrap();
    let sender = thread::spawn(move || twin.write_all(text).and_then(|()| twin.end()));
    let (got, end) = drain(&mut client);
    assert!(got == text && end == End::Eof, "{what}: {} of {} bytes, {end:?}; {}", got.len(), text.len(), room.view(&made.id));
    sender.join().unwrap().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "{what}");
}
