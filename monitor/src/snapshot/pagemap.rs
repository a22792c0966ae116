//! Where the pages of guest memory are: in private memory, in a mapped file, or not
//! present.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::FileExt as _;

use mote_snapshot::data_runs;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::boot::Mapped;
use crate::error::Error;
use crate::host::memory::{GuestRam, PAGE};

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not present, or only in a file's page cache.
    Away,
    /// In a file's page cache, and mapped: the guest has read it.
    File,
    /// Private to the guest.
    Own,
}

/// What `/proc` tells of this process's pages (Linux:
/// Documentation/admin-guide/mm/pagemap.rst).
pub struct PageMap(File);

impl PageMap {
    /// Its path, opened before the process is confined.
    pub const PATH: &str = "/proc/self/pagemap";

    /// Opens it.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn open() -> io::Result<Self> {
        File::open(Self::PATH).map(Self)
    }

    /// Its descriptor's number, for a filter.
    pub fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Calls `each` for runs of pages that are in the same place, in rising
    /// order: place, offset in all of guest memory as a snapshot's file has it,
    /// and bytes.
    ///
    /// # Errors
    /// Errors of `each`, or the page map cannot be read.
    pub(crate) fn runs(
        &self,
        ram: &GuestRam,
        each: &mut dyn FnMut(Place, u64, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut entries = vec![0; 64 << 10];
        let mut begins = 0;
        for region in ram.iter() {
            let host = region.as_ptr().addr() as u64;
            let pages = region.len() / PAGE;
            let mut page = 0;
            while page < pages {
                let count = (pages - page).min(entries.len() as u64 / 8);
                let part = entries.get_mut(..count as usize * 8).unwrap_or_default();
                self.0
                    .read_exact_at(part, (host / PAGE + page) * 8)
                    .map_err(|e| Error::System("read pagemap", e))?;
                let mut at = begins + page * PAGE;
                for same in part.as_chunks().0.chunk_by(|a, b| place(*a) == place(*b)) {
                    let length = same.len() as u64 * PAGE;
                    let here = same.first().map_or(Place::Away, |entry| place(*entry));
                    each(here, at, length)?;
                    at += length;
                }
                page += count;
            }
            begins += region.len();
        }
        Ok(())
    }
}

fn place(entry: [u8; 8]) -> Place {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    let entry = u64::from_le_bytes(entry);
    if entry & (PRESENT | SWAPPED) == 0 {
        Place::Away
    } else if entry & SWAPPED != 0 || entry & FILE == 0 {
        Place::Own
    } else {
        Place::File
    }
}

/// Reads guest memory for a save without allocating pages.
pub(crate) struct Reader<'a> {
    ram: &'a GuestRam,
    mapped: Vec<Mapped<'a>>,
    buffer: Vec<u8>,
}

/// Handles bytes of memory at an offset.
type Take<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

impl<'a> Reader<'a> {
    /// Bytes that are read in one go.
    const CHUNK: u64 = 256 << 10;

    pub(crate) fn new(ram: &'a GuestRam, mapped: Vec<Mapped<'a>>) -> Self {
        let buffer = vec![0; Self::CHUNK as usize];
        Self { ram, mapped, buffer }
    }

    /// Hands the contents of the run of pages to `take`, in rising order; of
    /// pages without a private copy, only the file's data.
    pub(crate) fn read(
        &mut self,
        place: Place,
        offset: u64,
        length: u64,
        take: &mut Take<'_>,
    ) -> Result<(), Error> {
        let failed = |e| Error::System("read guest memory", e);
        for (begins, address, end) in pieces(self.ram, offset, length) {
            if place == Place::Own {
                for at in (begins..end).step_by(Self::CHUNK as usize) {
                    let part = (end - at).min(Self::CHUNK) as usize;
                    let part = self.buffer.get_mut(..part).unwrap_or_default();
                    let address = GuestAddress(address + (at - begins));
                    let read = self.ram.read_slice(part, address);
                    read.map_err(|e| failed(io::Error::other(e)))?;
                    take(at, part)?;
                }
                continue;
            }
            // Later mappings replace earlier ones; no two of these overlap.
            for mapped in &self.mapped {
                let (from, to) = (
                    address.max(mapped.address),
                    (address + (end - begins)).min(mapped.address + mapped.length),
                );
                if from < to {
                    let at = mapped.offset + (from - mapped.address);
                    let to = at + (to - from);
                    let shift = begins + (from - address);
                    let mut put = |place: u64, bytes: &[u8]| take(shift + (place - at), bytes);
                    read_file(mapped.file, (at, to), &mut self.buffer, &mut put)?;
                }
            }
        }
        Ok(())
    }
}

/// The pieces of `offset..offset + length` of all memory that lie in one range
/// of guest addresses: offset, address, offset of the end.
fn pieces(ram: &GuestRam, offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let mut begins = 0;
    ram.iter().filter_map(move |region| {
        let start = begins;
        begins += region.len();
        let (from, to) = (offset.max(start), (offset + length).min(begins));
        (from < to).then(|| (from, region.start_addr().0 + (from - start), to))
    })
}

/// Reads what a file has between two offsets, which are multiples of a page's
/// size; behind its end there are zeroes.
fn read_file(
    file: &File,
    (at, end): (u64, u64),
    buffer: &mut [u8],
    take: &mut Take<'_>,
) -> Result<(), Error> {
    let failed = |e: io::Error| Error::System("read a file in guest memory", e);
    // Holes are not read: that would take memory for their zeroes.
    for run in data_runs(file, at, end) {
        let (start, stop) = run.map_err(failed)?;
        for at in (start..stop).step_by(buffer.len()) {
            let most = (stop - at).min(buffer.len() as u64) as usize;
            let part = buffer.get_mut(..most).unwrap_or_default();
            let mut done = 0;
            while let Some(rest) = part.get_mut(done..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, at + done as u64) {
                    Ok(0) => {
                        rest.fill(0);
                        break;
                    }
                    Ok(read) => done += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            take(at, part)?;
        }
    }
    Ok(())
}
