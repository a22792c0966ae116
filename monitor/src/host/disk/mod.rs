//! Where the devices' data goes: files on the host.
//!
//! A backend never sees a descriptor: the device hands it checked pieces of
//! guest memory and a checked range.

mod bounce;
mod cdrom;
mod file;
mod vectored;

pub use self::cdrom::CdImage;
pub use self::file::{DiskFile, OpenDisk};

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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
    file::open_image(what, &drive.path, !drive.read_only, drive.direct).map(|_| ())
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
