//! Tails that answer late, elsewhere, or not at all.

use super::*;

/// A server whose queue is full: the kernel ignores further attempts until it accepts.
fn deaf_server() -> (TcpListener, TcpStream) {
    let server = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    server.bind(&any_port()).unwrap();
    server.listen(0).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = TcpListener::from(server);
    let plug = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    (server, plug)
}

fn impatient(connect_timeout: Duration) -> RelayOptions {
    RelayOptions { connect_timeout, ..RelayOptions::default() }
}

#[test]
fn a_refused_tail_resets_the_client_and_says_why() {
    let nobody = closed_port();
    let rig = Rig::start(tail(&[nobody]));
    for round in 1..=3 {
        rig.expect_refusal();
        rig.quiet();
        let counters = rig.route.counters.connections();
        assert_eq!((counters.total, counters.failed), (round, round));
        let why = counters.last_error.unwrap();
        assert!(why.contains(&nobody.to_string()) && why.contains("nothing listens there"), "{why}");
    }
}

#[test]
fn an_absent_tail_resets_the_client_and_says_why() {
    let rig = Rig::start(Tail::Absent("container `db` is not running".to_owned()));
    rig.expect_refusal();
    rig.quiet();
    let counters = rig.route.counters.connections();
    assert_eq!((counters.failed, counters.last_error.as_deref()), (1, Some("container `db` is not running")));
    // It comes up, and the next client reaches it.
    let (server, to) = server();
    rig.route.set_tail(to);
    let (mut client, mut served) = rig.pair(&server);
    served.write_all(b"hello").unwrap();
    expect(&mut client, b"hello");
}

#[test]
fn the_second_address_is_tried_when_the_first_refuses_or_is_silent() {
    let (server, _) = server();
    let (deaf, _plug) = deaf_server();
    let addrs = [closed_port(), deaf.local_addr().unwrap(), server.local_addr().unwrap()];
    let rig = Rig::with(tail(&addrs), impatient(Duration::from_millis(200)), 10, |_| {});
    let mut client = rig.connect();
    client.write_all(b"anybody?").unwrap();
    let mut served = accept(&server);
    expect(&mut served, b"anybody?");
    served.write_all(b"me").unwrap();
    expect(&mut client, b"me");
    assert_eq!(rig.route.counters.connections().failed, 0);
}

#[test]
fn a_silent_tail_is_given_up() {
    let (deaf, _plug) = deaf_server();
    let addr = deaf.local_addr().unwrap();
    let rig = Rig::with(tail(&[addr]), impatient(Duration::from_millis(200)), 10, |_| {});
    let start = Instant::now();
    rig.expect_refusal();
    assert!(start.elapsed() >= Duration::from_millis(200));
    rig.quiet();
    let why = rig.route.counters.connections().last_error.unwrap();
    assert!(why.contains(&addr.to_string()) && why.contains("no answer"), "{why}");
}

#[test]
fn early_data_waits_for_a_tail_that_answers_late() {
    let (deaf, _plug) = deaf_server();
    let rig = Rig::start(tail(&[deaf.local_addr().unwrap()]));
    let mut client = rig.connect();
    client.write_all(b"early").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    until("the relay has begun", || rig.route.counters.connections().total == 1);
    assert_eq!(rig.route.counters.relayed().to_tail, 0);
    // The plug first; then the kernel hears the relay's next attempt.
    drop(accept(&deaf));
    let mut served = accept(&deaf);
    expect(&mut served, b"early");
    expect_end(&mut served);
    served.write_all(b"late").unwrap();
    drop(served);
    expect(&mut client, b"late");
    expect_end(&mut client);
    rig.quiet();
}

#[test]
fn a_client_that_resets_while_the_tail_is_asked_frees_everything() {
    let (deaf, _plug) = deaf_server();
    let rig = Rig::with(tail(&[deaf.local_addr().unwrap()]), impatient(Duration::from_secs(600)), 10, |_| {});
    let client = rig.connect();
    until("the relay has begun", || rig.route.counters.connections().open == 1);
    reset(client);
    rig.quiet();
    let counters = rig.route.counters.connections();
    assert_eq!((counters.failed, counters.reset), (0, 1));
}

#[test]
fn a_late_answer_starts_the_idle_time() {
    // The answer comes after about a second (the kernel asks again then), which is more than the idle time.
    let (deaf, _plug) = deaf_server();
    let options = RelayOptions { idle_timeout: Some(Duration::from_millis(700)), ..RelayOptions::default() };
    let rig = Rig::with(tail(&[deaf.local_addr().unwrap()]), options, 10, |_| {});
    let mut client = rig.connect();
    until("the relay has begun", || rig.route.counters.connections().open == 1);
    drop(accept(&deaf));
    let mut served = accept(&deaf);
    let start = Instant::now();
    served.write_all(b"hello").unwrap();
    expect(&mut client, b"hello");
    expect_end(&mut client);
    let lasted = start.elapsed();
    assert!(lasted >= Duration::from_millis(600) && lasted < Duration::from_secs(8), "{lasted:?}");
    rig.quiet();
}
