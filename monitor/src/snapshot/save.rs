//! Saves a VM to a snapshot, and merges snapshots.

use std::io::{self, IsTerminal as _};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mote_snapshot::{Create, MAX_STATE, MemoryV1, MemoryWriter, Merge, changed_runs, encode};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::state;
use crate::boot::Mapped;
use crate::config::SnapshotKind;
use crate::devices::serial::TypedAhead;
use crate::error::Error;
use crate::host::console;
use crate::host::memory::GuestRam;
use crate::host::random_id;
use crate::sandbox::{self, MainThread, Slot, Thread};
use crate::vm::Shared;

use super::dirty::Changes;
use super::pagemap::{PageMap, Place, Reader};

/// The first descriptor number of the files of a snapshot on request: above those of
/// the API's connections, see [`crate::sandbox::number`].
const ROW: RawFd = 208;
/// The files with these numbers, in this order.
const SLOTS: [Slot; 5] =
    [Slot::SaveTo, Slot::SaveMemoryTo, Slot::SavedState, Slot::SavedMemory, Slot::Links];

/// The files of a snapshot to be written, opened before the process is confined, or by
/// a main thread that may still open files.
pub struct SnapshotWriter {
    pub(crate) create: Create,
    id: [u8; 16],
    /// Standard error is a terminal: progress is shown.
    person: bool,
}

impl SnapshotWriter {
    /// Opens everything that a snapshot in `directory` needs, for this much guest memory at
    /// most; 0 if nothing is known.
    ///
    /// # Errors
    /// It cannot be written there, or there is one already.
    pub(crate) fn open(directory: &Path, memory: u64) -> Result<Self, Error> {
        let create = Create::begin(directory, memory + MAX_STATE as u64);
        let create = create.map_err(|e| unusable(directory, &e))?;
        Ok(Self { create, id: random_id()?, person: io::stderr().is_terminal() })
    }

    /// Opens what a snapshot in these two files needs, under the numbers that
    /// the filters know.
    pub fn open_at(state: &Path, memory: &Path) -> Result<Self, Error> {
        let mut number = sandbox::number(ROW);
        let mut place = |fd| {
            number += 1;
            sandbox::renumber(fd, number - 1)
        };
        let create = Create::begin_at(state, memory, &mut place);
        let create = create.map_err(|(path, e)| unusable(path, &e))?;
        Ok(Self { create, id: random_id()?, person: false })
    }

    /// Numbers of the files of a snapshot that is made on request.
    pub fn slots() -> impl Iterator<Item = (Slot, RawFd)> {
        SLOTS.into_iter().zip(sandbox::number(ROW)..)
    }

    /// The main thread's kind, and its descriptors' numbers for the filters.
    pub(crate) fn main_thread(&self) -> MainThread {
        saver(SLOTS.into_iter().zip(self.create.numbers()))
    }

    /// Writes the snapshot of a paused VM, after what its guest has written to its
    /// disks.
    ///
    /// # Errors
    /// A disk cannot be flushed, KVM refuses, a file cannot be written, or
    /// there is nothing that a difference could be to; no snapshot appears then.
    #[inline(never)]
    pub fn save(&self, vm: &mut Parts<'_>, kind: SnapshotKind) -> Result<(), Error> {
        if kind == SnapshotKind::Difference {
            vm.has_base()?;
        }
        // A VM restored from here would wait for its end forever.
        if vm.shared.has_ended() {
            return Err(Error::Snapshot("the guest has ended".to_owned()));
        }
        vm.shared.bus.devices().flush()?;
        let mut state = state::save(vm.shared)?;
        state.serial.typed = vm.typed.save();
        // Later: asking a vCPU for its state may write to memory.
        if let Some(changes) = &mut vm.changes {
            changes.gather(vm.shared, vm.ram)?;
        }
        state.memory = self.write(vm, kind)?;
        let state = encode(&state).map_err(|e| failed(self.create.state_path(), &e))?;
        self.create.finish(&state).map_err(|(path, e)| failed(path, &e))?;
        if let Some(changes) = &mut vm.changes {
            changes.saved(self.id);
        }
        Ok(())
    }

    /// Writes the memory file.
    fn write(&self, vm: &Parts<'_>, kind: SnapshotKind) -> Result<MemoryV1, Error> {
        let ram = vm.ram;
        let ranges: Vec<(u64, u64)> = ram.iter().map(|r| (r.start_addr().0, r.len())).collect();
        let length = ranges.iter().map(|(_, length)| length).sum();
        let since = vm.changes.as_ref().and_then(|changes| changes.since());
        let since = since.filter(|_| kind == SnapshotKind::Difference);
        let failed = |error| failed(self.create.memory_path(), &error);
        let mut writer = MemoryWriter::new(self.create.memory());
        let mut progress = Progress::new(self.person);
        let mut put = |at: u64, bytes: &[u8]| {
            progress.tell(at, length);
            writer.put(at, bytes).map_err(failed)
        };
        let mut reader = Reader::new(ram, vm.mapped.clone());
        let mut each = |place, at, length| match since {
            None => reader.read(place, at, length, &mut put),
            Some((_, pages)) => changed_runs(pages, at, length)
                .try_for_each(|(at, length)| reader.read(place, at, length, &mut put)),
        };
        // Pages that the pager has not served yet are not zero.
        match vm.pages.filter(|_| !vm.paged) {
            Some(pages) => pages.runs(ram, &mut each)?,
            // No page map: all memory is read, and an untouched page reads as the
            // zero page that all processes share.
            None => each(Place::Own, 0, length)?,
        }
        progress.end();
        let changed = since.map(|(_, pages)| pages);
        let sum = writer.finish(length, self.id, changed).map_err(failed)?;
        Ok(MemoryV1 { id: self.id, sum, base: since.map(|(base, _)| base), ranges })
    }
}

/// A main thread that writes these files.
pub(super) fn saver(files: impl IntoIterator<Item = (Slot, RawFd)>) -> MainThread {
    MainThread {
        thread: Thread::Saver,
        start: Some(Thread::StartSaver),
        slots: files.into_iter().collect(),
        ..MainThread::default()
    }
}

/// What a snapshot is made of: a paused VM's parts.
pub struct Parts<'a> {
    /// Processors, interrupt controllers, clocks and devices.
    pub shared: &'a Shared,
    /// Input that the guest has not taken yet.
    pub typed: &'a TypedAhead,
    /// Guest memory,
    pub ram: &'a GuestRam,
    /// the files that it is mapped from,
    pub mapped: Vec<Mapped<'a>>,
    /// whether another process has what has not been asked for yet,
    pub paged: bool,
    /// and where its pages are.
    pub pages: Option<&'a PageMap>,
    /// What has changed since the last snapshot, if that is noted.
    pub changes: Option<&'a mut Changes>,
}

impl Parts<'_> {
    /// Whether there is a snapshot that another one can be the difference to.
    fn has_base(&self) -> Result<(), Error> {
        let why = match &self.changes {
            None => "dirty-page tracking is off: enable track_dirty_pages (or --diff) first",
            Some(changes) if changes.since().is_none() => {
                "no base snapshot: take a full snapshot first"
            }
            Some(_) => return Ok(()),
        };
        Err(Error::Snapshot(why.to_owned()))
    }
}

/// The progress of a save, shown on a terminal.
struct Progress {
    /// When the next line is due; `None` reports no progress.
    due: Option<Instant>,
    told: bool,
}

impl Progress {
    const PERIOD: Duration = Duration::from_millis(500);

    fn new(person: bool) -> Self {
        Self { due: person.then(|| Instant::now() + Self::PERIOD), told: false }
    }

    fn tell(&mut self, at: u64, length: u64) {
        if self.due.is_some_and(|due| Instant::now() >= due) {
            let percent = at * 100 / length.max(1);
            console::say(&format!("\rmote: saving memory: {percent} %"));
            (self.due, self.told) = (Some(Instant::now() + Self::PERIOD), true);
        }
    }

    fn end(&self) {
        if self.told {
            console::say("\rmote: saving memory: written\r\n");
        }
    }
}

/// A file that could be opened, and not be written later on.
fn failed(path: &Path, why: &mote_snapshot::Error) -> Error {
    Error::Host(format!("snapshot {}: {why}", path.display()))
}

/// Merges the first of `paths` into the last one. The files are untrusted: the process is
/// confined before it reads a byte of them.
///
/// # Errors
/// A file cannot be read or written, or they do not belong together.
pub fn merge(paths: &[PathBuf]) -> Result<(), Error> {
    let Some((into, from)) = paths.split_last() else {
        return Ok(());
    };
    let refused = |(path, error): (PathBuf, _)| unusable(&path, &error);
    let mut merge = Merge::open(from, into).map_err(refused)?;
    let id = random_id()?;
    let target = merge.target();
    let written = SLOTS.into_iter().zip(target.numbers());
    sandbox::confine_reader(merge.sources(), written, Some(target.directory()))?;
    merge.confine();
    merge.run(id).map_err(refused)
}

pub(crate) fn unusable(path: &Path, why: &mote_snapshot::Error) -> Error {
    Error::Input("snapshot", path.into(), why.to_string())
}
