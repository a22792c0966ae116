//! Merges a full snapshot with differences into a new full one.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, openat};
use rustix::io::Errno;

use crate::memory::{changed_runs, data, is_changed, read_bitmap, read_memory};
use crate::{Create, Error, MAX_STATE, MEMORY, MemoryV1, MemoryWriter, PAGE, STATE, StateV1};
use crate::{check_memory, decode, encode};

/// A file to read, and its size.
#[derive(Debug)]
struct Input {
    path: PathBuf,
    file: File,
    length: u64,
    /// Bytes that it takes on disk.
    allocated: u64,
}

impl Input {
    /// Opens what has to be a plain file, and waits for no other end of a pipe.
    fn open(path: PathBuf) -> Result<Self, (PathBuf, Error)> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(openat(CWD, &path, flags, Mode::empty())?);
            let data = file.metadata()?;
            if !data.is_file() {
                return Err(io::Error::other("not a file"));
            }
            Ok((file, data.len(), data.blocks() * 512))
        };
        match open() {
            Ok((file, length, allocated)) => Ok(Self { path, file, length, allocated }),
            Err(error) => Err((path, Error::Io("open", error))),
        }
    }

    fn failed(&self) -> impl Fn(Error) -> (PathBuf, Error) + '_ {
        |error| (self.path.clone(), error)
    }
}

/// A snapshot's two files.
#[derive(Debug)]
struct Source {
    state: Input,
    memory: Input,
}

impl Source {
    fn open(path: &Path) -> Result<Self, (PathBuf, Error)> {
        Ok(Self { state: Input::open(path.join(STATE))?, memory: Input::open(path.join(MEMORY))? })
    }

    /// The state, which has to follow that of the snapshot `before`.
    fn read(&self, before: Option<&StateV1>) -> Result<StateV1, (PathBuf, Error)> {
        let Input { file, length, .. } = &self.state;
        let read = || {
            if *length > MAX_STATE as u64 {
                return Err(Error::Length(*length, MAX_STATE as u64));
            }
            let mut bytes = vec![0; *length as usize];
            file.read_exact_at(&mut bytes, 0).map_err(|e| Error::Io("read", e))?;
            let state = decode(&bytes)?;
            follows(before, &state)?;
            Ok(state)
        };
        read().map_err(self.state.failed())
    }

    /// Writes the pages that it has over those in `to`.
    fn copy(&self, memory: &MemoryV1, to: &File) -> Result<(), (PathBuf, Error)> {
        let Input { file, length, .. } = &self.memory;
        let copy = || {
            check_memory(file, *length, memory)?;
            let changed = read_bitmap(file, memory)?;
            if let Some(changed) = &changed {
                clear(to, changed, memory.length())?;
            }
            read_memory(file, memory, &mut |at, page| {
                let has = |changed| is_changed(changed, at / PAGE as u64);
                if changed.as_deref().is_none_or(has) {
                    to.write_all_at(page, at).map_err(|e| Error::Io("write", e))?;
                }
                Ok(())
            })
        };
        copy().map(|_| ()).map_err(self.memory.failed())
    }
}

/// Zeroes the changed pages: a changed page that is in a hole is zero.
fn clear(to: &File, changed: &[u64], length: u64) -> Result<(), Error> {
    for (at, size) in changed_runs(changed, 0, length) {
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

/// The snapshots to merge. All files are open and nothing has been
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
        let from = from.iter().map(|path| Source::open(path.as_ref()));
        let from = from.collect::<Result<Vec<_>, _>>()?;
        // For all pages that one of them has.
        let room = from.iter().map(|source| source.memory.allocated).sum();
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
        files.map(|input| input.file.as_raw_fd())
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
            let state = source.read(before.as_ref())?;
            source.copy(&state.memory, to)?;
            before = Some(state);
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

/// Checks that a snapshot is based on `before`.
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
