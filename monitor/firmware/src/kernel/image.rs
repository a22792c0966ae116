//! A kernel that can be loaded, of whatever format.

use alloc::vec::Vec;

use crate::Error;
use crate::disk::File;

/// Kernels are loaded from here up.
pub const HIGH_RAM: u64 = 1 << 20;
/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;

/// A part of a file that has to lie at an address.
pub struct Load {
    /// First address.
    pub at: u64,
    /// What lies there.
    pub file: File,
    /// Zero bytes behind it.
    pub zeroes: u64,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode, with boot parameters (Linux x86 boot protocol, "64-bit
    /// boot protocol").
    Linux(u64),
    /// In 32-bit protected mode, with start information (Xen, PVH).
    Pvh(u32),
}

impl Entry {
    /// The address of its first instruction.
    pub fn address(self) -> u64 {
        match self {
            Self::Linux(at) => at,
            Self::Pvh(at) => at.into(),
        }
    }
}

/// A kernel that can be loaded.
pub struct Kernel {
    /// Its parts; they do not overlap.
    pub loads: Vec<Load>,
    /// How it is entered.
    pub entry: Entry,
    /// First address behind all that it uses before it knows the memory map.
    pub end: u64,
    /// The setup header of a bzImage, from offset 0x1f1 of the boot parameters.
    pub header: Option<Vec<u8>>,
    /// The highest address that a byte of its initrd may have.
    pub initrd_max: u64,
    /// Bytes that its command line may have.
    pub cmdline_max: usize,
}

impl Kernel {
    /// Where initial RAM disks of `len` bytes in all go: as high as possible.
    ///
    /// # Errors
    /// There is no room between kernel and `ram_end`.
    pub fn place_initrd(&self, len: u64, ram_end: u64) -> Result<u64, Error> {
        let limit = ram_end.min(self.initrd_max.saturating_add(1));
        let start = limit.checked_sub(len).map(|start| start / PAGE * PAGE);
        let start = start.filter(|start| *start >= self.end);
        start.ok_or(Error::NoRoom("kernel with its initrd", self.end.saturating_add(len)))
    }
}
