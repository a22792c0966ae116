//! PVH start information (Xen's `hvm_start_info`, version 1).

use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::kernel::{Facts, e820};
use crate::host::memory::GuestRam;
use crate::layout::{CMDLINE, PVH_INFO};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;

/// Writes the start information, and behind it the list of modules (the
/// initrd) and the memory map.
pub(super) fn write(ram: &GuestRam, facts: &Facts) -> Result<(), GuestMemoryError> {
    let modules = PVH_INFO + size_of::<hvm_start_info>() as u64;
    let memmap = modules + size_of::<hvm_modlist_entry>() as u64;
    let map = e820(ram);
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: facts.rsdp,
        memmap_paddr: memmap,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some((paddr, size)) = facts.initrd {
        info.nr_modules = 1;
        info.modlist_paddr = modules;
        let module = hvm_modlist_entry { paddr, size, ..Default::default() };
        ram.write_obj(module, GuestAddress(modules))?;
    }
    let entry_size = size_of::<hvm_memmap_table_entry>() as u64;
    for (at, (addr, size, type_)) in (memmap..).step_by(entry_size as usize).zip(map) {
        let entry = hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
        ram.write_obj(entry, GuestAddress(at))?;
    }
    ram.write_obj(info, GuestAddress(PVH_INFO))
}
