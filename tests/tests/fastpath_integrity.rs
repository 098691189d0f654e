//! Random conversations over the fast path: every byte, every end, every counter, and nothing left behind.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SEED` | repeats a run |
//! | `CONNECTIONS` | how many instead of the default; 10,000 is a good number |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use socket2::SockRef;
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use wormhole_tests::chain::Chain;
use wormhole_tests::crowd::{Crowd, Door, number};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::Room;
use wormhole_tests::talk::{ALL, CLEAN, Kind};
use wormhole_tests::traffic::listen;
use wormhole_tests::wait::is_emulated;
use wormhole_tests::{fast, require};

/// Conversations at a time.
const AT_ONCE: usize = 64;
const LARGEST: usize = 1 << 20;

/// Runs a crowd over chains of these lengths; every segment of every chain has to have counted the same.
fn over(crowd: &Crowd, lengths: &[usize]) {
    over_with(crowd, lengths, AT_ONCE, |_| {});
}

/// So many at a time, with listeners that were prepared.
fn over_with(crowd: &Crowd, lengths: &[usize], at_once: usize, prepare: fn(&TcpListener)) {
    let room = Room::with(None, &["--fastpath", "on"]);
    over_in(&room, crowd, lengths, at_once, prepare);
}

fn over_in(room: &Room, crowd: &Crowd, lengths: &[usize], at_once: usize, prepare: fn(&TcpListener)) {
    require!(@ fast::available(room));
    let chains: Vec<Chain> = lengths
        .iter()
        .map(|len| {
            let (chain, listener) = Chain::new(room, *len);
            prepare(&listener);
            crowd.serve(listener);
            chain
        })
        .collect();
    let doors: Vec<Door> = chains.iter().map(|chain| Door::Tcp(room.ns(), chain.made.addr())).collect();
    crowd.run(&doors, at_once);
    crowd.check();
    let mut bytes = (0, 0);
    for (index, chain) in chains.iter().enumerate() {
        let numbers = (index as u64..crowd.count).step_by(chains.len());
        let total = numbers.clone().count();
        for segment in chain.segments(room) {
            let (connections, direct) = (&segment["connections"], fast::sum(&segment, "direct"));
            assert_eq!((&connections["total"], &connections["failed"]), (&total.into(), &0.into()), "{segment}");
            let counted = (segment["bytes"]["to_tail"].as_u64().unwrap(), segment["bytes"]["to_head"].as_u64().unwrap());
            if let Some(planned) = crowd.bytes(numbers.clone()) {
                assert_eq!(counted, planned, "chain of {}: {segment}", chain.len);
                assert_eq!(connections["reset"], 0, "{segment}");
            }
            assert!(direct > 0, "chain of {}: no byte went direct: {segment}", chain.len);
            // A client may have vanished before it was accepted, and where the processor is emulated a few servers are late.
            let fallbacks = segment["fallbacks"].as_object();
            let late = fallbacks.and_then(|why| why.get("server-late")?.as_u64()).unwrap_or_default();
            let others =
                fallbacks.is_some_and(|why| why.keys().any(|why| !["client-unseen", "server-late"].contains(&why.as_str())));
            let tolerated = if is_emulated() { total as u64 / 20 } else { 0 };
            assert!(!others && late <= tolerated, "chain of {}: too many were relayed: {segment}", chain.len);
            bytes = (bytes.0 + counted.0 + counted.1, bytes.1 + direct);
        }
    }
    println!("{} MB, {} % of it direct", bytes.0 / 1_000_000, bytes.1 * 100 / bytes.0.max(1));
    fast::wait_no_pair(room);
    fast::wait_empty(room);
}

fn count(default: u64) -> u64 {
    number("CONNECTIONS").unwrap_or(default)
}

#[test]
fn random_conversations_over_one_segment() {
    require!(Box);
    over(&Crowd::new(count(500), ALL, LARGEST), &[1]);
}

#[test]
fn random_conversations_over_chains() {
    require!(Box);
    over(&Crowd::new(count(300), ALL, LARGEST), &[1, 2, 3, 4, 5]);
}

#[test]
fn every_byte_is_counted_by_every_segment() {
    require!(Box);
    over(&Crowd::new(count(200), CLEAN, LARGEST), &[1, 2, 5]);
}

/// Small messages that are gathered, whatever their rate.
#[test]
fn streams_of_small_messages() {
    require!(Box);
    const SMALL: &[Kind] = &[Kind::Small, Kind::Small, Kind::Small, Kind::Vanish];
    let room = Room::with(None, &["--fastpath", "on", "--fastpath-gather", "1"]);
    let gathered = || room.status()["fastpath"]["fallbacks"]["gathered"].as_u64().unwrap_or(0);
    over_in(&room, &Crowd::new(count(200), SMALL, LARGEST), &[1, 2, 3], AT_ONCE, |_| {});
    assert!(gathered() > 1000, "{}", room.status());
}

/// That the conversations ask no more than TCP gives: the same without a proxy.
#[test]
fn the_same_conversations_without_a_proxy() {
    require!(Box);
    let (crowd, place) = (Crowd::new(count(300), ALL, LARGEST), Netns::create("d").unwrap());
    let listener = listen(&place.ns(), "127.0.0.1:700");
    let door = Door::Tcp(place.ns(), listener.local_addr().unwrap());
    crowd.serve(listener);
    crowd.run(&[door], AT_ONCE);
    crowd.check();
}

/// Whole messages from several threads, which redirected sends must not tear apart.
#[test]
fn messages_of_several_threads_stay_whole() {
    require!(Box);
    const THREADS: &[Kind] = &[Kind::Threads];
    over(&Crowd::new(count(60), THREADS, LARGEST), &[1, 2]);
}

/// A thread that has been told to send direct may get no further for a while. What another one sends meanwhile goes by TCP
/// when there is no room for it, and the relay has it in pieces. Of 1,000 conversations some seven go wrong when the relay does
/// not wait for the first one. They are slow: a fifth of what is asked for.
#[test]
fn messages_of_threads_that_are_held_up_stay_whole() {
    require!(Box);
    const THREADS: &[Kind] = &[Kind::LateThreads];
    /// With many, all of them may wait for minutes for the lock of this process's memory, which one that gives way has.
    const FEW: usize = 16;
    // And in an emulated guest with any.
    let spinning = if is_emulated() { 0 } else { 4 };
    // Little room: a server's socket inherits it.
    let prepare = |listener: &TcpListener| {
        SockRef::from(listener).set_recv_buffer_size(16 << 10).unwrap();
        SockRef::from(listener).set_send_buffer_size(16 << 10).unwrap();
    };
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..spinning {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _over = Over(over);
        over_with(&Crowd::new(count(750) / 5, THREADS, LARGEST), &[1], FEW, prepare);
    });
}

/// Says so when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
