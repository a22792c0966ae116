//! Members of a mirror of Linux's software RAID (drivers/md, `struct mdp_superblock_1`).
//! One member is enough to read.

use alloc::rc::Rc;

use crate::Error;
use crate::bytes::{le16, le32, le64};
use crate::disk::{Disk, SECTOR, Window, array};

/// Where a superblock lies: metadata 1.1 and 1.2. A member with 1.0, whose superblock
/// lies at the end, is like a disk without.
const PLACES: [u64; 2] = [0, 4096];
const MAGIC: u32 = 0xa92b_4efc;
/// Features of a member that has not all data: it is being rebuilt or reshaped.
const PARTIAL: u32 = 2 | 4;
/// Entries of the table of roles, behind the superblock.
const MAX_DEVICES: u32 = 1920;
/// Roles from here on are not of an active member: spare, faulty, journal.
const INACTIVE: u32 = 0xfffd;

/// The data of a mirror's member; `None` if the disk is no member of a RAID.
///
/// # Errors
/// It is one of another level, or has not all data.
pub(crate) fn mirror(disk: &Rc<dyn Disk>) -> Result<Option<Rc<dyn Disk>>, Error> {
    let read = |at| array::<256>(&**disk, at).ok().map(|raw| (at, raw));
    let is_one = |(_, raw): &(u64, [u8; 256])| le32(raw, 0) == MAGIC && le32(raw, 4) == 1;
    let Some((at, raw)) = PLACES.into_iter().filter_map(read).find(is_one) else {
        return Ok(None);
    };
    if le32(&raw, 72) != 1 {
        return Err(Error::Unsupported("a Linux software RAID other than RAID1"));
    }
    let device = le32(&raw, 160);
    let role = at + 256 + 2 * u64::from(device.min(MAX_DEVICES));
    let role = u32::from(le16(&array::<2>(&**disk, role)?, 0));
    if le32(&raw, 8) & PARTIAL != 0 || device >= MAX_DEVICES || role >= INACTIVE {
        return Err(Error::Unsupported("an incomplete member of a Linux software RAID"));
    }
    let bytes = |sectors: u64| sectors.checked_mul(SECTOR);
    let place = bytes(le64(&raw, 128)).zip(bytes(le64(&raw, 136)));
    let (start, len) = place.ok_or(Error::Damaged("superblock of a Linux software RAID"))?;
    Ok(Some(Rc::new(Window::new(Rc::clone(disk), start, len))))
}
