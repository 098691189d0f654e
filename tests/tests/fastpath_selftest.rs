//! The daemon tries the fast path at its start: what it says about this kernel, that nothing is left of the trial, and
//! what it does when it may not try.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wormhole_tests::fast::{Held, sum};
use wormhole_tests::require;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{ask, connect, echo};
use wormhole_tests::wait::{patient, poll};

/// What every kernel that the fast path is meant for does.
const CERTAIN: [&str; 9] = ["direct", "order", "charged", "eof", "peer-gone", "unread", "ulp", "zerocopy", "recv-after-shutdown"];

/// What differs from kernel to kernel.
const OPEN: [&str; 7] = ["fionread-redirected", "fionread-normal", "splice", "recv-shutdown", "waitall", "rcvlowat", "oob"];

/// A segment to an echo server, both inside the room.
fn segment(room: &Room, words: &str) -> Made {
    let addr = echo(&room.ns(), "127.0.0.1:700");
    room.create(&format!("{words} url 127.0.0.1:701 tail url {addr}"))
}

/// Makes a connection, has it carry bytes and gives how `inspect` shows it.
fn carried(room: &Room, made: &Made) -> Value {
    let mut client = connect(&room.ns(), made.addr()).unwrap();
    ask(&mut client, "one").unwrap();
    ask(&mut client, "two").unwrap();
    let view = room.wait_view(&made.id, "open", |view| view["open"].as_array().is_some_and(|open| open.len() == 1));
    drop(client);
    room.wait_idle(&made.id);
    let open = &view["open"][0];
    assert_eq!(view["pairs"], u64::from(open["path"] == "fastpath"), "{view}");
    open.clone()
}

#[test]
fn every_probe_is_answered_and_nothing_is_left_of_them() {
    require!(Box);
    let without = Room::with(None, &["--fastpath", "off"]);
    let began = Instant::now();
    // One place only: whatever a probe left in it would keep the connections below off.
    let room = Room::with(None, &["--fastpath-pairs", "1"]);
    assert!(began.elapsed() < patient(Duration::from_secs(8)), "the start took {:?}", began.elapsed());
    let status = room.status();
    let fast = &status["fastpath"];
    if fast["active"] != true {
        wormhole_tests::skip!("no fast path here: {}", fast["summary"]);
    }
    let probes: BTreeMap<&str, &Value> =
        fast["probes"].as_array().unwrap().iter().map(|probe| (probe["name"].as_str().unwrap(), probe)).collect();
    assert_eq!(probes.len(), CERTAIN.len() + OPEN.len(), "{fast:#}");
    for name in CERTAIN {
        assert_eq!(probes[name]["passed"], true, "{}", probes[name]);
    }
    for name in OPEN {
        let detail = probes[name]["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.contains("not tried") && !detail.contains("the try failed"), "{name}: {detail}");
    }
    assert!(fast["summary"].as_str().unwrap().contains("auto: yes"), "{fast:#}");
    let human = room.daemon.ok(&["status"]);
    assert!(human.contains("direct: yes; ") && human.contains("auto: yes"), "{human}");
    assert!(room.daemon.log().contains("the fast path is ready; auto: yes"), "{}", room.daemon.log());

    // As if nothing had been tried.
    assert_eq!(fast["pairs"], json!({"open": 0, "max": 1, "total": 0}));
    assert_eq!((&fast["enrolled"], &fast["fallbacks"]), (&json!(0), &Value::Null), "{fast:#}");
    assert_eq!(fast["direct"], json!({"to_tail": 0, "to_head": 0}));
    assert_eq!(fast["injected"], json!({"to_tail": 0, "to_head": 0}));
    // One for each relay thread, and the self-test's: a connection with itself each.
    let doors = Held::by(room.daemon.pid()).keys("WH_DOOR_SOCKS");
    assert_eq!(doors as u64, status["workers"].as_u64().unwrap() + 1);
    // The last command's connection may be open for a moment longer.
    let same = poll("both daemons to hold the same", SOON, || {
        let (holds, less) = (room.daemon.holds(), without.daemon.holds());
        assert_eq!(holds.entered.len(), 1, "a thread is in another namespace: {holds:?}");
        assert_eq!(holds.namespaces.len(), less.namespaces.len(), "{holds:?} {less:?}");
        let of = |kind| [&holds, &less].map(|holds| holds.fds.get(kind).copied().unwrap_or_default());
        let ([sockets, others], [pipes, less_pipes]) = (of("socket"), of("pipe"));
        if sockets == others + 2 * doors && pipes == less_pipes { Ok(()) } else { Err(format!("{holds:?} {less:?}")) }
    });
    same.unwrap();
    let made = segment(&room, "");
    for round in 0..3 {
        let open = carried(&room, &made);
        assert_eq!(open["path"], "fastpath", "round {round}: {open}");
    }
}

#[test]
fn without_the_right_to_load_programs_everything_is_relayed() {
    require!(Box);
    let room = Room::started(None, |setup| setup.without(&["bpf", "sys_admin", "perfmon"]));
    let fast = &room.status()["fastpath"];
    let summary = fast["summary"].as_str().unwrap();
    assert_eq!((&fast["active"], &fast["probes"]), (&json!(false), &Value::Null), "{fast:#}");
    assert!(summary.starts_with("every connection takes the relay: "), "{summary}");
    let open = carried(&room, &segment(&room, ""));
    assert_eq!((&open["path"], open["reason"].is_string()), (&json!("relay"), true), "{open}");
}

/// As the unit that the README installs starts it: the rights that it leaves are enough.
#[test]
fn with_the_rights_of_the_service_auto_enrols() {
    require!(Box);
    let unit = include_str!("../../packaging/wormholed.service");
    let rights = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("the unit bounds its rights");
    let rights: Vec<_> = rights.split_whitespace().map(|right| right.strip_prefix("CAP_").unwrap().to_lowercase()).collect();
    let room = Room::started(None, |setup| setup.only(&rights));
    let with_all = Room::alone();
    let [fast, all] = [&room, &with_all].map(|room| room.status()["fastpath"].clone());
    assert_eq!((&fast["auto"], &fast["probes"]), (&all["auto"], &all["probes"]), "{fast:#}");
    if fast["auto"] != true {
        wormhole_tests::skip!("no fast path here: {}", fast["summary"]);
    }
    let open = carried(&room, &segment(&room, ""));
    assert_eq!(open["path"], "fastpath", "{open}");
}

#[test]
fn where_it_cannot_be_tried_auto_relays_and_on_enrols() {
    require!(Box);
    let without = Room::started(None, |setup| setup.without(&["sys_admin"]));
    let fast = &without.status()["fastpath"];
    let summary = fast["summary"].as_str().unwrap();
    if fast["active"] != true {
        wormhole_tests::skip!("no fast path here: {summary}");
    }
    assert!(summary.contains("auto: no because") && summary.contains("CAP_SYS_ADMIN"), "{summary}");
    let open = carried(&without, &segment(&without, ""));
    assert_eq!((&open["path"], open["reason"].is_string()), (&json!("relay"), true), "{open}");
    let (view, fast) = (without.list().remove(0), &without.status()["fastpath"]);
    assert!(view["fallbacks"].is_object() && sum(&view, "bytes") > 0, "{view}");
    assert_eq!((&fast["relayed"], &fast["reasons"]), (&view["bytes"], &view["fallbacks"]), "{fast:#}");
    without.daemon.ok(&["delete", "--all"]);
    let addr = echo(&without.ns(), "127.0.0.1:702");
    let made = without.create(&format!("--fastpath on url 127.0.0.1:703 tail url {addr}"));
    let open = carried(&without, &made);
    assert_eq!(open["path"], "fastpath", "{open}");
}
