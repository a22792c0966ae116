//! Kernels: where they want to lie, and how they are entered.

mod bzimage;
mod elf;

use alloc::vec::Vec;

use crate::Error;
use crate::disk::File;

/// Kernels are loaded from here up.
pub const HIGH_RAM: u64 = 1 << 20;
/// Bytes of a page.
const PAGE: u64 = 4096;

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
    /// Looks at a kernel that is to run in RAM from [`HIGH_RAM`] to `ram_end`.
    ///
    /// # Errors
    /// It is none, is damaged, or does not fit into memory.
    pub fn open(file: &File, ram_end: u64) -> Result<Self, Error> {
        let head = file.head(PAGE as usize)?;
        if let Some(kernel) = bzimage::open(file, &head, ram_end)? {
            return Ok(kernel);
        }
        if head.starts_with(b"\x7fELF") {
            return elf::open(file, &head, ram_end);
        }
        Err(Error::Unsupported(other(&head)))
    }

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

/// What is no kernel, by its first bytes.
fn other(head: &[u8]) -> &'static str {
    if head.starts_with(b"MZ") {
        return "a program for UEFI";
    }
    if head.get(510..512) == Some(&[0x55, 0xaa]) {
        return "a program that needs a BIOS";
    }
    "what is no kernel (bzImage or ELF)"
}

#[cfg(test)]
#[path = "../kernel_test.rs"]
mod kernel_test;
