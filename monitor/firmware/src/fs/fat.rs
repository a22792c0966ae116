//! FAT12, FAT16 and FAT32 with long names (Microsoft, FAT specification 1.03).

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::node::{FileSystem, Kind, MAX_DIRECTORY};
use crate::Error;
use crate::bytes::{le16, le32, part, text, u8};
use crate::disk::{Disk, Extent, File, array};

const DAMAGED: Error = Error::Damaged("FAT");
/// Attributes of a directory entry.
const VOLUME: u8 = 8;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0xf;
/// Letters of a long name in one entry, and where they are in it.
const LETTERS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// A FAT file system. A node is the offset of its directory entry; the root
/// directory, which has none, is 0.
pub(super) struct Fat {
    disk: Rc<dyn Disk>,
    /// Bits of an entry in the table: 12, 16 or 32.
    bits: u32,
    /// Where the table starts.
    table: u64,
    /// Where cluster 2 starts, and how many there are.
    data: u64,
    clusters: u32,
    /// Bytes of a cluster.
    cluster: u64,
    root: Root,
    label: String,
    uuid: String,
}

enum Root {
    /// A place of its own.
    Fixed(Extent),
    /// A chain of clusters.
    Cluster(u32),
}

impl Fat {
    pub(super) fn open(disk: &Rc<dyn Disk>) -> Result<Option<Self>, Error> {
        if disk.len() < 512 {
            return Ok(None);
        }
        let raw: [u8; 512] = array(&**disk, 0)?;
        let sector = u64::from(le16(&raw, 11));
        let per_cluster = u64::from(u8(&raw, 13));
        let (reserved, tables) = (u64::from(le16(&raw, 14)), u64::from(u8(&raw, 16)));
        let is_fat = le16(&raw, 510) == 0xaa55
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && matches!(tables, 1 | 2)
            && reserved > 0
            && u8(&raw, 21) >= 0xf0;
        if !is_fat {
            return Ok(None);
        }
        let either = |narrow: u16, wide: u32| {
            if narrow == 0 { wide.into() } else { u64::from(narrow) }
        };
        let table_sectors: u64 = either(le16(&raw, 22), le32(&raw, 36));
        let sectors: u64 = either(le16(&raw, 19), le32(&raw, 32));
        let root_at = reserved + tables * table_sectors;
        let root_len = u64::from(le16(&raw, 17)) * 32;
        let data = root_at + root_len.div_ceil(sector);
        let clusters = sectors.saturating_sub(data) / per_cluster;
        let bits = match clusters {
            0..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        // Where the table has no entry for it, there is no cluster.
        let entries = (table_sectors * sector * 8 / u64::from(bits)).saturating_sub(2);
        let extended = if bits == 32 { 64 } else { 36 };
        let root = if bits == 32 {
            Root::Cluster(le32(&raw, 44))
        } else {
            Root::Fixed(Extent { at: Some(root_at * sector), len: root_len })
        };
        let serial = le32(&raw, extended + 3);
        let mut fs = Self {
            disk: Rc::clone(disk),
            bits,
            table: reserved * sector,
            data: data * sector,
            clusters: clusters.min(entries).min(0x0fff_fff0) as u32,
            cluster: per_cluster * sector,
            root,
            label: text(part(&raw, extended + 7, 11)),
            uuid: format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff),
        };
        if let Some(label) = fs.volume_label()? {
            fs.label = label;
        }
        Ok(Some(fs))
    }

    /// The label in the root directory, which is the one people change.
    fn volume_label(&self) -> Result<Option<String>, Error> {
        let mut label = None;
        self.records(0, &mut |_, record| {
            if u8(record, 11) & (VOLUME | DIRECTORY) == VOLUME && u8(record, 11) != LONG_NAME {
                label = Some(text(part(record, 0, 11)));
            }
            label.is_some()
        })?;
        Ok(label)
    }

    /// The cluster behind `cluster`; `None` is the end.
    fn next(&self, cluster: u32) -> Result<Option<u32>, Error> {
        let at = u64::from(cluster) * u64::from(self.bits) / 8;
        let mut raw = [0; 4];
        let raw_part = raw.get_mut(..if self.bits == 32 { 4 } else { 2 });
        self.disk.read(self.table + at, raw_part.unwrap_or_default())?;
        let value = u32::from_le_bytes(raw);
        let (next, end) = match self.bits {
            12 => (value >> (cluster % 2 * 4) & 0xfff, 0xff7),
            16 => (value, 0xfff7),
            _ => (value & 0x0fff_ffff, 0x0fff_fff7),
        };
        Ok((next < end).then_some(next))
    }

    /// The clusters from `first` on, of `most` bytes at most.
    fn chain(&self, first: u32, most: u64) -> Result<File, Error> {
        let mut file = File::new(Rc::clone(&self.disk));
        let mut next = Some(first).filter(|_| most > 0);
        let mut left = self.clusters;
        while let Some(cluster) = next {
            let index = cluster.wrapping_sub(2);
            if index >= self.clusters || left == 0 {
                return Err(DAMAGED);
            }
            let at = self.data + u64::from(index) * self.cluster;
            file.push(Extent { at: Some(at), len: self.cluster })?;
            if file.len() >= most {
                break;
            }
            next = self.next(cluster)?;
            left -= 1;
        }
        Ok(file)
    }

    fn record(&self, node: u64) -> Result<[u8; 32], Error> {
        if node == 0 {
            // A record like that of any other directory.
            let mut root = [0; 32];
            if let Some(attributes) = root.get_mut(11) {
                *attributes = DIRECTORY;
            }
            return Ok(root);
        }
        array(&*self.disk, node)
    }

    fn directory(&self, node: u64) -> Result<File, Error> {
        match self.root {
            Root::Fixed(extent) if node == 0 => {
                let mut file = File::new(Rc::clone(&self.disk));
                file.push(extent)?;
                Ok(file)
            }
            Root::Cluster(first) if node == 0 => self.chain(first, MAX_DIRECTORY),
            _ => self.chain(first_cluster(&self.record(node)?), MAX_DIRECTORY),
        }
    }

    /// Calls `each` with place and bytes of every record in use.
    fn records(&self, dir: u64, each: &mut dyn FnMut(u64, &[u8]) -> bool) -> Result<(), Error> {
        let content = self.directory(dir)?;
        let step = self.cluster.min(content.len()).max(32);
        let mut bytes = vec![0; step as usize];
        for (extent, mut at) in content.extents() {
            let mut left = extent.len;
            while left >= 32 {
                let len = left.min(step);
                let bytes = bytes.get_mut(..len as usize).unwrap_or_default();
                self.disk.read(at, bytes)?;
                for (index, record) in (0..).zip(bytes.chunks_exact(32)) {
                    match u8(record, 0) {
                        0 => return Ok(()),
                        0xe5 => {}
                        _ if each(at + 32 * index, record) => return Ok(()),
                        _ => {}
                    }
                }
                at += len;
                left -= len;
            }
        }
        Ok(())
    }
}

fn first_cluster(record: &[u8]) -> u32 {
    u32::from(le16(record, 20)) << 16 | u32::from(le16(record, 26))
}

/// Puts a long name together, which lies backwards before its record.
#[derive(Default)]
struct LongName {
    letters: Vec<u16>,
    checksum: u8,
    next: u8,
}

impl LongName {
    fn feed(&mut self, record: &[u8]) {
        let order = u8(record, 0);
        if order & 0x40 != 0 {
            *self = Self { letters: Vec::new(), checksum: u8(record, 13), next: order & 0x3f };
        }
        let wanted = order & 0x3f == self.next && u8(record, 13) == self.checksum;
        if !wanted || self.next == 0 || self.next > 20 {
            *self = Self::default();
            return;
        }
        self.next -= 1;
        let letters = LETTERS.map(|at| le16(record, at));
        self.letters.splice(0..0, letters);
    }

    /// The name of the record that follows, if all of it was there.
    fn take(&mut self, short: &[u8]) -> Option<String> {
        let sum = |sum: u8, byte: &u8| sum.rotate_right(1).wrapping_add(*byte);
        let checksum = short.iter().fold(0, sum);
        let name = core::mem::take(self);
        if name.next != 0 || name.letters.is_empty() || name.checksum != checksum {
            return None;
        }
        let letters = name.letters.into_iter().take_while(|letter| *letter != 0);
        let letter = |letter: Result<char, _>| letter.unwrap_or(char::REPLACEMENT_CHARACTER);
        Some(char::decode_utf16(letters).map(letter).collect())
    }
}

/// `NAME.EXT` of a record, in small letters where its flags say so.
fn short_name(record: &[u8]) -> String {
    let field = |at, len, flag| {
        let field = text(part(record, at, len));
        let small = u8(record, 12) & flag != 0;
        if small { field.to_ascii_lowercase() } else { field }
    };
    let (name, extension) = (field(0, 8, 8), field(8, 3, 0x10));
    match extension.as_str() {
        "" => name,
        extension => format!("{name}.{extension}"),
    }
}

impl FileSystem for Fat {
    fn name(&self) -> &'static str {
        "FAT"
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    fn ignores_case(&self) -> bool {
        true
    }

    fn root(&self) -> u64 {
        0
    }

    fn entries(&self, dir: u64, each: &mut dyn FnMut(&str, u64) -> bool) -> Result<(), Error> {
        if self.kind(dir)? != Kind::Directory {
            return Err(Error::Missing);
        }
        let mut long = LongName::default();
        self.records(dir, &mut |at, record| {
            let attributes = u8(record, 11);
            if attributes == LONG_NAME {
                long.feed(record);
                return false;
            }
            let name = long.take(part(record, 0, 11));
            if attributes & VOLUME != 0 || u8(record, 0) == b'.' {
                return false;
            }
            each(&name.unwrap_or_else(|| short_name(record)), at)
        })
    }

    fn kind(&self, node: u64) -> Result<Kind, Error> {
        let directory = u8(&self.record(node)?, 11) & DIRECTORY != 0;
        Ok(if directory { Kind::Directory } else { Kind::File })
    }

    fn open(&self, node: u64) -> Result<File, Error> {
        let record = self.record(node)?;
        let len = le32(&record, 28).into();
        self.chain(first_cluster(&record), len)?.slice(0, len)
    }

    fn link(&self, _: u64) -> Result<String, Error> {
        Err(Error::Missing)
    }
}
