//! The memory file: the bytes of guest memory, range after range, pages of
//! zeroes left out as holes; behind them one page that says whose it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use crate::{Error, MemoryV1};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// The last page begins with this, then the snapshot's identity.
const MAGIC: [u8; 16] = *b"MOTE-MEMORY-V1\0\0";
/// Bytes that are read in one go.
const CHUNK: usize = 256 << 10;

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |cause| Error::Io(what, cause)
}

fn tail(id: [u8; 16]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let text = MAGIC.into_iter().chain(id);
    page.iter_mut().zip(text).for_each(|(to, from)| *to = from);
    page
}

/// Writes a memory file.
#[derive(Debug)]
pub struct MemoryWriter<'a> {
    file: &'a File,
    sum: Sha256,
}

impl<'a> MemoryWriter<'a> {
    /// Begins with an empty file.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        let sum = Sha256::new();
        Self { file, sum }
    }

    /// Writes pages at byte `offset` of the file, in rising order; those that
    /// are zero stay holes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let skip = run(rest, true);
            let (_, data) = rest.split_at(skip);
            let (data, behind) = data.split_at(run(data, false));
            at += skip as u64;
            for (page, place) in data.chunks(PAGE).zip((at..).step_by(PAGE)) {
                add(&mut self.sum, place, page);
            }
            let written = self.file.write_all_at(data, at);
            written.map_err(failed("write"))?;
            at += data.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Ends the file behind `length` bytes of memory, and has it on disk;
    /// returns the checksum.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self, length: u64, id: [u8; 16]) -> Result<[u8; 32], Error> {
        let written = self.file.write_all_at(&tail(id), length);
        written.map_err(failed("write"))?;
        self.file.sync_all().map_err(failed("fsync"))?;
        Ok(self.sum.finalize().into())
    }
}

/// Bytes at the start of `bytes` that are pages of zeroes, or are none.
fn run(bytes: &[u8], zero: bool) -> usize {
    let pages = bytes.chunks(PAGE).take_while(|page| is_zero(page) == zero);
    pages.map(<[u8]>::len).sum()
}

/// Whether a page has only zeroes.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    // In pieces, which the compiler turns into wide loads.
    page.chunks(64)
        .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

fn add(sum: &mut Sha256, place: u64, page: &[u8]) {
    sum.update(place.to_le_bytes());
    sum.update(page);
}

/// Checks, without reading the memory, that `file`, which has `length` bytes, is
/// the one that `memory` was written with.
///
/// # Errors
/// It is not, or is too short or too long.
pub fn check_memory(file: &File, length: u64, memory: &MemoryV1) -> Result<(), Error> {
    let right = memory.length() + PAGE as u64;
    if length != right {
        return Err(Error::Length(length, right));
    }
    let mut page = [0; PAGE];
    let read = file.read_exact_at(&mut page, memory.length());
    read.map_err(failed("read"))?;
    if !page.starts_with(&MAGIC) {
        return Err(Error::NotASnapshot);
    }
    if page != tail(memory.id) {
        return Err(Error::OtherMemory);
    }
    Ok(())
}

/// Checks all of the memory file, which takes as long as to read it.
///
/// # Errors
/// [`Error::Checksum`] if a byte is not as it was, or the file cannot be read.
pub fn verify_memory(file: &File, memory: &MemoryV1) -> Result<(), Error> {
    let (mut sum, mut at) = (Sha256::new(), 0);
    let mut buffer = vec![0; CHUNK];
    while at < memory.length() {
        // Holes read as zeroes, which are no part of the sum.
        let left = memory.length().saturating_sub(at).min(CHUNK as u64);
        let part = buffer.get_mut(..left as usize).unwrap_or_default();
        file.read_exact_at(part, at).map_err(failed("read"))?;
        for (page, place) in part.chunks(PAGE).zip((at..).step_by(PAGE)) {
            if !is_zero(page) {
                add(&mut sum, place, page);
            }
        }
        at += left;
    }
    let found: [u8; 32] = sum.finalize().into();
    (found == memory.sum).then_some(()).ok_or(Error::Checksum)
}
