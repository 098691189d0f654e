//! Maps by the bpf(2) system call itself: aya's types want exclusive access for every change and know no
//! look-up-and-delete, and a relay thread does a handful of these for each connection.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::io;
use std::marker::PhantomData;

/// A type that a map's key or value may be made of.
///
/// # Safety
/// `#[repr(C)]`, every bit pattern is valid, no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: numbers and arrays of them.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for [u8; 32] {}
// SAFETY: see wormhole-common: numbers only, padding spelled out, a test holds the sizes.
unsafe impl Plain for wormhole_common::Tuple {}
// SAFETY: as above.
unsafe impl Plain for wormhole_common::Token {}
// SAFETY: as above.
unsafe impl Plain for wormhole_common::HeadPort {}
// SAFETY: as above.
unsafe impl Plain for wormhole_common::HeadAddr {}
// SAFETY: as above.
unsafe impl Plain for wormhole_common::Member {}

/// A map of keys `K` to values `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: OwnedFd,
    of: PhantomData<fn(K) -> V>,
}

/// `union bpf_attr` for the commands on elements (linux/bpf.h).
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const LOOKUP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
const DELETE: libc::c_long = 3;
const NEXT: libc::c_long = 4;
const TAKE: libc::c_long = 21;

impl<K: Plain, V: Plain> Table<K, V> {
    /// Takes a map's descriptor.
    ///
    /// # Safety
    /// The map's keys and values have the sizes of `K` and `V` (per-cpu maps: not for [`Table::get`]).
    pub unsafe fn new(fd: OwnedFd) -> Self {
        Self { fd, of: PhantomData }
    }

    /// # Safety
    /// `key` and `value` are null where the command allows it, or point to a `K` and a `V` that may be written.
    unsafe fn call(&self, command: libc::c_long, key: *const K, value: *mut V) -> io::Result<()> {
        let map_fd = self.fd.as_fd().as_raw_fd().unsigned_abs();
        let mut attr = Element { map_fd, pad: 0, key: key as u64, value: value as u64, flags: 0 };
        let size = size_of::<Element>();
        // SAFETY: the attribute is of the kernel's layout and lives over the call; the pointers in it are the caller's.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Writes an element.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn set(&self, key: &K, value: V) -> io::Result<()> {
        let mut value = value;
        // SAFETY: a key and a value.
        unsafe { self.call(UPDATE, key, &raw mut value) }
    }

    /// Reads an element.
    ///
    /// # Errors
    /// The kernel's answer; ENOENT when it is not there.
    pub fn get(&self, key: &K) -> io::Result<V> {
        let mut value = std::mem::MaybeUninit::<V>::zeroed();
        // SAFETY: a key and room for a value; zeros are a valid `Plain`.
        unsafe {
            self.call(LOOKUP, key, value.as_mut_ptr())?;
            Ok(value.assume_init())
        }
    }

    /// Removes an element and says what it was (Linux 5.14 for hashes).
    ///
    /// # Errors
    /// The kernel's answer; ENOENT when it is not there.
    pub fn take(&self, key: &K) -> io::Result<V> {
        let mut value = std::mem::MaybeUninit::<V>::zeroed();
        // SAFETY: as in `get`.
        unsafe {
            self.call(TAKE, key, value.as_mut_ptr())?;
            Ok(value.assume_init())
        }
    }

    /// Removes an element.
    ///
    /// # Errors
    /// The kernel's answer; ENOENT when it is not there.
    pub fn remove(&self, key: &K) -> io::Result<()> {
        // SAFETY: a key, and no value, which the command does not ask for.
        unsafe { self.call(DELETE, key, std::ptr::null_mut()) }
    }

    /// All keys, as far as they stay while one looks.
    pub fn keys(&self) -> Vec<K> {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = std::mem::MaybeUninit::<K>::zeroed();
            let from = keys.last().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: a key or none for the first one; the next key is written where a value would be.
            let found = unsafe { self.call(NEXT, from, next.as_mut_ptr().cast()) };
            if found.is_err() || keys.len() > 1 << 22 {
                return keys;
            }
            // SAFETY: the kernel has written it.
            keys.push(unsafe { next.assume_init() });
        }
    }
}

/// A program that answers a question: it is given a few words and returns a number.
#[derive(Debug)]
pub struct Question(OwnedFd);

/// `union bpf_attr` for `BPF_PROG_TEST_RUN` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Run {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

impl Question {
    /// Takes the descriptor of a raw tracepoint's program.
    pub fn new(program: OwnedFd) -> Self {
        Self(program)
    }

    /// Runs the program with these words as its context (Linux 5.10).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn ask(&self, words: &[u64]) -> io::Result<u32> {
        const TEST_RUN: libc::c_long = 10;
        let mut attr = Run {
            prog_fd: self.0.as_raw_fd().unsigned_abs(),
            ctx_size_in: u32::try_from(size_of_val(words)).map_err(|_| io::ErrorKind::InvalidInput)?,
            ctx_in: words.as_ptr() as u64,
            ..Run::default()
        };
        // SAFETY: the attribute is of the kernel's layout and lives over the call, and so do the words.
        let done = unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut attr, size_of::<Run>()) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attr.retval) }
    }
}

impl<V: Plain> Table<u32, V> {
    /// Puts an element at the end of a queue.
    ///
    /// # Errors
    /// The kernel's answer; E2BIG when it is full.
    pub fn push(&self, value: V) -> io::Result<()> {
        let mut value = value;
        // SAFETY: a queue has no key.
        unsafe { self.call(UPDATE, std::ptr::null(), &raw mut value) }
    }

    /// Reads all cpus' values of a per-cpu element, as a sum.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn sum(&self, key: u32, cpus: usize) -> io::Result<u64>
    where
        V: Into<u64>,
    {
        let mut values = vec![0u64; cpus];
        // SAFETY: the kernel writes 8 bytes a possible cpu.
        unsafe { self.call(LOOKUP, &raw const key, values.as_mut_ptr().cast())? };
        Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
    }
}
