//! Content: sizes, order, the right client, and a fair share.

use super::*;
use proptest::prelude::*;

#[test]
fn the_longest_and_the_empty_datagram_pass_unharmed() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let route = route(&[echo.addr], RelayOptions::default());
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    let client = client(addr);
    let long: Vec<u8> = (0..65_507u32).map(|n| (n % 251) as u8).collect();
    for question in [&long[..], b"", &long[..1], b"", &long[..65_506], &long[..]] {
        ask(&client, question);
    }
}

#[test]
fn datagrams_of_one_session_keep_their_order() {
    let (engine, tail) = (engine(), UdpSocket::bind("127.0.0.1:0").unwrap());
    tail.set_read_timeout(Some(LONG)).unwrap();
    let route = route(&[tail.local_addr().unwrap()], RelayOptions::default());
    let (_, addr) = serve(&engine, "127.0.0.1:0", &route);
    let clients: Vec<UdpSocket> = (0..5).map(|_| client(addr)).collect();
    // Fits into every buffer, so that nothing is lost: 5 clients x 20 datagrams a round.
    for round in 0..20u32 {
        for number in 0..20u32 {
            for (who, client) in clients.iter().enumerate() {
                client.send(&[&[who as u8][..], &(round * 20 + number).to_be_bytes()].concat()).unwrap();
            }
        }
        let mut next = [round * 20; 5];
        for _ in 0..100 {
            let mut got = [0; 5];
            assert_eq!(tail.recv(&mut got).unwrap(), 5);
            let number = u32::from_be_bytes(got[1..].try_into().unwrap());
            assert_eq!(number, next[got[0] as usize]);
            next[got[0] as usize] += 1;
        }
    }
}

#[test]
fn a_flood_on_one_head_starves_no_other() {
    let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    let busy = route(&[sink.local_addr().unwrap()], RelayOptions::default());
    let calm = route(&[echo.addr], RelayOptions::default());
    let (_, flooded) = serve(&engine, "127.0.0.1:0", &busy);
    let (_, addr) = serve(&engine, "127.0.0.1:0", &calm);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let client = client(flooded);
            while !stop.load(Relaxed) {
                let _ = client.send(&[0; 1400]);
            }
        });
        until("the flood runs", || busy.counters.relayed().to_tail > 100_000);
        let client = client(addr);
        for number in 0..50u8 {
            ask(&client, &[number; 100]);
        }
        stop.store(true, Relaxed);
    });
}

/// What client `who` sends as its datagram `number`: both, and a pattern that depends on them.
fn content(who: usize, number: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![who as u8, number as u8];
    bytes.extend((0..len).map(|at| (at * 31 + who * 7 + number * 13) as u8));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the sizes, the order of the clients and the limit of sessions (so that sockets are closed and their
    /// slots used again all the time): a client gets nothing but its own datagrams, whole, each at most once, in order.
    #[test]
    fn every_answer_finds_its_client_and_is_whole(
        limit in 1usize..8,
        steps in proptest::collection::vec((0usize..8, prop_oneof![0usize..40, 0usize..3000, 30_000usize..65_506]), 1..120),
    ) {
        let (engine, echo) = (engine(), Echo::start("127.0.0.1:0"));
        let route = route(&[echo.addr], RelayOptions { udp_sessions: limit, ..Default::default() });
        let heads = ["127.0.0.1:0", "0.0.0.0:0"].map(|head| serve(&engine, head, &route).1.port());
        let clients: Vec<UdpSocket> =
            (0..8).map(|n| client(SocketAddr::new([127, 0, 0, 1].into(), heads[n % 2]))).collect();
        let mut sent: Vec<Vec<Vec<u8>>> = vec![Vec::new(); clients.len()];
        for &(who, len) in &steps {
            let bytes = content(who, sent[who].len(), len);
            let _ = clients[who].send(&bytes);
            sent[who].push(bytes);
        }
        for (who, client) in clients.iter().enumerate() {
            // Losses are allowed, so this is how the end is known.
            client.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
            let (mut next, mut buffer) = (0, vec![0; 65_536]);
            while let Ok(len) = client.recv(&mut buffer) {
                let found = sent[who][next..].iter().position(|bytes| bytes == &buffer[..len]);
                prop_assert!(found.is_some(), "client {} got what it did not send, or out of order", who);
                next += found.unwrap() + 1;
            }
        }
        prop_assert!(open(&route) <= 2 * limit as u64);
        ask(&client(SocketAddr::new([127, 0, 0, 1].into(), heads[1])), b"still alive");
    }
}
