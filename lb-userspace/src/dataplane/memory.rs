//! Arrays of u64s (slots, VIPs), mapped into our memory.

#![expect(unsafe_code, reason = "maps a map into our memory")]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mmap-able array of u64s, shared with the kernel: one load or store is one packet's view.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<AtomicU64>,
    len: usize,
    /// Words that were replaced from here.
    changes: AtomicU64,
}

// SAFETY: the mapping is shared memory of atomics; it belongs to no thread.
unsafe impl Send for Memory {}
// SAFETY: as above; all access is atomic.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the whole of an array map of `len` u64s.
    pub(super) fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is there.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len * size_of::<u64>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let changes = AtomicU64::new(0);
        Ok(Self { start, len, changes })
    }

    /// Memory of our own, for what is tested without a map.
    #[cfg(test)]
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: as in `map`.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len * size_of::<u64>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let changes = AtomicU64::new(0);
        Ok(Self { start, len, changes })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the kernel mapped `len` u64s at `start`, page-aligned, until `drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The word at `index`.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.words()[index].load(Ordering::Relaxed)
    }

    /// Replaces the word at `index`, if it is another one.
    pub(super) fn store(&self, index: usize, value: u64) -> bool {
        let word = &self.words()[index];
        let differs = word.load(Ordering::Relaxed) != value;
        if differs {
            // What the word will name was written before.
            word.store(value, Ordering::Release);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        differs
    }

    /// Replaces the word at `index` if it still is `before`. Whether it was.
    pub(super) fn swap(&self, index: usize, before: u64, after: u64) -> bool {
        if before == after {
            return self.load(index) == before;
        }
        let word = &self.words()[index];
        let done = word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed);
        self.changes.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
        done.is_ok()
    }

    /// How often a word was replaced by another one from here.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference to it outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len * size_of::<u64>()) };
    }
}
