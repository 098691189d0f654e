//! File descriptors: all closed in the end, and what happens when there are none left.

use super::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn removal_closes_every_file_descriptor() {
    alone("relay::udp::tests::resources::removal_closes_every_file_descriptor", || {
        let echo = Echo::start("127.0.0.1:0");
        let route = route(&[echo.addr], RelayOptions::default());
        let none = fds();
        let engine = engine();
        let idle = fds();
        for _ in 0..3 {
            let (head, addr) = serve(&engine, "127.0.0.1:0", &route);
            let clients: Vec<UdpSocket> = (0..50).map(|_| client(addr)).collect();
            clients.iter().for_each(|client| ask(client, b"question"));
            assert_eq!(fds(), idle + 1 + 50 + 50, "the head, the clients, the sessions");
            finished(engine.retarget(head));
            assert_eq!(fds(), idle + 1 + 50);
            clients.iter().for_each(|client| ask(client, b"question"));
            finished(engine.remove(head));
            assert_eq!((fds(), open(&route)), (idle + 50, 0));
            finished(engine.remove(head));
            assert!(finished(engine.sessions(head)).is_empty());
        }
        let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
        ask(&client(addr), b"question");
        drop(engine);
        assert_eq!((fds(), open(&route)), (none, 0), "the engine closes what is left");
    });
}

#[test]
fn without_file_descriptors_datagrams_are_dropped_until_there_are_some() {
    alone("relay::udp::tests::resources::without_file_descriptors_datagrams_are_dropped_until_there_are_some", || {
        let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
        let route = route(&[echo.addr], RelayOptions::default());
        let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
        let clients = [client(addr), client(addr)];
        ask(&clients[0], b"before");
        let limits = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limits }).unwrap();
        clients[1].send(b"no room").unwrap();
        until("the failure is counted", || route.counters.connections().failed >= 1);
        let error = route.counters.connections().last_error.unwrap();
        assert!(error.contains("Too many open files"), "{error}");
        ask(&clients[0], b"the others are served");
        setrlimit(Resource::Nofile, limits).unwrap();
        ask(&clients[1], b"room again");
        assert_eq!(route.counters.connections().total, 2);
    });
}

#[test]
fn a_closed_engine_leaves_nobody_waiting() {
    let engine = engine();
    let route = route(&[], RelayOptions::default());
    let (head, _) = serve(&engine, "127.0.0.1:0", &route);
    engine.shared.push(Command::Stop);
    until("the thread ends", || engine.thread.as_ref().is_some_and(JoinHandle::is_finished));
    assert!(engine.remove(head).blocking_recv().is_err());
    assert!(engine.sessions(head).blocking_recv().is_err());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(engine.add(socket.into(), route).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
