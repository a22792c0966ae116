//! How the two files of a snapshot appear: whole or not at all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat};

use crate::Error;

/// Name of the state file in a snapshot's directory.
pub const STATE: &str = "state";
/// Name of the memory file beside it.
pub const MEMORY: &str = "memory";

/// Two files without names, and where they will have them. Everything is
/// opened by [`Create::begin`], so that a confined process can go on.
#[derive(Debug)]
pub struct Create {
    directory: OwnedFd,
    /// This process's descriptors, by which a file without a name is linked.
    links: OwnedFd,
    state: File,
    memory: File,
}

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::Io(what, errno.into())
}

impl Create {
    /// Opens what is needed to write a snapshot into `directory`, which must
    /// be there. What is left of an attempt that was broken off is removed.
    ///
    /// # Errors
    /// There is a snapshot already, or the file system cannot hold one.
    pub fn begin(directory: &Path) -> Result<Self, Error> {
        let directory = self::directory(directory)?;
        if rustix::fs::statat(&directory, STATE, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Error::Io("write", io::ErrorKind::AlreadyExists.into()));
        }
        match rustix::fs::unlinkat(&directory, MEMORY, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(Error::Io("remove memory", error.into())),
        }
        let (state, memory) = (unnamed(&directory)?, unnamed(&directory)?);
        let links = links()?;
        Ok(Self {
            directory,
            links,
            state,
            memory,
        })
    }

    /// The memory file, to be written before [`finish`](Self::finish).
    #[must_use]
    pub fn memory(&self) -> &File {
        &self.memory
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Numbers of the directory's, the links', the state's and the memory's
    /// descriptor, for a filter of system calls.
    #[must_use]
    pub fn numbers(&self) -> [i32; 4] {
        [
            self.directory.as_raw_fd(),
            self.links.as_raw_fd(),
            self.state.as_raw_fd(),
            self.memory.as_raw_fd(),
        ]
    }

    /// Writes the state and gives both files their names, the state's last:
    /// a snapshot is there when its state is. All of it is on disk then.
    ///
    /// # Errors
    /// A file cannot be written, or has got its name otherwise meanwhile.
    pub fn finish(&self, state: &[u8]) -> Result<(), Error> {
        let written = std::os::unix::fs::FileExt::write_all_at(&self.state, state, 0);
        written.map_err(|cause| Error::Io("write", cause))?;
        rustix::fs::fsync(&self.state).map_err(failed("fsync"))?;
        name(&self.links, &self.memory, &self.directory, MEMORY)?;
        name(&self.links, &self.state, &self.directory, STATE)?;
        rustix::fs::fsync(&self.directory).map_err(failed("fsync"))
    }
}

/// Opens a snapshot's directory.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open"))
}

/// A new file that nobody can see.
pub(crate) fn unnamed(directory: &OwnedFd) -> Result<File, Error> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(directory, c".", flags, Mode::RUSR | Mode::WUSR);
    file.map(File::from).map_err(failed("create a file"))
}

/// This process's descriptors.
pub(crate) fn links() -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let links = rustix::fs::open("/proc/self/fd", flags, Mode::empty());
    links.map_err(failed("open /proc/self/fd"))
}

/// Gives a file without a name one in `directory`.
pub(crate) fn name(
    links: &OwnedFd,
    file: &File,
    directory: &OwnedFd,
    name: &str,
) -> Result<(), Error> {
    let number = file.as_raw_fd().to_string();
    let linked = linkat(
        links,
        number.as_str(),
        directory,
        name,
        AtFlags::SYMLINK_FOLLOW,
    );
    linked.map_err(failed("name a file"))
}

/// Opens the state and the memory file in `directory` to be read.
///
/// # Errors
/// One of them cannot be opened, and which.
pub fn open(directory: &Path) -> Result<(File, File), (&'static str, io::Error)> {
    let open = |name| File::open(directory.join(name)).map_err(|error| (name, error));
    Ok((open(STATE)?, open(MEMORY)?))
}
