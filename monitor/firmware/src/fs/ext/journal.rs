//! A journal that has not been replayed: the file system was not unmounted,
//! and what was written last is found there alone (Linux,
//! Documentation/filesystems/ext4/journal.rst; jbd2, all numbers big-endian).
//!
//! Nothing is written: reads are led to the journal's newer copy of a block.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use crate::Error;
use crate::bytes::part;
use crate::disk::{Disk, File};

const DAMAGED: Error = Error::Damaged("ext4 journal");
const MAGIC: u32 = 0xc03b_3998;
/// Features: 64-bit block numbers, and checksums of versions 2 and 3.
const WIDE: u32 = 2;
const CHECKSUM_2: u32 = 8;
const CHECKSUM_3: u32 = 16;
/// Revocations, asynchronous commits and fast commits need nothing more.
const KNOWN: u32 = 1 | WIDE | 4 | CHECKSUM_2 | CHECKSUM_3 | 0x20;
/// Blocks of a journal that are looked at: 4 GiB of the usual size.
const MAX_BLOCKS: u32 = 1 << 20;
/// Blocks that a journal may hold newer copies of.
const MAX_COPIES: usize = 1 << 17;

fn be16(bytes: &[u8], at: usize) -> u32 {
    be32(bytes, at) >> 16
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = part(bytes, at, 4);
    field.first_chunk().map_or(0, |field| u32::from_be_bytes(*field))
}

/// A disk on which some blocks are read from elsewhere.
struct Replayed {
    disk: Rc<dyn Disk>,
    journal: File,
    block: u64,
    /// Block of the file system → block of the journal, and whether its first
    /// four bytes were taken out (they were the journal's magic number).
    copies: BTreeMap<u64, (u32, bool)>,
}

impl Disk for Replayed {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        self.disk.read(at, into)?;
        let end = at + into.len() as u64;
        let blocks = at / self.block..end.div_ceil(self.block);
        for (block, (copy, escaped)) in self.copies.range(blocks) {
            let mut bytes = vec![0; self.block as usize];
            self.journal.read(u64::from(*copy) * self.block, &mut bytes)?;
            if *escaped && let Some(start) = bytes.first_chunk_mut() {
                *start = MAGIC.to_be_bytes();
            }
            let start = block * self.block;
            let (from, to) = (start.max(at), (start + self.block).min(end));
            let target = into.get_mut((from - at) as usize..(to - at) as usize);
            let source = bytes.get((from - start) as usize..(to - start) as usize);
            if let (Some(target), Some(source)) = (target, source) {
                target.copy_from_slice(source);
            }
        }
        Ok(())
    }
}

/// `disk` as it will be when its journal has been replayed.
pub(super) fn replayed(
    disk: &Rc<dyn Disk>,
    journal: &File,
    block: u64,
) -> Result<Rc<dyn Disk>, Error> {
    let superblock = journal.head(1024)?;
    if be32(&superblock, 0) != MAGIC || u64::from(be32(&superblock, 12)) != block {
        return Err(DAMAGED);
    }
    let features = if be32(&superblock, 4) == 4 { be32(&superblock, 40) } else { 0 };
    if features & !KNOWN != 0 {
        return Err(Error::Unsupported("a feature of this ext4 journal"));
    }
    let blocks = be32(&superblock, 16).min(MAX_BLOCKS);
    let first = be32(&superblock, 20);
    let log = Log { journal, block, features, first, blocks };
    if first == 0 || first >= blocks || u64::from(blocks) * block > journal.len() {
        return Err(DAMAGED);
    }
    let (start, sequence) = (be32(&superblock, 28), be32(&superblock, 24));
    let copies = if start == 0 { BTreeMap::new() } else { log.copies(start, sequence)? };
    let journal = journal.clone();
    let disk = Rc::clone(disk);
    Ok(Rc::new(Replayed { disk, journal, block, copies }))
}

struct Log<'a> {
    journal: &'a File,
    block: u64,
    features: u32,
    first: u32,
    blocks: u32,
}

impl Log<'_> {
    fn next(&self, at: u32) -> u32 {
        if at + 1 >= self.blocks { self.first } else { at + 1 }
    }

    /// What the transactions from `sequence` on that were committed hold.
    fn copies(&self, start: u32, sequence: u32) -> Result<BTreeMap<u64, (u32, bool)>, Error> {
        let mut copies = BTreeMap::new();
        let (mut at, mut sequence) = (start, sequence);
        let mut pending: Vec<(u64, (u32, bool))> = Vec::new();
        let mut revoked: Vec<u64> = Vec::new();
        let mut raw = vec![0; self.block as usize];
        // Every step moves on by a block at least, around the log once.
        let mut left = self.blocks;
        while left > 0 && at < self.blocks {
            self.journal.read(u64::from(at) * self.block, &mut raw)?;
            if be32(&raw, 0) != MAGIC || be32(&raw, 8) != sequence {
                break;
            }
            (at, left) = (self.next(at), left - 1);
            match be32(&raw, 4) {
                1 => {
                    for (block, escaped) in self.tags(&raw) {
                        pending.push((block, (at, escaped)));
                        (at, left) = (self.next(at), left.saturating_sub(1));
                    }
                }
                2 => {
                    // Revocations count for what came before them.
                    for block in revoked.drain(..) {
                        copies.remove(&block);
                    }
                    copies.extend(pending.drain(..));
                    sequence = sequence.wrapping_add(1);
                }
                5 => self.revocations(&raw, &mut revoked),
                _ => break,
            }
            if pending.len() + copies.len() + revoked.len() > MAX_COPIES {
                return Err(Error::TooLarge("ext4 journal"));
            }
        }
        Ok(copies)
    }

    /// The blocks that follow a descriptor block: where each belongs, and
    /// whether its magic number was taken out.
    fn tags(&self, raw: &[u8]) -> Vec<(u64, bool)> {
        let mut tags = Vec::new();
        let has = |feature| self.features & feature != 0;
        let size = match (has(CHECKSUM_3), has(WIDE)) {
            (true, _) => 16,
            (_, true) => 12 + if has(CHECKSUM_2) { 2 } else { 0 },
            _ => 8 + if has(CHECKSUM_2) { 2 } else { 0 },
        };
        // Checksums lie at the end of the block.
        let end = raw.len() - if has(CHECKSUM_2 | CHECKSUM_3) { 4 } else { 0 };
        let mut at = 12;
        while at + size <= end {
            let flags = if has(CHECKSUM_3) { be32(raw, at + 4) } else { be16(raw, at + 6) };
            let high = if has(WIDE) { be32(raw, at + 8) } else { 0 };
            tags.push((u64::from(high) << 32 | u64::from(be32(raw, at)), flags & 1 != 0));
            at += size;
            if flags & 2 == 0 {
                at += 16;
            }
            if flags & 8 != 0 {
                break;
            }
        }
        tags
    }

    fn revocations(&self, raw: &[u8], revoked: &mut Vec<u64>) {
        let end = (be32(raw, 12) as usize).min(raw.len());
        let list = raw.get(16..end).unwrap_or_default();
        if self.features & WIDE == 0 {
            revoked.extend(list.chunks_exact(4).map(|n| u64::from(be32(n, 0))));
        } else {
            let wide = |n: &[u8]| u64::from(be32(n, 0)) << 32 | u64::from(be32(n, 4));
            revoked.extend(list.chunks_exact(8).map(wide));
        }
    }
}
