//! Partition tables: MBR with logical partitions, and GPT (UEFI 2.10, 5.3).

use alloc::vec::Vec;

use crate::Error;
use crate::bytes::{le16, le32, le64, part, u8};
use crate::disk::{Disk, SECTOR, array};

/// Partitions that are looked at.
const MAX_PARTITIONS: usize = 128;
/// MBR type of the entry that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// Which table a partition is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1; logical ones from 5.
    pub number: u32,
    /// The table it is in.
    pub table: Table,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The partitions of a disk, none if it has no table.
///
/// # Errors
/// The drive refuses, or a table contradicts itself.
pub fn partitions(disk: &dyn Disk) -> Result<Vec<Partition>, Error> {
    let mut found = Vec::new();
    if disk.len() < 2 * SECTOR {
        return Ok(found);
    }
    let mbr: [u8; 512] = array(disk, 0)?;
    let protected = entries(&mbr).any(|entry| u8(entry, 4) == PROTECTIVE);
    if protected && gpt(disk, SECTOR, &mut found)? {
        return Ok(found);
    }
    // The backup is in the last sector.
    if protected && gpt(disk, disk.len() / SECTOR * SECTOR - SECTOR, &mut found)? {
        return Ok(found);
    }
    if le16(&mbr, 510) == 0xaa55 {
        primary(disk, &mbr, &mut found)?;
    }
    Ok(found)
}

/// The four entries of a master boot record.
fn entries(mbr: &[u8]) -> impl Iterator<Item = &[u8]> {
    part(mbr, 446, 64).chunks_exact(16)
}

/// A partition of `sectors` from sector `start`, if that is one.
fn add(found: &mut Vec<Partition>, number: u32, table: Table, start: u64, sectors: u64) {
    let bytes = (start.checked_mul(SECTOR), sectors.checked_mul(SECTOR));
    if let (Some(start), Some(len)) = bytes
        && start > 0
        && len > 0
        && found.len() < MAX_PARTITIONS
    {
        found.push(Partition { number, table, start, len });
    }
}

fn primary(disk: &dyn Disk, mbr: &[u8], found: &mut Vec<Partition>) -> Result<(), Error> {
    for (number, entry) in (1..).zip(entries(mbr)) {
        let (start, sectors) = (le32(entry, 8).into(), le32(entry, 12).into());
        match u8(entry, 4) {
            0 => {}
            5 | 0xf | 0x85 => logical(disk, start, found)?,
            _ => add(found, number, Table::Mbr, start, sectors),
        }
    }
    Ok(())
}

/// Logical partitions: a chain of records, each relative to something else.
fn logical(disk: &dyn Disk, extended: u64, found: &mut Vec<Partition>) -> Result<(), Error> {
    let mut at = extended;
    for number in 5..5 + 60 {
        if at >= disk.len() / SECTOR {
            return Err(Error::Damaged("chain of logical partitions"));
        }
        let record: [u8; 512] = array(disk, at * SECTOR)?;
        if le16(&record, 510) != 0xaa55 {
            return Ok(());
        }
        let mut entries = entries(&record);
        let own = entries.next().unwrap_or_default();
        let start = at + u64::from(le32(own, 8));
        add(found, number, Table::Mbr, start, le32(own, 12).into());
        let next = le32(entries.next().unwrap_or_default(), 8);
        if next == 0 {
            return Ok(());
        }
        at = extended + u64::from(next);
    }
    Err(Error::Damaged("chain of logical partitions"))
}

/// Reads the table whose header is at `at`; tells whether there is one.
fn gpt(disk: &dyn Disk, at: u64, found: &mut Vec<Partition>) -> Result<bool, Error> {
    let header: [u8; 512] = array(disk, at)?;
    if !header.starts_with(b"EFI PART") {
        return Ok(false);
    }
    let table = le64(&header, 72).checked_mul(SECTOR);
    let (count, size) = (le32(&header, 80).min(1024), le32(&header, 84));
    if !(128..=4096).contains(&size) {
        return Err(Error::Damaged("GPT header"));
    }
    let table = table.ok_or(Error::Damaged("GPT header"))?;
    for index in 0..count {
        let at = table.saturating_add(u64::from(index) * u64::from(size));
        let entry: [u8; 128] = array(disk, at)?;
        let (first, last) = (le64(&entry, 32), le64(&entry, 40));
        if entry.iter().take(16).any(|byte| *byte != 0) && last >= first {
            add(found, index + 1, Table::Gpt, first, (last - first).saturating_add(1));
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Image;

    fn entry(kind: u8, start: u32, len: u32) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&len.to_le_bytes());
        entry
    }

    fn record(image: &mut [u8], sector: usize, entries: &[[u8; 16]]) {
        let at = sector * 512;
        for (index, entry) in entries.iter().enumerate() {
            image[at + 446 + index * 16..][..16].copy_from_slice(entry);
        }
        image[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn numbers(image: Vec<u8>) -> Result<Vec<(u32, u64, u64)>, Error> {
        let found = partitions(&Image(image))?;
        Ok(found.iter().map(|p| (p.number, p.start / 512, p.len / 512)).collect())
    }

    #[test]
    fn primary_and_logical_partitions() {
        let mut image = std::vec![0; 100 * 512];
        assert_eq!(numbers(image.clone()), Ok(Vec::new()));
        record(&mut image, 0, &[entry(0x83, 1, 9), entry(5, 20, 80), entry(0, 9, 9)]);
        record(&mut image, 20, &[entry(0x83, 2, 10), entry(5, 30, 20)]);
        record(&mut image, 50, &[entry(0x83, 1, 5)]);
        assert_eq!(numbers(image.clone()), Ok([(1, 1, 9), (5, 22, 10), (6, 51, 5)].into()));
        // A chain that comes back to itself ends.
        record(&mut image, 50, &[entry(0x83, 1, 5), entry(5, 30, 20)]);
        assert!(numbers(image).is_err());
    }

    #[test]
    fn guid_partition_table_and_its_backup() {
        let mut image = std::vec![0; 100 * 512];
        record(&mut image, 0, &[entry(0xee, 1, 99)]);
        for (header, table) in [(1, 2u64), (99, 95)] {
            image[header * 512..][..8].copy_from_slice(b"EFI PART");
            image[header * 512 + 72..][..8].copy_from_slice(&table.to_le_bytes());
            image[header * 512 + 80..][..8].copy_from_slice(&[4, 0, 0, 0, 128, 0, 0, 0]);
            let second = table as usize * 512 + 128;
            image[second] = 1;
            image[second + 32] = 40;
            image[second + 40] = 49;
        }
        assert_eq!(numbers(image.clone()), Ok([(2, 40, 10)].into()));
        image[512] = 0;
        assert_eq!(numbers(image.clone()), Ok([(2, 40, 10)].into()));
        image[99 * 512 + 84] = 1;
        assert!(numbers(image).is_err());
    }
}
