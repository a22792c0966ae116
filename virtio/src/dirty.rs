//! Which pages of guest memory devices may have written to, for whoever saves
//! only what has changed. A VM that nobody saves so has none of this.

use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{Address as _, GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::Memory;

const PAGE: u64 = 4096;

/// A bit for each page: all regions one after the other, each from a new word.
#[derive(Debug)]
pub struct Dirty {
    /// Address and bytes of a region, and its first word.
    regions: Vec<(u64, u64, usize)>,
    words: Vec<AtomicU64>,
}

impl Dirty {
    /// Nothing has been written to.
    #[must_use]
    pub fn new(mem: &Memory) -> Self {
        let (mut regions, mut words) = (Vec::new(), Vec::new());
        for region in mem.iter() {
            let start = region.start_addr().raw_value();
            regions.push((start, region.len(), words.len()));
            // As many words as its address space has room for.
            let count = region.len().div_ceil(PAGE * 64) as usize;
            words.resize_with(words.len() + count, AtomicU64::default);
        }
        Self { regions, words }
    }

    /// Notes that bytes may be written to; those that are no RAM are left out.
    pub fn mark(&self, addr: u64, len: u64) {
        let end = addr.saturating_add(len);
        for &(start, size, first) in &self.regions {
            let (from, to) = (addr.max(start), end.min(start + size));
            if from >= to {
                continue;
            }
            for page in (from - start) / PAGE..=(to - 1 - start) / PAGE {
                if let Some(word) = self.words.get(first + (page / 64) as usize) {
                    word.fetch_or(1 << (page % 64), Ordering::Relaxed);
                }
            }
        }
    }

    /// Adds what was noted to `all`, which has as many words, and forgets it.
    pub fn take_into(&self, all: &mut [u64]) {
        for (to, word) in all.iter_mut().zip(&self.words) {
            *to |= word.swap(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;

    #[test]
    fn a_bit_for_each_page_that_a_range_touches() {
        // 66 pages, and 2 behind a hole.
        let ranges = [(0x1000, 66 << 12), (1 << 32, 2 << 12)];
        let ranges = ranges.map(|(start, size)| (GuestAddress(start), size));
        let mem: Memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let dirty = Dirty::new(&mem);
        let take = || {
            let mut all = [0; 3];
            dirty.take_into(&mut all);
            all
        };
        assert_eq!(take(), [0; 3]);
        for (addr, len, marked) in [
            (0x1000, 1, [1, 0, 0]),
            (0x1fff, 2, [3, 0, 0]),
            (0x1000, 0, [0; 3]),
            (0, 0x1000, [0; 3]),
            (0, 0x1001, [1, 0, 0]),
            (64 << 12, 2 << 12, [1 << 63, 1, 0]),
            ((1 << 32) - 1, 1 << 20, [0, 0, 3]),
            ((1 << 32) + 0x1fff, u64::MAX, [0, 0, 2]),
            (0, u64::MAX, [u64::MAX, 3, 3]),
        ] {
            dirty.mark(addr, len);
            assert_eq!(take(), marked, "{addr:#x} {len:#x}");
        }
        assert_eq!(take(), [0; 3]);
    }
}
