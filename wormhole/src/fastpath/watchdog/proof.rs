//! The proof that somebody reads a socket by splice(2), from what its threads do.
//!
//! - One that waits in splice(2) is seen in /proc/PID/task/TID/syscall, with the descriptor that it reads from.
//! - One that does not wait is told again and again that there is something to read, and gets EAGAIN again and again. So
//!   it uses a lot of time. A thread that does so is watched for some system calls, and is guilty if one of them is a
//!   splice(2) from that socket that ends with EAGAIN.
//!
//! One that asks for edges (epoll with EPOLLET, as Go's runtime does) waits in silence, as a reader does that has stopped.
//! Nothing proves anything there.

use super::super::owners::{Holder, holders_of, socket_inode};
use super::super::{Pair, Role};
use super::trace;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How long threads that run are looked at.
const SAMPLE: Duration = Duration::from_millis(300);
/// One that used less than one in so many parts of that time does not run in a circle.
const BUSY: u32 = 4;

/// An application that has stood still.
#[derive(Debug)]
pub struct Suspect {
    /// Its connection.
    pub pair: Arc<Pair>,
    /// Which of the two.
    pub role: Role,
}

/// A thread that was running when it was looked at.
struct Running<'a> {
    suspect: &'a Suspect,
    inode: u64,
    exe: Arc<str>,
    pid: u32,
    tid: u32,
    ticks: u64,
}

/// What a thread does, as /proc/PID/task/TID/syscall shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It runs.
    Running,
    /// It waits in this system call with this first argument.
    Waiting(libc::c_long, u64),
    /// Something else.
    Unknown,
}

/// Those of the suspects that use splice(2) on their socket, and the executables that do.
pub fn search(suspects: &[Suspect]) -> Vec<(&Suspect, String)> {
    let (mut proven, mut running) = (Vec::new(), Vec::new());
    for suspect in suspects {
        let inode = u64::from(suspect.pair.inode(suspect.role));
        let holders = if inode == 0 { Vec::new() } else { holders_of(inode) };
        match holders.iter().find(|holder| waits(holder.pid, inode)) {
            Some(guilty) => proven.push((suspect, exe(guilty).to_string())),
            None => running.extend(holders.iter().flat_map(|holder| runs(suspect, inode, holder))),
        }
    }
    if !running.is_empty() {
        pause();
    }
    for Running { suspect, inode, exe, pid, tid, ticks } in running {
        let used = self::ticks(pid, tid).saturating_sub(ticks);
        let known = proven.iter().any(|(known, _)| std::ptr::eq(*known, suspect));
        // The queue is asked once more: a reader that goes on by now is none of ours.
        if !known && used >= enough() && trace::splices(pid, tid, inode) && suspect.pair.redirected(suspect.role) > 0 {
            proven.push((suspect, exe.to_string()));
        }
    }
    proven
}

#[expect(clippy::disallowed_methods, reason = "on a thread of the blocking pool, which carries no connection")]
fn pause() {
    std::thread::sleep(SAMPLE);
}

/// Clock ticks of a thread that has been busy for long enough.
fn enough() -> u64 {
    let sample = u64::try_from(SAMPLE.as_millis()).unwrap_or(u64::MAX);
    (rustix::param::clock_ticks_per_second() * sample / 1000 / u64::from(BUSY)).max(1)
}

fn exe(holder: &Holder) -> Arc<str> {
    holder.exe.clone().unwrap_or_default()
}

/// True when a thread of this process waits in splice(2) for bytes of the socket.
fn waits(pid: u32, inode: u64) -> bool {
    threads(pid).into_iter().any(|tid| match doing(pid, tid) {
        Doing::Waiting(libc::SYS_splice, fd) => is_socket(pid, fd, inode),
        _ => false,
    })
}

fn runs<'a>(suspect: &'a Suspect, inode: u64, holder: &Holder) -> Vec<Running<'a>> {
    let (pid, exe) = (holder.pid, exe(holder));
    let running = threads(pid).into_iter().filter(|tid| doing(pid, *tid) == Doing::Running);
    let note = |tid| Running { suspect, inode, exe: Arc::clone(&exe), pid, tid, ticks: ticks(pid, tid) };
    running.map(note).collect()
}

fn threads(pid: u32) -> Vec<u32> {
    // One that ends meanwhile has none.
    let all = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn doing(pid: u32, tid: u32) -> Doing {
    fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).map_or(Doing::Unknown, |text| parse(&text))
}

/// `running`, or the number of a system call and its arguments, or `-1` and no arguments outside of one.
fn parse(text: &str) -> Doing {
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some("running"), None) => Doing::Running,
        (Some(call), Some(first)) => {
            let first = first.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            call.parse().ok().zip(first).map_or(Doing::Unknown, |(call, first)| Doing::Waiting(call, first))
        }
        _ => Doing::Unknown,
    }
}

/// True when descriptor `fd` of this process is the socket.
pub(super) fn is_socket(pid: u32, fd: u64, inode: u64) -> bool {
    // An int, of which a caller may leave anything in the upper half.
    let fd = fd & u64::from(u32::MAX);
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|link| socket_inode(&link) == Some(inode))
}

/// Time that a thread has used, in clock ticks.
fn ticks(pid: u32, tid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok().and_then(|stat| used(&stat)).unwrap_or_default()
}

/// Of a line of stat(5): user and system time. The name before them is in parentheses and may hold anything.
fn used(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()?.saturating_add(next()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::pipe::SpliceFlags;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    #[test]
    fn what_a_thread_does_is_read() {
        assert_eq!(parse("running\n"), Doing::Running);
        let line = "275 0x5 0x0 0x7 0x0 0x10000 0x3 0x7ffc 0x7f51\n";
        assert_eq!(parse(line), Doing::Waiting(275, 5));
        for other in ["", "-1 0x7ffc56ea82f8 0x7f51c5adb2ad", "275", "275 5", "x 0x5", "275 0x"] {
            assert!(!matches!(parse(other), Doing::Running | Doing::Waiting(275, _)), "{other}");
        }
    }

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "7 (a) b) R 1 2 3 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 6 7";
        assert_eq!(used(stat), Some(42));
        assert_eq!(used("7 (a) R 1"), None);
    }

    fn pair() -> (TcpStream, TcpStream, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let inode = socket_inode(&fs::read_link(format!("/proc/self/fd/{}", far.as_raw_fd())).unwrap()).unwrap();
        (near, far, inode)
    }

    fn until(mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[test]
    fn whoever_waits_in_splice_is_seen_and_whoever_waits_in_read_is_not() {
        let me = std::process::id();
        let (near, far, inode) = pair();
        let (twin, other) = (near.try_clone().unwrap(), pair());
        let (into, out) = channel();
        let splicing = std::thread::spawn(move || {
            let (_from, to) = rustix::pipe::pipe().unwrap();
            into.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
            rustix::pipe::splice(&far, None, &to, None, 1, SpliceFlags::empty()).unwrap()
        });
        let tid = out.recv().unwrap();
        until(|| matches!(doing(me, tid), Doing::Waiting(libc::SYS_splice, _)));
        assert!(waits(me, inode));
        assert!(!waits(me, other.2));
        rustix::net::send(&twin, b"x", rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(splicing.join().unwrap(), 1);

        let (near, far, inode) = other.0.try_clone().map(|near| (near, other.1, other.2)).unwrap();
        let (into, out) = channel();
        let reading = std::thread::spawn(move || {
            into.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
            rustix::net::recv(&far, &mut [0u8; 1][..], rustix::net::RecvFlags::empty()).unwrap();
        });
        let tid = out.recv().unwrap();
        until(|| matches!(doing(me, tid), Doing::Waiting(..)));
        assert!(!waits(me, inode));
        rustix::net::send(&near, b"x", rustix::net::SendFlags::empty()).unwrap();
        reading.join().unwrap();
    }
}
