//! One full snapshot out of one, and what has changed since then.

use std::fs::File;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::memory::{data, read_bitmap, read_memory};
use crate::{Create, Error, MAX_STATE, MEMORY, MemoryWriter, PAGE, STATE, StateV1, check_memory};
use crate::{decode, encode};

/// A snapshot's two files, opened, and their lengths.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    state: (File, u64),
    memory: (File, u64),
    /// Bytes that its memory file takes on disk.
    allocated: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self, (&'static str, Error)> {
        let (state, memory) =
            crate::open(path).map_err(|(name, e)| (name, Error::Io("open", e)))?;
        let measured = |name, file: File| match file.metadata() {
            Ok(data) => Ok((file, data.len())),
            Err(error) => Err((name, Error::Io("open", error))),
        };
        let memory = measured(MEMORY, memory)?;
        let allocated = memory.0.metadata().map_or(0, |data| data.blocks() * 512);
        Ok(Self { path: path.to_owned(), state: measured(STATE, state)?, memory, allocated })
    }
}

/// A snapshot that is read.
struct Layer<'a> {
    state: StateV1,
    memory: &'a File,
}

impl<'a> Layer<'a> {
    fn read(source: &'a Source) -> Result<Self, (&'static str, Error)> {
        let ((file, length), (memory, memory_length)) = (&source.state, &source.memory);
        if *length > MAX_STATE as u64 {
            return Err((STATE, Error::Length(*length, MAX_STATE as u64)));
        }
        let mut bytes = vec![0; *length as usize];
        let read = file.read_exact_at(&mut bytes, 0);
        read.map_err(|e| (STATE, Error::Io("read", e)))?;
        let state = decode(&bytes).map_err(|e| (STATE, e))?;
        check_memory(memory, *memory_length, &state.memory).map_err(|e| (MEMORY, e))?;
        Ok(Self { state, memory })
    }

    /// Writes what it has over what is in `to`.
    fn write(&self, to: &File) -> Result<(), Error> {
        let memory = &self.state.memory;
        let changed = read_bitmap(self.memory, memory)?;
        if let Some(changed) = &changed {
            clear(to, changed, memory.length())?;
        }
        read_memory(self.memory, memory, &mut |at, page| {
            let has = |changed| has(changed, at / PAGE as u64);
            if changed.as_deref().is_none_or(has) {
                to.write_all_at(page, at).map_err(|e| Error::Io("write", e))?;
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

/// Snapshots that are to become one. All files are open and nothing has been
/// read, so that a process can confine itself before it reads them.
#[derive(Debug)]
pub struct Merge {
    from: Vec<Source>,
    into: PathBuf,
    create: Create,
}

impl Merge {
    /// Opens a full snapshot and those with what has changed since, and what a new
    /// one in the directory `into` needs.
    ///
    /// # Errors
    /// The path at fault, and what is wrong.
    pub fn open(from: &[impl AsRef<Path>], into: &Path) -> Result<Self, (PathBuf, Error)> {
        // The room follows.
        let create = Create::begin(into, 0).map_err(|error| (into.to_owned(), error))?;
        let open =
            |path: &Path| Source::open(path).map_err(|(name, error)| (path.join(name), error));
        let from = from.iter().map(|path| open(path.as_ref()));
        let from = from.collect::<Result<Vec<_>, _>>()?;
        // For all pages that one of them has.
        let room = from.iter().map(|source| source.allocated).sum();
        create.check_room(room).map_err(|error| (into.to_owned(), error))?;
        Ok(Self { from, into: into.to_owned(), create })
    }

    /// See [`Create::confine`].
    pub fn confine(&mut self) {
        self.create.confine();
    }

    /// The files that are written, whose numbers a filter of system calls needs.
    #[must_use]
    pub fn target(&self) -> &Create {
        &self.create
    }

    /// Numbers of the files that are read.
    pub fn sources(&self) -> impl Iterator<Item = RawFd> {
        let files = self.from.iter().flat_map(|source| [&source.state, &source.memory]);
        files.map(|(file, _)| file.as_raw_fd())
    }

    /// Writes a full snapshot of identity `id`: the first one, with what has changed
    /// in the others, each since the one before it. The state is that of the last.
    ///
    /// # Errors
    /// The path at fault, and what is wrong; nothing appears then.
    pub fn run(&self, id: [u8; 16]) -> Result<(), (PathBuf, Error)> {
        let there = |error| (self.into.clone(), error);
        let to = self.create.memory();
        let mut before: Option<StateV1> = None;
        for source in &self.from {
            let here = |(name, error)| (source.path.join(name), error);
            let layer = Layer::read(source).map_err(here)?;
            follows(before.as_ref(), &layer.state).map_err(|error| here((STATE, error)))?;
            let written = layer.write(to);
            written.map_err(|error| here((MEMORY, error)))?;
            before = Some(layer.state);
        }
        let mut state = before.ok_or_else(|| there(Error::NotASnapshot))?;
        let length = state.memory.length();
        let mut writer = MemoryWriter::new(to);
        to.set_len(length).map_err(|e| there(Error::Io("write", e)))?;
        data(to, length, &mut |at, page| {
            writer.count(at, page);
            Ok(())
        })
        .map_err(there)?;
        state.memory.sum = writer.finish(length, id, None).map_err(there)?;
        (state.memory.id, state.memory.base) = (id, None);
        let state = encode(&state).map_err(there)?;
        let finished = self.create.finish(&state);
        finished.map_err(|(path, error)| (path.to_owned(), error))
    }
}

/// Whether a snapshot may come behind `before`.
fn follows(before: Option<&StateV1>, next: &StateV1) -> Result<(), Error> {
    let memory = &next.memory;
    match (before, memory.base) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Error::Difference),
        (Some(_), None) => Err(Error::Full),
        (Some(before), Some(base)) => {
            let same = before.memory.ranges == memory.ranges;
            let follows = same && before.memory.id == base;
            follows.then_some(()).ok_or(Error::OtherBase)
        }
    }
}
