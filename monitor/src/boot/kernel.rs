//! A kernel that lies in guest memory, and what boot parameters tell it.

use linux_loader::bootparam::setup_header;

use crate::host::memory::{self, GuestRam};
use crate::layout;
use crate::vm::regs::Entry;

/// The setup header of a bzImage.
pub(super) struct Header(pub(super) setup_header);

impl Header {
    /// First address behind the highest byte an initrd may use.
    pub(super) fn initrd_limit(&self) -> u64 {
        u64::from(self.0.initrd_addr_max) + 1
    }
}

/// A kernel that lies in guest memory.
pub(super) struct Kernel {
    pub(super) entry: Entry,
    pub(super) written: Vec<(u64, u64)>,
    /// First address behind everything the kernel uses before it knows RAM.
    pub(super) end: u64,
    /// The bzImage's setup header, which the boot parameters begin with.
    pub(super) header: Option<Header>,
}

/// Why a VM starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is new.
    PowerOn,
    /// Its guest reset it.
    Reset,
}

/// What boot parameters tell, apart from the kernel itself.
pub(super) struct Facts {
    /// Guest address and length of the initrd.
    pub(super) initrd: Option<(u64, u64)>,
    /// Guest address of the ACPI root pointer.
    pub(super) rsdp: u64,
}

/// Guest RAM as e820 entries: `(start, length, type)`, 1 being usable and 3
/// ACPI data (ACPI 6.5, 15).
pub(super) fn e820(ram: &GuestRam) -> Vec<(u64, u64, u32)> {
    let low_end = memory::low_end(ram);
    let mut map = vec![
        (0, layout::LOW_RAM_END, 1),
        (layout::ACPI_START, layout::ACPI_END - layout::ACPI_START, 3),
        (layout::HIGH_RAM, low_end - layout::HIGH_RAM, 1),
    ];
    if let Some((start, length)) = memory::high_range(ram) {
        map.push((start, length, 1));
    }
    map
}
