//! The files of a snapshot to restore a VM from.

use std::os::fd::{AsRawFd as _, RawFd};
use std::path::{Path, PathBuf};

use mote_snapshot::{MAX_STATE, Peek};

use crate::boot::{Image, Mapped};
use crate::config::{HugePages, Restore, check_memory};
use crate::error::Error;
use crate::host::memory::{self, PAGE};
use crate::host::uffd::Pager;

/// A snapshot's files, opened but not read yet.
#[derive(Debug)]
pub struct Saved {
    pub(crate) state: Image,
    /// Absent if another process serves the memory.
    pub(crate) memory: Option<Image>,
    /// The process that serves the memory (userfaultfd), if no file does.
    pub(crate) pager: Option<Pager>,
    /// Whether all of the memory is to be compared with its checksum.
    pub(crate) verify: bool,
    /// Whether memory is copied, not mapped.
    pub(crate) copy: bool,
    /// Path and bytes of the working set.
    pub(crate) working_set: Option<(PathBuf, Vec<u8>)>,
    /// vCPUs, as its header says.
    pub(crate) cpus: u8,
    /// Bytes of guest memory, as its files say.
    pub(crate) length: u64,
    /// Its devices are PCI functions.
    pub(crate) pci: bool,
}

impl Saved {
    /// Opens its files.
    ///
    /// # Errors
    /// A file is missing, or at first glance not of a snapshot.
    pub fn open(restore: &Restore, pages: HugePages) -> Result<Self, Error> {
        let state = Image::open("snapshot", &restore.state)?;
        let (memory, pager) = match restore.paged {
            true => (None, Some(Pager::connect(&restore.memory)?)),
            false => (Some(Image::open("snapshot", &restore.memory)?), None),
        };
        let working_set = match &restore.working_set {
            Some(path) => read_working_set(path)?,
            None => None,
        };
        let peeked = mote_snapshot::peek(&state.file);
        let Peek { cpus, memory: length, pci } = peeked.map_err(|e| state.refuse(e.to_string()))?;
        if let Some(memory) = &memory {
            let right = length.saturating_add(PAGE);
            if memory.len != right {
                let why = mote_snapshot::Error::Length(memory.len, right);
                return Err(memory.refuse(why.to_string()));
            }
        }
        let checked = check_memory(length).and_then(|length| {
            pages.check(length)?;
            Ok(length)
        });
        let length = checked.map_err(|why| memory.as_ref().unwrap_or(&state).refuse(why))?;
        Ok(Self {
            state,
            memory,
            pager,
            verify: restore.verify,
            copy: pages == HugePages::Reserved,
            working_set,
            cpus,
            length,
            pci,
        })
    }

    /// Numbers of the descriptors of state and memory.
    pub(crate) fn numbers(&self) -> [Option<RawFd>; 2] {
        [Some(&self.state), self.memory.as_ref()].map(|image| Some(image?.file.as_raw_fd()))
    }

    /// The parts of guest memory that its file is mapped to, by address.
    pub(crate) fn mapped(&self) -> Vec<Mapped<'_>> {
        let Some(file) = self.memory.as_ref().filter(|_| !self.copy) else {
            return Vec::new();
        };
        let mut offset = 0;
        let piece = |(address, length)| {
            offset += length;
            Mapped { address, length, file: &file.file, offset: offset - length }
        };
        memory::ranges(self.length).into_iter().map(piece).collect()
    }
}

/// Path and bytes of a working set, if there is one.
fn read_working_set(path: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, Error> {
    if !path.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    let image = Image::open("working set", path)?;
    let mut bytes = vec![0; image.head(MAX_STATE as u64)];
    image.read(0, &mut bytes)?;
    Ok(Some((path.to_owned(), bytes)))
}
