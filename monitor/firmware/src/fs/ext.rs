//! ext2, ext3 and ext4 (Linux, Documentation/filesystems/ext4).
//!
//! Own code instead of a crate: a file becomes a list of extents, which drives
//! then read straight to where they are wanted; the crates there are copy
//! block by block.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::node::{FileSystem, Kind, MAX_DIRECTORY, MAX_NAME, kind_of_mode};
use crate::Error;
use crate::bytes::{le16, le32, part, text, u8};
use crate::disk::{Disk, Extent, File, array};

mod journal;

const ROOT: u64 = 2;
/// Features without which a file system cannot be read right, and that are
/// known: file types, recovery, extents, 64 bits, mount protection, flexible
/// groups, extended attributes in inodes, checksum seed, large directories,
/// inline data, encryption and case folding of some directories.
const KNOWN: u32 = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x3_8000;
const NEEDS_RECOVERY: u32 = 4;
const WIDE: u32 = 0x80;
/// Inode flags.
const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;
/// Depth of an extent tree.
const MAX_DEPTH: u16 = 5;
/// Blocks of an extent tree that are read for one file.
const MAX_NODES: usize = 4096;
/// Blocks of a file that is mapped block by block.
const MAX_BLOCKS: u64 = 1 << 20;

/// An ext2, ext3 or ext4 file system. A node is the number of an inode.
pub(super) struct Ext {
    disk: Rc<dyn Disk>,
    block: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u64,
    /// Where the group descriptors start, and bytes of one.
    groups: u64,
    group_size: u64,
    label: String,
    uuid: String,
}

impl Ext {
    pub(super) fn open(disk: &Rc<dyn Disk>) -> Result<Option<Self>, Error> {
        if disk.len() < 2048 {
            return Ok(None);
        }
        let raw: [u8; 1024] = array(&**disk, 1024)?;
        if le16(&raw, 56) != 0xef53 {
            return Ok(None);
        }
        let features = le32(&raw, 96);
        if features & !KNOWN != 0 {
            return Err(Error::Unsupported("a feature of this ext4 file system"));
        }
        let shift = le32(&raw, 24);
        let size = le16(&raw, 88);
        let inode_size = if le32(&raw, 76) == 0 { 128 } else { size };
        let group_size = if features & WIDE == 0 { 32 } else { le16(&raw, 254) };
        let sound = shift <= 6
            && inode_size.is_power_of_two()
            && (128..=4096).contains(&inode_size)
            && (32..=1024).contains(&group_size)
            && le32(&raw, 40) > 0;
        if !sound {
            return Err(Error::Damaged("ext4 superblock"));
        }
        let block = 1024 << shift;
        let mut fs = Self {
            disk: Rc::clone(disk),
            block,
            inodes: le32(&raw, 0),
            inodes_per_group: le32(&raw, 40),
            inode_size: inode_size.into(),
            groups: (u64::from(le32(&raw, 20)) + 1) * block,
            group_size: group_size.into(),
            label: text(part(&raw, 120, 16)),
            uuid: uuid(part(&raw, 104, 16)),
        };
        if features & NEEDS_RECOVERY != 0 {
            let journal = fs.open(le32(&raw, 224).into())?;
            fs.disk = journal::replayed(disk, &journal, block)?;
        }
        Ok(Some(fs))
    }

    fn inode(&self, number: u64) -> Result<Inode, Error> {
        let index = number.wrapping_sub(1);
        if index >= self.inodes.into() {
            return Err(Error::Damaged("ext4 directory"));
        }
        let per_group = u64::from(self.inodes_per_group);
        let group = self.groups + index / per_group * self.group_size;
        let mut raw = [0; 64];
        let wanted = raw.get_mut(..self.group_size.min(64) as usize);
        self.disk.read(group, wanted.unwrap_or_default())?;
        let table = self.at(u64::from(le32(&raw, 8)) | u64::from(le32(&raw, 40)) << 32)?;
        let at = table + index % per_group * self.inode_size;
        let raw = array(&*self.disk, at)?;
        let inode = Inode(raw);
        if inode.flags() & ENCRYPTED != 0 {
            return Err(Error::Unsupported("ext4 encryption"));
        }
        Ok(inode)
    }

    /// The byte at which a block starts.
    fn at(&self, block: u64) -> Result<u64, Error> {
        let at = block.checked_mul(self.block);
        at.filter(|at| *at < self.disk.len()).ok_or(Error::Damaged("ext4 block number"))
    }

    /// Appends the leaves below the extent tree's node in `raw`, whose depth
    /// has to be `depth` where that is known.
    fn leaves(&self, raw: &[u8], depth: Option<u16>, walk: &mut Walk) -> Result<(), Error> {
        const DAMAGED: Error = Error::Damaged("ext4 extent tree");
        let (entries, level) = (le16(raw, 2), le16(raw, 6));
        let most = depth.map_or(level <= MAX_DEPTH, |depth| depth == level);
        walk.nodes += 1;
        if le16(raw, 0) != 0xf30a || !most || walk.nodes > MAX_NODES {
            return Err(DAMAGED);
        }
        for index in 1..=usize::from(entries) {
            let entry = part(raw, 12 * index, 12);
            if entry.len() < 12 {
                return Err(DAMAGED);
            }
            let first = u64::from(le32(entry, 0));
            if level > 0 {
                let block = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                let mut node = vec![0; self.block as usize];
                self.disk.read(self.at(block)?, &mut node)?;
                self.leaves(&node, Some(level - 1), walk)?;
                continue;
            }
            let blocks = le16(entry, 4);
            // Longer ones are allocated but not written.
            let (blocks, written) = match blocks {
                0..=0x8000 => (blocks, true),
                _ => (blocks - 0x8000, false),
            };
            let start = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
            let skipped = (first * self.block).checked_sub(walk.file.len());
            let hole = skipped.ok_or(DAMAGED)?;
            walk.file.push(Extent { at: None, len: hole })?;
            let at = if written { Some(self.at(start)?) } else { None };
            let len = u64::from(blocks) * self.block;
            walk.file.push(Extent { at, len })?;
        }
        Ok(())
    }

    /// Appends the blocks of a file that is mapped block by block.
    fn blocks(&self, inode: &Inode, file: &mut File) -> Result<(), Error> {
        let wanted = inode.len().div_ceil(self.block);
        if wanted > MAX_BLOCKS {
            return Err(Error::TooLarge("file"));
        }
        let pointers = self.block / 4;
        for index in 0..wanted {
            // The tree that holds it: its root in the inode, and its depth.
            let (mut root, mut depth, mut rest) = (index, 0, index);
            let mut span = 1;
            if index >= 12 {
                (root, depth, rest) = (12, 1, index - 12);
                span = pointers;
                while rest >= span && depth < 3 {
                    rest -= span;
                    span *= pointers;
                    (root, depth) = (root + 1, depth + 1);
                }
            }
            let mut block = le32(part(&inode.0, 40, 60), 4 * root as usize);
            for _ in 0..depth {
                span /= pointers;
                if block == 0 {
                    break;
                }
                let at = self.at(block.into())? + rest / span * 4;
                rest %= span;
                block = u32::from_le_bytes(array(&*self.disk, at)?);
            }
            let at = match block {
                0 => None,
                block => Some(self.at(block.into())?),
            };
            file.push(Extent { at, len: self.block })?;
        }
        Ok(())
    }

    fn content(&self, inode: &Inode) -> Result<File, Error> {
        let mut file = File::new(Rc::clone(&self.disk));
        if inode.flags() & INLINE != 0 {
            return Err(Error::Unsupported("ext4 inline data"));
        }
        if inode.flags() & EXTENTS != 0 {
            let mut walk = Walk { file, nodes: 0 };
            self.leaves(part(&inode.0, 40, 60), None, &mut walk)?;
            file = walk.file;
        } else {
            self.blocks(inode, &mut file)?;
        }
        file.set_len(inode.len())?;
        Ok(file)
    }
}

/// A walk through an extent tree.
struct Walk {
    file: File,
    nodes: usize,
}

/// The first 128 bytes of an inode.
struct Inode([u8; 128]);

impl Inode {
    fn kind(&self) -> Kind {
        kind_of_mode(le16(&self.0, 0))
    }

    fn flags(&self) -> u32 {
        le32(&self.0, 32)
    }

    fn len(&self) -> u64 {
        u64::from(le32(&self.0, 4)) | u64::from(le32(&self.0, 108)) << 32
    }
}

fn uuid(raw: &[u8]) -> String {
    let mut text = String::new();
    for (index, byte) in raw.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl FileSystem for Ext {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn uuid(&self) -> &str {
        &self.uuid
    }

    fn ignores_case(&self) -> bool {
        false
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn entries(&self, dir: u64, each: &mut dyn FnMut(&str, u64) -> bool) -> Result<(), Error> {
        let inode = self.inode(dir)?;
        if inode.kind() != Kind::Directory {
            return Err(Error::Missing);
        }
        let content = self.content(&inode)?;
        if content.len() > MAX_DIRECTORY {
            return Err(Error::TooLarge("directory"));
        }
        let mut block = vec![0; self.block as usize];
        for at in (0..content.len()).step_by(self.block as usize) {
            let len = (content.len() - at).min(self.block) as usize;
            let block = block.get_mut(..len).unwrap_or_default();
            content.read(at, block)?;
            // Index blocks of a hashed directory look like an empty entry.
            let mut rest: &[u8] = block;
            while rest.len() >= 8 {
                let (node, len) = (le32(rest, 0), usize::from(le16(rest, 4)));
                let name = part(rest, 8, u8(rest, 6).into());
                if node != 0
                    && !matches!(name, b"" | b"." | b"..")
                    && each(&String::from_utf8_lossy(name), node.into())
                {
                    return Ok(());
                }
                if len < 8 {
                    return Err(Error::Damaged("ext4 directory"));
                }
                rest = rest.get(len..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn kind(&self, node: u64) -> Result<Kind, Error> {
        Ok(self.inode(node)?.kind())
    }

    fn open(&self, node: u64) -> Result<File, Error> {
        self.content(&self.inode(node)?)
    }

    fn link(&self, node: u64) -> Result<String, Error> {
        let inode = self.inode(node)?;
        if inode.kind() != Kind::Link {
            return Err(Error::Missing);
        }
        // Short ones lie in the inode itself.
        let target: Vec<u8> = if inode.flags() & EXTENTS == 0 && inode.len() < 60 {
            part(&inode.0, 40, inode.len() as usize).into()
        } else {
            self.content(&inode)?.whole(MAX_NAME)?
        };
        Ok(text(&target))
    }
}
