//! Work on guest memory that nobody waits for.

use std::sync::{Mutex, PoisonError};

use vm_memory::{Bytes as _, GuestAddress};

use crate::memory::{self, GuestRam};

/// Ranges of mapped guest memory that have yet to be made the guest's own,
/// before it writes there. Whoever has nothing else to do takes a piece.
#[derive(Default)]
pub(super) struct WorkAhead(Mutex<Vec<(u64, u64)>>);

impl WorkAhead {
    /// Bytes between two looks at what else there is to do.
    const PIECE: u64 = 256 << 10;
    /// What linkers fill code with, up to the next huge page (`int3`). Such a
    /// piece is never written to.
    const PADDING: [u8; 16] = [0xcc; 16];

    pub(super) fn put(&self, ranges: Vec<(u64, u64)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// Takes a piece of the work.
    fn take(&self) -> Option<(u64, u64)> {
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, length) = ranges.pop()?;
        let piece = Self::PIECE.min(length);
        if piece < length {
            ranges.push((address + piece, length - piece));
        }
        Some((address, piece))
    }

    /// Does a piece of the work; tells whether there was one.
    pub(super) fn step(&self, ram: &GuestRam) -> bool {
        let Some((address, length)) = self.take() else {
            return false;
        };
        let mut start = [0; 16];
        let _ = ram.read_slice(&mut start, GuestAddress(address));
        if start != Self::PADDING {
            memory::prepare_writes(ram, address, length as usize);
        }
        true
    }
}
