//! A disk in a raw image, a file or a block device. The format is stated, never
//! guessed: whatever a guest writes into it, it stays raw.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use mote_virtio::GuestSlice;
use mote_virtio::blk::{ReadAt, WriteAt};
use rustix::fs::{
    AtFlags, FallocateFlags, OFlags, SeekFrom, StatxFlags, fallocate, fcntl_getfl, fcntl_setfl,
    fstat, ioctl_blksszget, seek, statx,
};

use super::bounce::{Bounce, Pages};
use super::vectored::{Way, transfer};
use crate::config::{Drive, Media};
use crate::error::Error;
use crate::host::files::{Lock, New, is_missing, lock};

const WHAT: &str = "disk";

/// Whether a drive's image can be opened as it would be, without making or
/// locking it.
///
/// # Errors
/// It cannot.
pub fn check(drive: &Drive) -> Result<(), Error> {
    let what = match drive.media {
        Media::CdRom => "CD-ROM",
        Media::Disk => "disk",
    };
    open_image(what, &drive.path, !drive.read_only, drive.direct).map(|_| ())
}

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
    /// The file is new and has no name so far.
    new: Option<New>,
    /// Zeroes and holes begin and end there: a block device's blocks.
    block: u64,
    /// With direct I/O.
    bounce: Option<Bounce>,
    discards: bool,
}

/// Opens a regular file or a block device, never blocking on a FIFO. A device to
/// be written is claimed, as a file system that mounts it would: the claim is the
/// device's, by whatever name it is opened, and ends with the descriptor.
pub(super) fn open_image(
    what: &'static str,
    path: &Path,
    write: bool,
    direct: bool,
) -> Result<File, Error> {
    let input = |why: &str| Error::Input(what, path.into(), why.to_owned());
    let unusable = |e: io::Error| match e.raw_os_error() {
        Some(libc::EINVAL) if direct => no_direct(what, path),
        Some(libc::EISDIR) => input("is a directory"),
        Some(libc::EBUSY) => input("is mounted, or in use by another VM or the host"),
        _ if write && is_read_only(path) => input("is a read-only device; add ro to read it"),
        _ => Error::file(what, path, &e),
    };
    let flags = libc::O_NONBLOCK | if direct { libc::O_DIRECT } else { 0 };
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).custom_flags(flags);
        options.open(path).map_err(unusable)
    };
    let file = open(flags)?;
    let stat = fstat(&file).map_err(|e| unusable(e.into()))?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(file),
        libc::S_IFBLK if write && is_read_only(path) => {
            Err(input("is a read-only device; add ro to read it"))
        }
        libc::S_IFBLK if write => open(flags | libc::O_EXCL),
        libc::S_IFBLK => Ok(file),
        _ => Err(input("is neither a regular file nor a block device")),
    }
}

/// Whether a block device does not let itself be written (`BLKROGET`).
fn is_read_only(path: &Path) -> bool {
    const BLKROGET: libc::Ioctl = 0x125e;
    let mut answer: libc::c_int = 0;
    let device = std::fs::metadata(path).is_ok_and(|at| at.file_type().is_block_device());
    let file = device.then(|| File::open(path).ok()).flatten();
    file.is_some_and(|file| {
        // SAFETY: the command writes an int to a live local.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), BLKROGET, &raw mut answer) };
        result == 0 && answer != 0
    })
}

/// Whether a block device can give space back; one that does not tell may.
fn discards(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // A partition's queue is its disk's.
    let most = ["queue", "../queue"].iter().find_map(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/write_zeroes_max_bytes");
        std::fs::read_to_string(path).ok()
    });
    most.is_none_or(|most| most.trim() != "0")
}

impl DiskFile {
    /// Opens an image as `how` says and locks it.
    ///
    /// # Errors
    /// It is missing and not to be made, is no regular file or block device, is
    /// not permitted, is in use by another VM, has another size than a new one
    /// would, or is not whole sectors long but to be written.
    pub fn open(path: &Path, how: &OpenDisk) -> Result<Self, Error> {
        let (file, new) = match how.create {
            Some(size) if is_missing(path) => {
                let (file, new) = create(path, size, how.direct)?;
                (file, Some(new))
            }
            _ => (open_image(WHAT, path, !how.read_only, how.direct)?, None),
        };
        let kind = if how.read_only { Lock::Read } else { Lock::Write };
        lock(&file, WHAT, path, kind)?;
        let failed = |e: io::Error| Error::file(WHAT, path, &e);
        let size = end_of(&file).map_err(failed)?;
        if let Some(wanted) = how.create.filter(|wanted| *wanted != size) {
            let why = format!(
                "exists with {size} bytes, not the {wanted} of size=: leave size= and \
                 create out to use it, or give another path"
            );
            return Err(Error::Input(WHAT, path.into(), why));
        }
        if size == 0 {
            let why = "is empty; add size=8G,create for a new disk".to_owned();
            return Err(Error::Input(WHAT, path.into(), why));
        }
        let stat = fstat(&file).map_err(|e| failed(e.into()))?;
        let device = stat.st_mode & libc::S_IFMT == libc::S_IFBLK;
        let block = match (device, how.direct) {
            (true, _) => ioctl_blksszget(&file).map_err(|e| failed(e.into()))?,
            (false, true) => smallest(&file, size),
            (false, false) => 512,
        };
        if !how.read_only && !size.is_multiple_of(block.into()) {
            let why = format!("has {size} bytes, not whole sectors of {block}; add ro to read it");
            return Err(Error::Input(WHAT, path.into(), why));
        }
        Ok(Self {
            file,
            new,
            block: block.into(),
            bounce: how.direct.then(|| Bounce::new(block)),
            discards: how.read_only || !device || discards(stat.st_rdev),
        })
    }

    /// The file that still has to get its name, if it is a new one.
    pub fn take_new(&mut self) -> Option<New> {
        self.new.take()
    }

    /// Whether it can give space back to the host.
    pub fn discards(&self) -> bool {
        self.discards
    }
}

impl AsRawFd for DiskFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The least that the file takes with direct I/O: 512 bytes, or 4096 where the
/// disk below has such sectors. Before Linux 6.1 it does not tell.
fn smallest(file: &File, size: u64) -> u32 {
    let told = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    match told.map_or(0, |told| told.stx_dio_offset_align) {
        told @ (512 | 1024 | 2048 | 4096) => told,
        // Too large an alignment only slows down unaligned requests.
        _ if size.is_multiple_of(4096) => 4096,
        _ => 512,
    }
}

/// Makes a new image, without a name so far.
fn create(path: &Path, size: u64, direct: bool) -> Result<(File, New), Error> {
    let (file, new) = New::make(WHAT, path)?;
    file.set_len(size).map_err(|e| match e.kind() {
        io::ErrorKind::FileTooLarge => {
            let why = format!(
                "its file system or RLIMIT_FSIZE has no files of {size} bytes: give a smaller size="
            );
            Error::Input(WHAT, path.into(), why)
        }
        _ => Error::file(WHAT, path, &e),
    })?;
    if direct {
        let flags = fcntl_getfl(&file).and_then(|now| fcntl_setfl(&file, now | OFlags::DIRECT));
        flags.map_err(|_| no_direct(WHAT, path))?;
    }
    Ok((file, new))
}

fn no_direct(what: &'static str, path: &Path) -> Error {
    let why = "its file system has no direct I/O; leave 'direct' out";
    Error::Input(what, path.into(), why.to_owned())
}

/// A file's size, by seeking, although nothing here uses the file's position:
/// reading all attributes of a file includes its times, after which (Linux 6.13 and
/// later) the next write updates them. That
/// dirties the inode, which a flush has to write.
pub(super) fn end_of(file: &File) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::End(0))?)
}

impl ReadAt for DiskFile {
    fn size(&self) -> io::Result<u64> {
        end_of(&self.file)
    }

    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        self.transfer(Way::Read, to, offset)
    }
}

impl WriteAt for DiskFile {
    fn write_at(&self, from: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        self.transfer(Way::Write, from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        // A partial block cannot be deallocated, and need not be.
        let (start, end) = self.whole(offset, len);
        if start == end {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(flags, start, end)
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        // A hole reads as zeroes and is quickest; without leave to unmap the
        // space stays allocated.
        let flags = if may_unmap {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
        };
        let (start, end) = self.whole(offset, len);
        if start == end {
            return self.overwrite(offset, offset + len);
        }
        self.overwrite(offset, start)?;
        match self.allocate(flags, start, end) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.overwrite(start, end)?
            }
            result => result?,
        }
        self.overwrite(end, offset + len)
    }
}

impl DiskFile {
    fn transfer(&self, way: Way, slices: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        let Some(bounce) = &self.bounce else {
            return transfer(&self.file, way, slices, offset);
        };
        let whole = (way == Way::Write).then(|| bounce.whole());
        let result = transfer(&self.file, way, slices, offset);
        drop(whole);
        match result {
            // What direct I/O says to anything that is not aligned.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                bounce.transfer(&self.file, way, slices, offset)
            }
            result => result,
        }
    }

    /// The whole blocks in `len` bytes from `offset` on: first and last byte.
    fn whole(&self, offset: u64, len: u64) -> (u64, u64) {
        let (start, end) = (offset.next_multiple_of(self.block), offset + len);
        let end = end - end % self.block;
        (start.min(end), end)
    }

    fn allocate(&self, flags: FallocateFlags, start: u64, end: u64) -> io::Result<()> {
        let _whole = self.bounce.as_ref().map(Bounce::whole);
        Ok(fallocate(&self.file, flags, start, end - start)?)
    }

    /// Writes zeroes the long way: pieces of blocks, and where the host cannot be
    /// asked to.
    fn overwrite(&self, mut offset: u64, end: u64) -> io::Result<()> {
        let Pages(mut zeroes) = Pages::ZERO;
        while offset < end {
            let rest = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let part = rest.min(zeroes.len());
            let part = zeroes.get_mut(..part).unwrap_or_default();
            offset += self.transfer(Way::Write, &[part.into()], offset)? as u64;
        }
        Ok(())
    }
}
