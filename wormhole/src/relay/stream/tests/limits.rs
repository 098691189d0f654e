//! Listeners that come and go, resets and idle timeouts ordered from above, stopping.

use super::*;

fn finished(receiver: tokio::sync::oneshot::Receiver<()>) {
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(receiver.blocking_recv()));
    // Speaking and being dropped are the same to those who wait.
    let _ = done.recv_timeout(PATIENCE).expect("the command is carried out");
}

#[test]
fn a_removed_listener_frees_its_port_and_open_connections_go_on() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    finished(rig.engine.unlisten(rig.id));
    let error = TcpStream::connect(rig.head).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let again = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    again.set_reuse_address(true).unwrap();
    again.bind(&rig.head.into()).unwrap();
    again.listen(1).unwrap();
    client.write_all(b"still there?").unwrap();
    expect(&mut served, b"still there?");
    drop(served);
    expect_end(&mut client);
}

#[test]
fn a_listener_that_was_shut_down_harms_no_other() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let broken = TcpListener::bind("127.0.0.1:0").unwrap();
    broken.set_nonblocking(true).unwrap();
    let ours = broken.try_clone().unwrap();
    rig.engine.listen(broken.into(), &rig.route, false, Err(crate::fastpath::Why::Off));
    SockRef::from(&ours).shutdown(Shutdown::Both).unwrap();
    for _ in 0..20 {
        let (mut client, mut served) = rig.pair(&server);
        client.write_all(b"x").unwrap();
        expect(&mut served, b"x");
    }
}

#[test]
fn a_route_is_reset_and_no_other() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    let other = Route::new("other".to_owned(), RelayOptions::default());
    finished(rig.engine.reset(&other, Instant::now()));
    client.write_all(b"x").unwrap();
    expect(&mut served, b"x");
    finished(rig.engine.reset(&rig.route, Instant::now()));
    assert_eq!(rig.engine.open(), 0);
    expect_reset(&mut client);
    expect_reset(&mut served);
    rig.quiet();
}

#[test]
fn stopping_resets_what_is_open_and_later_commands_are_answered() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    rig.engine.stop();
    expect_reset(&mut client);
    expect_reset(&mut served);
    rig.quiet();
    finished(rig.engine.unlisten(rig.id));
    finished(rig.engine.reset(&rig.route, Instant::now()));
    let error = TcpStream::connect(rig.head).expect_err("the listener is closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn only_idle_streams_are_closed() {
    let (server, to) = server();
    let idle = Duration::from_millis(400);
    let options = RelayOptions { idle_timeout: Some(idle), ..RelayOptions::default() };
    let rig = Rig::with(to, options, 10, |_| {});
    let start = Instant::now();
    let (mut lazy, mut lazy_served) = rig.pair(&server);
    let (busy, busy_served) = rig.pair(&server);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mut busy, mut busy_served) = (&busy, &busy_served);
        let ended = &ended;
        scope.spawn(move || {
            // Often enough to stay open, until the other one has been closed and a good while more.
            let mut more = None;
            while more.is_none_or(|end| Instant::now() < end) {
                busy.write_all(b"x").unwrap();
                expect(&mut busy_served, b"x");
                std::thread::sleep(Duration::from_millis(5));
                if more.is_none() && ended.load(Relaxed) {
                    more = Some(Instant::now() + 2 * idle);
                }
            }
        });
        expect_end(&mut lazy);
        expect_end(&mut lazy_served);
        assert!(start.elapsed() >= idle, "{:?}", start.elapsed());
        ended.store(true, Relaxed);
    });
    until("it is idle now", || rig.route.counters.open.load(Relaxed) == 0);
    let counters = rig.route.counters.connections();
    assert_eq!((counters.total, counters.failed, counters.reset), (2, 0, 0));
}

#[test]
fn an_idle_stream_with_undelivered_bytes_is_reset() {
    let (server, to) = server();
    let options = RelayOptions { idle_timeout: Some(Duration::from_secs(1)), ..RelayOptions::default() };
    let rig = Rig::with(to, options, 10, |_| {});
    let (client, mut served) = rig.pair(&server);
    flow::fill(&client, &rig);
    rig.quiet();
    let error = served.read_to_end(&mut Vec::new()).expect_err("not a clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn connections_are_listed() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let (mut client, mut served) = rig.pair(&server);
    client.write_all(b"12345").unwrap();
    expect(&mut served, b"12345");
    until("it is counted", || rig.route.counters.relayed().to_tail == 5);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let views = runtime.block_on(rig.engine.connections(&rig.route));
    let [view] = views.as_slice() else { panic!("{views:?}") };
    assert_eq!(view.client, client.local_addr().unwrap().to_string());
    assert_eq!(view.tail, server.local_addr().unwrap().to_string());
    assert_eq!((view.path.as_str(), view.bytes.to_tail, view.bytes.to_head), ("relay", 5, 0));
}

#[test]
fn connections_that_stay_are_spread_over_the_threads() {
    let (server, to) = server();
    let rig = Rig::start(to);
    let pairs: Vec<_> = (0..20).map(|_| rig.pair(&server)).collect();
    let loads = rig.engine.loads();
    assert_eq!(loads.iter().sum::<usize>(), pairs.len());
    let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
    // One more than at which the next is handed over (`lighter`).
    assert!(*most <= least + 2 + least / 2, "{loads:?}");
    for (mut client, mut served) in pairs {
        client.write_all(b"x").unwrap();
        expect(&mut served, b"x");
    }
    rig.quiet();
    until("no load is left", || rig.engine.loads().iter().all(|load| *load == 0));
}
