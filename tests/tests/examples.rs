//! The first two examples of the README, as they are written there, with real servers and their own clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use wormhole_tests::docker::{Container, Docker};
use wormhole_tests::images::Image;
use wormhole_tests::room::Room;
use wormhole_tests::{require, run};

const QUERY: [&str; 5] = ["-uroot", "-N", "-h", "127.0.0.1", "-eselect word from wormhole.greeting"];

/// A database that answers inside its own container, and is reachable from nowhere else.
fn mysql(docker: &Docker) -> Container {
    let mysql = docker.container(Image::Mysql, &[]).unwrap();
    mysql.wait_exec(&[&["mariadb"], &QUERY[..]].concat(), |answer| answer == "hello\n").unwrap();
    mysql
}

fn redis(docker: &Docker) -> Container {
    let redis = docker.container(Image::Redis, &[]).unwrap();
    redis.wait_listening("tcp", 6379).unwrap();
    redis
}

/// The real client, where the daemon's host is.
fn query(room: &Room, port: u16) -> run::Output {
    let port = format!("-P{port}");
    run::output(room.netns.command("mariadb").args(["--no-defaults", &port]).args(QUERY)).unwrap()
}

#[test]
fn example_1_a_host_port_leads_to_a_container() {
    let docker = require!(Docker);
    let (room, mysql) = (Room::docker(docker), mysql(docker));
    assert_ne!(query(&room, 3306).code(), 0, "the database is reachable without a wormhole");
    let made = room.create(&format!("url :3306 tail docker-ns {}", mysql.id));
    assert_eq!(made.url, "tcp://127.0.0.1:3306");
    assert_eq!(query(&room, 3306).ok(), "hello");

    // As it is also published, and the container by prefix and by name.
    let by_prefix = room.create(&format!("url :3307 docker-ns tail docker-ns {} url :3306", &mysql.id[..12]));
    let by_name = room.create(&format!("url :3308 docker-ns tail docker-ns {} url :3306", mysql.name));
    assert_eq!((query(&room, 3307).ok(), query(&room, 3308).ok()), ("hello", "hello"));

    room.wait_idle(&made.id);
    let view = room.view(&made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["failed"]), (&1.into(), &0.into()), "{view}");
    assert!(view["bytes"]["to_head"].as_u64().unwrap() > 20 && view["bytes"]["to_tail"].as_u64().unwrap() > 20, "{view}");
    for made in [made, by_prefix, by_name] {
        assert_eq!(room.delete(&made.id), made.id);
    }
    assert_ne!(query(&room, 3306).code(), 0);
    room.daemon.stop();
}

#[test]
fn example_1_published() {
    let docker = require!(Docker);
    let (room, mysql) = (Room::docker(docker), mysql(docker));
    let made = room.create(&format!("url :3306 docker-ns tail docker-ns {}", mysql.id));
    assert_eq!(made.url, "tcp://127.0.0.1:3306");
    assert_eq!(query(&room, 3306).ok(), "hello");
}

#[test]
fn example_2_a_container_reaches_another_one_on_its_localhost() {
    let docker = require!(Docker);
    let (room, mysql, redis) = (Room::docker(docker), mysql(docker), redis(docker));
    let app = docker.container(Image::Client, &[]).unwrap();
    let ask = [&["mariadb"], &QUERY[..]].concat();
    assert_eq!(app.exec(&["ip", "route"]).unwrap().ok(), "", "the client has a way out");
    assert_ne!(app.exec(&ask).unwrap().code(), 0);

    room.create(&format!("url :3306 docker-ns {} tail docker-ns {}", app.id, mysql.id));
    room.create(&format!("url :6379 docker-ns {} tail docker-ns {}", app.name, redis.name));
    assert_eq!(app.exec(&ask).unwrap().ok(), "hello");
    let cli = |args: &[&str]| app.exec(&[&["redis-cli"], args].concat()).unwrap().ok().to_owned();
    assert_eq!(cli(&["set", "key", "through the wormhole"]), "OK");
    assert_eq!(cli(&["get", "key"]), "through the wormhole");
    assert_eq!(redis.exec(&["redis-cli", "get", "key"]).unwrap().ok(), "through the wormhole");
    assert_eq!(cli(&["--no-raw", "eval", "return string.len(string.rep('x', 3000000))", "0"]), "(integer) 3000000");
    // Nothing listens where the daemon is.
    assert!(!room.has_port("tcp", 3306) && !room.has_port("tcp", 6379));
}

#[test]
fn a_web_server_is_reached_from_host_and_container() {
    let docker = require!(Docker);
    let room = Room::docker(docker);
    let nginx = docker.container(Image::Nginx, &[]).unwrap();
    nginx.wait_listening("tcp", 80).unwrap();
    let app = docker.container(Image::Client, &[]).unwrap();
    room.create(&format!("url :80 tail docker-ns {}", nginx.id));
    room.create(&format!("url :80 docker-ns {} tail docker-ns {}", app.id, nginx.id));
    let get = "curl -sS --max-time 20 http://127.0.0.1/";
    assert_eq!(room.netns.run(&["sh", "-c", get]).unwrap(), "wormhole nginx");
    assert_eq!(app.exec(&["sh", "-c", get]).unwrap().ok(), "wormhole nginx");
    let pattern: Vec<u8> = (0..1_048_576_u32).map(|i| b'a' + (i % 26) as u8).collect();
    let large = app.exec(&["sh", "-c", &format!("{get}1m")]).unwrap();
    assert!(large.ok().as_bytes() == pattern, "1 MiB came back differently ({} bytes)", large.stdout.len());
    // One connection, many requests.
    let urls = "http://127.0.0.1/ ".repeat(50);
    let many = room.netns.run(&["sh", "-c", &format!("curl -sS {urls}")]).unwrap();
    assert_eq!(many.matches("wormhole nginx").count(), 50);
}
