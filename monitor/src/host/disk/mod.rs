//! Where the devices' data goes: files on the host.
//!
//! A backend never sees a descriptor: the device hands it checked pieces of
//! guest memory and a checked range.

mod cdrom;
mod file;
mod vectored;

pub use self::cdrom::CdImage;
pub use self::file::{DiskFile, OpenDisk};

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use crate::config::{Drive, Media};
use crate::error::Error;

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
    file::open_regular(what, &drive.path, !drive.read_only, drive.direct).map(|_| ())
}

/// Makes `old`'s number mean the open file `new`.
fn replace(old: &File, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are live descriptors; whoever uses the old one's number goes
    // on to use a file, which is another one from now on.
    let result = unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Locks an image for as long as it is open: exclusively to write, shared to
/// read. The lock belongs to the open file, so it ends with the VM, whatever
/// ends that.
fn lock(file: &File, what: &'static str, path: &Path, exclusive: bool) -> Result<(), Error> {
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    let lock = libc::flock {
        // Both constants are 0 or 1.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: a lock request on a live descriptor with a live structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(());
    }
    let cause = io::Error::last_os_error();
    match cause.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => {
            let why = if exclusive {
                "is in use by another VM"
            } else {
                "is being written by another VM"
            };
            Err(Error::Input(what, path.into(), why.to_owned()))
        }
        _ => Err(Error::file(what, path, &cause)),
    }
}
