//! A disk in a raw image file. The format is stated, never guessed: whatever
//! a guest writes into it, it stays raw.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mote_virtio::GuestSlice;
use mote_virtio::blk::{ReadAt, WriteAt};
use rustix::fs::{AtFlags, FallocateFlags, SeekFrom, StatxFlags, fallocate, fstat, seek, statx};
use rustix::io::Errno;

use super::vectored::{Way, transfer, write};
use crate::error::Error;
use crate::host::files::{Lock, lock};

const WHAT: &str = "disk";

/// How a disk image is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenDisk {
    /// Only read it; opened so that nothing can write.
    pub read_only: bool,
    /// Bypass the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// Make a missing file with this many bytes, without allocating them.
    pub create: Option<u64>,
}

/// An open, locked image.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    block: u32,
}

/// Opens a regular file (or nothing), never blocking on a FIFO.
pub(super) fn open_regular(
    what: &'static str,
    path: &Path,
    write: bool,
    direct: bool,
) -> Result<File, Error> {
    let unusable = |e: io::Error| Error::file(what, path, &e);
    let flags = libc::O_NONBLOCK | if direct { libc::O_DIRECT } else { 0 };
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(flags);
    let file = options.open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) if direct => {
            let why = "its file system has no direct I/O; leave 'direct' out";
            Error::Input(what, path.into(), why.to_owned())
        }
        Some(libc::EISDIR) => Error::Input(what, path.into(), "is a directory".to_owned()),
        _ => unusable(e),
    })?;
    let stat = fstat(&file).map_err(|e| unusable(e.into()))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::Input(
            what,
            path.into(),
            "is not a regular file".to_owned(),
        ));
    }
    Ok(file)
}

impl DiskFile {
    /// Opens an image as `how` says and locks it.
    ///
    /// # Errors
    /// It is missing and not to be made, is no regular file, is not permitted,
    /// is in use by another VM, or is not whole sectors long but to be written.
    pub fn open(path: &Path, how: &OpenDisk) -> Result<Self, Error> {
        if let Some(size) = how.create {
            create(path, size)?;
        }
        let file = open_regular(WHAT, path, !how.read_only, how.direct)?;
        let kind = if how.read_only {
            Lock::Read
        } else {
            Lock::Write
        };
        lock(&file, WHAT, path, kind)?;
        let size = file
            .metadata()
            .map_err(|e| Error::file(WHAT, path, &e))?
            .len();
        if size == 0 {
            let why = "is empty; add size=8G,create for a new disk".to_owned();
            return Err(Error::Input(WHAT, path.into(), why));
        }
        let block = if how.direct { smallest(&file) } else { 512 };
        if !how.read_only && !size.is_multiple_of(block.into()) {
            let why = format!("has {size} bytes, not whole sectors of {block}; add ro to read it");
            return Err(Error::Input(WHAT, path.into(), why));
        }
        Ok(Self { file, block })
    }

    /// Bytes of the smallest piece that can be read or written.
    pub fn logical_block(&self) -> u32 {
        self.block
    }
}

impl AsRawFd for DiskFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The least that the file takes with direct I/O: 512 bytes, or 4096 where the
/// disk below has such sectors. Before Linux 6.1 it does not tell.
fn smallest(file: &File) -> u32 {
    let told = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let told = told.map_or(0, |told| told.stx_dio_offset_align);
    if [1024, 2048, 4096].contains(&told) {
        told
    } else {
        512
    }
}

/// Makes a new image; one that exists already stays as it is.
fn create(path: &Path, size: u64) -> Result<(), Error> {
    let failed = |e: io::Error| Error::file(WHAT, path, &e);
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file.set_len(size).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// A file's size, by seeking, although nothing here uses the file's position:
/// whoever asks for all of a file's attributes has asked for its times too, and
/// from then on (Linux 6.13 and later) the next write takes the time anew. That
/// dirties the inode, which a flush has to write.
pub(super) fn end_of(file: &File) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::End(0))?)
}

impl ReadAt for DiskFile {
    fn size(&self) -> io::Result<u64> {
        end_of(&self.file)
    }

    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        transfer(&self.file, Way::Read, to, offset)
    }
}

impl WriteAt for DiskFile {
    fn write_at(&self, from: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        transfer(&self.file, Way::Write, from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, flags, offset, len)?)
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        // A hole reads as zeroes and is quickest; without leave to unmap the
        // space stays allocated.
        let flags = if may_unmap {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        };
        match fallocate(&self.file, flags, offset, len) {
            Err(Errno::OPNOTSUPP) => self.overwrite(offset, len),
            result => Ok(result?),
        }
    }
}

impl DiskFile {
    /// Writes zeroes the long way, on file systems that cannot be asked to.
    fn overwrite(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        /// Aligned, for direct I/O.
        #[repr(align(4096))]
        struct Zeroes([u8; 64 << 10]);
        static ZEROES: Zeroes = Zeroes([0; 64 << 10]);
        while len > 0 {
            let part = usize::try_from(len)
                .unwrap_or(usize::MAX)
                .min(ZEROES.0.len());
            let zeroes = ZEROES.0.get(..part).unwrap_or_default();
            let written = write(&self.file, zeroes, offset)?;
            offset += written as u64;
            len -= written as u64;
        }
        Ok(())
    }
}
