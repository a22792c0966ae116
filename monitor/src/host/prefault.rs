//! Background work on guest memory.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use mote_virtio::Unpoisoned as _;
use vm_memory::{Bytes as _, GuestAddress};

use super::memory::{self, GuestRam};

/// What the guest will do with a range of mapped memory.
#[derive(Clone, Copy)]
pub(crate) enum Pages {
    /// Patch it, as Linux does its code.
    Text,
    /// Write to it.
    Written,
    /// Read it.
    Read,
}

/// Ranges `(address, length)` of mapped guest memory that have yet to be faulted
/// in before the guest comes there. Idle threads take pieces of it.
#[derive(Default)]
pub(crate) struct PrefaultQueue(Mutex<VecDeque<(u64, u64, Pages)>>);

impl PrefaultQueue {
    /// Bytes between two looks at what else there is to do.
    const PIECE: u64 = 256 << 10;
    /// What linkers fill code with, up to the next huge page (`int3`). Such a
    /// piece is never written to.
    const PADDING: [u8; 16] = [0xcc; 16];

    pub(crate) fn put(&self, ranges: impl Iterator<Item = (u64, u64, Pages)>) {
        self.lock().extend(ranges);
    }

    /// Memory is new, and has a kernel's code that the kernel will patch.
    pub(crate) fn text(&self, ranges: Vec<(u64, u64)>) {
        self.clear();
        self.put(ranges.into_iter().rev().map(|(at, length)| (at, length, Pages::Text)));
    }

    /// Discards all work, because memory has been replaced.
    fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, u64, Pages)>> {
        self.0.lock().unpoisoned()
    }

    /// Takes a piece of the work.
    fn take(&self) -> Option<(u64, u64, Pages)> {
        let mut ranges = self.lock();
        let (address, length, pages) = ranges.pop_front()?;
        let piece = Self::PIECE.min(length);
        if piece < length {
            ranges.push_front((address + piece, length - piece, pages));
        }
        Some((address, piece, pages))
    }

    /// Does a piece of the work; tells whether there was one.
    pub(crate) fn prefault_next(&self, ram: &GuestRam) -> bool {
        let Some((address, length, pages)) = self.take() else {
            return false;
        };
        let mut start = [0; 16];
        match pages {
            Pages::Text => {
                let _ = ram.read_slice(&mut start, GuestAddress(address));
                if start != Self::PADDING {
                    memory::prepare_writes(ram, address, length as usize);
                }
            }
            Pages::Written => memory::prepare_writes(ram, address, length as usize),
            Pages::Read => memory::prepare_reads(ram, address, length as usize),
        }
        true
    }
}
