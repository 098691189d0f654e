//! How streams end: FIN in both orders, resets from both sides, and the data before them.

use super::*;

#[test]
fn an_answer_comes_after_the_client_has_ended() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    served.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    served.write_all(b"answer").unwrap();
    expect(&mut client, b"answer");
    served.write_all(b"more").unwrap();
    drop(served);
    expect(&mut client, b"more");
    expect_end(&mut client);
    rig.quiet();
    let counters = rig.route.counters.connections();
    assert_eq!((counters.total, counters.failed, counters.reset, counters.last_error), (1, 0, 0, None));
    assert_eq!((rig.route.counters.relayed().to_tail, rig.route.counters.relayed().to_head), (8, 10));
}

#[test]
fn a_question_comes_after_the_server_has_ended() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    served.write_all(b"greeting").unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    expect(&mut client, b"greeting");
    expect_end(&mut client);
    client.write_all(b"still here").unwrap();
    expect(&mut served, b"still here");
    client.write_all(b"bye").unwrap();
    drop(client);
    expect(&mut served, b"bye");
    expect_end(&mut served);
    rig.quiet();
    assert_eq!(rig.route.counters.connections().reset, 0);
}

#[test]
fn early_data_and_fin_before_the_tail_accepts() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let mut client = rig.connect();
    client.write_all(b"early").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    until("the relay has written it", || rig.route.counters.relayed().to_tail == 5);
    let mut served = accept(&server);
    expect(&mut served, b"early");
    expect_end(&mut served);
    served.write_all(b"late").unwrap();
    drop(served);
    expect(&mut client, b"late");
    expect_end(&mut client);
    rig.quiet();
}

#[test]
fn a_clients_reset_is_the_servers_and_what_was_sent_before_arrives() {
    let (server, to) = server();
    let rig = Rig::start(to);
    for size in [0, 1, 100_000] {
        let (mut client, mut served) = rig.pair(&server);
        let sent = Random(size as u64).bytes(size);
        let before = rig.route.counters.relayed().to_tail;
        client.write_all(&sent).unwrap();
        until("all has passed", || rig.route.counters.relayed().to_tail == before + size as u64);
        reset(client);
        rig.quiet();
        expect(&mut served, &sent);
        expect_reset(&mut served);
    }
    assert_eq!(rig.route.counters.connections().reset, 3);
}

#[test]
fn a_servers_reset_is_the_clients_and_what_was_sent_before_arrives() {
    let (server, to) = server();
    let rig = Rig::start(to);
    for size in [0, 1, 100_000] {
        let (mut client, mut served) = rig.pair(&server);
        let sent = Random(size as u64).bytes(size);
        let before = rig.route.counters.relayed().to_head;
        served.write_all(&sent).unwrap();
        until("all has passed", || rig.route.counters.relayed().to_head == before + size as u64);
        reset(served);
        rig.quiet();
        expect(&mut client, &sent);
        expect_reset(&mut client);
    }
}

#[test]
fn a_server_that_answers_and_resets_at_once() {
    // However the relay meets it (before it looks, between two reads), it is a reset and never a clean end.
    let (server, to) = server();
    let rig = Rig::start(to);
    for round in 0..200 {
        let mut client = rig.connect();
        if round % 2 == 0 {
            // Fails when the reset was faster, and that is as it should be.
            let _ = client.write_all(b"something that nobody reads");
        }
        let mut served = accept(&server);
        served.write_all(b"going").unwrap();
        reset(served);
        let mut got = Vec::new();
        let error = client.read_to_end(&mut got).expect_err("a reset, not an end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        assert!(b"going".starts_with(&got), "{got:?}");
    }
    rig.quiet();
    assert_eq!(rig.route.counters.connections().failed, 0);
}

#[test]
fn closing_with_unread_data_is_a_reset() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (client, mut served) = rig.pair(&server);
    served.write_all(b"never read").unwrap();
    until("it has arrived", || client.peek(&mut [0; 16]).unwrap() == 10);
    drop(client);
    expect_reset(&mut served);
    rig.quiet();
}

#[test]
fn a_reset_after_fin_is_handed_on() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (client, mut served) = rig.pair(&server);
    client.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut served);
    reset(client);
    // TCP says EPIPE to one who has seen FIN before, here as without a relay.
    until("the writer is told", || served.write_all(b"x").is_err());
    rig.quiet();
    assert_eq!(rig.route.counters.connections().reset, 1);
}

#[test]
fn writing_to_a_peer_that_closed_fails() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, served) = rig.pair(&server);
    drop(served);
    expect_end(&mut client);
    let mut error = None;
    until("the writer is told", || {
        error = client.write_all(b"x").err();
        error.is_some()
    });
    let kind = error.unwrap().kind();
    assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind}");
    rig.quiet();
}

#[test]
fn a_reset_reaches_a_server_that_does_not_read() {
    // The relay is stuck with bytes for the server, and reads neither socket: only epoll tells it of the reset.
    let (server, to) = server();
    let rig = Rig::start(to);
    let (client, mut served) = rig.pair(&server);
    flow::fill(&client, &rig);
    reset(client);
    rig.quiet();
    let mut all = Vec::new();
    let error = served.read_to_end(&mut all).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn much_unread_by_the_relay_still_arrives_before_a_reset() {
    // More than one turn's bytes wait in the client's socket when its reset arrives.
    let (server, to) = server();
    let big = 3 << 20;
    let rig = Rig::with(to, RelayOptions::default(), 10, |l| l.set_recv_buffer_size(big).unwrap());
    SockRef::from(&server).set_recv_buffer_size(2 * big).unwrap();
    let (mut client, mut served) = rig.pair(&server);
    let sent = Random(1).bytes(big / 2);
    client.write_all(&sent).unwrap();
    until("the client's kernel has sent all", || unsent(&client) == 0);
    reset(client);
    rig.quiet();
    let mut got = Vec::new();
    let error = served.read_to_end(&mut got).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // As far as the server's window goes at once.
    assert!(sent.starts_with(&got) && got.len() >= 64 * 1024, "{} bytes", got.len());
}

fn unsent(stream: &TcpStream) -> usize {
    // SIOCOUTQ has no safe wrapper here; the line in /proc/net/tcp has the same number.
    let local = stream.local_addr().unwrap();
    let SocketAddr::V4(v4) = local else { panic!("{local}") };
    let key = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|l| l.split_whitespace().nth(1) == Some(key.as_str())).unwrap();
    let queues = line.split_whitespace().nth(4).unwrap();
    usize::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn an_urgent_byte_arrives_in_its_place() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    for round in 0..50 {
        client.write_all(b"ab").unwrap();
        SockRef::from(&client).send_out_of_band(b"c").unwrap();
        client.write_all(b"de").unwrap();
        expect(&mut served, b"abcde");
        SockRef::from(&served).send_out_of_band(b"!").unwrap();
        served.write_all(format!("{round}\n").as_bytes()).unwrap();
        expect(&mut client, format!("!{round}\n").as_bytes());
    }
}
