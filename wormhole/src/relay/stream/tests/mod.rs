//! The engine between real sockets on the loopback device. Nothing here sleeps to let something happen: a test waits
//! for a condition, and gives up after [`PATIENCE`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "a test has a thread of its own to poll on")]

mod alone;
mod conn;
mod connect;
mod ends;
mod flow;
mod limits;
mod pump;
mod unix;

use super::{Engine, ListenerId, prepare_tcp};
use crate::netns::{Namespace, Root};
use crate::relay::{RelayOptions, Route, Tail, Target, TargetAddr};
use rustix::fd::{AsFd, OwnedFd};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// After this the test has failed; long, because machines are slow at times.
const PATIENCE: Duration = Duration::from_secs(20);

/// One engine with one head.
struct Rig {
    engine: Engine,
    route: Arc<Route>,
    head: SocketAddr,
    id: ListenerId,
}

impl Rig {
    fn start(tail: Tail) -> Self {
        Self::with(tail, RelayOptions::default(), 1000, |_| {})
    }

    fn with(tail: Tail, options: RelayOptions, most: usize, prepare: impl FnOnce(&Socket)) -> Self {
        let route = Route::new("test".to_owned(), options);
        route.set_tail(tail);
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        prepare(&listener);
        prepare_tcp(listener.as_fd(), &route.options).unwrap();
        listener.bind(&any_port()).unwrap();
        listener.listen(128).unwrap();
        listener.set_nonblocking(true).unwrap();
        let head = listener.local_addr().unwrap().as_socket().unwrap();
        let engine = Engine::start(2, most).unwrap();
        let id = engine.listen(OwnedFd::from(listener), &route, false, Err(crate::fastpath::Why::Off));
        Self { engine, route, head, id }
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.head).unwrap();
        patient(&client);
        client
    }

    /// A client and what the server gets to see of it.
    fn pair(&self, server: &TcpListener) -> (TcpStream, TcpStream) {
        (self.connect(), accept(server))
    }

    /// A client that is to be reset; the reset may come before `connect` has returned.
    fn expect_refusal(&self) {
        let refusal = TcpStream::connect(self.head).and_then(|mut client| {
            patient(&client);
            client.read(&mut [0; 16])
        });
        let error = refusal.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }

    /// Waits until all connections are closed.
    fn quiet(&self) {
        until("all connections are closed", || self.route.counters.open.load(Relaxed) == 0);
        until("all places are given back", || self.engine.open() == 0);
    }
}

fn any_port() -> SockAddr {
    SocketAddr::from(([127, 0, 0, 1], 0)).into()
}

fn tail(addrs: &[SocketAddr]) -> Tail {
    Tail::Ready(Target { namespace: Namespace::own().unwrap(), addr: TargetAddr::Inet(addrs.to_vec()), server: None })
}

fn unix_tail(path: &Path) -> Tail {
    let path = path.to_str().unwrap().to_owned();
    let addr = TargetAddr::Unix { root: Root::own().unwrap(), path };
    Tail::Ready(Target { namespace: Namespace::own().unwrap(), addr, server: None })
}

/// A server and the way to it.
fn server() -> (TcpListener, Tail) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&server).set_read_timeout(Some(PATIENCE)).unwrap();
    let to = tail(&[server.local_addr().unwrap()]);
    (server, to)
}

/// A port that nobody listens at.
fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn accept(server: &TcpListener) -> TcpStream {
    let (stream, _) = server.accept().expect("the relay connects to the tail");
    patient(&stream);
    stream
}

fn patient<'s, S>(stream: &'s S)
where
    SockRef<'s>: From<&'s S>,
{
    let stream = SockRef::from(stream);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// Closes it with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads exactly that.
fn expect(stream: &mut impl Read, want: &[u8]) {
    let mut got = vec![0; want.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == want, "{:?} instead of {:?}", String::from_utf8_lossy(&got), String::from_utf8_lossy(want));
}

fn expect_end(stream: &mut impl Read) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

fn expect_reset(stream: &mut impl Read) {
    let error = stream.read(&mut [0; 16]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// splitmix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| self.next().to_le_bytes()).take(count / 8 + 1).flatten().collect();
        bytes.truncate(count);
        bytes
    }
}

/// The time that the relay threads of this process have spent on a processor.
fn relay_cpu() -> Duration {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.starts_with("relay-") {
            let spent = std::fs::read_to_string(task.join("schedstat")).unwrap();
            total += spent.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    Duration::from_nanos(total)
}

/// Asserts that the relay threads are asleep. A thread that spins uses some of any stretch of time.
fn expect_sleep() {
    let busy_for = |span: Duration| {
        let before = relay_cpu();
        std::thread::sleep(span);
        relay_cpu() - before
    };
    // What is under way may come to its end first.
    until("the relay threads sleep", || busy_for(Duration::from_millis(50)) < Duration::from_millis(1));
    let busy = busy_for(Duration::from_millis(500));
    assert!(busy < Duration::from_millis(5), "relay threads that have nothing to do used {busy:?} of 500 ms");
}

#[test]
fn only_who_has_clearly_more_hands_over() {
    let place = |own, loads: &[usize]| super::lighter(own, loads.iter().copied());
    assert_eq!((place(0, &[1, 0]), place(0, &[2, 0])), (0, 1));
    assert_eq!((place(1, &[8, 13]), place(1, &[8, 14])), (1, 0));
    assert_eq!((place(2, &[4, 3, 9]), place(0, &[4, 3, 9])), (1, 0));
    assert_eq!(place(3, &[0, 0]), 3, "a thread that is not there");
}
