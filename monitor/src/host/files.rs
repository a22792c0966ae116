//! Files that are written to: never one that this VM reads, and none that
//! another VM uses.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use crate::config::VmConfig;
use crate::error::Error;
use crate::host::random_id;

/// How a file is locked for as long as it is open. The lock belongs to the open
/// file, so it ends with the VM, whatever ends that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Other readers may come.
    Read,
    /// Excludes every other user.
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
        // A separate byte: it conflicts with every lock of a whole file, but not with
        // another of this kind.
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
    path: &Path,
    own: &Metadata,
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
    /// The kind of output.
    pub what: &'static str,
    /// Its path.
    pub path: &'a Path,
    /// Existing content is kept.
    pub append: bool,
    /// Permissions of a new one.
    pub mode: u32,
}

impl Output<'_> {
    /// Opens and locks the file, creating it if it is missing. It never waits for a
    /// reader, and keeps the content.
    ///
    /// # Errors
    /// It cannot be written, is a block device, is a file that the VM of
    /// `config` reads, or is in use by another VM.
    pub fn open(&self, config: &VmConfig) -> Result<File, Error> {
        self.open_or_make(config, true)
    }

    /// The same, but a missing file gets its name later.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_later(&self, config: &VmConfig) -> Result<(File, Option<New>), Error> {
        match is_missing(self.path) {
            true => New::make(self.what, self.path).map(|(file, new)| (file, Some(new))),
            false => Ok((self.open_or_make(config, false)?, None)),
        }
    }

    fn open_or_make(&self, config: &VmConfig, make: bool) -> Result<File, Error> {
        let failed = |e: io::Error| Error::file(self.what, self.path, &e);
        let mut options = OpenOptions::new();
        options.write(true).append(self.append).create(make);
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
            refuse_input(self.what, self.path, &found, config)?;
            let kind = if self.append { Lock::Append } else { Lock::Write };
            lock(&file, self.what, self.path, kind)?;
        }
        Ok(file)
    }
}

/// Whether nothing has this name, not even a link that leads nowhere.
pub fn is_missing(path: &Path) -> bool {
    let found = path.symlink_metadata();
    found.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// A new file that gets its name when nothing can be refused any more. Until then
/// no other process sees it, and it disappears with this one.
#[derive(Debug)]
pub struct New {
    what: &'static str,
    path: PathBuf,
    file: OwnedFd,
    /// The directory, and this process's descriptors to name the file by; none
    /// if it has its name already, as its file system or a missing `/proc` has
    /// it.
    place: Option<[OwnedFd; 2]>,
    /// It can be, and is to be, removed again.
    undo: bool,
}

impl New {
    /// Makes the file, open to read and write.
    ///
    /// # Errors
    /// Its directory is missing or takes no file.
    pub fn make(what: &'static str, path: &Path) -> Result<(File, Self), Error> {
        let failed = |e: io::Error| Error::file(what, path, &e);
        let (file, place) = match unnamed(path) {
            Ok((file, place)) => (File::from(file), Some(place)),
            Err(_) => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true);
                (options.open(path).map_err(failed)?, None)
            }
        };
        let new = Self {
            what,
            path: path.to_owned(),
            file: file.try_clone().map_err(failed)?.into(),
            undo: place.is_none(),
            place,
        };
        Ok((file, new))
    }

    /// The directory that it is to appear in.
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.place.as_ref().map(|[directory, _]| directory.as_fd())
    }

    /// Numbers of the descriptors that it is named by.
    pub fn numbers(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.place.iter().flatten().map(|fd| fd.as_raw_fd())
    }

    /// Numbers of all its descriptors.
    pub fn all(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.numbers().chain([self.file.as_raw_fd()])
    }

    /// From now on nothing can be removed by its name.
    pub fn confine(&mut self) {
        self.undo = false;
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Something else has got that meanwhile.
    pub fn name(mut self) -> Result<(), Error> {
        self.undo = false;
        let (Some([directory, links]), Some(name)) = (&self.place, self.path.file_name()) else {
            return Ok(());
        };
        let number = self.file.as_raw_fd().to_string();
        let linked = linkat(links, &number, directory, name, AtFlags::SYMLINK_FOLLOW);
        linked.map_err(|e| Error::file(self.what, &self.path, &e.into()))
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if self.undo {
            // It may have been removed already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A file without a name beneath the directory of `path`, that directory, and
/// this process's descriptors.
fn unnamed(path: &Path) -> rustix::io::Result<(OwnedFd, [OwnedFd; 2])> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let links = openat(CWD, "/proc/self/fd", flags | OFlags::PATH, Mode::empty())?;
    let directory = openat(CWD, parent, flags, Mode::empty())?;
    // Where that takes a capability it is named at once.
    mote_snapshot::can_name_files(&directory).map_err(|_| Errno::ACCESS)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o666);
    let file = openat(&directory, c".", flags, mode)?;
    Ok((file, [directory, links]))
}
