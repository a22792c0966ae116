//! The formats of kernels.

use super::image::{Kernel, PAGE};
use super::{bzimage, elf};
use crate::Error;
use crate::disk::File;

impl Kernel {
    /// Looks at a kernel that is to run in RAM from [`HIGH_RAM`] to `ram_end`.
    ///
    /// # Errors
    /// The file is not a kernel, is damaged, or does not fit into memory.
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
}

/// What a file is that is not a kernel, by its first bytes.
fn other(head: &[u8]) -> &'static str {
    if head.starts_with(b"MZ") {
        return "a program for UEFI";
    }
    if head.get(510..512) == Some(&[0x55, 0xaa]) {
        return "a program that needs a BIOS";
    }
    "a file that is not a kernel (bzImage or ELF)"
}
