//! Which address an answer comes from, IPv6, v4-mapped clients, tails with several addresses or none that listens.

use super::*;

#[test]
fn a_wildcard_head_answers_from_the_address_that_was_asked() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions::default());
    let (head, addr) = serve(&engine, "0.0.0.0:0", &route);
    // One client socket asks two addresses: two sessions. It is not connected, so it sees any source.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    for ip in ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.1.2.3"] {
        let asked = SocketAddr::new(ip.parse().unwrap(), addr.port());
        client.send_to(ip.as_bytes(), asked).unwrap();
        let mut answer = [0; 64];
        let (len, from) = client.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..len], from), (ip.as_bytes(), asked));
    }
    assert_eq!(finished(engine.sessions(head)).len(), 3);
}

#[test]
fn ipv6_on_either_side() {
    let (engine, echo4, echo6) = (engine(), Echo::start("127.0.0.1:0"), Echo::start("[::1]:0"));
    for (head, tail) in [("[::1]:0", echo6.addr), ("[::1]:0", echo4.addr), ("127.0.0.1:0", echo6.addr)] {
        let route = route(&[tail], RelayOptions::default());
        let (_, addr) = serve(&engine, head, &route);
        ask(&client(addr), b"six");
        ask(&client(addr), &vec![6; 65_507]);
    }
}

#[test]
fn a_dual_stack_head_answers_v6_and_v4_mapped_clients() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions::default());
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::DGRAM, None).unwrap();
    rustix::net::sockopt::set_ipv6_v6only(&socket, false).unwrap();
    rustix::net::bind(&socket, &"[::]:0".parse::<SocketAddr>().unwrap()).unwrap();
    let port = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap().port();
    let head = engine.add(socket, Arc::clone(&route)).unwrap();
    for round in 0..3 {
        for ip in ["::1", "127.0.0.1", "127.0.0.2"] {
            // Connected: an answer from any other address would not arrive.
            let client = client(SocketAddr::new(ip.parse().unwrap(), port));
            ask(&client, format!("{round} {ip}").as_bytes());
            let shown = finished(engine.sessions(head)).remove(0).client;
            assert_eq!(shown, client.local_addr().unwrap().to_string(), "as the client knows itself");
        }
    }
}

#[test]
fn a_refusal_ends_nothing_and_is_noted() {
    let (engine, place) = (engine(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let tail = place.local_addr().unwrap();
    drop(place);
    let route = route(&[tail], RelayOptions::default());
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    let client = client(addr);
    until("the refusal is noted", || {
        client.send(b"anybody?").unwrap();
        route.counters.connections().last_error.is_some_and(|error| error.contains("ECONNREFUSED"))
    });
    let echo = Echo::start(&tail.to_string());
    // The server answers perhaps a late "anybody?" first.
    client.send(b"now?").unwrap();
    let mut answer = [0; 64];
    while client.recv(&mut answer).unwrap() != 4 {}
    let connections = route.counters.connections();
    assert_eq!((connections.open, connections.total, connections.failed, echo.peers()), (1, 1, 0, 1));
}

#[test]
fn a_tail_with_several_addresses_is_found_where_it_listens() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let silent = SocketAddr::new("::1".parse().unwrap(), echo.addr.port());
    let route = route(&[silent, echo.addr], RelayOptions::default());
    let (head, addr) = serve(&engine, "127.0.0.1:0", &route);
    ask(&client(addr), b"localhost");
    ask(&client(addr), b"next client");
    assert!(finished(engine.sessions(head)).iter().all(|view| view.tail == echo.addr.to_string()));
}

#[test]
fn a_tail_without_an_address_is_an_error_that_says_so() {
    let engine = engine();
    let route = route(&[], RelayOptions::default());
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    client(addr).send(b"?").unwrap();
    until("the failure is counted", || route.counters.connections().last_error.as_deref() == Some("the tail has no address"));
}

#[test]
fn what_is_no_bound_udp_socket_is_refused() {
    let engine = engine();
    let route = route(&[], RelayOptions::default());
    let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let unbound = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap();
    for (fd, why) in [(OwnedFd::from(stream), "datagram"), (unix.into(), "not a UDP"), (unbound, "not bound")] {
        let error = engine.add(fd, Arc::clone(&route)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
#[ignore = "needs CAP_SYS_ADMIN and the programs unshare and ip"]
fn a_tail_in_another_namespace_is_reached_there() {
    let mut place = std::process::Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 60"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    io::Read::read_exact(place.stdout.as_mut().unwrap(), &mut [0; 3]).unwrap();
    let namespace = Namespace::of_pid(place.id()).unwrap();
    assert!(!namespace.is_own());
    let socket = namespace.socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(false).unwrap();
    let echo = Echo::on(socket);
    let (engine, route) = (engine(), route(&[], RelayOptions::default()));
    route.set_tail(Tail::Ready(Target { namespace, addr: TargetAddr::Inet(vec![echo.addr]), server: None }));
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    ask(&client(addr), b"over there");
    ask(&client(addr), b"and again");
    place.kill().unwrap();
    place.wait().unwrap();
}
