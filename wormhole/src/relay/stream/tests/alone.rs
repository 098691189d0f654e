//! What can be measured only in a process with nothing else in it: descriptors, processor time, and the options of the
//! engine's own sockets. Each of these tests runs itself again in a process of its own.

use super::*;
use rustix::net::sockopt;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

const MARK: &str = "WORMHOLE_TEST_ALONE";

/// True in the process of its own. Elsewhere runs the test `name` there, and fails if it does.
fn alone(name: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn descriptors() -> Vec<i32> {
    let mut all: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        // The directory itself, which is closed when this returns.
        .filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|to| !to.ends_with("fd")))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn descriptors_are_given_back() {
    if !alone("descriptors_are_given_back") {
        return;
    }
    let (server, to) = server();
    let before = descriptors();
    let rig = Rig::start(to);
    let pass = || {
        for round in 0..300 {
            let (mut client, mut served) = rig.pair(&server);
            client.write_all(b"x").unwrap();
            expect(&mut served, b"x");
            match round % 4 {
                0 => drop((client, served)),
                1 => reset(client),
                2 => reset(served),
                _ => {
                    drop(served);
                    expect_end(&mut client);
                }
            }
        }
        rig.route.set_tail(tail(&[closed_port()]));
        for _ in 0..50 {
            rig.expect_refusal();
        }
        rig.route.set_tail(tail(&[server.local_addr().unwrap()]));
        rig.quiet();
    };
    // The first pass opens what stays: the threads' reserves.
    pass();
    let between = descriptors();
    pass();
    assert_eq!(descriptors().len(), between.len());
    assert_eq!(rig.route.counters.connections().total, 700);
    drop(rig);
    assert_eq!(descriptors(), before);
}

#[test]
fn an_idle_engine_sleeps() {
    if !alone("an_idle_engine_sleeps") {
        return;
    }
    let (server, to) = server();
    let rig = Rig::start(to);
    expect_sleep();
    // Open ones, half-closed ones, ones whose reader has stopped, and a listener that listens no more.
    let (mut client, mut served) = rig.pair(&server);
    client.write_all(b"x").unwrap();
    expect(&mut served, b"x");
    let (half, mut half_served) = rig.pair(&server);
    half.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut half_served);
    let (stuck, _stuck_served) = rig.pair(&server);
    flow::fill(&stuck, &rig);
    let broken = TcpListener::bind("127.0.0.1:0").unwrap();
    broken.set_nonblocking(true).unwrap();
    let ours = broken.try_clone().unwrap();
    rig.engine.listen(broken.into(), &rig.route, false, Err(crate::fastpath::Why::Off));
    SockRef::from(&ours).shutdown(Shutdown::Both).unwrap();
    expect_sleep();
}

#[test]
fn at_the_limit_clients_wait_and_the_engine_sleeps() {
    if !alone("at_the_limit_clients_wait_and_the_engine_sleeps") {
        return;
    }
    let (server, to) = server();
    let rig = Rig::with(to, RelayOptions::default(), 3, |_| {});
    let mut open: Vec<(TcpStream, TcpStream)> = (0..3).map(|_| rig.pair(&server)).collect();
    let mut waiting: Vec<TcpStream> = (0..20).map(|_| rig.connect()).collect();
    for client in &mut waiting {
        client.write_all(b"patience").unwrap();
    }
    expect_sleep();
    assert_eq!((rig.route.counters.connections().total, rig.engine.open()), (3, 3));
    for (client, served) in &mut open {
        client.write_all(b"x").unwrap();
        expect(served, b"x");
    }
    for client in waiting {
        let (mut old, served) = open.remove(0);
        drop(served);
        expect_end(&mut old);
        drop(old);
        let mut served = accept(&server);
        expect(&mut served, b"patience");
        assert!(rig.engine.open() <= 3);
        open.push((client, served));
    }
    // Many that come and go at the limit, over both threads: nobody is forgotten.
    drop(open);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..400 {
                accept(&server).write_all(b"!").unwrap();
            }
        });
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    expect(&mut rig.connect(), b"!");
                }
            });
        }
    });
    rig.quiet();
    expect_sleep();
}

#[test]
fn without_descriptors_clients_wait() {
    if !alone("without_descriptors_clients_wait") {
        return;
    }
    let (server, to) = server();
    let rig = Rig::start(to);
    drop(rig.pair(&server));
    rig.quiet();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    patient(&client);
    // Room for the head's socket and nothing else, so that the tail's comes out of the reserve or waits.
    let mut hoard = Vec::new();
    let limit = rustix::process::Rlimit { current: Some(256), maximum: Some(4096) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    drop(hoard.pop());
    client.connect(&rig.head.into()).unwrap();
    let mut client = TcpStream::from(client);
    client.write_all(b"patience").unwrap();
    until("the relay has accepted it", || rig.route.counters.connections().total >= 2);
    hoard.clear();
    let mut served = accept(&server);
    expect(&mut served, b"patience");
    served.write_all(b"rewarded").unwrap();
    expect(&mut client, b"rewarded");
    assert_eq!(rig.route.counters.connections().failed, 0);
}

#[test]
fn both_sockets_carry_the_options() {
    if !alone("both_sockets_carry_the_options") {
        return;
    }
    let (server, to) = server();
    let options = RelayOptions {
        keepalive: Some(Duration::from_secs(77)),
        user_timeout: Some(Duration::from_millis(88_000)),
        ..RelayOptions::default()
    };
    let rig = Rig::with(to, options, 10, |_| {});
    let (client, served) = rig.pair(&server);
    let myself = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let mut seen = 0;
    for number in descriptors() {
        let Ok(fd) = pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()) else { continue };
        let socket = Socket::from(fd);
        let Ok(peer) = socket.peer_addr().map(|a| a.as_socket()) else { continue };
        let local = socket.local_addr().unwrap().as_socket();
        let ours = peer == client.local_addr().ok() || local == served.peer_addr().ok();
        if !ours {
            continue;
        }
        seen += 1;
        assert!(sockopt::tcp_nodelay(&socket).unwrap());
        // The tail is on the loopback.
        let head = peer == client.local_addr().ok();
        assert_eq!(sockopt::socket_keepalive(&socket).unwrap(), head);
        if head {
            assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(77));
            assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), Duration::from_secs(10));
            assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 3);
        }
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 88_000);
        assert_eq!(sockopt::socket_linger(&socket).unwrap(), Some(Duration::ZERO));
        assert!(sockopt::socket_oobinline(&socket).unwrap());
    }
    assert_eq!(seen, 2, "the head's and the tail's socket");
}
