//! The ground that the other tests stand on: the engine, the images, and the eyes that compare the kernel before and
//! after.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use wormhole_tests::docker::Docker;
use wormhole_tests::images::{self, Image};
use wormhole_tests::kernel::{self, KernelState, Ns};
use wormhole_tests::netns::Netns;
use wormhole_tests::process::Holds;
use wormhole_tests::{boxed, require, wait_until};

#[test]
fn redis_answers_in_its_own_namespace() {
    let docker: &Docker = require!(Docker);
    let redis = docker.container(Image::Redis, &[]).unwrap();
    redis.wait_listening("tcp", 6379).unwrap();
    assert_eq!(redis.exec(&["redis-cli", "ping"]).unwrap().ok(), "PONG");
    assert_eq!(redis.exec(&["redis-cli", "-s", "/run/redis/redis.sock", "ping"]).unwrap().ok(), "PONG");
    // And nowhere else.
    assert!(!kernel::listeners(&Ns::Own).unwrap().iter().any(|l| l.is("tcp", 6379)));
}

#[test]
fn mariadb_answers_with_the_baked_database() {
    let docker = require!(Docker);
    let mysql = docker.container(Image::Mysql, &[]).unwrap();
    let query = ["mariadb", "-h", "127.0.0.1", "-uroot", "-N", "-e", "select word from wormhole.greeting"];
    assert_eq!(mysql.wait_exec(&query, |answer| answer == "hello\n").unwrap(), "hello\n");
}

#[test]
fn nginx_and_dns_answer_and_stop_quickly() {
    let docker = require!(Docker);
    let nginx = docker.container(Image::Nginx, &[]).unwrap();
    nginx.wait_listening("tcp", 80).unwrap();
    assert_eq!(nginx.exec(&["wget", "-qO-", "http://127.0.0.1/"]).unwrap().ok(), "wormhole nginx");
    assert_eq!(nginx.exec(&["sh", "-c", "wget -qO- http://127.0.0.1/1m | wc -c"]).unwrap().ok(), "1048576");
    let dns = docker.container(Image::Dns, &[]).unwrap();
    dns.wait_listening("udp", 53).unwrap();
    let drill = |args: &[&str]| dns.exec(&[&["drill", "-Q", "@127.0.0.1"], args].concat()).unwrap().ok().to_owned();
    assert_eq!(drill(&["wormhole.test"]), "192.0.2.53");
    assert_eq!(drill(&["-b", "4096", "big.wormhole.test", "TXT"]).matches("wwwwww").count(), 160);
    // They are first processes that know SIGTERM.
    let client = docker.container(Image::Client, &[]).unwrap();
    for container in [nginx, dns, client] {
        let began = std::time::Instant::now();
        container.stop(10).unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{} had to be killed", container.name);
    }
}

#[test]
fn the_client_has_every_client_and_no_route() {
    let docker = require!(Docker);
    let client = docker.container(Image::Client, &[]).unwrap();
    for program in ["redis-cli", "mariadb", "curl"] {
        client.exec(&[program, "--version"]).unwrap().ok();
    }
    client.exec(&["drill", "-v"]).unwrap();
    assert_eq!(client.exec(&["stat", "-c", "%a %u", "/", "/tmp"]).unwrap().ok(), "755 0\n1777 0");
    assert_eq!(client.exec(&["ip", "route"]).unwrap().ok(), "");
}

#[test]
fn a_restart_gives_a_new_namespace() {
    let docker = require!(Docker);
    let redis = docker.container(Image::Redis, &[]).unwrap();
    redis.wait_listening("tcp", 6379).unwrap();
    let old = redis.pid().unwrap();
    // Held, so that the number of the old namespace cannot be given again.
    let held = std::fs::File::open(format!("/proc/{old}/ns/net")).unwrap();
    redis.restart().unwrap();
    redis.wait_listening("tcp", 6379).unwrap();
    let new = redis.pid().unwrap();
    assert_ne!(old, new);
    let current = std::fs::metadata(format!("/proc/{new}/ns/net")).unwrap();
    assert_ne!(held.metadata().unwrap().ino(), current.ino());
    redis.stop(5).unwrap();
    assert!(redis.pid().unwrap_err().to_string().contains("does not run"));
    redis.start().unwrap();
    redis.wait_listening("tcp", 6379).unwrap();
}

#[test]
fn images_are_made_once() {
    let docker = require!(Docker);
    for image in Image::ALL {
        let first = images::ensure(docker, image).unwrap();
        println!("{}: {} MB, tar {:?}, import {:?}", image.tag(), first.bytes >> 20, first.build, first.import);
        let again = images::ensure(docker, image).unwrap();
        assert!(again.cached && again.import.is_zero(), "{again:?}");
    }
}

#[test]
fn a_new_listener_shows_and_its_end_too() {
    require!(Box);
    let (a, b) = (Netns::create("a").unwrap(), Netns::create("b").unwrap());
    let places = [("a", a.ns()), ("b", b.ns())];
    let before = KernelState::of(&places).unwrap();
    let mut server = a.command("busybox").args(["nc", "-l", "-p", "4444"]).spawn().unwrap();
    wait_until("the listener", Duration::from_secs(5), || {
        kernel::listeners(&a.ns()).unwrap().iter().any(|l| l.is("tcp", 4444)).then_some(())
    });
    let with = KernelState::of(&places).unwrap();
    let diff = before.diff(&with);
    assert!(diff.starts_with("+ a: listeners: tcp ") && diff.ends_with(":4444\n") && diff.lines().count() == 1, "{diff}");
    server.kill().unwrap();
    server.wait().unwrap();
    before.wait_equal(|| KernelState::of(&places));

    a.join("10.1.0.1/24", &b, "10.1.0.2/24").unwrap();
    b.run(&["busybox", "ping", "-c1", "-W2", "10.1.0.1"]).map_or_else(|e| panic!("{e:#}"), drop);
    let joined = before.diff(&KernelState::of(&places).unwrap());
    for expected in ["+ a: links: ", "+ a: addresses: ", "+ b: routes: 10.1.0.0/24 dev v"] {
        assert!(joined.contains(expected), "{expected} is missing in\n{joined}");
    }
}

#[test]
fn namespaces_are_told_by_who_keeps_them() {
    require!(Box);
    let netns = Netns::create("n").unwrap();
    let name = format!("/run/netns/{}", netns.name);
    let held = std::fs::File::open(&name).unwrap();
    let all = kernel::namespaces().unwrap();
    let keepers: Vec<_> = all.values().find(|who| who.contains(&name)).unwrap().iter().collect();
    assert!(keepers.iter().any(|who| who.ends_with("(descriptor)")), "{keepers:?}");
    let id = format!("net:[{}]", held.metadata().unwrap().ino());
    let mine = Holds::of(std::process::id()).unwrap();
    assert!(mine.namespaces.contains(&id), "{mine:?}");
    drop(held);
    netns.delete().unwrap();
    assert!(!kernel::namespaces().unwrap().values().any(|who| who.contains(&name)));
    assert!(!Holds::of(std::process::id()).unwrap().namespaces.contains(&id));
}

#[test]
fn a_box_leaves_nothing_behind() {
    require!(Root);
    let mut inner = std::process::Command::new("sh");
    // A box in a box works too, and sees neither the other's namespaces nor its /run.
    inner.args(["-ec", "ip netns add left; test $WORMHOLE_BOX = 1; test $(ls /run/netns) = left; exit 7"]);
    assert_eq!(boxed::enter(&inner).unwrap().code(), Some(7));
    assert!(!std::path::Path::new("/run/netns/left").exists());
}
