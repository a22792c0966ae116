//! A CD-ROM's image: a file that can only be read.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use mote_virtio::GuestSlice;
use mote_virtio::blk::ReadAt;

use super::vectored::{Way, transfer};
use crate::error::Error;

/// Bytes of a CD-ROM sector.
const CD_SECTOR: u64 = 2048;

/// An image in a drive that can only read. There is no method to write.
#[derive(Debug)]
pub struct CdImage(File);

impl CdImage {
    /// Opens the image to read, and locks it against writers.
    ///
    /// # Errors
    /// It is no regular file, cannot be opened, is in use by a writer, or is
    /// too short to be the image of anything. Its content is not looked at.
    pub fn open(path: &Path) -> Result<Self, Error> {
        const WHAT: &str = "CD-ROM";
        let file = super::file::open_regular(WHAT, path, false, false)?;
        let size = file
            .metadata()
            .map_err(|e| Error::file(WHAT, path, &e))?
            .len();
        if size < CD_SECTOR {
            let why = format!("has {size} bytes; not even one sector of {CD_SECTOR}");
            return Err(Error::Input(WHAT, path.into(), why));
        }
        super::lock(&file, WHAT, path, false)?;
        Ok(Self(file))
    }
}

impl AsRawFd for CdImage {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl ReadAt for CdImage {
    fn size(&self) -> io::Result<u64> {
        super::file::end_of(&self.0)
    }

    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        transfer(&self.0, Way::Read, to, offset)
    }
}
