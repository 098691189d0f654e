//! Arrays that the programs share with us as memory (`BPF_F_MMAPABLE`, Linux 5.5).

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ptr::NonNull;

/// The elements of an array. Whoever reads or writes them does so atomically, field by field.
#[derive(Debug)]
pub struct Mapped<T> {
    memory: NonNull<T>,
    count: u32,
}

// SAFETY: the memory is shared with the kernel anyway; every access is atomic.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps `count` elements of the map `fd`, which has so many and of this size.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn new(fd: impl AsFd, count: u32) -> io::Result<Self> {
        let (length, flags) = (count as usize * size_of::<T>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let memory = unsafe { mmap(std::ptr::null_mut(), length, flags, MapFlags::SHARED, fd, 0) }?;
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, count })
    }

    /// Where an element is, which it is for as long as `self` lives; none for an index that is out of range.
    pub fn at(&self, index: u32) -> Option<*mut T> {
        // SAFETY: within the mapping. No reference is made of it.
        (index < self.count).then(|| unsafe { self.memory.add(index as usize) }.as_ptr())
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nobody refers to it any more.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.count as usize * size_of::<T>()) };
    }
}
