//! Bytes through the real daemon: a thousand random connections, byte by byte, and thirty thousand one after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Instant;
use wormhole_tests::crowd::{Crowd, Door};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::Room;
use wormhole_tests::talk::CLEAN;
use wormhole_tests::traffic::{self, LARGEST, PATIENCE, listen};
use wormhole_tests::{boxed, fast, require};

#[test]
fn a_thousand_random_connections_arrive_byte_by_byte() {
    require!(Box);
    let crowd = Crowd::new(1000, CLEAN, LARGEST);
    // Through the relay, all of them; the fast path has a suite of its own.
    let room = Room::with(None, &["--fastpath", "off"]);
    let (far, dir) = (Netns::create("f").unwrap(), boxed::fresh_dir().unwrap());
    crowd.serve(listen(&far.ns(), "127.0.0.1:7001"));
    crowd.serve(UnixListener::bind(dir.join("server")).unwrap());
    let (path, head) = (dir.join("server").display().to_string(), dir.join("head"));
    let far = &far.name;
    // Each a kind of route: across namespaces, a chain, unix to TCP, TCP to unix.
    let ways = [
        room.create(&format!("url :7000 tail url {far}@:7001")),
        room.create(&format!("url :7002 chain url {far}@:7003 tail url {far}@:7001")),
        room.create(&format!("url :7004 tail url unix://{path}")),
        room.create(&format!("url unix://{} tail url {far}@:7001", head.display())),
    ];
    let mut doors: Vec<Door> = ways[..3].iter().map(|way| Door::Tcp(room.ns(), way.addr())).collect();
    doors.push(Door::Unix(head));
    crowd.run(&doors, 16);
    let mut total = (0, 0);
    for way in &ways {
        let view = room.wait_idle(&way.id);
        assert_eq!((&view["connections"]["total"], &view["connections"]["failed"]), (&250.into(), &0.into()), "{view}");
        assert_eq!(view["connections"]["reset"], 0, "{view}");
        assert_eq!(fast::sum(&view, "direct"), 0, "{view}");
        total.0 += view["bytes"]["to_tail"].as_u64().unwrap();
        total.1 += view["bytes"]["to_head"].as_u64().unwrap();
    }
    crowd.check();
    assert_eq!(total, crowd.bytes(0..1000).unwrap(), "the counters of `list`");
    println!("{} MB", (total.0 + total.1) / 1_000_000);
}

#[test]
fn thirty_thousand_connections_one_after_the_other() {
    require!(Box);
    const CONNECTIONS: u64 = 30_000;
    let (room, far) = (Room::alone(), Netns::create("f").unwrap());
    for netns in [&room.netns, &far] {
        // More than the default range: one that ended stays in TIME_WAIT for a minute.
        netns.run(&["sh", "-c", "echo 1024 65000 > /proc/sys/net/ipv4/ip_local_port_range"]).unwrap();
    }
    let listener = listen(&far.ns(), "127.0.0.1:700");
    thread::spawn(move || {
        // One thread for all: they come one after the other.
        for stream in listener.incoming() {
            let (mut stream, mut word) = (stream.unwrap(), [0; 8]);
            if stream.read_exact(&mut word).is_ok() {
                let _ = stream.write_all(&word);
            }
        }
    });
    let made = room.create(&format!("url :701 tail url {}@:700", far.name));
    let before = room.settled(&[]);
    let addr = made.addr();
    let (began, failed) = (Instant::now(), AtomicUsize::new(0));
    traffic::inside(&room.ns(), || {
        for number in 0..CONNECTIONS {
            let ask = || -> std::io::Result<bool> {
                let mut stream = TcpStream::connect(addr)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&number.to_be_bytes())?;
                let mut back = [0; 8];
                stream.read_exact(&mut back)?;
                Ok(back == number.to_be_bytes())
            };
            match ask() {
                Ok(true) => {}
                other => {
                    println!("connection {number}: {other:?}");
                    failed.fetch_add(1, SeqCst);
                }
            }
        }
        Ok(())
    })
    .unwrap();
    println!("{CONNECTIONS} connections in {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(failed.load(SeqCst), 0);
    let view = room.wait_idle(&made.id);
    assert_eq!((&view["connections"]["total"], &view["connections"]["failed"]), (&CONNECTIONS.into(), &0.into()), "{view}");
    before.wait_equal(|| room.state(&[]));
}
