//! Bytes on their way: back-pressure, bulk, and many connections that do all kinds of things.

use super::*;
use std::thread;

/// Writes until nobody takes more. Returns how many bytes were taken.
pub(super) fn fill(stream: &TcpStream, rig: &Rig) -> u64 {
    stream.set_nonblocking(true).unwrap();
    let mut stream = stream;
    let block = vec![7; 65_536];
    let mut written: u64 = 0;
    let mut since = (Instant::now(), 0, rig.route.counters.relayed());
    let most: u64 = 256 << 20;
    loop {
        match stream.write(&block) {
            Ok(n) => written += n as u64,
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(e) => panic!("{e}"),
        }
        assert!(written < most, "{written} bytes taken in front of a reader that stopped");
        let bytes = rig.route.counters.relayed();
        let same = bytes.to_tail == since.2.to_tail && bytes.to_head == since.2.to_head && written == since.1;
        if !same {
            since = (Instant::now(), written, bytes);
        } else if since.0.elapsed() > Duration::from_millis(300) {
            break;
        }
    }
    stream.set_nonblocking(false).unwrap();
    written
}

fn drain(mut stream: TcpStream) -> u64 {
    let mut block = vec![0; 65_536];
    let mut got = 0;
    loop {
        match stream.read(&mut block).unwrap() {
            0 => return got,
            n => {
                assert!(block.iter().take(n).all(|b| *b == 7));
                got += n as u64;
            }
        }
    }
}

#[test]
fn a_reader_that_stopped_stops_the_sender_and_then_gets_everything() {
    const BUFFER: usize = 64 * 1024;
    let small = |s: SockRef<'_>| {
        s.set_send_buffer_size(BUFFER).unwrap();
        s.set_recv_buffer_size(BUFFER).unwrap();
    };
    let (server, to) = server();
    small(SockRef::from(&server));
    let rig = Rig::with(to, RelayOptions::default(), 10, |listener| small(SockRef::from(listener)));
    let (client, served) = rig.pair(&server);
    small(SockRef::from(&client));
    small(SockRef::from(&served));

    // Between what the sender's kernel took and what the relay gave to the receiver's kernel are two socket buffers (the
    // kernel doubles what one asks for) and at most one chunk of ours.
    let bound = 2 * 2 * BUFFER as u64 + 256 * 1024;
    let up = fill(&client, &rig);
    let kept = up - rig.route.counters.relayed().to_tail;
    assert!(kept <= bound, "{kept} bytes kept of {up}, allowed {bound}");
    // The relay's socket to the tail has a receive buffer of the kernel's choice.
    let down = fill(&served, &rig);
    assert!(rig.route.counters.relayed().to_head > 0);

    client.shutdown(Shutdown::Write).unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    let reader = thread::spawn(move || drain(client));
    assert_eq!(drain(served), up);
    assert_eq!(reader.join().unwrap(), down);
    rig.quiet();
    assert_eq!((rig.route.counters.relayed().to_tail, rig.route.counters.relayed().to_head), (up, down));
    assert_eq!(rig.route.counters.connections().reset, 0);
}

fn send(mut stream: TcpStream, seed: u64, total: usize) {
    let mut random = Random(seed);
    let mut left = total;
    while left > 0 {
        let block = random.bytes(left.min(40_000));
        stream.write_all(&block).unwrap();
        left -= block.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn receive(mut stream: TcpStream, seed: u64, total: usize) {
    let mut random = Random(seed);
    let mut left = total;
    let mut block = vec![0; 40_000];
    while left > 0 {
        let want = random.bytes(left.min(40_000));
        let got = block.get_mut(..want.len()).unwrap();
        stream.read_exact(got).unwrap();
        assert!(got == want, "wrong bytes {left} before the end");
        left -= want.len();
    }
    expect_end(&mut stream);
}

#[test]
fn sixty_four_mebibytes_both_ways_at_once() {
    const TOTAL: usize = 64 << 20;
    let (server, to) = server();
    let rig = Rig::start(to);
    let (client, served) = rig.pair(&server);
    thread::scope(|scope| {
        let (c, s) = (client.try_clone().unwrap(), served.try_clone().unwrap());
        scope.spawn(move || send(c, 1, TOTAL));
        scope.spawn(move || send(s, 2, TOTAL));
        scope.spawn(move || receive(client, 2, TOTAL));
        scope.spawn(move || receive(served, 1, TOTAL));
    });
    rig.quiet();
    assert_eq!((rig.route.counters.relayed().to_tail, rig.route.counters.relayed().to_head), (TOTAL as u64, TOTAL as u64));
}

/// What one random connection does; both ends draw it from the same seed.
struct Plan {
    up: Vec<u8>,
    down: Vec<u8>,
    /// The server speaks only after the client's end.
    polite: bool,
    /// The client speaks only after the server's end.
    server_first: bool,
}

impl Plan {
    fn draw(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut size = || match random.below(4) {
            0 => 0,
            1 => random.below(100),
            2 => random.below(70_000),
            _ => random.below(1 << 20),
        };
        let (up, down) = (size(), size());
        let order = random.below(3);
        Self { up: random.bytes(up), down: random.bytes(down), polite: order == 1, server_first: order == 2 }
    }
}

fn say(mut stream: &TcpStream, what: &[u8], seed: u64) {
    let mut random = Random(seed);
    let mut rest = what;
    while !rest.is_empty() {
        let most = [10, 3_000, 200_000][random.below(3)];
        let size = 1 + random.below(most);
        let (now, later) = rest.split_at(size.min(rest.len()));
        stream.write_all(now).unwrap();
        rest = later;
        if random.below(8) == 0 {
            thread::sleep(Duration::from_micros(random.next() % 3_000));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn hear(mut stream: &TcpStream, want: &[u8], who: &str) {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap_or_else(|e| panic!("{who}: {e} after {} of {}", got.len(), want.len()));
    assert!(got == want, "{who}: {} bytes instead of {}, or others", got.len(), want.len());
}

/// One end of a random connection.
fn act(stream: &TcpStream, (say_this, hear_that): (&[u8], &[u8]), hear_first: bool, seed: u64, who: &str) {
    if hear_first {
        hear(stream, hear_that, who);
        say(stream, say_this, seed);
    } else {
        thread::scope(|scope| {
            scope.spawn(|| say(stream, say_this, seed));
            hear(stream, hear_that, who);
        });
    }
}

#[test]
fn two_hundred_random_connections_byte_for_byte() {
    const CONNECTIONS: u64 = 200;
    const AT_ONCE: u64 = 32;
    let (server, to) = server();
    let rig = Rig::start(to);
    let next = std::sync::atomic::AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CONNECTIONS {
                let mut stream = accept(&server);
                scope.spawn(move || {
                    // A server-first plan has its number sent early, too: that is early data.
                    let mut seed = [0; 8];
                    stream.read_exact(&mut seed).unwrap();
                    let seed = u64::from_be_bytes(seed);
                    let plan = Plan::draw(seed);
                    act(&stream, (&plan.down, &plan.up), plan.polite, seed + 1, "server");
                });
            }
        });
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= CONNECTIONS {
                        return;
                    }
                    let plan = Plan::draw(seed);
                    let mut stream = rig.connect();
                    stream.write_all(&seed.to_be_bytes()).unwrap();
                    act(&stream, (&plan.up, &plan.down), plan.server_first, seed + 2, "client");
                }
            });
        }
    });
    rig.quiet();
    let (mut up, mut down) = (0, 0);
    for plan in (0..CONNECTIONS).map(Plan::draw) {
        up += plan.up.len() as u64 + 8;
        down += plan.down.len() as u64;
    }
    assert_eq!((rig.route.counters.relayed().to_tail, rig.route.counters.relayed().to_head), (up, down));
    let counters = rig.route.counters.connections();
    assert_eq!((counters.total, counters.failed, counters.reset), (CONNECTIONS, 0, 0));
}

#[test]
fn by_default_no_kernel_timer_ends_a_reader_that_pauses() {
    // With TCP_USER_TIMEOUT the kernel resets a stream whose reader leaves its window shut for so long, although it
    // answers every probe: tcp(7), "or buffered data may remain untransmitted (due to zero window size)".
    let (server, to) = server();
    let rig = Rig::start(to);
    assert_eq!(rig.route.options.user_timeout, None);
    let (client, served) = rig.pair(&server);
    let up = fill(&client, &rig);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drain(served), up);
}
