//! Files that are written to: never one that this VM reads, and none that
//! another VM uses.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::config::VmConfig;
use crate::error::Error;
use crate::host::random_id;

/// How a file is locked for as long as it is open. The lock belongs to the open
/// file, so it ends with the VM, whatever ends that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Other readers may come.
    Read,
    /// Nobody else may come.
    Write,
    /// Others that append may come.
    Append,
}

/// Locks a file, as `what` is.
///
/// # Errors
/// Another VM uses it, or its file system has no locks.
pub fn lock(file: &File, what: &'static str, path: &Path, kind: Lock) -> Result<(), Error> {
    let (l_type, l_start, l_len) = match kind {
        Lock::Read => (libc::F_RDLCK, 0, 0),
        Lock::Write => (libc::F_WRLCK, 0, 0),
        // A byte of its own: it meets every lock of a whole file, and no other
        // one of this kind.
        Lock::Append => {
            let id = random_id()?;
            let at = |at, byte: &u8| at << 7 | i64::from(byte & 0x7f);
            (libc::F_WRLCK, id.iter().take(8).fold(0, at), 1)
        }
    };
    let lock = libc::flock {
        // The constants are 0 or 1.
        l_type: l_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start,
        l_len,
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
            let why = match kind {
                Lock::Read => "is being written by another VM",
                Lock::Write | Lock::Append => "is in use by another VM",
            };
            Err(Error::Input(what, path.into(), why.to_owned()))
        }
        _ => Err(Error::file(what, path, &cause)),
    }
}

/// Refuses a file to write to that is, by whatever name, one that the VM reads.
///
/// # Errors
/// It is, and which.
pub fn refuse_input(
    what: &'static str,
    (path, own): (&Path, &Metadata),
    config: &VmConfig,
) -> Result<(), Error> {
    let own = (own.dev(), own.ino());
    for (of, input) in config.inputs() {
        let same = input.metadata().is_ok_and(|m| (m.dev(), m.ino()) == own);
        if same {
            let why = format!("is this VM's {of}: give another file");
            return Err(Error::Input(what, path.into(), why));
        }
    }
    Ok(())
}

/// A file, FIFO or character device to write to.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// What is written there.
    pub what: &'static str,
    /// Its path.
    pub path: &'a Path,
    /// What is in it stays.
    pub append: bool,
    /// Permissions of a new one.
    pub mode: u32,
}

impl Output<'_> {
    /// Opens it, making it if it is missing, and locks it. It never waits for a
    /// reader, and what was in it is still there.
    ///
    /// # Errors
    /// It cannot be written, is a block device, is a file that the VM of
    /// `config` reads, or is in use by another VM.
    pub fn open(&self, config: &VmConfig) -> Result<File, Error> {
        let failed = |e: io::Error| Error::file(self.what, self.path, &e);
        let mut options = OpenOptions::new();
        options.write(true).append(self.append).create(true);
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        options.mode(self.mode).custom_flags(flags);
        let file = match options.open(self.path) {
            // A FIFO without a reader keeps what fits until there is one.
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => {
                options.read(true).open(self.path).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        let found = file.metadata().map_err(failed)?;
        let kind = found.file_type();
        if kind.is_block_device() {
            let why = "is a block device: give a file or a FIFO".to_owned();
            return Err(Error::Input(self.what, self.path.into(), why));
        }
        if kind.is_file() {
            refuse_input(self.what, (self.path, &found), config)?;
            let kind = if self.append {
                Lock::Append
            } else {
                Lock::Write
            };
            lock(&file, self.what, self.path, kind)?;
        }
        Ok(file)
    }
}
