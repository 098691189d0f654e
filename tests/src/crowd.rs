//! Many random conversations ([`crate::talk`]) at once, over several segments, and what has to be true when they are over.

use crate::kernel::Ns;
use crate::talk::{self, Kind, Plan};
use crate::traffic::{self, Listener, Stream, serve};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// Where clients connect to.
#[derive(Clone, Debug)]
pub enum Door {
    /// From inside this namespace.
    Tcp(Ns, SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// What all conversations of a run have in common.
#[derive(Debug)]
pub struct Crowd {
    /// All plans follow from it.
    pub seed: u64,
    /// How many conversations.
    pub count: u64,
    kinds: &'static [Kind],
    largest: usize,
    wrong: Sender<String>,
    problems: Mutex<Receiver<String>>,
}

/// A number out of the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The seed of a run: that in SEED, or a new one. It is printed.
pub fn seed() -> u64 {
    let seed = number("SEED").unwrap_or_else(|| {
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() & 0xFFFF_FFFF);
        u64::from(std::process::id()) ^ u64::try_from(nanos).unwrap_or(0)
    });
    println!("SEED={seed}");
    seed
}

impl Crowd {
    /// `count` conversations of these kinds, of at most `largest` bytes each way. The seed is that in SEED, or a new one;
    /// it is printed.
    pub fn new(count: u64, kinds: &'static [Kind], largest: usize) -> Self {
        let seed = seed();
        let (wrong, problems) = channel();
        Self { seed, count, kinds, largest, wrong, problems: Mutex::new(problems) }
    }

    /// The plan of one conversation.
    pub fn plan(&self, number: u64) -> Plan {
        Plan::new(self.seed, number, self.kinds, self.largest)
    }

    /// Serves all conversations that come to this listener.
    pub fn serve<S: Stream>(&self, listener: impl Listener<S> + Send + 'static) {
        let (seed, kinds, largest, wrong) = (self.seed, self.kinds, self.largest, self.wrong.clone());
        serve(listener, move |stream: S| {
            if let Err(why) = talk::server(stream, |number| Plan::new(seed, number, kinds, largest)) {
                // The run may be over.
                let _ = wrong.send(why);
            }
        });
    }

    /// Holds all conversations, `at_once` at a time; conversation N goes through door N modulo their number.
    ///
    /// # Panics
    /// When one went wrong, with the seed and the first few of them.
    #[track_caller]
    pub fn run(&self, doors: &[Door], at_once: usize) {
        let (next, began) = (AtomicU64::new(0), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, SeqCst);
                        if number >= self.count {
                            break;
                        }
                        let door = &doors[usize::try_from(number).unwrap_or(0) % doors.len()];
                        if let Err(why) = self.one(door, number) {
                            let _ = self.wrong.send(why);
                        }
                    }
                });
            }
        });
        println!("{} connections in {:.1} s", self.count, began.elapsed().as_secs_f64());
    }

    fn one(&self, door: &Door, number: u64) -> Result<(), String> {
        let plan = self.plan(number);
        match door {
            Door::Tcp(ns, addr) => {
                let stream: TcpStream = traffic::connect(ns, *addr).map_err(|e| format!("connection {number}: {e:#}"))?;
                talk::client(stream, &plan)
            }
            Door::Unix(path) => talk::client(UnixStream::connect(path).map_err(|e| e.to_string())?, &plan),
        }
    }

    /// Ends the run.
    ///
    /// # Panics
    /// When anything was wrong, with the seed and the first few problems.
    #[track_caller]
    pub fn check(&self) {
        let problems: Vec<String> = self.problems.lock().expect("no thread panicked").try_iter().collect();
        assert!(
            problems.is_empty(),
            "SEED={}: {} wrong, among them:\n{}",
            self.seed,
            problems.len(),
            problems[..problems.len().min(10)].join("\n")
        );
    }

    /// Bytes to the server and to the client that the conversations with these numbers carried; none when one of them
    /// had no count that anybody can know.
    pub fn bytes(&self, numbers: impl Iterator<Item = u64>) -> Option<(u64, u64)> {
        numbers.map(|n| self.plan(n).bytes()).try_fold((0, 0), |(a, b), one| one.map(|(c, d)| (a + c, b + d)))
    }
}
