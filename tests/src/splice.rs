//! Applications that read their sockets by splice(2), and what the tests of them share.

use crate::daemon::binary;
use crate::room::{Made, Room};
use crate::traffic::{Again, endless};
use crate::{fast, run, skip};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// Where the program under test listens.
pub const PORT: u16 = 7001;

/// A program that ends with this value.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts it without input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let line = run::line(&command);
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{line}: {e}")))
    }

    /// As [`Program::start`], and waits until it listens on [`PORT`].
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn serve(room: &Room, command: Command) -> Self {
        let program = Self::start(command);
        room.wait_port("tcp", PORT);
        program
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A room whose daemon uses the fast path in `auto`.
///
/// # Errors
/// Why it does not.
///
/// # Panics
/// As [`Room::alone`].
#[track_caller]
pub fn room() -> Result<Room, String> {
    skip::in_box()?;
    let room = Room::alone();
    fast::available(&room)?;
    let summary = room.status()["fastpath"]["summary"].to_string();
    if summary.contains("auto: yes") { Ok(room) } else { Err(format!("auto does not use the fast path here: {summary}")) }
}

/// A segment to [`PORT`].
///
/// # Panics
/// As [`Room::create`].
#[track_caller]
pub fn create(room: &Room, options: &str) -> Made {
    room.create(&format!("{options} url :7000 tail url 127.0.0.1:{PORT}"))
}

/// A copy of `program` under another name, as it is run in the room.
///
/// # Panics
/// When it cannot be copied.
#[track_caller]
pub fn renamed(room: &Room, program: &Path, name: &str) -> Command {
    let copy = room.daemon.dir().join(name);
    std::fs::copy(program, &copy).unwrap_or_else(|e| panic!("copying {}: {e}", program.display()));
    room.netns.command(&copy.to_string_lossy())
}

/// Our own program that splices, under another name. `words`: `serve` or `connect`, and `waiting`, `polling` or `edges`.
///
/// # Errors
/// When it was not built.
pub fn splicer(room: &Room, name: &str, words: [&str; 2], addr: &str) -> Result<Command, String> {
    let program = binary("wormhole-splicer").map_err(|e| format!("{e:#}"))?;
    let mut command = renamed(room, &program, name);
    command.args(words).arg(addr);
    Ok(command)
}

/// True when `auto` keeps the executable off.
pub fn is_spared(room: &Room, exe: &str) -> bool {
    room.status()["fastpath"]["off_for"].as_array().is_some_and(|all| all.iter().any(|name| name == exe))
}

/// True when the kernel tells who uses splice(2).
pub fn tells(room: &Room) -> bool {
    fast::probe(room, "splice")
        .is_some_and(|probe| probe["detail"].as_str().is_some_and(|detail| detail.contains("is noticed, its bytes")))
}

/// Sends `len` bytes and reads them back, both at once.
///
/// # Errors
/// Of either direction; the reset, when that is what one of them saw.
///
/// # Panics
/// When other bytes come back.
pub fn both_ways(stream: &TcpStream, len: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let (mut stream, mut at) = (stream, 0);
            while at < len {
                let now = (len - at).min(100_003);
                stream.write_all(endless(at, now))?;
                at += now;
            }
            Ok(())
        });
        let (mut reader, mut at, mut buffer) = (stream, 0, vec![0; 1 << 16]);
        let read = loop {
            if at == len {
                break Ok(());
            }
            match Again(&mut reader).read(&mut buffer) {
                Ok(0) => break Err(io::Error::new(ErrorKind::UnexpectedEof, format!("a clean end after {at} bytes"))),
                Ok(got) => {
                    assert!(at + got <= len && buffer[..got] == *endless(at, got), "wrong bytes between {at} and {}", at + got);
                    at += got;
                }
                Err(error) => break Err(error),
            }
        };
        let sent: io::Result<()> = sender.join().unwrap();
        // Whoever was told of the reset first has taken it away from the other one.
        match (sent, read) {
            (Ok(()), read) => read,
            (Err(sent), Ok(())) => Err(sent),
            (Err(sent), Err(read)) => Err(if is_reset(&sent) { sent } else { read }),
        }
    })
}

/// True when the connection was reset.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
