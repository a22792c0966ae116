//! Which file system is on a disk, and what a path leads to.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::node::{FileSystem, Kind};
use super::{ext, fat, iso};
use crate::Error;
use crate::disk::{Disk, File};

/// Entries of a directory that are looked at.
const MAX_ENTRIES: usize = 1 << 16;

/// Symbolic links that are followed on one path.
const MAX_LINKS: usize = 16;

/// Components of a path.
const MAX_DEPTH: usize = 64;

/// The file system on `disk`.
///
/// # Errors
/// The firmware does not know the file system or a feature that it uses, or it is damaged.
pub fn probe(disk: &Rc<dyn Disk>) -> Result<Rc<dyn FileSystem>, Error> {
    if let Some(fs) = iso::Iso::open(disk)? {
        return Ok(Rc::new(fs));
    }
    if let Some(fs) = ext::Ext::open(disk)? {
        return Ok(Rc::new(fs));
    }
    if let Some(fs) = fat::Fat::open(disk)? {
        return Ok(Rc::new(fs));
    }
    Err(foreign(&**disk))
}

/// What else is on a disk, by its magic number.
fn foreign(disk: &dyn Disk) -> Error {
    const MAGIC: [(u64, &[u8], &str); 8] = [
        (0, b"XFSB", "XFS"),
        (0x1_0040, b"_BHRfS_M", "Btrfs"),
        (0, b"hsqs", "SquashFS"),
        (0, b"LUKS\xba\xbe", "LUKS encryption"),
        (0x218, b"LVM2 001", "LVM"),
        (4086, b"SWAPSPACE2", "swap space"),
        (3, b"NTFS    ", "NTFS"),
        (1024, b"\x10\x20\xf5\xf2", "F2FS"),
    ];
    for (at, magic, name) in MAGIC {
        let mut bytes = [0; 16];
        let bytes = bytes.get_mut(..magic.len()).unwrap_or_default();
        if disk.read(at, bytes).is_ok() && bytes == magic {
            return Error::Unsupported(name);
        }
    }
    Error::NoFileSystem
}

/// The node at a path, symbolic links followed.
fn walk(fs: &dyn FileSystem, path: &str) -> Result<u64, Error> {
    let mut stack = vec![fs.root()];
    let mut todo: Vec<String> = Vec::new();
    let mut links = 0;
    let push = |todo: &mut Vec<String>, path: &str| {
        let parts = path.split('/').rev().filter(|part| !part.is_empty());
        todo.extend(parts.take(MAX_DEPTH).map(String::from));
        todo.len() <= 2 * MAX_DEPTH
    };
    push(&mut todo, path);
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "." => continue,
            ".." => {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            _ => {}
        }
        let dir = stack.last().copied().unwrap_or(fs.root());
        let node = child(fs, dir, &part)?;
        if fs.kind(node)? != Kind::Link {
            stack.push(node);
            continue;
        }
        links += 1;
        let target = fs.link(node)?;
        if target.starts_with('/') {
            stack.truncate(1);
        }
        if links > MAX_LINKS || !push(&mut todo, &target) {
            return Err(Error::Damaged("symbolic link"));
        }
    }
    stack.pop().ok_or(Error::Missing)
}

fn child(fs: &dyn FileSystem, dir: u64, wanted: &str) -> Result<u64, Error> {
    let (mut exact, mut similar) = (None, None);
    fs.entries(dir, &mut |name, node| {
        if name == wanted {
            exact = Some(node);
        } else if similar.is_none() && fs.ignores_case() && same_letters(name, wanted) {
            similar = Some(node);
        }
        exact.is_some()
    })?;
    exact.or(similar).ok_or(Error::Missing)
}

fn same_letters(a: &str, b: &str) -> bool {
    let lower = |text| str::chars(text).flat_map(char::to_lowercase);
    lower(a).eq(lower(b))
}

/// The file at a path.
///
/// # Errors
/// The path leads to nothing, or something on the way is damaged.
pub fn open(fs: &dyn FileSystem, path: &str) -> Result<File, Error> {
    let node = walk(fs, path)?;
    match fs.kind(node)? {
        Kind::File => fs.open(node),
        _ => Err(Error::Missing),
    }
}

/// What is at a path.
///
/// # Errors
/// There is nothing, or something on the way is damaged.
pub fn kind(fs: &dyn FileSystem, path: &str) -> Result<Kind, Error> {
    fs.kind(walk(fs, path)?)
}

/// The names in the directory at a path, in order.
///
/// # Errors
/// The path leads to nothing, or something on the way is damaged.
pub fn list(fs: &dyn FileSystem, path: &str) -> Result<Vec<String>, Error> {
    let dir = walk(fs, path)?;
    let mut names = Vec::new();
    fs.entries(dir, &mut |name, _| {
        names.push(String::from(name));
        names.len() == MAX_ENTRIES
    })?;
    names.sort_unstable();
    Ok(names)
}
