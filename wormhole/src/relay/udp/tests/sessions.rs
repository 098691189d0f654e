//! Sessions: one for each client, they expire, make room, move, and show themselves.

use super::*;

#[test]
fn echo_counts_and_shows_the_session() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions::default());
    let (head, addr) = serve(&engine, "127.0.0.1:0", &route);
    let client = client(addr);
    ask(&client, b"hello");
    ask(&client, b"again");
    let views = finished(engine.sessions(head));
    let [view] = views.as_slice() else { panic!("{views:?}") };
    assert_eq!(view.client, client.local_addr().unwrap().to_string());
    assert_eq!((view.tail.as_str(), view.path.as_str()), (echo.addr.to_string().as_str(), "relay"));
    assert_eq!(view.bytes, route.counters.relayed());
    assert!(view.bytes.to_tail >= 10 && view.bytes.to_head >= 10, "{:?}", view.bytes);
    let connections = route.counters.connections();
    assert_eq!((connections.open, connections.total, connections.failed), (1, 1, 0));
    assert_eq!(connections.last_error, None);
    engine.close();
    assert_eq!(open(&route), 0);
}

#[test]
fn a_thousand_clients_at_once_have_a_session_and_an_answer_each() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions::default());
    let (head, addr) = serve(&engine, "127.0.0.1:0", &route);
    let clients: Vec<UdpSocket> = (0..1000).map(|_| client(addr)).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(format!("client {number}").as_bytes()).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let mut answer = [0; 64];
        match client.recv(&mut answer) {
            Ok(len) => assert_eq!(&answer[..len], format!("client {number}").as_bytes()),
            // Lost in some buffer; ask again.
            Err(_) => ask(client, format!("client {number}").as_bytes()),
        }
    }
    assert_eq!(echo.peers(), 1000);
    assert_eq!(route.counters.connections().total, 1000);
    let views = finished(engine.sessions(head));
    assert_eq!(views.iter().map(|view| &view.client).collect::<HashSet<_>>().len(), 1000);
}

#[test]
fn silence_ends_a_session_and_the_client_may_come_back() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions { udp_timeout: Duration::from_millis(50), ..Default::default() });
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    let client = client(addr);
    ask(&client, b"one");
    until("the session expires", || open(&route) == 0);
    let before = route.counters.connections().total;
    ask(&client, b"two");
    assert!(route.counters.connections().total > before);
    until("the session expires again", || open(&route) == 0);
}

#[test]
fn traffic_of_either_side_keeps_a_session() {
    let (engine, tail) = (engine(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let timeout = Duration::from_millis(1000);
    let route = route(&[tail.local_addr().unwrap()], RelayOptions { udp_timeout: timeout, ..Default::default() });
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    let client = client(addr);
    client.send(b"subscribe").unwrap();
    let (_, session) = tail.recv_from(&mut [0; 64]).unwrap();
    // One side alone talks for twice the timeout, first the tail and then the client.
    for tail_talks in [true, false] {
        let end = Instant::now() + 2 * timeout;
        while Instant::now() < end {
            if tail_talks {
                tail.send_to(b"news", session).unwrap();
                client.recv(&mut [0; 64]).unwrap();
            } else {
                client.send(b"news").unwrap();
                assert_eq!(tail.recv_from(&mut [0; 64]).unwrap().1, session);
            }
            thread::sleep(timeout / 50);
        }
    }
    assert_eq!(route.counters.connections().total, 1);
}

#[test]
fn the_session_silent_for_longest_makes_room_in_its_head() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions { udp_sessions: 3, ..Default::default() });
    let (head, addr) = serve(&engine, "127.0.0.1:0", &route);
    let clients: Vec<UdpSocket> = (0..4).map(|_| client(addr)).collect();
    for number in [0, 1, 2, 0, 3] {
        ask(&clients[number], b"question");
    }
    let shown: Vec<String> = finished(engine.sessions(head)).into_iter().map(|view| view.client).collect();
    let expected: Vec<String> = [3, 2, 0].iter().map(|&n: &usize| clients[n].local_addr().unwrap().to_string()).collect();
    assert_eq!(shown, expected, "newest first, and the second client's is gone");
    assert_eq!(open(&route), 3);
}

#[test]
fn the_session_silent_for_longest_makes_room_in_the_engine() {
    let engine = UdpEngine::start(UdpConfig { max_sessions_total: 2 }).unwrap();
    let echo = Echo::start("127.0.0.1:0");
    let routes = [0; 3].map(|_| route(&[echo.addr], RelayOptions::default()));
    let clients = [0, 1, 2].map(|n: usize| client(serve(&engine, "127.0.0.1:0", &routes[n]).1));
    for number in [0, 1, 0, 2] {
        ask(&clients[number], b"question");
    }
    assert_eq!(routes.each_ref().map(|route| open(route)), [1, 0, 1]);
}

#[test]
fn one_place_for_two_clients_mixes_nobody_up() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions { udp_sessions: 1, ..Default::default() });
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    let clients = [client(addr), client(addr)];
    // Both in one batch, time and again: opening the second session closes the first one's socket.
    for _ in 0..200 {
        for (number, client) in clients.iter().enumerate() {
            client.send(&[number as u8; 9]).unwrap();
        }
    }
    for (number, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut answer = [0; 64];
        while let Ok(len) = client.recv(&mut answer) {
            assert_eq!(&answer[..len], &[number as u8; 9]);
        }
    }
    assert_eq!(open(&route), 1);
}

#[test]
fn without_a_tail_datagrams_are_dropped_and_counted() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[], RelayOptions::default());
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    route.set_tail(Tail::Absent("container db is stopped".to_owned()));
    let client = client(addr);
    client.send(b"anybody?").unwrap();
    until("the failure is counted", || route.counters.connections().failed == 1);
    let connections = route.counters.connections();
    assert_eq!((connections.open, connections.total), (0, 0));
    assert_eq!(connections.last_error.as_deref(), Some("container db is stopped"));
    route.set_tail(ready(&[echo.addr]));
    ask(&client, b"now?");
}

#[test]
fn a_moved_tail_gets_the_next_datagram() {
    let (engine, old, new) = (engine(), Echo::start("127.0.0.1:0"), Echo::start("127.0.0.1:0"));
    let route = route(&[old.addr], RelayOptions::default());
    let (head, addr) = serve(&engine, "127.0.0.1:0", &route);
    let client = client(addr);
    ask(&client, b"to the old one");
    route.set_tail(ready(&[new.addr]));
    finished(engine.retarget(head));
    assert_eq!(open(&route), 0);
    let before = old.peers();
    ask(&client, b"to the new one");
    assert_eq!((old.peers(), new.peers()), (before, 1));
}
