//! What a device may write, read from guest memory a second time and more
//! simply than the device does: every byte that any writable descriptor
//! covers, and the used rings. Everything else has to stay as it is.

use crate::RAM;
use crate::driver::{Driver, INDIRECT, WRITE};

/// Which bytes of low memory may change.
#[derive(Default)]
pub struct Allowed {
    /// From first to past the last.
    ranges: Vec<(usize, usize)>,
    /// Where descriptors were found.
    tables: Vec<(usize, usize)>,
}

/// The part of `addr..addr + len` that is low memory.
fn low(addr: u64, len: u64) -> (usize, usize) {
    let end = addr.saturating_add(len).min(RAM as u64) as usize;
    (addr.min(RAM as u64) as usize, end)
}

fn number(memory: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = memory.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}

impl Allowed {
    /// Allows `addr..addr + len`, as far as it is low memory.
    pub fn range(&mut self, addr: u64, len: u64) {
        self.ranges.push(low(addr, len));
    }

    /// Allows what a queue of `driver` lets its device write: the used ring
    /// and the writable buffers of every descriptor, offered or not.
    pub fn queue(&mut self, memory: &[u8], driver: &Driver<'_>) {
        self.used_ring(driver.used, driver.size);
        self.table(memory, driver.descriptors, driver.size, true);
    }

    /// Allows a used ring.
    pub fn used_ring(&mut self, at: u64, size: u16) {
        self.range(at, 6 + 8 * u64::from(size));
    }

    fn table(&mut self, memory: &[u8], at: u64, entries: u16, follow: bool) {
        self.tables.push(low(at, 16 * u64::from(entries)));
        for i in 0..u64::from(entries) {
            let Some(at) = at.checked_add(16 * i).and_then(|at| usize::try_from(at).ok()) else {
                return;
            };
            let field = |offset, len| number(memory, at.checked_add(offset)?, len);
            let (Some(addr), Some(len), Some(flags)) = (field(0, 8), field(8, 4), field(12, 2))
            else {
                return;
            };
            let flags = flags as u16;
            if flags & INDIRECT != 0 && follow {
                let entries = (len / 16).min(1024) as u16;
                self.table(memory, addr, entries, false);
            } else if flags & WRITE != 0 {
                self.range(addr, len);
            }
        }
    }

    /// A guest that offers its own descriptors as buffers has the device write
    /// new ones, of which nothing was known before.
    fn writes_descriptors(&self) -> bool {
        let both = |(a, b): (&(usize, usize), &(usize, usize))| a.0 < b.1 && b.0 < a.1;
        let tables = |range| self.tables.iter().map(move |table| (range, table));
        self.ranges.iter().flat_map(tables).any(both)
    }

    /// Panics if a byte outside what is allowed differs.
    pub fn check(&self, before: &[u8], after: &[u8]) {
        const CHUNK: usize = 512;
        let chunks = before.chunks(CHUNK).zip(after.chunks(CHUNK));
        for (chunk, (old, new)) in chunks.enumerate() {
            if old == new {
                continue;
            }
            if self.writes_descriptors() {
                return;
            }
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                let at = chunk * CHUNK + i;
                let inside = |(start, end): &(usize, usize)| (*start..*end).contains(&at);
                assert!(
                    old == new || self.ranges.iter().any(inside),
                    "byte {at:#x} changed from {old:#x} to {new:#x}"
                );
            }
        }
    }
}
