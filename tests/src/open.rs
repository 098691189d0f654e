//! Open connections in every state that one can be in when something happens to what carries it.

use crate::room::SOON;
use crate::traffic::{Again, End, PATIENCE, Stream, drain, endless};
use crate::wait_until;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes in one write of a [`Flow`].
const PIECE: usize = 20_000;
/// A sender that the kernel has not let write for so long is stopped.
const STOPPED: Duration = Duration::from_millis(200);
const WORD: &[u8] = b"never read";

/// An endless stream: one thread sends it, another one reads and compares.
#[derive(Debug)]
pub struct Flow {
    sender: JoinHandle<ErrorKind>,
    reader: JoinHandle<Result<End, String>>,
    arrived: Arc<AtomicUsize>,
}

impl Flow {
    /// Begins. The sockets have to have a timeout.
    pub fn start(mut from: TcpStream, mut to: TcpStream) -> Self {
        let arrived = Arc::new(AtomicUsize::new(0));
        let sender = thread::spawn(move || {
            let mut at = 0;
            loop {
                if let Err(error) = from.write_all(endless(at, PIECE)) {
                    return error.kind();
                }
                at += PIECE;
            }
        });
        let total = Arc::clone(&arrived);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let at = total.load(SeqCst);
                match Again(&mut to).read(&mut buffer) {
                    Ok(0) => return Ok(End::Eof),
                    Ok(len) if buffer[..len] == *endless(at, len) => total.fetch_add(len, SeqCst),
                    Ok(len) => return Err(format!("wrong bytes between {at} and {}", at + len)),
                    Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(End::Reset),
                    Err(e) => return Err(format!("after {at} bytes: {e}")),
                };
            }
        });
        Self { sender, reader, arrived }
    }

    /// Waits until `more` bytes have arrived than now.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn wait_running(&self, more: usize) {
        let before = self.arrived.load(SeqCst);
        wait_until("the stream to flow", SOON, || (self.arrived.load(SeqCst) >= before + more).then_some(()));
    }

    /// Waits for the end, which has to be a reset for both.
    ///
    /// # Panics
    /// When it is not, or when a byte was wrong.
    #[track_caller]
    pub fn is_reset(self, what: &str) {
        let read = self.reader.join().expect("the reader panicked").unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(read, End::Reset, "{what}: the reader took a torn stream for whole");
        refused(what, self.sender.join().expect("the sender panicked"));
    }
}

#[track_caller]
fn refused(what: &str, told: ErrorKind) {
    assert!(matches!(told, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{what}: the sender got {told}");
}

/// One connection of each kind, each both ways.
#[derive(Debug, Default)]
pub struct Open {
    /// Nothing is on its way: what it is, the two ends.
    quiet: Vec<(&'static str, TcpStream, TcpStream)>,
    flows: Vec<Flow>,
    /// Senders who are stopped, and readers who do not read.
    stopped: Vec<(JoinHandle<ErrorKind>, TcpStream)>,
    /// One end has said that it will send no more, and waits; the other one has seen it.
    half: Vec<(TcpStream, TcpStream)>,
    /// The second end has not read a word.
    unread: Vec<(TcpStream, TcpStream)>,
}

impl Open {
    /// Opens them all; `pair` gives both ends of a new connection.
    ///
    /// # Panics
    /// When something else than that happens.
    #[track_caller]
    pub fn all(pair: impl Fn() -> (TcpStream, TcpStream)) -> Self {
        let mut open = Self::default();
        let (client, server) = pair();
        open.quiet.push(("silent", client, server));
        let (client, server) = pair();
        for (mut near, mut far) in [(&client, &server), (&server, &client)] {
            let mut word = [0; WORD.len()];
            near.write_all(WORD).and_then(|()| far.read_exact(&mut word)).expect("a word");
        }
        open.quiet.push(("idle", client, server));
        for swap in [false, true] {
            let ends = || {
                let (client, server) = pair();
                if swap { (server, client) } else { (client, server) }
            };
            let (near, far) = ends();
            open.flows.push(Flow::start(near, far));
            let (near, far) = ends();
            open.stopped.push((stop(near), far));
            let (near, mut far) = ends();
            near.end().expect("its end");
            assert_eq!(drain(&mut far), (vec![], End::Eof));
            open.half.push((near, far));
            let (mut near, far) = ends();
            near.write_all(WORD).expect("a word");
            wait_until("the word to arrive", SOON, || (far.peek(&mut [0; 100]).ok()? == WORD.len()).then_some(()));
            open.unread.push((near, far));
        }
        for flow in &open.flows {
            flow.wait_running(1 << 20);
        }
        open
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.quiet.len() + self.flows.len() + self.stopped.len() + self.half.len() + self.unread.len()
    }

    /// Waits until every end of every connection was told of a reset, and nobody took a torn stream for a whole one.
    ///
    /// # Panics
    /// When one hangs, or ends otherwise.
    #[track_caller]
    pub fn all_reset(self) {
        for (what, mut client, mut server) in self.quiet {
            assert_eq!((drain(&mut client), drain(&mut server)), ((vec![], End::Reset), (vec![], End::Reset)), "{what}");
        }
        for flow in self.flows {
            flow.is_reset("streaming");
        }
        for (sender, mut reader) in self.stopped {
            let (got, end) = drain(&mut reader);
            assert_eq!(end, End::Reset, "a stopped reader took a torn stream for whole");
            assert!(got == endless(0, got.len()), "a stopped reader got other bytes than were sent");
            refused("stopped", sender.join().expect("the sender panicked"));
        }
        for (mut near, mut far) in self.half {
            assert_eq!(drain(&mut near), (vec![], End::Reset), "half-closed: it took a torn answer for whole");
            refused("half-closed", wait_until("a write to be refused", SOON, || far.write_all(WORD).err()).kind());
        }
        for (mut near, mut far) in self.unread {
            assert_eq!(drain(&mut near), (vec![], End::Reset), "unread");
            let (got, end) = drain(&mut far);
            assert!(end == End::Reset && WORD.starts_with(&got), "unread: {got:?}, {end:?}");
        }
    }
}

/// Writes until the kernel stops the sender, and leaves a thread behind that goes on as soon as it may.
fn stop(mut from: TcpStream) -> JoinHandle<ErrorKind> {
    from.set_write_timeout(Some(STOPPED)).expect("a timeout");
    let mut at = 0;
    loop {
        match from.write(endless(at, PIECE)) {
            Ok(len) => at += len,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("after {at} bytes: {e}"),
        }
    }
    from.patience(PATIENCE).expect("a timeout");
    thread::spawn(move || {
        loop {
            match from.write(endless(at, PIECE)) {
                Ok(len) => at += len,
                Err(error) => return error.kind(),
            }
        }
    })
}
