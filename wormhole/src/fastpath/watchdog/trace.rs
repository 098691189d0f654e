//! Watches the system calls of a thread for a moment, by ptrace(2).
//!
//! Only of a thread that uses a lot of time in a process that holds a socket which it does not empty; some milliseconds at
//! most, and only if nobody else traces it. It needs CAP_SYS_PTRACE, which the daemon has for /proc.

use super::proof::socket_at;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Stops that are looked at: two for each system call.
const STOPS: u32 = 200;
/// How long it may take. A thread that only computes makes no system calls, and is not waited for.
const MOST: Duration = Duration::from_millis(50);

/// `PTRACE_O_TRACESYSGOOD`: stops at system calls can be told from signals.
const OPTIONS: libc::c_long = 1;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;

/// `struct ptrace_syscall_info` (linux/ptrace.h, Linux 5.3), with the two that are asked for as numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    /// At the entry: number and arguments. At the exit: the value.
    words: [u64; 7],
}

/// Those of `sockets` that the thread reads by splice(2) and gets EAGAIN for. None when that cannot be seen.
pub fn splices(pid: u32, tid: u32, sockets: &BTreeSet<u64>) -> BTreeSet<u64> {
    // On a thread that ends: with its end the kernel lets go of what it traces, whatever state that is in.
    std::thread::scope(|scope| {
        let watching = std::thread::Builder::new().name("watchdog".to_owned()).spawn_scoped(scope, || {
            let mut found = BTreeSet::new();
            // What was seen until the kernel refused stands.
            let _ = watch(pid, tid, sockets, &mut found);
            found
        });
        watching.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
    })
}

fn watch(pid: u32, tid: u32, sockets: &BTreeSet<u64>, found: &mut BTreeSet<u64>) -> Option<()> {
    let tid = Pid::from_raw(tid.cast_signed())?;
    let began = Instant::now();
    request(libc::PTRACE_SEIZE, tid, 0, OPTIONS)?;
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
    let mut asked = None;
    for _ in 0..STOPS {
        let status = stop(tid, began)?;
        let mut signal = 0;
        match status >> 8 {
            SYSCALL_STOP => {
                let Info { op, words: [first, second, ..], .. } = info(tid)?;
                if op == EXIT && first.cast_signed() == -i64::from(libc::EAGAIN) {
                    found.extend(asked);
                    if found.len() == sockets.len() {
                        return Some(());
                    }
                }
                let splices = op == ENTRY && first == libc::SYS_splice.cast_unsigned();
                asked = if splices { socket_at(pid, second).filter(|inode| sockets.contains(inode)) } else { None };
            }
            // A signal of its own; it gets it.
            own if own >> 8 == 0 => signal = own,
            // The stop that was asked for, or one of the whole process, and then it runs in no circle: both say what they are
            // in the upper half.
            event if event & 0xff != libc::SIGTRAP => return None,
            _ => {}
        }
        request(libc::PTRACE_SYSCALL, tid, 0, signal.into())?;
    }
    Some(())
}

/// Waits for the next stop, and gives the thread's status.
fn stop(tid: Pid, began: Instant) -> Option<i32> {
    while began.elapsed() < MOST {
        match waitpid(Some(tid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) if status.stopped() => return Some(status.as_raw()),
            Ok(None) => std::thread::yield_now(),
            _ => return None,
        }
    }
    None
}

fn info(tid: Pid) -> Option<Info> {
    let mut info = Info::default();
    let size = libc::c_long::try_from(size_of::<Info>()).ok()?;
    request(GET_SYSCALL_INFO, tid, size, &raw mut info as libc::c_long)?;
    Some(info)
}

/// None when the kernel refuses.
fn request(what: libc::c_uint, tid: Pid, addr: libc::c_long, data: libc::c_long) -> Option<()> {
    // SAFETY: numbers, or for GET_SYSCALL_INFO the size and the address of memory that lives over the call.
    let done = unsafe { libc::ptrace(what, tid.as_raw_nonzero().get(), addr, data) };
    (done >= 0).then_some(())
}
