//! Watches the system calls of a thread for a moment, by ptrace(2).
//!
//! Only of a thread that runs in a circle around a socket which it does not empty; some hundred microseconds, and only if
//! nobody else traces it. It needs CAP_SYS_PTRACE, which the daemon has for /proc.

use super::proof::is_socket;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::time::{Duration, Instant};

/// Stops that are looked at: two for each system call.
const STOPS: u32 = 400;
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

/// True when the thread reads the socket by splice(2) and gets EAGAIN. False when that cannot be seen.
pub fn splices(pid: u32, tid: u32, inode: u64) -> bool {
    // On a thread that ends: with its end the kernel lets go of what it traces, whatever state that is in.
    let watching = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(pid, tid, inode));
    watching.is_ok_and(|thread| thread.join().is_ok_and(|seen| seen.unwrap_or(false)))
}

fn watch(pid: u32, tid: u32, inode: u64) -> Option<bool> {
    let tid = Pid::from_raw(tid.cast_signed())?;
    let began = Instant::now();
    request(libc::PTRACE_SEIZE, tid, 0, OPTIONS)?;
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
    let mut asked = false;
    for _ in 0..STOPS {
        let status = stop(tid, began)?;
        let mut signal = 0;
        match status >> 8 {
            SYSCALL_STOP => {
                let info = info(tid)?;
                if info.op == EXIT && asked && info.words[0].cast_signed() == -i64::from(libc::EAGAIN) {
                    return Some(true);
                }
                let [call, fd, ..] = info.words;
                asked = info.op == ENTRY && call == libc::SYS_splice.cast_unsigned() && is_socket(pid, fd, inode);
            }
            // A signal of its own; it gets it.
            own if own >> 8 == 0 => signal = own,
            // The stop that was asked for, or one for all threads: both say so in the upper half, and the latter does not
            // run in a circle.
            event if event & 0xff != libc::SIGTRAP => return Some(false),
            _ => {}
        }
        request(libc::PTRACE_SYSCALL, tid, 0, signal.into())?;
    }
    Some(false)
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
    // SAFETY: numbers, or for GET_SYSCALL_INFO the address and the size of memory that lives over the call.
    let done = unsafe { libc::ptrace(what, tid.as_raw_nonzero().get(), addr, data) };
    (done >= 0).then_some(())
}
