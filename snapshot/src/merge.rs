//! One full snapshot out of one, and what has changed since then.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::memory::{data, read_bitmap, read_memory};
use crate::{Create, Error, MAX_STATE, MEMORY, MemoryWriter, PAGE, STATE, StateV1, check_memory};
use crate::{decode, encode};

/// A snapshot that is read.
struct Layer {
    state: StateV1,
    memory: File,
}

impl Layer {
    fn open(directory: &Path) -> Result<Self, (&'static str, Error)> {
        let (file, memory) =
            crate::open(directory).map_err(|(name, e)| (name, Error::Io("open", e)))?;
        let mut bytes = Vec::new();
        let read = file.take(MAX_STATE as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| (STATE, Error::Io("read", e)))?;
        let state = decode(&bytes).map_err(|e| (STATE, e))?;
        let length = memory.metadata().map(|data| data.len());
        length
            .map_err(|e| Error::Io("read", e))
            .and_then(|length| check_memory(&memory, length, &state.memory))
            .map_err(|e| (MEMORY, e))?;
        Ok(Self { state, memory })
    }

    /// Writes what it has over what is in `to`.
    fn write(&self, to: &File) -> Result<(), Error> {
        let memory = &self.state.memory;
        let changed = read_bitmap(&self.memory, memory)?;
        if let Some(changed) = &changed {
            clear(to, changed, memory.length())?;
        }
        read_memory(&self.memory, memory, &mut |at, page| {
            let has = |changed| has(changed, at / PAGE as u64);
            if changed.as_deref().is_none_or(has) {
                to.write_all_at(page, at)
                    .map_err(|e| Error::Io("write", e))?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

fn has(changed: &[u64], page: u64) -> bool {
    let word = changed.get((page / 64) as usize);
    word.is_some_and(|word| word & (1 << (page % 64)) != 0)
}

/// Makes zeroes of what has changed: that is all that is known of a page that
/// is in a hole.
fn clear(to: &File, changed: &[u64], length: u64) -> Result<(), Error> {
    let pages = length / PAGE as u64;
    let mut page = 0;
    while page < pages {
        let word = changed.get((page / 64) as usize).copied().unwrap_or(0);
        if word == 0 {
            page = (page / 64 + 1) * 64;
            continue;
        }
        if !has(changed, page) {
            page += 1;
            continue;
        }
        let start = page;
        while page < pages && has(changed, page) {
            page += 1;
        }
        let (at, size) = (start * PAGE as u64, (page - start) * PAGE as u64);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(to, hole, at, size) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => {
                let mut zeroes = (at..at + size).step_by(PAGE);
                zeroes
                    .try_for_each(|at| to.write_all_at(&[0; PAGE], at))
                    .map_err(|e| Error::Io("write", e))?;
            }
            Err(error) => return Err(Error::Io("punch a hole", error.into())),
        }
    }
    Ok(())
}

/// Writes a full snapshot of identity `id` into the directory `into`: the full
/// one in the first of `from`, with what has changed in the others, each since
/// the one before it. The state is that of the last.
///
/// # Errors
/// The path at fault, and what is wrong; nothing appears then.
pub fn merge(
    from: &[impl AsRef<Path>],
    into: &Path,
    id: [u8; 16],
) -> Result<(), (std::path::PathBuf, Error)> {
    let there = |error| (into.to_owned(), error);
    let create = Create::begin(into).map_err(there)?;
    let to = create.memory();
    let mut before: Option<StateV1> = None;
    for path in from {
        let here = |(name, error)| (path.as_ref().join(name), error);
        let layer = Layer::open(path.as_ref()).map_err(here)?;
        let memory = &layer.state.memory;
        let follows = match (&before, memory.base) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(Error::Difference),
            (Some(_), None) => Err(Error::Field("base, it is a full one")),
            (Some(before), Some(base)) => {
                let same = before.memory.ranges == memory.ranges;
                let follows = same && before.memory.id == base;
                follows.then_some(()).ok_or(Error::OtherBase)
            }
        };
        follows.map_err(|error| here((STATE, error)))?;
        let written = layer.write(to);
        written.map_err(|error| here((MEMORY, error)))?;
        before = Some(layer.state);
    }
    let mut state = before.ok_or_else(|| there(Error::NotASnapshot))?;
    let length = state.memory.length();
    let mut writer = MemoryWriter::new(to);
    to.set_len(length)
        .map_err(|e| there(Error::Io("write", e)))?;
    data(to, length, &mut |at, page| {
        writer.count(at, page);
        Ok(())
    })
    .map_err(there)?;
    state.memory.sum = writer.finish(length, id, None).map_err(there)?;
    (state.memory.id, state.memory.base) = (id, None);
    let state = encode(&state).map_err(there)?;
    create.finish(&state).map_err(there)
}
