//! The slots of all connections, in memory that is shared with the programs (`BPF_F_MMAPABLE`, Linux 5.5).

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use wormhole_common::{LEFT, OFF_ALONE, OFF_RING, Slot, SlotSide};

/// The array of slots.
#[derive(Debug)]
pub struct Slots {
    memory: NonNull<Slot>,
    count: u32,
}

// SAFETY: the memory is shared with the kernel anyway; every access here is atomic.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps `count` slots of the map `fd`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn map(fd: impl AsFd, count: u32) -> io::Result<Self> {
        let (length, flags) = (count as usize * size_of::<Slot>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let memory = unsafe { mmap(std::ptr::null_mut(), length, flags, MapFlags::SHARED, fd, 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, count })
    }

    /// One end of a connection; none for an index that is out of range.
    pub fn side(&self, index: u32, side: usize) -> Option<Side<'_>> {
        if index >= self.count || side > 1 {
            return None;
        }
        // SAFETY: within the mapping, which lives as long as `self`. No reference is made of it, only fields' addresses.
        let at = unsafe { self.memory.add(index as usize) };
        // SAFETY: as above, a field.
        let at = unsafe { &raw mut (*at.as_ptr()).sides[side] };
        Some(Side { at, slots: std::marker::PhantomData })
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nobody refers to it any more.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.count as usize * size_of::<Slot>()) };
    }
}

/// A view of a [`SlotSide`].
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    at: *mut SlotSide,
    slots: std::marker::PhantomData<&'a Slots>,
}

macro_rules! field {
    ($name:ident: $atomic:ident, $type:ty, $order:expr, $doc:literal) => {
        #[doc = $doc]
        pub fn $name(self) -> $type {
            // SAFETY: an aligned field of the mapping; the programs access it whole.
            unsafe { $atomic::from_ptr(&raw mut (*self.at).$name) }.load($order)
        }
    };
}

impl Side<'_> {
    field!(enrolled: AtomicU8, u8, Acquire, "1 once the application's socket is enrolled.");
    field!(unread: AtomicU8, u8, Acquire, "1 when it was closed with bytes unread.");
    field!(spliced: AtomicU8, u8, Acquire, "1 when the application used splice(2) on it.");
    field!(off: AtomicU8, u8, Acquire, "Why nothing that this side sends goes direct any more; 0: it does.");
    field!(manner: AtomicU8, u8, Relaxed, "How this side sends: `SEVERAL`, and `GATHERS` or `ENDS`.");
    field!(hops: AtomicU32, u32, Acquire, "Segments before the last one of a chain.");
    field!(direct_bytes: AtomicU64, u64, Relaxed, "Bytes that went straight to the other side.");

    /// Tells the program how many bytes of this side have been put into the other's queue.
    pub fn publish(self, injected: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at).injected) }.store(injected, Release);
    }

    /// Says that the application used splice(2) on it. False when that was known.
    pub fn set_spliced(self) -> bool {
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.at).spliced) }.swap(1, Release) == 0
    }

    /// Says that the application sends by send(2) although it uses io_uring.
    pub fn set_files(self) {
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.at).files) }.store(1, Release);
    }

    /// Nothing more goes straight to the other side; `why` is one of the `OFF_` constants. The first reason stays.
    pub fn set_off(self, why: u8) {
        // SAFETY: as above.
        let _ = unsafe { AtomicU8::from_ptr(&raw mut (*self.at).off) }.compare_exchange(0, why, Release, Relaxed);
    }

    /// Nothing did before, because it sends by io_uring; now its socket has left the map.
    pub fn set_alone(self) {
        // SAFETY: as above.
        let _ = unsafe { AtomicU8::from_ptr(&raw mut (*self.at).off) }.compare_exchange(OFF_RING, OFF_ALONE, Release, Relaxed);
    }

    /// Says that the relay is at it on this cpu, or with `None` that it is not.
    pub fn set_mover(self, cpu: Option<usize>) {
        let mover = cpu.and_then(|cpu| u16::try_from(cpu + 1).ok()).unwrap_or_default();
        // SAFETY: as above.
        unsafe { AtomicU16::from_ptr(&raw mut (*self.at).mover) }.store(mover, Relaxed);
    }

    /// Lets nothing more be put into this side's redirected queue: what comes for it comes by TCP, and is read after it.
    pub fn shut(self) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at).queued) }.fetch_or(LEFT, AcqRel);
    }

    /// Begins the next use of the slot.
    pub fn retire(self) {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.at).generation) }.fetch_add(1, Release);
    }
}
