//! The slots of all connections, in memory that is shared with the programs.

use super::mapped::Mapped;
use rustix::fd::AsFd;
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use wormhole_common::{LEFT, OFF_ALONE, OFF_RING, Slot, SlotSide};

/// The array of slots.
#[derive(Debug)]
pub struct Slots(Mapped<Slot>);

impl Slots {
    /// Maps `count` slots of the map `fd`.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn map(fd: impl AsFd, count: u32) -> io::Result<Self> {
        Mapped::new(fd, count).map(Self)
    }

    /// One end of a connection; none for an index that is out of range.
    pub fn side(&self, index: u32, side: usize) -> Option<Side<'_>> {
        let slot = self.0.at(index).filter(|_| side < 2)?;
        // SAFETY: within the mapping, which lives as long as `self`. No reference is made of it, only a field's address.
        let at = unsafe { &raw mut (*slot).sides[side] };
        Some(Side { at, slots: std::marker::PhantomData })
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
    field!(manner: AtomicU8, u8, Relaxed, "How this side sends: `SEVERAL`, `RINGS`, and `GATHERS` or `ENDS`.");
    field!(hops: AtomicU32, u32, Acquire, "Segments before the last one of a chain.");
    field!(direct_bytes: AtomicU64, u64, Relaxed, "Bytes that went straight to the other side.");

    /// True when the application's socket leaves the map, or has left it: nothing more is put into its queue.
    pub fn has_left(self) -> bool {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at).queued) }.load(Acquire) & LEFT != 0
    }

    /// Tells the program how many bytes of this side have been put into the other's queue.
    pub fn publish(self, injected: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at).injected) }.store(injected, Release);
    }

    /// Nothing is being put into this side's queue any more.
    pub fn leaves_door(self) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.at).door) }.store(0, Release);
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
