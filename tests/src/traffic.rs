//! Sockets in other namespaces, servers that answer in them, and bytes that can be told from each other.

use crate::kernel::Ns;
use crate::wait::patient;
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long one read or write may take before the test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Does `work` inside a namespace, on a thread that is thrown away. Sockets made there may be used anywhere.
///
/// # Errors
/// When the namespace is gone, and what `work` says.
pub fn inside<T: Send>(ns: &Ns, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    let path = match ns {
        Ns::Own => return Ok(work()?),
        Ns::Pid(pid) => format!("/proc/{pid}/ns/net"),
        Ns::Named(name) => format!("/run/netns/{name}"),
    };
    let file = std::fs::File::open(&path).with_context(|| format!("cannot open {path}"))?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        });
        match worker.join() {
            Ok(result) => Ok(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Listens in `ns`.
///
/// # Panics
/// When it cannot.
#[track_caller]
pub fn listen(ns: &Ns, addr: &str) -> TcpListener {
    inside(ns, || TcpListener::bind(addr)).unwrap_or_else(|e| panic!("cannot listen on {addr} in {ns:?}: {e:#}"))
}

/// Connects from inside `ns`.
///
/// # Errors
/// The kernel's answer.
pub fn connect(ns: &Ns, addr: SocketAddr) -> Result<TcpStream> {
    let stream = inside(ns, || TcpStream::connect(addr))?;
    stream.patience(PATIENCE)?;
    Ok(stream)
}

/// A UDP socket in `ns`.
///
/// # Panics
/// When it cannot be made.
#[track_caller]
pub fn udp(ns: &Ns, addr: &str) -> UdpSocket {
    let socket = inside(ns, || UdpSocket::bind(addr)).unwrap_or_else(|e| panic!("cannot bind {addr} in {ns:?}: {e:#}"));
    socket.set_read_timeout(Some(patient(PATIENCE))).expect("a timeout");
    socket
}

/// Answers every connection to `listener` with `answer`, each on a thread of its own, until the process ends.
pub fn serve<S: Stream>(listener: impl Listener<S> + Send + 'static, answer: impl Fn(S) + Clone + Send + 'static) {
    std::thread::spawn(move || {
        while let Ok(stream) = listener.next() {
            let answer = answer.clone();
            std::thread::spawn(move || answer(stream));
        }
    });
}

/// Serves a TCP port that sends everything back; gives its address.
///
/// # Panics
/// When it cannot listen.
#[track_caller]
pub fn echo(ns: &Ns, addr: &str) -> SocketAddr {
    let listener = listen(ns, addr);
    let addr = listener.local_addr().expect("an address");
    serve(listener, |stream: TcpStream| send_back(stream));
    addr
}

/// Serves a unix socket that sends everything back.
///
/// # Panics
/// When it cannot listen.
#[track_caller]
pub fn echo_unix(path: &Path) {
    let listener = UnixListener::bind(path).unwrap_or_else(|e| panic!("cannot listen on {}: {e}", path.display()));
    serve(listener, |stream: UnixStream| send_back(stream));
}

/// Serves a UDP port that sends every datagram back.
///
/// # Panics
/// When it cannot be bound.
#[track_caller]
pub fn echo_udp(ns: &Ns, addr: &str) -> SocketAddr {
    let socket = udp(ns, addr);
    socket.set_read_timeout(None).expect("no timeout");
    let addr = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            // An ICMP error about an answer is reported here and ends nothing.
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        }
    });
    addr
}

fn send_back<S: Stream>(mut stream: S) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                if stream.write_all(&buffer[..len]).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    let _ = stream.end();
}

/// Sends `word` and expects it back.
///
/// # Errors
/// When something else comes back, or nothing.
pub fn ask<S: Stream>(stream: &mut S, word: &str) -> Result<()> {
    stream.write_all(word.as_bytes())?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    anyhow::ensure!(back == word.as_bytes(), "sent {word:?}, got {:?}", String::from_utf8_lossy(&back));
    Ok(())
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Cleanly, by FIN.
    Eof,
    /// By a reset.
    Reset,
}

/// Reads until the stream ends; gives what came and how it ended. A read that the kernel breaks off before its time is
/// tried again: on the fast path, whatever wakes a reader without data for it does that, such as the other side's reset.
///
/// # Panics
/// When it does not end within [`PATIENCE`].
#[track_caller]
pub fn drain<S: Stream>(stream: &mut S) -> (Vec<u8>, End) {
    let (mut all, began) = (Vec::new(), Instant::now());
    loop {
        match stream.read_to_end(&mut all) {
            Ok(_) => return (all, End::Eof),
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return (all, End::Reset),
            Err(e) if e.kind() == ErrorKind::WouldBlock && began.elapsed() < PATIENCE / 2 => {}
            Err(e) => panic!("after {} bytes and {:?} neither the end nor a reset: {e}", all.len(), began.elapsed()),
        }
    }
}

/// Reads, and reads again where the kernel broke a read off before its time: on the fast path whatever wakes a reader
/// without data for it does that, such as a reset, or the other side's word that it has seen the end of what was sent.
pub struct Again<'a, S>(pub &'a mut S);

impl<S: Read> Read for Again<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock && began.elapsed() < PATIENCE / 2 => {}
                done => return done,
            }
        }
    }
}

/// Ends a connection with a reset.
///
/// # Panics
/// When the socket refuses the option.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    drop(stream);
}

/// What TCP and unix streams have in common.
pub trait Stream: Read + Write + Send + Sized + 'static {
    /// No more will be sent.
    ///
    /// # Errors
    /// The kernel's answer.
    fn end(&self) -> io::Result<()>;
    /// A second handle on the same stream.
    ///
    /// # Errors
    /// The kernel's answer.
    fn twin(&self) -> io::Result<Self>;
    /// Fails instead of hanging. On a slow machine the time is stretched.
    ///
    /// # Errors
    /// The kernel's answer.
    fn patience(&self, timeout: Duration) -> io::Result<()>;
    /// From now on, closing it is a reset; a unix socket knows none.
    ///
    /// # Errors
    /// The kernel's answer.
    fn vanish(&self) -> io::Result<()>;
}

/// What both kinds of listener have in common.
pub trait Listener<S> {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// The kernel's answer.
    fn next(&self) -> io::Result<S>;
}

impl Listener<TcpStream> for TcpListener {
    fn next(&self) -> io::Result<TcpStream> {
        self.accept().map(|(stream, _)| stream)
    }
}

impl Listener<UnixStream> for UnixListener {
    fn next(&self) -> io::Result<UnixStream> {
        self.accept().map(|(stream, _)| stream)
    }
}

impl Stream for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn patience(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patient(timeout)))?;
        self.set_write_timeout(Some(patient(timeout)))
    }
    fn vanish(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }
}

impl Stream for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn patience(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patient(timeout)))?;
        self.set_write_timeout(Some(patient(timeout)))
    }
    fn vanish(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A generator of random numbers whose whole course follows from its seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A size from 0 to `most`, as likely between 1 and 2 as between 1 MiB and 2 MiB; one in twenty is 0.
    pub fn size(&mut self, most: u64) -> usize {
        if self.one_in(20) {
            return 0;
        }
        let bits = self.below(u64::from(u64::BITS - most.leading_zeros()) + 1);
        let size = (1_u64 << bits) + self.below(1 << bits);
        usize::try_from(size.min(most)).unwrap_or(usize::MAX)
    }
}

/// The largest message.
pub const LARGEST: usize = 6 << 20;

/// `len` random bytes that differ with `start`, out of one long random text.
///
/// # Panics
/// When `len` is more than [`LARGEST`].
pub fn bytes(start: u64, len: usize) -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    // Every start below 64 Ki gives other bytes at every place.
    let text = TEXT.get_or_init(|| {
        let mut random = Random::new(1);
        (0..(LARGEST + (1 << 16)) / 8 + 1).flat_map(|_| random.draw().to_ne_bytes()).collect()
    });
    let start = usize::try_from(start % (1 << 16)).unwrap_or(0);
    &text[start..start + len]
}

/// `len` bytes from place `at` on of an endless stream, which repeats itself after a prime number of bytes.
///
/// # Panics
/// When `len` is more than [`LARGEST`].
pub fn endless(at: usize, len: usize) -> &'static [u8] {
    const PERIOD: usize = 1_048_573;
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    let text = TEXT.get_or_init(|| bytes(0, PERIOD).iter().copied().cycle().take(PERIOD + LARGEST).collect());
    &text[at % PERIOD..at % PERIOD + len]
}
