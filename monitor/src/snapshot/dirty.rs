//! Dirty tracking: the pages of guest memory that changed since the last snapshot.

use mote_snapshot::bitmap_words;
use mote_virtio::Dirty;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::error::{Error, kvm};
use crate::host::memory::GuestRam;
use crate::layout;
use crate::vm::Shared;

/// The changed pages: KVM logs writes of the guest and of itself, the devices log their
/// own.
pub struct Changes {
    devices: &'static Dirty,
    /// Identity of the snapshot that it has changed since.
    base: Option<[u8; 16]>,
    /// What has been asked of KVM and the devices, who forget it then, and is
    /// in no snapshot yet. A bit for each page, as the memory file has them: what
    /// is below the hole fills whole words.
    pages: Vec<u64>,
}

impl Changes {
    /// Nothing has changed yet since the snapshot `base`, if the VM comes from one.
    pub(crate) fn new(devices: &'static Dirty, ram: &GuestRam, base: Option<[u8; 16]>) -> Self {
        let words = ram.iter().map(|region| bitmap_words(region.len())).sum();
        // It was another one in the snapshot.
        devices.mark(layout::GENERATION_ID, 16);
        Self { devices, base, pages: vec![0; words] }
    }

    /// Marks all of memory, after a reset.
    pub(crate) fn everything(&mut self) {
        self.pages.fill(u64::MAX);
    }

    /// Asks what has changed; vCPUs are parked, devices stopped, and nothing is
    /// asked of a vCPU until memory has been saved.
    pub(crate) fn gather(&mut self, shared: &Shared, ram: &GuestRam) -> Result<(), Error> {
        self.devices.take_into(&mut self.pages);
        let mut rest = self.pages.as_mut_slice();
        for (slot, region) in (0u32..).zip(ram.iter()) {
            let log = shared.fd.get_dirty_log(slot, region.len() as usize);
            let log = log.map_err(kvm("ask for changed pages"))?;
            for (word, new) in rest.iter_mut().zip(&log) {
                *word |= new;
            }
            let own = bitmap_words(region.len());
            rest = rest.get_mut(own..).unwrap_or_default();
        }
        Ok(())
    }

    /// The snapshot that these are the changes since, and a bit for each page.
    pub(crate) fn since(&self) -> Option<([u8; 16], &[u64])> {
        Some((self.base?, &self.pages))
    }

    /// Starts again from the snapshot `id`, which has all changes so far.
    pub(crate) fn saved(&mut self, id: [u8; 16]) {
        self.pages.fill(0);
        self.base = Some(id);
    }
}
