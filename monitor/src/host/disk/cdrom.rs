//! A CD-ROM's image: a file that can only be read.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mote_virtio::GuestSlice;
use mote_virtio::blk::ReadAt;

use super::vectored::{Way, transfer};
use crate::error::Error;
use crate::host::files::{Lock, lock};

/// Bytes of a CD-ROM sector.
const CD_SECTOR: u64 = 2048;

/// An image in a drive that can only read. There is no method to write.
#[derive(Clone, Debug)]
pub struct CdImage {
    file: Arc<File>,
    /// The drive is empty: its descriptor leads to no image.
    empty: Arc<AtomicBool>,
}

impl CdImage {
    /// Opens the image to read, and locks it against writers.
    ///
    /// # Errors
    /// It is no file or block device, cannot be opened, is in use by a writer, or is
    /// too short to be the image of anything. Its content is not looked at.
    pub fn open(path: &Path) -> Result<Self, Error> {
        const WHAT: &str = "CD-ROM";
        let file = crate::host::disk::file::open_image(WHAT, path, false, false)?;
        let size =
            crate::host::disk::file::end_of(&file).map_err(|e| Error::file(WHAT, path, &e))?;
        if size < CD_SECTOR {
            let why = format!("has {size} bytes; not even one sector of {CD_SECTOR}");
            return Err(Error::Input(WHAT, path.into(), why));
        }
        lock(&file, WHAT, path, Lock::Read)?;
        Ok(Self { file: Arc::new(file), empty: Arc::default() })
    }

    /// The open image.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Replaces the medium by `file` under the same descriptor number, the only one
    /// that a worker can read.
    ///
    /// # Errors
    /// The host has no room.
    pub fn replace(&self, file: BorrowedFd<'_>, empty: bool) -> io::Result<()> {
        replace(&self.file, file)?;
        self.empty.store(empty, Ordering::Relaxed);
        Ok(())
    }
}

impl AsRawFd for CdImage {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl ReadAt for CdImage {
    fn size(&self) -> io::Result<u64> {
        if self.empty.load(Ordering::Relaxed) {
            return Ok(0);
        }
        crate::host::disk::file::end_of(&self.file)
    }

    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        transfer(&self.file, Way::Read, to, offset)
    }
}

/// Makes `old`'s number mean the open file `new`.
fn replace(old: &File, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are live descriptors; users of the old number keep using a
    // file, from now on the new one.
    let result = unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
