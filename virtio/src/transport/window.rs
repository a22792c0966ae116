//! The page a guest reads instead of registers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{MmapRegion, VolatileMemory};

use crate::Error;

/// Bytes in a register window.
pub const PAGE_SIZE: usize = 4096;

/// One device's page in the region that KVM maps read-only into the guest.
#[derive(Debug, Clone)]
pub struct Window {
    region: Arc<MmapRegion>,
    offset: usize,
}

impl Window {
    /// The page at byte `offset` of `region`.
    ///
    /// # Errors
    /// [`Error::Window`] if that is not a whole, aligned page of it.
    pub fn new(region: Arc<MmapRegion>, offset: usize) -> Result<Self, Error> {
        let whole = region.get_slice(offset, PAGE_SIZE).is_ok();
        if !whole || !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Window(offset));
        }
        Ok(Self { region, offset })
    }

    fn cell(&self, at: usize) -> Option<&AtomicU32> {
        (at < PAGE_SIZE).then(|| self.region.get_atomic_ref(self.offset + at).ok()).flatten()
    }

    /// Sets the register at byte `at`, in one store. A place that is not an
    /// aligned word of the page is left alone.
    pub(crate) fn set(&self, at: usize, value: u32) {
        if let Some(cell) = self.cell(at) {
            // Release: a guest that sees a new generation sees what it is of.
            cell.store(value.to_le(), Ordering::Release);
        }
    }

    /// Copies bytes from `at` on, word by word, the last one filled with 0.
    pub(crate) fn set_bytes(&self, at: usize, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(4).enumerate() {
            let mut word = [0; 4];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.set(at + 4 * i, u32::from_le_bytes(word));
        }
    }

    /// What a guest that loads from byte `at` sees; ones past the page.
    pub fn load(&self, at: u64, out: &mut [u8]) {
        out.fill(0xff);
        let page = self.region.get_slice(self.offset, PAGE_SIZE);
        let (Ok(page), Ok(at)) = (page, usize::try_from(at)) else {
            return;
        };
        if let Ok(tail) = page.offset(at) {
            tail.copy_to(out);
        }
    }
}
