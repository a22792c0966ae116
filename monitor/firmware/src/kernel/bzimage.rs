//! Linux bzImages (Linux, Documentation/arch/x86/boot.rst).

use alloc::vec::Vec;

use super::image::{Entry, HIGH_RAM, Kernel, Load};
use crate::Error;
use crate::bytes::{le16, le32, le64, part, u8};
use crate::disk::File;

/// The setup header in the file and in the boot parameters.
const HEADER: usize = 0x1f1;
const HEADER_END: usize = 0x290;
/// Boot protocol 2.12 introduced `xloadflags`, whose bit 0 says that the
/// kernel has a 64-bit entry point.
const MIN_VERSION: u16 = 0x020c;
/// The 64-bit entry point, from where the kernel is loaded.
const ENTRY: u64 = 0x200;
/// Bytes of a command line that the machine has room for.
const CMDLINE_MAX: usize = 2047;

/// The kernel in `file`, if it is a bzImage.
pub(super) fn open(file: &File, head: &[u8], ram_end: u64) -> Result<Option<Kernel>, Error> {
    if le16(head, 0x1fe) != 0xaa55 || part(head, 0x202, 4) != b"HdrS" {
        return Ok(None);
    }
    if le16(head, 0x206) < MIN_VERSION || u8(head, 0x236) & 1 == 0 {
        return Err(Error::Unsupported("a bzImage without a 64-bit entry point"));
    }
    let sectors = match u8(head, HEADER) {
        0 => 4,
        n => u64::from(n),
    };
    let offset = (sectors + 1) * 512;
    let size = u64::from(le32(head, 0x1f4)) * 16;
    // The last paragraph may be cut short in the file.
    let in_file = file.len().saturating_sub(offset).min(size);
    if in_file <= ENTRY || in_file + 16 <= size {
        return Err(Error::Damaged("kernel, which is cut short,"));
    }
    let needs = u64::from(le32(head, 0x260)).max(size);
    let (preferred, movable) = (le64(head, 0x258), u8(head, 0x234) != 0);
    let fits = |at: u64| at >= HIGH_RAM && at.checked_add(needs).is_some_and(|end| end <= ram_end);
    let lowest = u64::from(le32(head, 0x230)).max(HIGH_RAM);
    let places = [preferred, lowest];
    let place = places.into_iter().find(|at| (*at == preferred || movable) && fits(*at));
    let no_room = Error::NoRoom("kernel", preferred.saturating_add(needs));
    let address = place.ok_or(no_room)?;
    // The header says itself where it ends: a jump over its rest begins it.
    let end = (0x202 + usize::from(u8(head, 0x201))).clamp(HEADER, HEADER_END);
    let load = Load { at: address, file: file.slice(offset, in_file)?, zeroes: 0 };
    Ok(Some(Kernel {
        loads: [load].into(),
        entry: Entry::Linux(address + ENTRY),
        end: address + needs,
        header: Some(Vec::from(part(head, HEADER, end - HEADER))),
        initrd_max: le32(head, 0x22c).into(),
        cmdline_max: (le32(head, 0x238) as usize).min(CMDLINE_MAX),
    }))
}
