//! Linux boot parameters (the "zero page").

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::kernel::{Facts, Header, e820};
use crate::host::memory::GuestRam;
use crate::layout::{CMDLINE, CMDLINE_MAX, ZERO_PAGE};

/// Writes the boot parameters; `header` is what a bzImage brought along.
pub(super) fn write(
    ram: &GuestRam,
    facts: &Facts,
    header: Option<&Header>,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params::default();
    if let Some(header) = header {
        params.hdr = header.0;
    } else {
        params.hdr.boot_flag = 0xaa55;
        params.hdr.header = u32::from_le_bytes(*b"HdrS");
        params.hdr.kernel_alignment = 0x100_0000;
        params.hdr.cmdline_size = CMDLINE_MAX as u32;
    }
    // 0xff: a boot loader without an assigned number.
    params.hdr.type_of_loader = 0xff;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    if let Some((start, length)) = facts.initrd {
        // Placed below the device hole, so both fit.
        params.hdr.ramdisk_image = start as u32;
        params.hdr.ramdisk_size = length as u32;
    }
    params.acpi_rsdp_addr = facts.rsdp;
    let map = e820(ram);
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, r#type: kind };
    }
    ram.write_obj(params, GuestAddress(ZERO_PAGE))
}
