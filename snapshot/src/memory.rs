//! The memory file: the bytes of guest memory, range after range, pages of
//! zeroes left out as holes; behind them one page that says whose it is, and in
//! that of a difference a bit for each page that has changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::{Error, MemoryV1, PAGE};

/// The last page begins with this, then the snapshot's identity.
const MAGIC: [u8; 16] = *b"MOTE-MEMORY-V1\0\0";
/// Bytes of one read.
const CHUNK: u64 = 256 << 10;
/// Pages that a word of a bitmap stands for.
const BITS: u64 = 64;

fn failed(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |cause| Error::Io(what, cause)
}

fn tail(id: [u8; 16]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let text = MAGIC.into_iter().chain(id);
    page.iter_mut().zip(text).for_each(|(to, from)| *to = from);
    page
}

/// Words of a bitmap with one bit for each page of `length` bytes.
#[must_use]
pub fn bitmap_words(length: u64) -> usize {
    // Memory is below 2^43 bytes.
    length.div_ceil(PAGE as u64 * BITS) as usize
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
            self.count(at, data);
            let written = self.file.write_all_at(data, at);
            written.map_err(failed("write"))?;
            at += data.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Takes pages, none of them zero, that are in the file already.
    pub(crate) fn count(&mut self, offset: u64, data: &[u8]) {
        for (page, place) in data.chunks(PAGE).zip((offset..).step_by(PAGE)) {
            add(&mut self.sum, place, page);
        }
    }

    /// Ends the file behind `length` bytes of memory, and has it on disk;
    /// returns the checksum. That of a difference has a bit for each page that
    /// has `changed`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(
        mut self,
        length: u64,
        id: [u8; 16],
        changed: Option<&[u64]>,
    ) -> Result<[u8; 32], Error> {
        let written = self.file.write_all_at(&tail(id), length);
        written.map_err(failed("write"))?;
        if let Some(changed) = changed {
            let bytes: Vec<u8> = changed.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.sum.update(&bytes);
            let written = self.file.write_all_at(&bytes, length + PAGE as u64);
            written.map_err(failed("write"))?;
        }
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
    page.chunks(64).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
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
    let bitmap = match memory.base {
        Some(_) => 8 * bitmap_words(memory.length()) as u64,
        None => 0,
    };
    let right = memory.length() + PAGE as u64 + bitmap;
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
    read_memory(file, memory, &mut |_, _| Ok(())).map(|_| ())
}

/// What is done with a page: its offset, and what it has.
type Each<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

/// Calls `each` for all pages of the file that are not zero, one by one; when
/// all have come they are known to be as they were written. Returns which pages
/// have changed, if the file is a difference.
///
/// # Errors
/// That of `each`; [`Error::Checksum`], or the file cannot be read.
pub(crate) fn read_memory(
    file: &File,
    memory: &MemoryV1,
    each: &mut Each<'_>,
) -> Result<Option<Vec<u64>>, Error> {
    let mut sum = Sha256::new();
    data(file, memory.length(), &mut |at, page| {
        add(&mut sum, at, page);
        each(at, page)
    })?;
    let changed = read_bitmap(file, memory)?;
    for word in changed.iter().flatten() {
        sum.update(word.to_le_bytes());
    }
    let found: [u8; 32] = sum.finalize().into();
    match found == memory.sum {
        true => Ok(changed),
        false => Err(Error::Checksum),
    }
}

/// The pages that have changed, if the file is a difference.
pub(crate) fn read_bitmap(file: &File, memory: &MemoryV1) -> Result<Option<Vec<u64>>, Error> {
    if memory.base.is_none() {
        return Ok(None);
    }
    // Its length has been checked: it is in the file.
    let mut bytes = vec![0; 8 * bitmap_words(memory.length())];
    let read = file.read_exact_at(&mut bytes, memory.length() + PAGE as u64);
    read.map_err(failed("read"))?;
    let words = bytes.as_chunks().0.iter();
    Ok(Some(words.map(|word| u64::from_le_bytes(*word)).collect()))
}

/// Calls `each` for all pages up to `length` that are not zero.
pub(crate) fn data(file: &File, length: u64, each: &mut Each<'_>) -> Result<(), Error> {
    let mut buffer = vec![0; CHUNK as usize];
    for run in data_runs(file, 0, length) {
        let (start, end) = run.map_err(failed("seek"))?;
        for at in (start..end).step_by(CHUNK as usize) {
            let part = buffer.get_mut(..(end - at).min(CHUNK) as usize).unwrap_or_default();
            file.read_exact_at(part, at).map_err(failed("read"))?;
            for (page, place) in part.chunks(PAGE).zip((at..).step_by(PAGE)) {
                if !is_zero(page) {
                    each(place, page)?;
                }
            }
        }
    }
    Ok(())
}

/// The runs of pages between two offsets of a file, both multiples of a page's size, that
/// are not holes, as far as the file system knows: start and end of each. An error ends it.
pub fn data_runs(
    file: &File,
    start: u64,
    end: u64,
) -> impl Iterator<Item = io::Result<(u64, u64)>> + '_ {
    let mut at = start;
    let mut next = move || {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if at < end && data < end => data,
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Not from the page's beginning, which is a hole where blocks are smaller.
        let hole = seek(file, SeekFrom::Hole(data))?;
        at = hole.next_multiple_of(PAGE as u64).min(end);
        Ok(Some((data / PAGE as u64 * PAGE as u64, at)))
    };
    std::iter::from_fn(move || next().transpose())
}

/// The runs of pages in `offset..offset + length` whose bits are set in `changed`: offset
/// and length of each.
pub fn changed_runs(
    changed: &[u64],
    offset: u64,
    length: u64,
) -> impl Iterator<Item = (u64, u64)> + '_ {
    let (mut page, end) = (offset / PAGE as u64, (offset + length) / PAGE as u64);
    std::iter::from_fn(move || {
        while page < end && !is_changed(changed, page) {
            page += 1;
        }
        let first = page;
        while page < end && is_changed(changed, page) {
            page += 1;
        }
        (first < page).then_some((first * PAGE as u64, (page - first) * PAGE as u64))
    })
}

pub(crate) fn is_changed(changed: &[u64], page: u64) -> bool {
    let word = changed.get((page / BITS) as usize);
    word.is_some_and(|word| word & (1 << (page % BITS)) != 0)
}
