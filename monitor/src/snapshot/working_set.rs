//! The working set: the pages that a restored guest touches first, recorded at one
//! restore and prefaulted at the next.

use std::fs::File;
use std::time::{Duration, Instant};

use super::pagemap::{PageMap, Place};
use super::save::saver;
use crate::config::{Until, VmConfig};
use crate::error::Error;
use crate::host::files;
use crate::host::memory::{self, GuestRam};
use crate::host::prefault::{Pages, PrefaultQueue};
use crate::sandbox::{MainThread, Slot};
use crate::vm::Shared;
use mote_snapshot::data_runs;
use mote_snapshot::working_set::{CreateWorkingSet, Touched, WORKING_SET, encode};

/// What a huge page holds, in bytes.
const BLOCK: u64 = 2 << 20;
/// A block of which the guest writes to this much gets a private huge page,
/// and is copied whole: that takes as long as for the guest to fault in a tenth
/// of it. More than four times of what it would have written it never takes.
const DENSE: u64 = BLOCK / 4;

/// A recording of the pages that the guest touches.
pub(crate) struct Recording {
    pub(crate) create: CreateWorkingSet,
    until: Until,
    started: Option<(Instant, [u8; 16])>,
}

impl Recording {
    /// Opens the file that `config` asks for, if it does.
    ///
    /// # Errors
    /// Nothing can be written there, it would take the place of a file that the
    /// VM reads, or there is no `/proc`.
    pub(crate) fn open(config: &VmConfig) -> Result<Option<Self>, Error> {
        const WHAT: &str = "--record";
        let Some((directory, until)) = &config.record else {
            return Ok(None);
        };
        let path = directory.join(WORKING_SET);
        if let Ok(found) = path.metadata() {
            files::refuse_input(WHAT, &path, &found, config)?;
        }
        let create = CreateWorkingSet::begin(directory);
        Ok(Some(Self {
            create: create.map_err(|e| Error::Input(WHAT, directory.clone(), e.to_string()))?,
            until: *until,
            started: None,
        }))
    }

    /// The main thread's kind, and its descriptors' numbers for the filters.
    pub(crate) fn main_thread(&self) -> MainThread {
        let slots = [Slot::SaveMemoryTo, Slot::Links, Slot::SavedMemory];
        saver(slots.into_iter().zip(self.create.numbers()))
    }

    /// The guest resumes now; its memory has this identity.
    pub(crate) fn begin(&mut self, identity: [u8; 16]) {
        self.started = Some((Instant::now(), identity));
    }

    /// The time left, for a recording of a fixed duration.
    pub(crate) fn left(&self) -> Option<Duration> {
        match (self.until, self.started) {
            (Until::Passed(time), Some((start, _))) => Some(time.saturating_sub(start.elapsed())),
            _ => None,
        }
    }

    /// Whether the recording is to end now.
    pub(crate) fn is_due(&self, shared: &Shared) -> bool {
        match self.until {
            Until::Marker => shared.bus.is_marked(),
            Until::Passed(_) => self.left() == Some(Duration::ZERO),
        }
    }

    /// Writes the working set.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn finish(&self, pages: Option<&PageMap>, ram: &GuestRam) -> Result<(), Error> {
        let (Some((_, identity)), Some(pages)) = (self.started, pages) else {
            return Ok(());
        };
        let ranges = touched(pages, ram)?;
        let finished = self.create.finish(&encode(identity, &ranges));
        let path = self.create.path().display();
        finished.map_err(|e| Error::Host(format!("working set {path}: {e}")))
    }
}

/// The present pages of guest memory, in rising order.
fn touched(pages: &PageMap, ram: &GuestRam) -> Result<Vec<Touched>, Error> {
    let mut ranges = Vec::new();
    pages.runs(ram, &mut |place, offset, length| {
        if place != Place::Away {
            add(&mut ranges, offset, length, place == Place::Own);
        }
        Ok(())
    })?;
    Ok(ranges)
}

/// Adds pages behind all others.
fn add(ranges: &mut Vec<Touched>, offset: u64, length: u64, written: bool) {
    match ranges.last_mut() {
        Some(last) if last.offset + last.length == offset && last.written == written => {
            last.length += length;
        }
        _ => ranges.push(Touched { offset, length, written }),
    }
}

/// Puts a snapshot's memory at the guest's addresses: mapped from its file, except
/// blocks that the guest is known to overwrite, which are copied. The rest of the
/// working set is left for idle threads to prefault.
///
/// # Errors
/// The file cannot be mapped or read.
pub(crate) fn place(
    ram: &GuestRam,
    file: &File,
    copies: bool,
    ranges: &[(u64, u64)],
    set: &[Touched],
    ahead: &PrefaultQueue,
) -> std::io::Result<()> {
    if copies {
        return copy(ram, file, ranges);
    }
    let dense = dense(set);
    let mut begins = 0;
    for &(start, length) in ranges {
        let end = begins + length;
        let mut at = begins;
        let own = dense.iter().copied();
        for block in own.filter(|block| (begins..end).contains(block) && block + BLOCK <= end) {
            if at < block {
                memory::map_file(ram, start + (at - begins), file, at, block - at)?;
            }
            let address = start + (block - begins);
            memory::prefer_huge(ram, address, BLOCK);
            memory::copy_file(ram, address, file, block, BLOCK)?;
            at = block + BLOCK;
        }
        if at < end {
            memory::map_file(ram, start + (at - begins), file, at, end - at)?;
        }
        for pages in [Pages::Written, Pages::Read] {
            let here = set.iter().filter(|range| {
                (begins..end).contains(&range.offset)
                    && range.written == matches!(pages, Pages::Written)
                    && dense.binary_search(&block(range)).is_err()
            });
            ahead.put(here.map(|range| {
                // A range of a file does not end where memory has a hole.
                let length = range.length.min(end - range.offset);
                (start + (range.offset - begins), length, pages)
            }));
        }
        begins = end;
    }
    Ok(())
}

/// Copies what a snapshot's memory has, and leaves holes alone.
fn copy(ram: &GuestRam, file: &File, ranges: &[(u64, u64)]) -> std::io::Result<()> {
    let mut begins = 0;
    for &(start, length) in ranges {
        for run in data_runs(file, begins, begins + length) {
            let (data, end) = run?;
            memory::copy_file(ram, start + (data - begins), file, data, end - data)?;
        }
        begins += length;
    }
    Ok(())
}

fn block(range: &Touched) -> u64 {
    range.offset / BLOCK * BLOCK
}

/// Offsets of the blocks of which much is written to, in their order.
fn dense(set: &[Touched]) -> Vec<u64> {
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    for range in set.iter().filter(|range| range.written) {
        let (mut at, end) = (range.offset, range.offset + range.length);
        while at < end {
            let block = at / BLOCK * BLOCK;
            let part = end.min(block + BLOCK) - at;
            match blocks.last_mut() {
                Some((last, written)) if *last == block => *written += part,
                _ => blocks.push((block, part)),
            }
            at += part;
        }
    }
    // The first one holds what boots, and is kept of small pages.
    let dense = blocks.into_iter().filter(|(block, written)| *block > 0 && *written >= DENSE);
    dense.map(|(block, _)| block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::PAGE;

    fn written(offset: u64, length: u64) -> Touched {
        Touched { offset, length, written: true }
    }

    #[test]
    fn blocks_with_much_that_is_written_are_dense() {
        assert_eq!(dense(&[]), [0; 0]);
        // A range over three blocks, of which the last is hardly reached; the
        // first block never; a read one; two quarters less a page.
        let mut set = vec![
            written(0, BLOCK),
            written(2 * BLOCK - DENSE, BLOCK + DENSE + PAGE),
            written(8 * BLOCK, DENSE / 2),
            written(8 * BLOCK + DENSE, DENSE / 2 - PAGE),
        ];
        set.push(Touched { written: false, ..written(9 * BLOCK, BLOCK) });
        assert_eq!(dense(&set), [BLOCK, 2 * BLOCK]);
    }

    #[test]
    fn pages_become_ranges() {
        let mut ranges = Vec::new();
        for (page, written) in [(0, true), (1, true), (2, false), (4, false)] {
            add(&mut ranges, page * PAGE, PAGE, written);
        }
        let lengths: Vec<u64> = ranges.iter().map(|range| range.length / PAGE).collect();
        assert_eq!(lengths, [2, 1, 1]);
    }
}
