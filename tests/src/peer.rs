//! Processes that hold random conversations ([`crate::talk`]), made to be killed. They are this very program once more,
//! told by a variable what to be, so that a test needs no other one.

use crate::kernel::Ns;
use crate::room::SOON;
use crate::talk::{self, Kind, Plan};
use crate::traffic::{self, PATIENCE, Stream};
use crate::wait::{patient, poll};
use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a process is to be: `client ADDRESS SEED FIRST-NUMBER THREADS` or `server ADDRESS SEED`.
const ENV: &str = "WORMHOLE_PEER";

/// What conversations are about, and at most so many bytes each way.
const KINDS: &[Kind] = talk::ALL;
const LARGEST: usize = 1 << 20;

/// Conversations of one process have numbers from its own times this on.
const NUMBERS: u64 = 1 << 32;

/// Time since the machine started, in nanoseconds: the same for all processes.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The plan of conversation `number`.
pub fn plan(seed: u64, number: u64) -> Plan {
    Plan::new(seed, number, KINDS, LARGEST)
}

/// A conversation that went wrong, as one end saw it.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// What happened.
    pub text: String,
    /// Its number; none when a client was gone before it had told it.
    pub number: Option<u64>,
    /// When it began, as [`now`] tells it.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
}

impl Wrong {
    /// True when bytes were not those that were sent: no end of any process is an excuse for that.
    pub fn is_about_bytes(&self) -> bool {
        ["wrong bytes", "mixed", "begins with"].iter().any(|word| self.text.contains(word))
    }

    /// The serial number of the client's process.
    pub fn client(&self) -> Option<u64> {
        self.number.map(|number| number / NUMBERS)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let [number, began, ended] = [words.next()?, words.next()?, words.next()?];
        let (began, ended) = (began.parse().ok()?, ended.parse().ok()?);
        Some(Self { text: words.next()?.to_owned(), number: number.parse().ok(), began, ended })
    }
}

/// A running one. Dropping kills it.
#[derive(Debug)]
pub struct Peer {
    /// Its serial number.
    pub serial: u64,
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Heard>,
    listener: Option<JoinHandle<()>>,
}

/// What it said so far.
#[derive(Debug, Default)]
struct Heard {
    ready: AtomicBool,
    done: AtomicU64,
    wrong: Mutex<Vec<Wrong>>,
}

impl Peer {
    /// A client of `addr` in `ns` that holds so many conversations at a time; `test` is the name of the running test.
    ///
    /// # Panics
    /// When it does not start.
    pub fn client(test: &str, ns: &Ns, addr: SocketAddr, seed: u64, threads: u64) -> Self {
        let serial = serial();
        Self::start(test, ns, serial, &format!("client {addr} {seed} {} {threads}", serial * NUMBERS))
    }

    /// A server that listens at `addr` in `ns`.
    ///
    /// # Panics
    /// When it does not.
    pub fn server(test: &str, ns: &Ns, addr: SocketAddr, seed: u64) -> Self {
        Self::start(test, ns, serial(), &format!("server {addr} {seed}"))
    }

    #[track_caller]
    fn start(test: &str, ns: &Ns, serial: u64, role: &str) -> Self {
        let me = std::env::current_exe().expect("where is this program?");
        let mut command: Command = ns.command(&me.to_string_lossy());
        command.args([test, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"]).env(ENV, role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program starts");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let heard = Arc::new(Heard::default());
        let hears = Arc::clone(&heard);
        let listener = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                match line.split_once(' ') {
                    Some(("peer-ready", _)) => hears.ready.store(true, SeqCst),
                    Some(("peer-done", _)) => drop(hears.done.fetch_add(1, SeqCst)),
                    // A line that is cut short by a kill tells nothing.
                    Some(("peer-wrong", rest)) => hears.wrong.lock().expect("no panic").extend(Wrong::parse(rest)),
                    _ => {}
                }
            }
        });
        let mut peer = Self { serial, child, stdin, heard, listener: Some(listener) };
        let up = poll(&format!("{role} to be ready"), SOON, || match peer.child.try_wait() {
            Ok(Some(status)) => panic!("{role} ended: {status}"),
            _ if peer.heard.ready.load(SeqCst) => Ok(()),
            _ => Err(String::new()),
        });
        up.unwrap_or_else(|e| panic!("{e:#}"));
        peer
    }

    /// Conversations that ended well.
    pub fn done(&self) -> u64 {
        self.heard.done.load(SeqCst)
    }

    /// `kill -9`; gives what went wrong before.
    ///
    /// # Panics
    /// When it ended by itself.
    #[track_caller]
    pub fn kill(mut self) -> Vec<Wrong> {
        assert!(self.child.try_wait().expect("a child").is_none(), "a peer ended by itself");
        self.child.kill().expect("a kill");
        self.over()
    }

    /// Tells it to finish what it has begun, and to end.
    pub fn finish(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end that [`Peer::finish`] asked for; gives what went wrong.
    ///
    /// # Panics
    /// When it does not end, or with an error.
    #[track_caller]
    pub fn finished(mut self) -> Vec<Wrong> {
        self.finish();
        let ended = poll("a peer to end", 2 * PATIENCE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(format!("{} conversations are done", self.done())),
        });
        let status = ended.unwrap_or_else(|e| panic!("{e:#}"));
        assert!(status.success(), "a peer ended with {status}");
        self.over()
    }

    fn over(&mut self) -> Vec<Wrong> {
        self.child.wait().expect("a child");
        // All that it said is heard then.
        if let Some(listener) = self.listener.take() {
            listener.join().expect("the listener panicked");
        }
        std::mem::take(&mut *self.heard.wrong.lock().expect("no panic"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, SeqCst)
}

/// For the beginning of a test that starts peers: if this process is one, it does what it is to do, and ends.
///
/// # Panics
/// When it was told something that it does not know.
pub fn become_one() {
    let Ok(role) = std::env::var(ENV) else { return };
    // The name of the test stands in this line so far.
    println!();
    let words: Vec<&str> = role.split(' ').collect();
    let number = |word: &str| word.parse::<u64>().expect("a number");
    match words[..] {
        ["client", addr, seed, first, threads] => {
            client(addr.parse().expect("an address"), number(seed), number(first), number(threads));
        }
        ["server", addr, seed] => server(addr, number(seed)),
        _ => panic!("{ENV}={role}"),
    }
    std::process::exit(0);
}

/// Waits until whoever started this process wants it to end, or is gone.
fn wait_for_end() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn report(number: Option<u64>, began: u64, done: Result<(), String>) {
    let number = number.map_or("-".to_owned(), |number| number.to_string());
    let line = match done {
        Ok(()) => format!("peer-done {number}\n"),
        Err(why) => format!("peer-wrong {number} {began} {} {}\n", now(), why.replace('\n', " ")),
    };
    // In one piece; whoever is to hear it may be gone.
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}

fn client(addr: SocketAddr, seed: u64, first: u64, threads: u64) {
    let (next, over) = (AtomicU64::new(first), AtomicBool::new(false));
    println!("peer-ready ");
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let (number, began) = (next.fetch_add(1, SeqCst), now());
                    let done = traffic::connect(&Ns::Own, addr)
                        .map_err(|e| format!("connecting: {e:#}"))
                        .and_then(|stream: TcpStream| talk::client(stream, &plan(seed, number)));
                    let failed = done.is_err();
                    report(Some(number), began, done);
                    if failed {
                        // Not as fast as it can while there is nobody to talk to.
                        thread::sleep(patient(Duration::from_millis(20)));
                    }
                }
            });
        }
        wait_for_end();
        over.store(true, SeqCst);
    });
}

fn server(addr: &str, seed: u64) {
    let listener = TcpListener::bind(addr).expect("an address to listen at");
    println!("peer-ready ");
    traffic::serve(listener, move |stream: TcpStream| {
        let (began, told) = (now(), Mutex::new(None));
        let done = stream.patience(PATIENCE).map_err(|e| e.to_string()).and_then(|()| {
            talk::server(stream, |number| {
                *told.lock().expect("no panic") = Some(number);
                plan(seed, number)
            })
        });
        let number = *told.lock().expect("no panic");
        report(number, began, done);
    });
    wait_for_end();
}
