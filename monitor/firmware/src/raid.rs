//! Members of a mirror of Linux's software RAID (drivers/md, `struct mdp_superblock_1`).
//! One member is enough to read.

use alloc::rc::Rc;
use alloc::vec;

use crate::Error;
use crate::bytes::{le16, le32, le64};
use crate::disk::{Disk, SECTOR, Window, array};

/// Where a superblock lies: metadata 1.1 and 1.2. A member with 1.0, whose superblock
/// lies at the end, is like a disk without.
const PLACES: [u64; 2] = [0, 4096];
const MAGIC: u32 = 0xa92b_4efc;
/// Features of a member that has not all data: it is being rebuilt or reshaped.
const PARTIAL: u32 = 2 | 4;
/// Entries of the table of roles, behind the superblock, that fit between 1.2 and data.
const MAX_DEVICES: u32 = 1920;
/// Roles from here on are not of an active member: spare, faulty, journal.
const INACTIVE: u16 = 0xfffd;

/// The data of a mirror's member; `None` if the disk is not a member of a RAID.
///
/// # Errors
/// It is one of another level, has not all data, or its superblock is damaged.
pub(crate) fn mirror(disk: &Rc<dyn Disk>) -> Result<Option<Rc<dyn Disk>>, Error> {
    const DAMAGED: Error = Error::Damaged("superblock of a Linux software RAID");
    let read = |at| array::<256>(&**disk, at).ok().map(|raw| (at, raw));
    let is_one = |(_, raw): &(u64, [u8; 256])| le32(raw, 0) == MAGIC && le32(raw, 4) == 1;
    let Some((at, raw)) = PLACES.into_iter().filter_map(read).find(is_one) else {
        return Ok(None);
    };
    let devices = le32(&raw, 220);
    if devices > MAX_DEVICES || le64(&raw, 144) != at / SECTOR {
        return Err(DAMAGED);
    }
    let mut roles = vec![0; 2 * devices as usize];
    disk.read(at + 256, &mut roles)?;
    if le32(&raw, 216) != sum(&raw, &roles) {
        return Err(DAMAGED);
    }
    if le32(&raw, 72) != 1 {
        return Err(Error::Unsupported("a Linux software RAID other than RAID1"));
    }
    let device = le32(&raw, 160);
    let role = if device < devices { le16(&roles, 2 * device as usize) } else { INACTIVE };
    if le32(&raw, 8) & PARTIAL != 0 || role >= INACTIVE {
        return Err(Error::Unsupported("an incomplete member of a Linux software RAID"));
    }
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    let (start, len) = (bytes(le64(&raw, 128)), bytes(le64(&raw, 136)));
    Ok(Some(Rc::new(Window::new(Rc::clone(disk), start, len))))
}

/// The superblock's sum with the table of roles (drivers/md/md.c, `calc_sb_1_csum`), its
/// own field left out.
fn sum(raw: &[u8; 256], roles: &[u8]) -> u32 {
    let words = |bytes: &[u8]| bytes.chunks(4).map(|word| u64::from(le32(word, 0))).sum::<u64>();
    let sum = words(raw) + words(roles) - u64::from(le32(raw, 216));
    (sum as u32).wrapping_add((sum >> 32) as u32)
}
