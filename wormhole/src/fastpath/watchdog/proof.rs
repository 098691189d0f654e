//! The proof that somebody reads a socket by splice(2), from what its threads do.
//!
//! - One that waits in splice(2) is seen in /proc/PID/task/TID/syscall, with the descriptor that it reads from.
//! - One that does not wait is told again and again that there is something to read, and gets EAGAIN again and again. So
//!   it uses a lot of time. A thread that does so is watched for some system calls, and is guilty if one of them is a
//!   splice(2) from that socket that ends with EAGAIN.
//!
//! One that asks for edges (epoll with EPOLLET, as Go's runtime does) waits in silence, as a reader does that has stopped.
//! Nothing proves anything there.

use super::super::owners::{holders_of, socket_inode};
use super::trace;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// How long threads that run are looked at.
const SAMPLE: Duration = Duration::from_millis(300);
/// One that used less than one in so many parts of that time does not run in a circle.
const BUSY: u32 = 4;
/// So many threads of a process are watched at most, the busiest.
const WATCHED: usize = 4;

/// A process that holds sockets whose reader stands still.
#[derive(Debug, Default)]
struct Process {
    exe: Arc<str>,
    sockets: BTreeSet<u64>,
    /// Threads that were running, and the time that each had used.
    running: Vec<(u32, u64)>,
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

/// Those of these sockets, by inode, that somebody reads by splice(2), and the executable that does.
pub fn search(sockets: &BTreeSet<u64>) -> BTreeMap<u64, Arc<str>> {
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    for (socket, holders) in holders_of(sockets) {
        for holder in holders {
            let process = processes.entry(holder.pid).or_default();
            process.exe = holder.exe.unwrap_or_default();
            process.sockets.insert(socket);
        }
    }
    let mut guilty = BTreeMap::new();
    for (pid, process) in &mut processes {
        for tid in threads(*pid) {
            match doing(*pid, tid) {
                Doing::Waiting(libc::SYS_splice, fd) => {
                    let socket = socket_at(*pid, fd).filter(|inode| process.sockets.contains(inode));
                    guilty.extend(socket.map(|inode| (inode, Arc::clone(&process.exe))));
                }
                Doing::Running => process.running.push((tid, ticks(*pid, tid))),
                Doing::Waiting(..) | Doing::Unknown => {}
            }
        }
    }
    if processes.values().any(|process| !process.running.is_empty()) {
        pause();
    }
    for (pid, process) in processes {
        let used = |(tid, before): &(u32, u64)| (ticks(pid, *tid).saturating_sub(*before), *tid);
        let mut busy: Vec<(u64, u32)> = process.running.iter().map(used).filter(|(used, _)| *used >= enough()).collect();
        busy.sort_unstable_by(|a, b| b.cmp(a));
        for (_, tid) in busy.into_iter().take(WATCHED) {
            let found = trace::splices(pid, tid, &process.sockets);
            guilty.extend(found.into_iter().map(|inode| (inode, Arc::clone(&process.exe))));
        }
    }
    guilty
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

/// The inode of the socket that is descriptor `fd` of this process.
pub(super) fn socket_at(pid: u32, fd: u64) -> Option<u64> {
    // An int, of which a caller may leave anything in the upper half.
    let fd = fd & u64::from(u32::MAX);
    socket_inode(&fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?)
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
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    use rustix::pipe::{SpliceFlags, pipe, splice};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::thread::JoinHandle;
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

    /// A socket, its inode, and a thread that does something with its other end.
    fn reader(read: impl FnOnce(TcpStream) + Send + 'static) -> (TcpStream, u64, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let inode = socket_at(std::process::id(), far.as_raw_fd().unsigned_abs().into()).unwrap();
        (near, inode, std::thread::spawn(move || read(far)))
    }

    #[test]
    fn whoever_waits_in_splice_is_guilty_and_whoever_waits_in_read_is_not() {
        let splicing = reader(|far| {
            let (_out, into) = pipe().unwrap();
            splice(&far, None, &into, None, 1, SpliceFlags::empty()).unwrap();
        });
        let reading = reader(|far| assert_eq!(recv(&far, &mut [0u8; 1][..], RecvFlags::empty()).unwrap().1, 1));
        let sockets = BTreeSet::from([splicing.1, reading.1]);
        let began = Instant::now();
        let found = loop {
            let found = search(&sockets);
            if !found.is_empty() {
                break found;
            }
            assert!(began.elapsed() < Duration::from_secs(10));
        };
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [splicing.1]);
        let me = std::env::current_exe().unwrap();
        assert_eq!(found.values().next().map(|exe| &**exe), me.file_name().and_then(|name| name.to_str()));
        for (near, _, thread) in [splicing, reading] {
            send(&near, b"x", SendFlags::empty()).unwrap();
            thread.join().unwrap();
        }
        assert_eq!(search(&sockets).len(), 0);
    }
}
