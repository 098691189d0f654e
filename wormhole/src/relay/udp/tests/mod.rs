//! Real sockets on loopback. Nothing sleeps for a fixed time to let something happen: conditions are waited for, with a
//! deadline that only a failure reaches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, reason = "a test has a thread of its own to poll on")]

mod addresses;
mod resources;
mod sessions;
mod traffic;

use super::*;
use crate::netns::Namespace;
use crate::relay::{RelayOptions, Tail, Target, TargetAddr};
use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine.
const LONG: Duration = Duration::from_secs(30);

fn engine() -> UdpEngine {
    UdpEngine::start(UdpConfig { max_sessions_total: 100_000 }).unwrap()
}

fn ready(addrs: &[SocketAddr]) -> Tail {
    Tail::Ready(Target { namespace: Namespace::own().unwrap(), addr: TargetAddr::Inet(addrs.to_vec()), server: None })
}

fn route(addrs: &[SocketAddr], options: RelayOptions) -> Arc<Route> {
    let route = Route::new("test".to_owned(), options);
    route.set_tail(ready(addrs));
    route
}

/// An engine's head on `addr`, and where it listens.
fn serve(engine: &UdpEngine, addr: &str, route: &Arc<Route>) -> (HeadId, SocketAddr) {
    let socket = UdpSocket::bind(addr).unwrap();
    socket.set_nonblocking(true).unwrap();
    let addr = socket.local_addr().unwrap();
    (engine.add(socket.into(), Arc::clone(route)).unwrap(), addr)
}

/// A client that hears nobody but `server`, which proves where answers come from.
fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket
}

/// Asks until exactly this comes back; a datagram may get lost, and a refusal is no answer.
fn ask(client: &UdpSocket, question: &[u8]) {
    let deadline = Instant::now() + LONG;
    let mut answer = vec![0; 65_536];
    while Instant::now() < deadline {
        let _ = client.send(question);
        if let Ok(len) = client.recv(&mut answer) {
            assert_eq!(&answer[..len], question, "somebody else's answer, or a damaged one");
            return;
        }
    }
    panic!("no answer");
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn finished<T>(receiver: oneshot::Receiver<T>) -> T {
    receiver.blocking_recv().unwrap()
}

fn open(route: &Route) -> u64 {
    route.counters.connections().open
}

/// Sends back what it gets, from one thread, in order.
struct Echo {
    addr: SocketAddr,
    /// Who ever asked.
    peers: Arc<Mutex<HashSet<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(addr: &str) -> Self {
        Self::on(UdpSocket::bind(addr).unwrap())
    }

    fn on(socket: UdpSocket) -> Self {
        // The answers of a thousand sessions come from here, their questions all go here.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let addr = socket.local_addr().unwrap();
        let (peers, stop) = (Arc::new(Mutex::new(HashSet::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&peers), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Relaxed) {
                if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                    seen.lock().unwrap().insert(peer);
                    let _ = socket.send_to(&buffer[..len], peer);
                }
            }
        });
        Self { addr, peers, stop, thread: Some(thread) }
    }

    fn peers(&self) -> usize {
        self.peers.lock().unwrap().len()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Runs a test alone in a process of its own, where it may count and limit file descriptors.
fn alone(test: &str, body: impl FnOnce()) {
    const VARIABLE: &str = "WORMHOLE_UDP_TEST_ALONE";
    if std::env::var(VARIABLE).is_ok_and(|name| name == test) {
        return body();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

fn fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
