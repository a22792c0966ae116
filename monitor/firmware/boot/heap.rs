//! The firmware's heap: blocks of powers of two, each kept for the next of its
//! size when it is given back. All of it is gone when a kernel is entered.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

/// Blocks are of `1 << class` bytes, from 16.
const CLASSES: usize = 32;
const SMALLEST: u32 = 4;

struct Heap {
    /// First free block of each size, 0 if there is none; a free block begins
    /// with the address of the next one.
    free: [AtomicU64; CLASSES],
    /// What has never been used.
    fresh: AtomicU64,
    end: AtomicU64,
}

#[global_allocator]
static HEAP: Heap = Heap {
    free: [const { AtomicU64::new(0) }; CLASSES],
    fresh: AtomicU64::new(0),
    end: AtomicU64::new(0),
};

/// Gives the heap its memory: `len` bytes from `start`, a multiple of 4096.
pub fn give(start: u64, len: u64) {
    HEAP.fresh.store(start, Ordering::Relaxed);
    HEAP.end.store(start + len, Ordering::Relaxed);
}

/// The size class of a block, and bytes of it.
fn class(layout: Layout) -> (usize, u64) {
    let size = layout.size().max(layout.align()).max(1 << SMALLEST);
    let size = size.next_power_of_two();
    (size.trailing_zeros() as usize, size as u64)
}

// SAFETY: a block is in one owner's hands or in the list of its size, never in
// both; there is one CPU and no interrupt. Every block is aligned to its size
// or to a page, which no layout in here exceeds.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (class, size) = class(layout);
        let Some(list) = self.free.get(class) else {
            return null_mut();
        };
        let first = list.load(Ordering::Relaxed);
        if first != 0 {
            // SAFETY: a free block of at least 16 bytes, aligned to 8.
            let next = unsafe { *(first as *const u64) };
            list.store(next, Ordering::Relaxed);
            return first as *mut u8;
        }
        let start = self.fresh.load(Ordering::Relaxed);
        let start = start.next_multiple_of(size.min(4096));
        if start + size > self.end.load(Ordering::Relaxed) {
            return null_mut();
        }
        self.fresh.store(start + size, Ordering::Relaxed);
        start as *mut u8
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (class, _) = class(layout);
        if let Some(list) = self.free.get(class) {
            // SAFETY: the block is at least 16 bytes, aligned to 8, and nobody's.
            unsafe { *block.cast::<u64>() = list.load(Ordering::Relaxed) };
            list.store(block as u64, Ordering::Relaxed);
        }
    }
}
