//! Random conversations over a connection, which follow from a seed and a number alone, so that both ends know what has
//! to happen and every byte can be checked.
//!
//! The client's number goes ahead, eight bytes, as early data or, when the server speaks first, after its greeting.

use crate::traffic::{self, Again, PATIENCE, Random, Stream, bytes};
use std::io::{self, ErrorKind, Read};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// What a conversation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both send at once and end.
    Both,
    /// The server sends only after the client's end, the client reads on after its own.
    ClientFirst,
    /// The client sends only after the server's end.
    ServerFirst,
    /// One sends and ends, and then the other, in many small messages with a larger one or a pause now and then.
    Small,
    /// Questions and answers of random sizes, in turn.
    Turns,
    /// Several threads of each side write whole messages on one socket; each arrives in one piece.
    Threads,
    /// The same of the client's side alone, by threads that give way to everybody else in the midst of whatever they are at.
    LateThreads,
    /// One thread says that no more will be sent while another one waits for data.
    ShutWhileReading,
    /// The server closes without having read what it was sent: the client's connection is reset.
    Unread,
    /// One side vanishes in the middle of what it sends, with a reset: the other one sees its beginning and a reset.
    Vanish,
}

/// A plan for one connection.
#[derive(Debug)]
pub struct Plan {
    /// The connection's number.
    pub number: u64,
    /// What it is about.
    pub kind: Kind,
    /// What the client sends, after its number; for [`Kind::Turns`] cut into turns.
    pub to_server: &'static [u8],
    /// What the server sends.
    pub to_client: &'static [u8],
    random: Random,
}

/// Kinds with a clean end, whose bytes can be counted.
pub const CLEAN: &[Kind] = &[Kind::Both, Kind::ClientFirst, Kind::ServerFirst];
/// And those that ask more of the proxy.
pub const ALL: &[Kind] = &[
    Kind::Both,
    Kind::Both,
    Kind::Small,
    Kind::ClientFirst,
    Kind::ServerFirst,
    Kind::Turns,
    Kind::Turns,
    Kind::Threads,
    Kind::ShutWhileReading,
    Kind::Unread,
    Kind::Vanish,
];

/// Threads that write on one socket.
const WRITERS: u64 = 3;
/// What a message of [`Kind::Threads`] has in front: writer, serial number, length, each four bytes.
const HEADER: usize = 12;

impl Plan {
    /// The plan of connection `number`: one of `kinds`, and at most `largest` bytes each way.
    pub fn new(seed: u64, number: u64, kinds: &[Kind], largest: usize) -> Self {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x1234_5678_9ABC_DEF1));
        let largest = largest.min(traffic::LARGEST) as u64;
        let to_server = bytes(random.draw(), random.size(largest));
        let to_client = bytes(random.draw(), random.size(largest));
        let kind = kinds[usize::try_from(random.below(kinds.len() as u64)).unwrap_or(0)];
        Self { number, kind, to_server, to_client, random }
    }

    /// Bytes that this conversation carries to the server and to the client; none when nobody can say.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let (up, down) = (self.to_server.len() as u64 + 8, self.to_client.len() as u64);
        match self.kind {
            Kind::Unread | Kind::Vanish => None,
            Kind::Threads | Kind::LateThreads => {
                let framed = |side| (0..WRITERS).flat_map(|w| self.messages(side, w)).map(|m| m.len() as u64).sum::<u64>();
                Some((framed(0) + 8, framed(1)))
            }
            _ => Some((up, down)),
        }
    }

    /// The messages of one writer of one side.
    fn messages(&self, side: u64, writer: u64) -> Vec<Vec<u8>> {
        let mut random = Random::new(self.random.clone().draw() ^ side << 8 ^ writer);
        let count = match self.kind {
            Kind::LateThreads if side == 1 => 0,
            _ => random.below(40),
        };
        let message = |serial: u64| {
            // 64 KiB with its header: what TCP takes in one piece even from several threads.
            let len = random.size(65_536 - HEADER as u64);
            let mut message = Vec::with_capacity(HEADER + len);
            for word in [writer, serial, len as u64] {
                message.extend_from_slice(&u32::try_from(word).unwrap_or(u32::MAX).to_be_bytes());
            }
            message.extend_from_slice(bytes(writer * 1000 + serial, len));
            message
        };
        (0..count).map(message).collect()
    }
}

type Said = Result<(), String>;

/// The client's end of connection `plan.number`.
///
/// # Errors
/// What went wrong, and where.
pub fn client<S: Stream>(mut stream: S, plan: &Plan) -> Said {
    stream.patience(PATIENCE).map_err(|e| e.to_string())?;
    stream.write_all(&plan.number.to_be_bytes()).map_err(|e| format!("early data: {e}"))?;
    end(&mut stream, plan, 0, plan.to_server, plan.to_client)
        .map_err(|e| format!("client {} ({:?}): {e}", plan.number, plan.kind))
}

/// The server's end; `plan` makes the plan of a number.
///
/// # Errors
/// As [`client`].
pub fn server<S: Stream>(mut stream: S, plan: impl Fn(u64) -> Plan) -> Said {
    stream.patience(PATIENCE).map_err(|e| e.to_string())?;
    let mut number = [0; 8];
    Again(&mut stream).read_exact(&mut number).map_err(|e| format!("server: no number: {e}"))?;
    let plan = &plan(u64::from_be_bytes(number));
    end(&mut stream, plan, 1, plan.to_client, plan.to_server)
        .map_err(|e| format!("server {} ({:?}): {e}", plan.number, plan.kind))
}

/// One end. `side`: 0 is the client.
fn end<S: Stream>(stream: &mut S, plan: &Plan, side: u64, out: &[u8], back: &[u8]) -> Said {
    let mut random = Random::new(plan.random.clone().draw() ^ (side + 1));
    match plan.kind {
        Kind::Both => at_once(stream, out, back, &mut random),
        Kind::ClientFirst => in_turn(stream, side == 0, out, back, &mut random, send),
        Kind::ServerFirst => in_turn(stream, side == 1, out, back, &mut random, send),
        Kind::Small => in_turn(stream, plan.number % 2 == side, out, back, &mut random, send_small),
        Kind::Turns => turns(stream, plan, side, out, back),
        Kind::Threads | Kind::LateThreads => threads(stream, plan, side),
        Kind::ShutWhileReading => shut_while_reading(stream, out, back, &mut random),
        Kind::Unread => unread(stream, side, out, &mut random),
        Kind::Vanish => vanish(stream, plan, side, out, back, &mut random),
    }
}

/// Sends all of it in pieces of random sizes, with pauses.
fn send(stream: &mut impl Stream, data: &[u8], random: &mut Random) -> Said {
    pieces(stream, data, random).map_err(|e| format!("not all of {} bytes sent: {e}", data.len()))
}

/// Sends all of it in small messages.
fn send_small(stream: &mut impl Stream, data: &[u8], random: &mut Random) -> Said {
    let mut rest = data;
    while !rest.is_empty() {
        let most = if random.one_in(3000) { rest.len() as u64 } else { 300 };
        let (now, later) = rest.split_at(random.size(most).clamp(1, rest.len()));
        stream.write_all(now).map_err(|e| format!("not all of {} bytes sent, {} left: {e}", data.len(), rest.len()))?;
        rest = later;
        if random.one_in(3000) {
            thread::sleep(Duration::from_millis(random.below(8)));
        }
    }
    Ok(())
}

fn pieces(stream: &mut impl Stream, data: &[u8], random: &mut Random) -> io::Result<()> {
    let mut rest = data;
    while !rest.is_empty() {
        let piece = random.size(rest.len() as u64).clamp(1, rest.len());
        let (now, later) = rest.split_at(piece);
        stream.write_all(now)?;
        rest = later;
        if random.one_in(8) {
            thread::sleep(Duration::from_millis(random.below(8)));
        }
    }
    Ok(())
}

/// Reads to the end, at a random pace, and compares.
fn receive(stream: &mut impl Read, expected: &[u8], random: &mut Random) -> Said {
    match receive_some(stream, expected, random)? {
        (len, None) if len == expected.len() => Ok(()),
        (len, None) => Err(format!("the end after {len} of {} bytes", expected.len())),
        (len, Some(why)) => Err(format!("after {len} of {} bytes: {why}", expected.len())),
    }
}

/// Reads until the end or an error; gives how far it came.
fn receive_some(stream: &mut impl Read, expected: &[u8], random: &mut Random) -> Result<(usize, Option<ErrorKind>), String> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let want = random.size(256 * 1024).clamp(1, buffer.len());
        match stream.read(&mut buffer[..want]) {
            Ok(0) => return Ok((at, None)),
            Ok(len) if expected.get(at..at + len) == Some(&buffer[..len]) => at += len,
            Ok(len) => return Err(format!("wrong bytes between {at} and {} of {}", at + len, expected.len())),
            Err(e) => return Ok((at, Some(e.kind()))),
        }
        if random.one_in(16) {
            thread::sleep(Duration::from_millis(random.below(8)));
        }
    }
}

type Send<S> = fn(&mut S, &[u8], &mut Random) -> Said;

/// Sends and ends, and then receives; or the other way round.
fn in_turn<S: Stream>(stream: &mut S, first: bool, out: &[u8], back: &[u8], random: &mut Random, send: Send<S>) -> Said {
    if !first {
        receive(&mut Again(&mut *stream), back, random)?;
    }
    send(stream, out, random)?;
    stream.end().map_err(|e| format!("cannot end: {e}"))?;
    if first { receive(&mut Again(stream), back, random) } else { Ok(()) }
}

fn at_once<S: Stream>(stream: &mut S, out: &[u8], back: &[u8], random: &mut Random) -> Said {
    let (mut twin, mut sending) = (stream.twin().map_err(|e| e.to_string())?, Random::new(random.draw()));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            send(&mut twin, out, &mut sending)?;
            twin.end().map_err(|e| format!("cannot end: {e}"))
        });
        let received = receive(&mut Again(stream), back, random);
        join(sender).and(received)
    })
}

fn join(thread: thread::ScopedJoinHandle<'_, Said>) -> Said {
    thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))
}

/// What the client sends and what the server answers, cut at the same places by both.
fn turns<S: Stream>(stream: &mut S, plan: &Plan, side: u64, mut out: &[u8], mut back: &[u8]) -> Said {
    let mut cuts = Random::new(plan.random.clone().draw() ^ 99);
    let (mut up, mut down) = if side == 0 { (out.len(), back.len()) } else { (back.len(), out.len()) };
    while up > 0 || down > 0 {
        let (question, answer) = (cuts.size(up as u64).max(1).min(up), cuts.size(down as u64).max(1).min(down));
        (up, down) = (up - question, down - answer);
        let (mine, theirs) = if side == 0 { (question, answer) } else { (answer, question) };
        let (now, expected);
        ((now, out), (expected, back)) = (out.split_at(mine), back.split_at(theirs));
        let mut got = vec![0; theirs];
        if side == 0 {
            stream.write_all(now).map_err(|e| format!("question, {} left: {e}", out.len()))?;
        }
        Again(stream).read_exact(&mut got).map_err(|e| format!("{} more expected: {e}", back.len()))?;
        if got != expected {
            return Err(format!("wrong bytes, {} before the end", back.len()));
        }
        if side == 1 {
            stream.write_all(now).map_err(|e| format!("answer, {} left: {e}", out.len()))?;
        }
    }
    stream.end().map_err(|e| format!("cannot end: {e}"))?;
    receive(&mut Again(stream), &[], &mut cuts)
}

fn threads<S: Stream>(stream: &mut S, plan: &Plan, side: u64) -> Said {
    let twins: Result<Vec<S>, String> = (0..WRITERS).map(|_| stream.twin().map_err(|e| e.to_string())).collect();
    let left = &Mutex::new(WRITERS);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .zip(twins?)
            .map(|(writer, mut twin)| {
                scope.spawn(move || {
                    if plan.kind == Kind::LateThreads {
                        // On Linux that of the calling thread.
                        rustix::process::nice(19).map_err(|e| format!("nice: {e}"))?;
                    }
                    for message in plan.messages(side, writer) {
                        // One call: what it takes, it takes in one piece.
                        let taken = twin.write(&message).map_err(|e| format!("writer {writer}: {e}"))?;
                        if taken != message.len() {
                            return Err(format!("writer {writer}: {taken} of {} bytes taken", message.len()));
                        }
                    }
                    let mut left = left.lock().map_err(|e| e.to_string())?;
                    *left -= 1;
                    if *left == 0 { twin.end().map_err(|e| format!("cannot end: {e}")) } else { Ok(()) }
                })
            })
            .collect();
        let received = whole_messages(&mut Again(stream), plan, 1 - side);
        writers.into_iter().map(join).fold(received, Result::and)
    })
}

/// Reads messages of all writers of the other side, each whole and in its own order.
fn whole_messages(stream: &mut impl Read, plan: &Plan, from: u64) -> Said {
    let expected: Vec<Vec<Vec<u8>>> = (0..WRITERS).map(|writer| plan.messages(from, writer)).collect();
    let mut next = vec![0; expected.len()];
    let total: usize = expected.iter().map(Vec::len).sum();
    for number in 0..total {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).map_err(|e| format!("message {number} of {total}: {e}"))?;
        let [writer, serial, len] =
            [0, 4, 8].map(|at| header.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_be_bytes) as usize);
        let wanted = next.get(writer).and_then(|serial| expected.get(writer)?.get(*serial));
        let Some(wanted) = wanted.filter(|m| m.len() == HEADER + len && next.get(writer) == Some(&serial)) else {
            return Err(format!("message {number} of {total} begins with writer {writer}, serial {serial}, {len} bytes"));
        };
        let mut text = vec![0; len];
        stream.read_exact(&mut text).map_err(|e| format!("message {number} of {total}: {e}"))?;
        if wanted.get(HEADER..) != Some(&text[..]) {
            return Err(format!("message {serial} of writer {writer} is mixed with something else"));
        }
        next[writer] += 1;
    }
    receive(stream, &[], &mut Random::new(0))
}

/// A thread waits for data all the while; the socket says meanwhile that no more will be sent.
fn shut_while_reading<S: Stream>(stream: &mut S, out: &[u8], back: &[u8], random: &mut Random) -> Said {
    let mut twin = stream.twin().map_err(|e| e.to_string())?;
    let mut pace = Random::new(random.draw());
    thread::scope(|scope| {
        let (mut pause, expected) = (Random::new(random.draw()), back);
        let reader = scope.spawn(move || receive(&mut Again(&mut twin), expected, &mut pause));
        thread::sleep(Duration::from_millis(pace.below(3)));
        let sent = send(stream, out, random).and_then(|()| stream.end().map_err(|e| format!("cannot end: {e}")));
        sent.and(join(reader))
    })
}

/// The client sends and wants to know the end; the server closes as soon as there is something that it will not read.
fn unread<S: Stream>(stream: &mut S, side: u64, out: &[u8], random: &mut Random) -> Said {
    if side == 0 {
        // At least this is never read.
        let reset = |kind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        let sent = stream.write_all(b"never read").and_then(|()| pieces(stream, out, random));
        let end = receive_some(&mut Again(stream), &[], random)?;
        // Whoever is told first has taken the error away from the other one.
        let told = sent.as_ref().is_err_and(|e| reset(e.kind())) || end.1.is_some_and(reset);
        return if told { Ok(()) } else { Err(format!("no reset but {end:?}; sent: {sent:?}")) };
    }
    // One byte is read, so that the other nine are there.
    Again(stream).read_exact(&mut [0]).map_err(|e| format!("nothing to leave unread: {e}"))
}

/// One of the two is gone in the middle; which one follows from the number.
fn vanish<S: Stream>(stream: &mut S, plan: &Plan, side: u64, out: &[u8], back: &[u8], random: &mut Random) -> Said {
    // The other one has to be there, or nobody would see it.
    let mut there = [0];
    let met = if side == 0 { Again(stream).read_exact(&mut there) } else { stream.write_all(&there) };
    met.map_err(|e| format!("did not meet: {e}"))?;
    if plan.number % 2 == side {
        let some = usize::try_from(random.below(out.len() as u64 + 1)).unwrap_or(0);
        send(stream, &out[..some], random)?;
        return stream.vanish().map_err(|e| format!("cannot vanish: {e}"));
    }
    match receive_some(&mut Again(stream), back, random)? {
        (_, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)) => Ok(()),
        (len, end) => Err(format!("no reset after {len} of {} bytes but {end:?}", back.len())),
    }
}
