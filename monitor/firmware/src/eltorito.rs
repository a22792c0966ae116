//! Where a CD-ROM has what a PC's firmware boots (El Torito 1.0; UEFI 2.10, 13.3.2.1).

use crate::bytes::{le16, le32, part, u8};
use crate::disk::{Disk, array};

const BLOCK: u64 = 2048;
/// The platform whose images are FAT file systems: UEFI.
const UEFI: u8 = 0xef;

/// The block of the boot catalog; `None` without a boot record.
pub(crate) fn catalog(disk: &dyn Disk) -> Option<u64> {
    let record = array::<75>(disk, 17 * BLOCK).ok()?;
    let known = part(&record, 0, 30) == b"\0CD001\x01EL TORITO SPECIFICATION";
    known.then(|| le32(&record, 71).into())
}

/// The first byte of the EFI system partition that the catalog names.
pub(crate) fn efi_image(disk: &dyn Disk) -> Option<u64> {
    let catalog = array::<{ BLOCK as usize }>(disk, catalog(disk)? * BLOCK).ok()?;
    // The first entry is for the platform of the first header.
    let (mut platform, mut entries) = (u8(&catalog, 1), 1);
    for record in catalog.chunks_exact(32).skip(1) {
        match (entries, u8(record, 0)) {
            (0, 0x90 | 0x91) => (platform, entries) = (u8(record, 1), le16(record, 2)),
            (0, _) => break,
            (_, 0x88) if platform == UEFI => return Some(u64::from(le32(record, 8)) * BLOCK),
            _ => entries -= 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{catalog, efi_image};
    use crate::testing::Image;

    #[test]
    fn the_image_of_uefi_is_found() {
        const CATALOG: usize = 20 * 2048;
        let mut disk = std::vec![0; 21 * 2048];
        assert_eq!((catalog(&Image(disk.clone())), efi_image(&Image(disk.clone()))), (None, None));
        disk[17 * 2048..][..30].copy_from_slice(b"\0CD001\x01EL TORITO SPECIFICATION");
        disk[17 * 2048 + 71] = 20;
        // A header, an entry for a BIOS, and a section of one entry for UEFI.
        for (at, bytes) in [
            (0, &[1, 0][..]),
            (32, &[0x88, 0, 0, 0, 0, 0, 4, 0, 7]),
            (64, &[0x91, 0xef, 1, 0]),
            (96, &[0x88, 0, 0, 0, 0, 0, 0, 0, 9, 1]),
        ] {
            disk[CATALOG + at..][..bytes.len()].copy_from_slice(bytes);
        }
        let image = |disk: &[u8]| efi_image(&Image(disk.to_vec()));
        assert_eq!(image(&disk), Some(0x109 * 2048));
        for (at, byte) in [(64, 0), (65, 0), (66, 0), (96, 0)] {
            let mut other = disk.clone();
            other[CATALOG + at] = byte;
            assert_eq!(image(&other), None, "{at}");
        }
        disk[CATALOG + 1] = 0xef;
        assert_eq!(image(&disk), Some(7 * 2048));
        disk[17 * 2048 + 74] = 0xff;
        assert_eq!(image(&disk), None);
    }
}
