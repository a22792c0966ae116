//! What is read from: drives, parts of drives, and files as extents of them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::Error;

/// Bytes of a sector, the unit of a drive.
pub const SECTOR: u64 = 512;
/// Extents that a file may have.
pub const MAX_EXTENTS: usize = 1 << 16;

/// Something of a fixed length that can be read.
pub trait Disk {
    /// Bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` with the bytes from `at`.
    ///
    /// # Errors
    /// The range does not lie in the medium, or the drive refuses.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error>;
}

/// Reads a structure of `N` bytes.
pub(crate) fn array<const N: usize>(disk: &dyn Disk, at: u64) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    disk.read(at, &mut bytes)?;
    Ok(bytes)
}

/// A part of a disk.
pub struct Window {
    disk: Rc<dyn Disk>,
    start: u64,
    len: u64,
}

impl Window {
    /// The `len` bytes from `start`, cut at the end of the disk.
    pub fn new(disk: Rc<dyn Disk>, start: u64, len: u64) -> Self {
        let len = len.min(disk.len().saturating_sub(start));
        Self { disk, start, len }
    }
}

impl Disk for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let end = at.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::Drive(at / SECTOR));
        }
        self.disk.read(self.start + at, into)
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 32 << 10;
/// Lines of the cache.
const LINES: usize = 16;

/// A disk whose small reads go through a cache, and whose large ones go
/// straight to where they are wanted.
pub struct Cached<D> {
    disk: D,
    lines: RefCell<Vec<Line>>,
}

/// What one place of the cache holds: the bytes from `number * LINE`.
struct Line {
    number: u64,
    bytes: Box<[u8]>,
}

impl<D: Disk> Cached<D> {
    /// A disk with an empty cache.
    pub fn new(disk: D) -> Self {
        let lines = RefCell::new(Vec::new());
        Self { disk, lines }
    }

    fn read_small(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let number = at / LINE as u64;
        let mut lines = self.lines.borrow_mut();
        if let Some(found) = lines.iter().position(|line| line.number == number) {
            // The line that was used last is the last that goes.
            lines.swap(found, 0);
        } else {
            let start = number * LINE as u64;
            let len = (LINE as u64).min(self.disk.len().saturating_sub(start));
            let mut bytes = if lines.len() < LINES {
                vec![0; LINE].into_boxed_slice()
            } else {
                lines.pop().map(|line| line.bytes).unwrap_or_default()
            };
            let part = bytes.get_mut(..len as usize).unwrap_or_default();
            self.disk.read(start, part)?;
            lines.insert(0, Line { number, bytes });
        }
        let line = lines.first().map(|line| &*line.bytes).unwrap_or_default();
        let offset = (at % LINE as u64) as usize;
        let from = line.get(offset..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(Error::Drive(at / SECTOR))?);
        Ok(())
    }
}

impl<D: Disk> Disk for Cached<D> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let end = at.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.disk.len()) {
            return Err(Error::Drive(at / SECTOR));
        }
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let sectors = rest.len() / SECTOR as usize * SECTOR as usize;
            if at.is_multiple_of(SECTOR) && rest.len() >= LINE {
                let (now, later) = rest.split_at_mut(sectors);
                self.disk.read(at, now)?;
                at += sectors as u64;
                rest = later;
                continue;
            }
            // Up to the end of the line, or to the next whole sector if much
            // is wanted.
            let most = if rest.len() >= LINE { SECTOR } else { LINE as u64 };
            let now = rest.len().min((most - at % most) as usize);
            let (now, later) = rest.split_at_mut(now);
            self.read_small(at, now)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

/// A part of a file that lies in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts on the disk; `None` is a hole, which reads as zeroes.
    pub at: Option<u64>,
    /// Bytes.
    pub len: u64,
}

/// A file: extents of a disk.
#[derive(Clone)]
pub struct File {
    disk: Rc<dyn Disk>,
    extents: Vec<Extent>,
    len: u64,
}

impl Disk for File {
    fn len(&self) -> u64 {
        self.len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        self.read(at, into)
    }
}

impl File {
    /// A file without content on `disk`.
    pub fn new(disk: Rc<dyn Disk>) -> Self {
        let (extents, len) = (Vec::new(), 0);
        Self { disk, extents, len }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no content.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The extents that are no holes, and where each starts.
    pub(crate) fn extents(&self) -> impl Iterator<Item = (&Extent, u64)> {
        self.extents.iter().filter_map(|extent| Some((extent, extent.at?)))
    }

    /// Appends an extent.
    ///
    /// # Errors
    /// The file has too many extents, or one lies outside the disk.
    pub fn push(&mut self, extent: Extent) -> Result<(), Error> {
        const OUTSIDE: Error = Error::Damaged("place of a file");
        if extent.len == 0 {
            return Ok(());
        }
        if let Some(at) = extent.at {
            let end = at.checked_add(extent.len).ok_or(OUTSIDE)?;
            if end > self.disk.len() {
                return Err(OUTSIDE);
            }
        }
        self.len = self.len.checked_add(extent.len).ok_or(OUTSIDE)?;
        if let Some(last) = self.extents.last_mut() {
            let next = last.at.map(|at| at + last.len);
            if next == extent.at {
                last.len += extent.len;
                return Ok(());
            }
        }
        if self.extents.len() == MAX_EXTENTS {
            return Err(Error::TooLarge("number of a file's extents"));
        }
        self.extents.push(extent);
        Ok(())
    }

    /// Cuts the file to `len` bytes, or fills it up with a hole.
    ///
    /// # Errors
    /// It has too many extents.
    pub fn set_len(&mut self, len: u64) -> Result<(), Error> {
        if len > self.len {
            let hole = Extent { at: None, len: len - self.len };
            return self.push(hole);
        }
        *self = self.slice(0, len)?;
        Ok(())
    }

    /// The `len` bytes from `at` as a file of their own.
    ///
    /// # Errors
    /// The file is shorter.
    pub fn slice(&self, at: u64, len: u64) -> Result<Self, Error> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::Damaged("file, which is too short,"));
        }
        let mut part = Self::new(Rc::clone(&self.disk));
        let (mut skip, mut rest) = (at, len);
        for extent in &self.extents {
            let skipped = skip.min(extent.len);
            skip -= skipped;
            let len = rest.min(extent.len - skipped);
            rest -= len;
            let at = extent.at.map(|at| at + skipped);
            part.push(Extent { at, len })?;
        }
        Ok(part)
    }

    /// Fills `into` with the bytes from `at`.
    ///
    /// # Errors
    /// The file is shorter, or the drive refuses.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let (mut skip, mut rest) = (at, into);
        for extent in &self.extents {
            if rest.is_empty() {
                break;
            }
            let skipped = skip.min(extent.len);
            skip -= skipped;
            let len = (extent.len - skipped).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(len);
            match extent.at {
                Some(at) => self.disk.read(at + skipped, now)?,
                None => now.fill(0),
            }
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(Error::Damaged("file, which is too short,"))
    }

    /// The first `most` bytes, or all if there are fewer.
    ///
    /// # Errors
    /// The drive refuses.
    pub fn head(&self, most: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.len.min(most as u64) as usize];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }

    /// The whole file.
    ///
    /// # Errors
    /// It has more than `most` bytes, or the drive refuses.
    pub fn whole(&self, most: usize) -> Result<Vec<u8>, Error> {
        if self.len > most as u64 {
            return Err(Error::TooLarge("file"));
        }
        self.head(most)
    }
}
