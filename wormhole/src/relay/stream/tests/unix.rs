//! Unix streams at the head, at the tail, and at both.

use super::*;
use tempfile::TempDir;

struct UnixRig {
    engine: Engine,
    route: Arc<Route>,
    dir: TempDir,
}

impl UnixRig {
    fn start(tail: impl FnOnce(&Path) -> Tail) -> Self {
        let dir = TempDir::new().unwrap();
        let route = Route::new("test".to_owned(), RelayOptions::default());
        route.set_tail(tail(dir.path()));
        let listener = UnixListener::bind(dir.path().join("head")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let engine = Engine::start(2, 100).unwrap();
        engine.listen(OwnedFd::from(listener), &route, true, Err(crate::fastpath::Why::Off));
        Self { engine, route, dir }
    }

    fn connect(&self) -> UnixStream {
        let client = UnixStream::connect(self.dir.path().join("head")).unwrap();
        patient(&client);
        client
    }

    fn quiet(&self) {
        until("all connections are closed", || self.route.counters.open.load(Relaxed) == 0 && self.engine.open() == 0);
    }
}

fn unix_server(path: &Path, queue: i32) -> UnixListener {
    let server = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    server.bind(&SockAddr::unix(path).unwrap()).unwrap();
    server.listen(queue).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    OwnedFd::from(server).into()
}

fn accept_unix(server: &UnixListener) -> UnixStream {
    let (stream, _) = server.accept().unwrap();
    patient(&stream);
    stream
}

/// Question, end, answer, end; both longer than any socket buffer.
fn talk<C: Read + Write + Send, S: Read + Write + Send>(mut client: C, end: impl FnOnce(&C), mut served: S) {
    let (question, answer) = (Random(1).bytes(3_000_000), Random(2).bytes(2_000_001));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut got = Vec::new();
            served.read_to_end(&mut got).unwrap();
            assert!(got == question);
            served.write_all(&answer).unwrap();
            drop(served);
        });
        client.write_all(&question).unwrap();
        end(&client);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == answer);
    });
}

#[test]
fn unix_to_tcp() {
    let (server, to) = server();
    let rig = UnixRig::start(|_| to);
    talk(rig.connect(), |c| c.shutdown(Shutdown::Write).unwrap(), accept(&server));
    rig.quiet();
}

#[test]
fn tcp_to_unix() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tail");
    let server = unix_server(&path, 10);
    let rig = Rig::start(unix_tail(&path));
    talk(rig.connect(), |c| c.shutdown(Shutdown::Write).unwrap(), accept_unix(&server));
    rig.quiet();
    // The server closes with the client's bytes unread: that is a reset for the client.
    let mut client = rig.connect();
    let served = accept_unix(&server);
    client.write_all(b"unread").unwrap();
    until("it has passed", || rig.route.counters.relayed().to_tail == 3_000_006);
    drop(served);
    expect_reset(&mut client);
    rig.quiet();
    drop((server, dir));
    rig.expect_refusal();
    until("it has failed", || rig.route.counters.connections().failed == 1);
    let why = rig.route.counters.connections().last_error.unwrap();
    assert!(why.contains("there is no such socket"), "{why}");
}

#[test]
fn unix_to_unix_and_a_client_that_sends_and_closes() {
    let mut server = None;
    let rig = UnixRig::start(|dir| {
        server = Some(unix_server(&dir.join("tail"), 10));
        unix_tail(&dir.join("tail"))
    });
    let server = server.unwrap();
    talk(rig.connect(), |c| c.shutdown(Shutdown::Write).unwrap(), accept_unix(&server));
    rig.quiet();
    // Early data, then a full close before anybody has accepted.
    let mut client = rig.connect();
    client.write_all(b"all I have to say").unwrap();
    drop(client);
    let mut served = accept_unix(&server);
    expect(&mut served, b"all I have to say");
    expect_end(&mut served);
    drop(served);
    rig.quiet();
    assert_eq!(rig.route.counters.connections().reset, 0);
}

#[test]
fn a_full_unix_queue_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tail");
    let server = unix_server(&path, 0);
    let mut plug = UnixStream::connect(&path).unwrap();
    let rig = Rig::start(unix_tail(&path));
    let mut clients: Vec<TcpStream> = (0..5).map(|_| rig.connect()).collect();
    for client in &mut clients {
        client.write_all(b"hello").unwrap();
    }
    until("the relay has accepted all", || rig.route.counters.connections().open == 5);
    assert_eq!(rig.route.counters.relayed().to_tail, 0);
    plug.write_all(b"I was first").unwrap();
    expect(&mut accept_unix(&server), b"I was first");
    for _ in 0..5 {
        let mut served = accept_unix(&server);
        expect(&mut served, b"hello");
        served.write_all(b"welcome").unwrap();
    }
    for client in &mut clients {
        expect(client, b"welcome");
        expect_end(client);
    }
    assert_eq!(rig.route.counters.connections().failed, 0);
}
