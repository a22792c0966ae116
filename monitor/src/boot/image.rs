//! A file that guest memory is filled from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mote_virtio::Unpoisoned as _;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::Error;
use crate::host::memory::{self, GuestRam, PAGE};
use crate::layout;

/// Below this many bytes a copy is cheaper than a mapping.
pub(crate) const WORTH_MAPPING: u64 = 128 << 10;

/// A kernel or initrd file, opened once and for good.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) what: &'static str,
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// Bytes.
    pub(crate) len: u64,
    /// The lowest address at which it may lie in guest memory.
    pub(crate) lowest: u64,
    /// Where it has been mapped: guest address, length, offset in the file.
    mapped: Mutex<Vec<(u64, u64, u64)>>,
}

#[derive(Clone)]
/// A part of guest memory that a file is mapped to.
pub struct Mapped<'a> {
    pub(crate) address: u64,
    /// Bytes: whole pages, of which the last may lie behind the file's end.
    pub(crate) length: u64,
    pub(crate) file: &'a File,
    pub(crate) offset: u64,
}

impl Image {
    pub(crate) fn open(what: &'static str, path: &Path) -> Result<Self, Error> {
        let unusable = |e: io::Error| Error::file(what, path, &e);
        // A FIFO or device must not block or do things: ask before opening.
        let kind = std::fs::metadata(path).map_err(unusable)?;
        if !kind.is_file() {
            let is = if kind.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::Input(what, path.into(), format!("is {is}")));
        }
        let file = File::open(path).map_err(unusable)?;
        let len = file.metadata().map_err(unusable)?.len();
        if len == 0 {
            return Err(Error::Input(what, path.into(), "is empty".to_owned()));
        }
        Ok(Self {
            what,
            file,
            path: path.into(),
            len,
            lowest: layout::HIGH_RAM,
            mapped: Mutex::default(),
        })
    }

    /// An image that is part of the monitor, given the shape of a file.
    pub(crate) fn embedded(what: &'static str, bytes: &[u8]) -> Result<Self, Error> {
        let failed = |e: io::Error| Error::System("memfd", e);
        let fd = memfd_create("mote-guest", MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let file = File::from(fd);
        file.write_all_at(bytes, 0).map_err(failed)?;
        Ok(Self {
            what,
            file,
            path: "(built in)".into(),
            len: bytes.len() as u64,
            lowest: layout::HIGH_RAM,
            mapped: Mutex::default(),
        })
    }

    /// Bytes of the file's beginning, at most `most`.
    pub(crate) fn head(&self, most: u64) -> usize {
        // At most 64 KiB, so it fits.
        self.len.min(most) as usize
    }

    pub(crate) fn refuse(&self, why: impl Into<String>) -> Error {
        Error::Input(self.what, self.path.clone(), why.into())
    }

    /// Reads exactly `buffer.len()` bytes at `offset`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.refuse("is truncated"),
            _ => Error::file(self.what, &self.path, &e),
        })
    }

    /// Maps `length` bytes from `offset` at `address`, and notes it.
    pub(crate) fn map(
        &self,
        ram: &GuestRam,
        address: u64,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        memory::map_file(ram, address, &self.file, offset, length)?;
        let new = (address, length.next_multiple_of(PAGE), offset);
        let mut mapped = self.mapped.lock().unpoisoned();
        // After a reset all of it is mapped again.
        if !mapped.contains(&new) {
            mapped.push(new);
        }
        Ok(())
    }

    /// Where it has been mapped.
    pub(crate) fn mapped(&self) -> Vec<Mapped<'_>> {
        let mapped = self.mapped.lock().unpoisoned();
        let file = &self.file;
        let piece =
            |&(address, length, offset): &(u64, u64, u64)| Mapped { address, length, file, offset };
        mapped.iter().map(piece).collect()
    }

    /// Puts `length` bytes from `offset` at `address`: whole pages are mapped
    /// where file and memory line up and it pays, the rest is copied.
    pub(crate) fn place(
        &self,
        ram: &GuestRam,
        address: u64,
        offset: u64,
        length: u64,
    ) -> Result<(), Error> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.refuse("is truncated"),
            _ => Error::file(self.what, &self.path, &e),
        };
        let copy = |skip: u64, length: u64| {
            memory::copy_file(ram, address + skip, &self.file, offset + skip, length)
                .map_err(failed)
        };
        let (start, end) = worth_mapping(address, address + length);
        let (head, whole) = (start - address, end - start);
        let lined_up = address % PAGE == offset % PAGE && whole >= WORTH_MAPPING;
        if !lined_up || self.map(ram, start, offset + head, whole).is_err() {
            // Not every file system can map; copying always works.
            return copy(0, length);
        }
        copy(0, head)?;
        copy(head + whole, length - head - whole)
    }
}

/// The part of `start..end` to map from a file: whole pages, and no block of
/// 2 MiB of which they fill less than an eighth. Memory around a small mapping
/// cannot become a huge page, and costs the guest an exit for each page then;
/// more of it would take longer to copy than that is worth.
pub(crate) fn worth_mapping(start: u64, end: u64) -> (u64, u64) {
    const BLOCK: u64 = 2 << 20;
    const LEAST: u64 = BLOCK / 8;
    let (mut start, mut end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if BLOCK - start % BLOCK < LEAST {
        start = start.next_multiple_of(BLOCK);
    }
    if end % BLOCK < LEAST {
        end = end / BLOCK * BLOCK;
    }
    (start, end.max(start))
}
