//! Linux bzImages, entered at their 64-bit entry point
//! (Documentation/arch/x86/boot.rst of the Linux kernel).

use linux_loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::image::Image;
use super::kernel::{Header, Kernel};
use crate::error::Error;
use crate::host::memory::{self, GuestRam};
use crate::layout::HIGH_RAM;
use crate::vm::regs::Entry;

/// The setup header starts here in the file and in the boot parameters.
const HEADER: usize = 0x1f1;
/// `xloadflags`: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Boot protocol 2.12 introduced `xloadflags`.
const MIN_VERSION: u16 = 0x020c;

/// Copies the protected-mode part of a bzImage to its preferred address.
///
/// Its offset in the file is a multiple of 512 only, so it cannot be mapped.
pub(super) fn load(ram: &GuestRam, image: &Image, head: &[u8]) -> Result<Kernel, Error> {
    let header = parse(head).ok_or_else(|| image.refuse("is truncated"))?;
    if header.version < MIN_VERSION || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(image.refuse("is a bzImage without a 64-bit entry point"));
    }
    let sectors = match header.setup_sects {
        0 => 4,
        n => u64::from(n),
    };
    let offset = (sectors + 1) * 512;
    let size = u64::from(header.syssize) * 16;
    // The last paragraph may be cut short in the file.
    let in_file = image.len.saturating_sub(offset).min(size);
    if size == 0 || in_file + 16 <= size {
        return Err(image.refuse("is truncated"));
    }
    let needs = u64::from(header.init_size).max(size);
    let preferred = header.pref_address;
    let place = [preferred, HIGH_RAM]
        .into_iter()
        .filter(|&at| at == preferred || header.relocatable_kernel != 0)
        .find(|&at| at >= HIGH_RAM && memory::contains(ram, at, needs));
    let Some(address) = place else {
        return Err(image.refuse(format!("needs {needs} bytes of RAM from {preferred:#x}")));
    };
    image.place(ram, address, offset, in_file)?;
    Ok(Kernel {
        entry: Entry::Linux64(address + 0x200),
        end: address + needs,
        written: Vec::new(),
        header: Some(Header(header)),
    })
}

fn parse(head: &[u8]) -> Option<setup_header> {
    let mut header = setup_header::default();
    let from = head.get(HEADER..)?.get(..size_of::<setup_header>())?;
    header.as_mut_slice().copy_from_slice(from);
    Some(header)
}
