//! Full load on the fast path while clients, servers and the places that they are in are killed at random: whoever
//! survives gets every byte as it was sent, and at the end nothing is left of all that.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LOAD` | how many seconds each of the two lasts instead of ten (`cargo xtask test --suite-limit` for more than a few minutes) |
//! | `SEED` | repeats the conversations and the order of the kills |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use wormhole_tests::crowd::seed;
use wormhole_tests::docker::{Container, Docker};
use wormhole_tests::fast::{self, Held, sum, wait_unused};
use wormhole_tests::images::Image;
use wormhole_tests::kernel::{Memory, Ns};
use wormhole_tests::netns::{Marker, Netns};
use wormhole_tests::peer::{Peer, Wrong, become_one, now, plan};
use wormhole_tests::process::{self, Holds};
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::server::load_seconds;
use wormhole_tests::talk::Kind;
use wormhole_tests::traffic::Random;
use wormhole_tests::{require, talk, traffic, wait};

const NAME: &str = "killed_at_random_under_full_load";
/// Processes of clients in front of each server, and conversations that each holds at a time.
const CLIENTS: usize = 2;
const AT_ONCE: u64 = 8;
const PORT: u16 = 700;

/// What the kernel may hold more of at the end than before. It is the whole machine's, which others use too; what ten
/// seconds would leak if each conversation left its socket or its queue is several times as much.
const MORE_SLAB: u64 = 64 << 20;
const MORE_TCP: u64 = 16 << 20;
/// Pipes that a relay thread keeps.
const PIPES: usize = 8;
const MORE_DAEMON: u64 = 64 << 20;

/// Where a process is.
enum Place {
    Netns(Option<Netns>, String),
    Container(Container),
}

impl Place {
    fn netns() -> Self {
        let made = Netns::create("s").unwrap();
        let name = made.name.clone();
        Self::Netns(Some(made), name)
    }

    fn ns(&self) -> Ns {
        match self {
            Self::Netns(_, name) => Ns::Named(name.clone()),
            Self::Container(container) => container.ns().unwrap(),
        }
    }

    /// As a part of an URL.
    fn words(&self) -> String {
        match self {
            Self::Netns(_, name) => name.clone(),
            Self::Container(container) => format!("docker:{}", container.name),
        }
    }

    fn marker(&self, here: &Netns) -> Marker {
        let there = match self {
            Self::Netns(_, name) => name.clone(),
            Self::Container(container) => container.pid().unwrap().to_string(),
        };
        Marker::new(here, &there).unwrap()
    }

    fn kill(&mut self) {
        match self {
            Self::Netns(netns, _) => netns.take().unwrap().delete().unwrap(),
            Self::Container(container) => container.kill().unwrap(),
        }
    }

    fn start(&mut self) {
        match self {
            Self::Netns(netns, name) => *netns = Some(Netns::named(name).unwrap()),
            Self::Container(container) => container.start().unwrap(),
        }
    }
}

/// A segment, or a chain of them, with its clients and its server.
struct Lane {
    near: Place,
    far: Place,
    /// Go with their names.
    _between: Vec<Netns>,
    made: Made,
    clients: Vec<Peer>,
    server: Option<Peer>,
    /// From when to when nobody may have been able to reach the server.
    away: Vec<(u64, u64)>,
    wrong: Vec<Wrong>,
    done: u64,
    /// How many of its clients were killed.
    killed: u64,
}

impl Lane {
    /// The server's place, or the clients'.
    fn place(&mut self, far: bool) -> &mut Place {
        if far { &mut self.far } else { &mut self.near }
    }
}

/// What is killed, by the tenth: a client up to 4, a server up to 7, the server's place, the clients' place. One of each.
const KINDS: [u64; 4] = [0, 5, 8, 9];

/// All of it.
struct Soak {
    room: Room,
    seed: u64,
    lanes: Vec<Lane>,
    markers: Vec<Marker>,
    /// Serial numbers of the clients that were killed.
    killed: BTreeSet<u64>,
    kills: [u64; 3],
}

impl Soak {
    fn add(&mut self, near: Place, far: Place, segments: usize) {
        let between: Vec<Netns> = (1..segments).map(|_| Netns::create("b").unwrap()).collect();
        let chain: String = between.iter().map(|place| format!(" chain url {}@:701", place.name)).collect();
        let made = self.room.create(&format!("url {}@:702{chain} tail url {}@:{PORT}", near.words(), far.words()));
        self.markers.extend([near.marker(&self.room.netns), far.marker(&self.room.netns)]);
        let lane = Lane {
            near,
            far,
            _between: between,
            made,
            clients: vec![],
            server: None,
            away: vec![],
            wrong: vec![],
            done: 0,
            killed: 0,
        };
        self.lanes.push(lane);
        self.fill(self.lanes.len() - 1);
    }

    /// Starts what is not there, the server first.
    fn fill(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if lane.server.is_none() {
            lane.server = Some(Peer::server(NAME, &lane.far.ns(), SocketAddr::from(([127, 0, 0, 1], PORT)), self.seed));
        }
        // Only the daemon knows when it has seen that a place is a new one, and a connection shows it.
        let up = wait::poll("a conversation to be possible again", 2 * SOON, || {
            // One that does not take a reset for the end that it wanted.
            let mut random = Random::new(now());
            let plans = std::iter::repeat_with(|| plan(self.seed, random.below(1 << 32)));
            let plan = { plans }.find(|plan| plan.kind == Kind::Turns).unwrap();
            let stream = traffic::connect(&lane.near.ns(), lane.made.addr()).map_err(|e| format!("{e:#}"))?;
            talk::client(stream, &plan)
        });
        up.unwrap_or_else(|e| panic!("{e:#}; {}", self.room.view(&lane.made.id)));
        while lane.clients.len() < CLIENTS {
            lane.clients.push(Peer::client(NAME, &lane.near.ns(), lane.made.addr(), self.seed, AT_ONCE));
        }
    }

    fn kill_client(&mut self, index: usize, which: usize) {
        let lane = &mut self.lanes[index];
        let client = lane.clients.swap_remove(which);
        lane.done += client.done();
        lane.killed += 1;
        self.killed.insert(client.serial);
        lane.wrong.extend(client.kill());
    }

    fn kill_server(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        lane.wrong.extend(lane.server.take().unwrap().kill());
    }

    /// A kill in a lane that has got on since the last one, and everything as it was before.
    fn strike(&mut self, random: &mut Random, index: usize, what: u64) {
        self.wait_progress(index, random.below(20) + 1);
        let from = now();
        match what {
            0..=4 => {
                self.kills[0] += 1;
                self.kill_client(index, usize::try_from(random.below(CLIENTS as u64)).unwrap());
                self.fill(index);
                return;
            }
            5..=7 => {
                self.kills[1] += 1;
                self.kill_server(index);
            }
            side => {
                self.kills[2] += 1;
                // A process from outside is not the container's, but ends with it here: before it, or after it while its
                // connections are still in use.
                let first = random.below(2) == 0;
                if first {
                    self.lanes[index].place(side == 8).kill();
                }
                if side == 8 {
                    self.kill_server(index);
                } else {
                    (0..CLIENTS).for_each(|_| self.kill_client(index, 0));
                }
                let place = self.lanes[index].place(side == 8);
                if !first {
                    place.kill();
                }
                place.start();
                self.markers.push(place.marker(&self.room.netns));
            }
        }
        self.fill(index);
        self.lanes[index].away.push((from, now()));
    }

    /// Waits until so many conversations more than now have ended well in a lane.
    fn wait_progress(&self, index: usize, more: u64) {
        let lane = &self.lanes[index];
        let done = || lane.clients.iter().map(Peer::done).sum::<u64>();
        let goal = done() + more;
        let got_on = wait::poll("conversations to go on", 2 * SOON, || if done() >= goal { Ok(()) } else { Err(String::new()) });
        got_on.unwrap_or_else(|e| panic!("{e:#}: {}", self.room.view(&lane.made.id)));
    }

    /// Lets everybody finish; gives what went wrong although nobody was killed on whom it depended.
    fn finish(&mut self) -> Vec<String> {
        for lane in &mut self.lanes {
            lane.clients.iter_mut().for_each(Peer::finish);
        }
        for lane in &mut self.lanes {
            for client in std::mem::take(&mut lane.clients) {
                lane.done += client.done();
                lane.wrong.extend(client.finished());
            }
            self.room.wait_idle(&lane.made.id);
            lane.wrong.extend(lane.server.take().unwrap().finished());
        }
        let (mut problems, mut excuses) = (Vec::new(), 0);
        for (index, lane) in self.lanes.iter().enumerate() {
            // Connections whose clients were killed before they had said who they are.
            let mut unknown = (lane.killed * AT_ONCE).cast_signed();
            for wrong in &lane.wrong {
                let killed = wrong.client().is_some_and(|client| self.killed.contains(&client));
                let away = lane.away.iter().any(|(from, to)| wrong.began <= *to && wrong.ended >= *from);
                let excused = match wrong.number {
                    None => {
                        unknown -= 1;
                        unknown >= 0
                    }
                    Some(_) => killed || away,
                };
                if wrong.is_about_bytes() || !excused {
                    problems.push(format!("lane {index}, away {:?}: {wrong:?}", lane.away));
                } else {
                    excuses += 1;
                }
            }
        }
        println!("{excuses} ends were torn off by a kill");
        problems
    }
}

/// What the daemon holds but for the pipes that its relay threads keep for the next stream, which are few.
fn holds(room: &Room) -> Holds {
    let mut holds = room.daemon.holds();
    let workers = usize::try_from(room.status()["workers"].as_u64().unwrap()).unwrap();
    let pipes = holds.fds.remove("pipe").unwrap_or(0);
    assert!(pipes <= 2 * PIPES * workers + 2, "{pipes} ends of pipes");
    holds
}

fn with_container(docker: &Docker) -> (Place, Place) {
    let start = || Place::Container(docker.container(Image::Client, &[]).unwrap());
    (start(), start())
}

#[test]
fn killed_at_random_under_full_load() {
    become_one();
    require!(Box);
    soak(None);
}

/// The same with containers, which are killed and started again.
#[test]
fn killed_at_random_with_containers() {
    become_one();
    soak(Some(require!(Docker)));
}

fn soak(docker: Option<&Docker>) {
    let room = Room::with(docker, &["--fastpath", "on"]);
    require!(@ fast::available(&room));
    let seed = seed();
    let mut random = Random::new(seed);
    let pid = room.daemon.pid();
    if docker.is_some() {
        room.wait_docker();
    }
    // A connection to the engine stays for a while.
    room.idle_docker(&[]);
    let (held, before) = (Held::by(pid), holds(&room));
    let (maps, memory, rss) = (held.memory(), Memory::now().unwrap(), process::rss(pid).unwrap());
    let mut soak = Soak { room, seed, lanes: vec![], markers: vec![], killed: BTreeSet::new(), kills: [0; 3] };
    if let Some(docker) = docker {
        let (near, far) = with_container(docker);
        soak.add(near, far, 1);
    }
    for segments in [1, 3] {
        soak.add(Place::netns(), Place::netns(), segments);
    }

    let (began, lasts) = (Instant::now(), Duration::from_secs(load_seconds()));
    // Each kind at least once, in the first lane.
    for what in KINDS {
        soak.strike(&mut random, 0, what);
    }
    while began.elapsed() < lasts {
        let index = usize::try_from(random.below(soak.lanes.len() as u64)).unwrap();
        let what = random.below(10);
        soak.strike(&mut random, index, what);
    }
    let problems = soak.finish();
    let done: u64 = soak.lanes.iter().map(|lane| lane.done).sum();
    let [clients, servers, places] = soak.kills;
    println!("{done} conversations, {clients} clients, {servers} servers and {places} places killed");
    assert!(
        problems.is_empty(),
        "SEED={seed}: {} wrong, among them:\n{}",
        problems.len(),
        problems[..problems.len().min(10)].join("\n")
    );

    let Soak { room, lanes, markers, .. } = soak;
    for lane in &lanes {
        let view = room.wait_idle(&lane.made.id);
        let (bytes, direct) = (sum(&view, "bytes"), sum(&view, "direct"));
        println!("{} MB, {} % direct; {}", bytes / 1_000_000, direct * 100 / bytes.max(1), view["fallbacks"]);
        assert!(direct > 0, "no byte went direct: {view}");
    }
    wait_unused(&room);
    for lane in lanes {
        room.delete(&lane.made.id);
    }
    // Every socket of every process that there was is freed, or its namespace would not be.
    for marker in &markers {
        marker.wait_gone();
    }
    let let_go = wait::poll("the daemon to hold what it held before", 2 * SOON, || match holds(&room) {
        now if now == before => Ok(()),
        now => Err(format!("{now:?}, before {before:?}")),
    });
    let_go.unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(held.memory(), maps, "memory of the maps");
    let now = wait::poll("memory to be given back", SOON, || {
        let now = Memory::now().map_err(|e| format!("{e:#}"))?;
        let fine = now.slab <= memory.slab + MORE_SLAB && now.tcp <= memory.tcp + MORE_TCP;
        if fine { Ok(now) } else { Err(format!("{now:?}, before {memory:?}")) }
    });
    let (now, rss_now) = (now.unwrap_or_else(|e| panic!("{e:#}")), process::rss(pid).unwrap());
    println!("kernel: {memory:?} before, {now:?} after; the daemon: {rss} bytes before, {rss_now} after");
    assert!(rss_now <= rss + MORE_DAEMON, "the daemon grew from {rss} to {rss_now} bytes");
}
