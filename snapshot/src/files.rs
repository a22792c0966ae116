//! Creates the two files of a snapshot, both or neither.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{
    Access, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, accessat, fchmod, flock, fstat,
    fstatvfs, fsync, linkat, mkdirat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::Error;

/// Name of the state file in a snapshot's directory.
pub const STATE: &str = "state";
/// Name of the memory file beside it.
pub const MEMORY: &str = "memory";

/// Mode of a memory file whose state has no name yet: sticky, which means nothing else for
/// a file. The writer holds a lock on it. So the next writer tells what a killed one has
/// left from a file that another snapshot may need.
const UNFINISHED: Mode = WHOLE.union(Mode::SVTX);
/// Mode of the files of a whole snapshot.
pub(crate) const WHOLE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file without a name, and where it will have one.
#[derive(Debug)]
pub(crate) struct Unnamed {
    pub(crate) file: File,
    pub(crate) directory: OwnedFd,
    pub(crate) path: PathBuf,
}

/// Moves a descriptor to its fixed number.
pub type Place<'a> = dyn FnMut(OwnedFd) -> io::Result<OwnedFd> + 'a;

impl Unnamed {
    /// A new file without a name, to become `path`, which is in `directory`.
    pub(crate) fn create(
        directory: OwnedFd,
        path: PathBuf,
        mode: Mode,
        place: &mut Place<'_>,
    ) -> Result<Self, Error> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(&directory, c".", flags, mode);
        let file = file.map_err(io::Error::from).and_then(place);
        Ok(Self { file: file.map_err(|e| Error::Io("create a file", e))?.into(), directory, path })
    }

    /// Gives it its name; `links` are this process's descriptors, by which
    /// kernels before 6.10, and those who opened it with more rights, do so.
    pub(crate) fn link(&self, links: Option<&OwnedFd>) -> Result<(), Error> {
        let name = self.path.file_name().unwrap_or_default();
        let linked = linkat(&self.file, c"", &self.directory, name, AtFlags::EMPTY_PATH);
        let linked = match (linked, links) {
            (Err(Errno::NOENT), Some(links)) => {
                let number = self.file.as_raw_fd().to_string();
                let flags = AtFlags::SYMLINK_FOLLOW;
                linkat(links, number.as_str(), &self.directory, name, flags)
            }
            (linked, _) => linked,
        };
        linked.map_err(failed("name a file"))
    }
}

/// A snapshot's two files before they have their names. Everything is opened at
/// the beginning, so that a confined process can finish them.
#[derive(Debug)]
pub struct Create {
    state: Unnamed,
    memory: Unnamed,
    links: Option<OwnedFd>,
    /// The memory file is [`UNFINISHED`].
    marked: bool,
    /// The directory, if it was made for this and is to be removed if it stays empty.
    made: Option<Made>,
}

#[derive(Debug)]
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        // What is in it, if anything, is worth more; so is what another writer, who holds a
        // lock on it, is about to put there.
        let alone = directory(&self.0)
            .is_ok_and(|own| flock(&own, FlockOperation::NonBlockingLockExclusive).is_ok());
        if alone {
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Io(what, errno.into())
}

impl Create {
    /// Opens what is needed to write a snapshot into the directory `path`, which is made
    /// (for its owner alone) if its parent is there, and removed again with this value.
    /// `room` is the most bytes that the files can take.
    ///
    /// # Errors
    /// There is a snapshot already, or the memory of one, the file system cannot
    /// hold one or has less room, or writing there takes a capability.
    pub fn begin(path: &Path, room: u64) -> Result<Self, Error> {
        let (directory, made) = make_directory(path)?;
        can_name_files(&directory)?;
        // Against its removal by a writer that made it and is refused (see `Made`).
        // A file system without locks has neither this nor the next one.
        let _ = flock(&directory, FlockOperation::NonBlockingLockShared);
        check_room(&directory, room)?;
        if statat(&directory, STATE, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Error::Exists("the file 'state'"));
        }
        if statat(&directory, MEMORY, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            remove_unfinished(&directory)?;
        }
        let again = directory.try_clone().map_err(|e| Error::Io("open", e))?;
        let memory = Unnamed::create(again, path.join(MEMORY), UNFINISHED, &mut Ok)?;
        let _ = flock(&memory.file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self {
            state: Unnamed::create(directory, path.join(STATE), WHOLE, &mut Ok)?,
            memory,
            links: Some(links()?),
            marked: true,
            made,
        })
    }

    /// Checks that the file system has this many bytes free.
    ///
    /// # Errors
    /// It says that it has less.
    pub fn check_room(&self, bytes: u64) -> Result<(), Error> {
        check_room(&self.memory.directory, bytes)
    }

    /// From now on nothing can be removed: a directory that was made stays.
    pub fn confine(&mut self) {
        if let Some(made) = self.made.take() {
            std::mem::forget(made);
        }
    }

    /// Opens what is needed to write a snapshot to two files, of which neither
    /// may be there. Each descriptor goes through `place`: the state's
    /// directory, the memory's, the state, the memory, this process's descriptors.
    ///
    /// # Errors
    /// A file is there already, or cannot be; and which.
    pub fn begin_at<'a>(
        state: &'a Path,
        memory: &'a Path,
        place: &mut Place<'_>,
    ) -> Result<Self, (&'a Path, Error)> {
        if state == memory {
            return Err((memory, Error::Exists("a file of this name")));
        }
        let mut directory = |path| directory_for(path, place).map_err(|error| (path, error));
        let (in_state, in_memory) = (directory(state)?, directory(memory)?);
        let mut create = |path: &'a Path, directory| {
            let file = Unnamed::create(directory, path.to_owned(), WHOLE, place);
            file.map_err(|error| (path, error))
        };
        Ok(Self {
            state: create(state, in_state)?,
            memory: create(memory, in_memory)?,
            // In a jail there may be no /proc.
            links: links().ok().and_then(|links| place(links).ok()),
            marked: false,
            made: None,
        })
    }

    /// The memory file, to be written before [`finish`](Self::finish).
    #[must_use]
    pub fn memory(&self) -> &File {
        &self.memory.file
    }

    /// What the memory file will be called.
    #[must_use]
    pub fn memory_path(&self) -> &Path {
        &self.memory.path
    }

    /// What the state file will be called.
    #[must_use]
    pub fn state_path(&self) -> &Path {
        &self.state.path
    }

    /// The directory of the state file.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.state.directory.as_fd()
    }

    /// Numbers of the descriptors, for a filter of system calls: the state's
    /// directory, the memory's, the state, the memory, the links.
    #[must_use]
    pub fn numbers(&self) -> [i32; 5] {
        [
            self.state.directory.as_raw_fd(),
            self.memory.directory.as_raw_fd(),
            self.state.file.as_raw_fd(),
            self.memory.file.as_raw_fd(),
            self.links.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        ]
    }

    /// Writes the state and gives both files their names, the state's last:
    /// a snapshot is there when its state is. All of it is on disk then.
    ///
    /// # Errors
    /// A file cannot be written, or its name is taken by now; and which.
    pub fn finish(&self, state: &[u8]) -> Result<(), (&Path, Error)> {
        let of_state = |error| (self.state_path(), error);
        let written = std::os::unix::fs::FileExt::write_all_at(&self.state.file, state, 0);
        written.map_err(|cause| of_state(Error::Io("write", cause)))?;
        fsync(&self.state.file).map_err(failed("fsync")).map_err(of_state)?;
        // A state without its memory must never be seen.
        self.name(&self.memory)?;
        self.name(&self.state)?;
        if self.marked {
            // If it fails, the next writer sees the state all the same.
            let _ = fchmod(&self.memory.file, WHOLE);
        }
        Ok(())
    }

    fn name<'a>(&self, file: &'a Unnamed) -> Result<(), (&'a Path, Error)> {
        let on_disk = || {
            file.link(self.links.as_ref())?;
            // Again: btrfs writes nothing ahead of a file that has no name.
            fsync(&file.file).map_err(failed("fsync"))?;
            fsync(&file.directory).map_err(failed("fsync"))
        };
        on_disk().map_err(|error| (file.path.as_path(), error))
    }
}

/// Opens a directory, which is made if it is missing.
fn make_directory(path: &Path) -> Result<(OwnedFd, Option<Made>), Error> {
    // Without a slash at its end, with which a link would be followed.
    let path: &Path = &path.components().collect::<PathBuf>();
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) => {
            let made = Made(path.to_owned());
            // Others may have put something else there since.
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            let directory = openat(CWD, path, flags, Mode::empty()).map_err(failed("open"))?;
            // Whatever the umask says.
            fchmod(&directory, Mode::RWXU).map_err(failed("change the mode"))?;
            Ok((directory, Some(made)))
        }
        Err(Errno::NOENT) => Err(Error::NoParent),
        // Elsewhere nothing can be made, but it may be there.
        Err(error) if error == Errno::EXIST || path.is_dir() => Ok((directory(path)?, None)),
        Err(error) => Err(Error::Io("make the directory", error.into())),
    }
}

/// Checks that this process can name files in `directory` without its capabilities, which
/// it gives up before it does so.
///
/// # Errors
/// It cannot.
pub fn can_name_files(directory: &OwnedFd) -> Result<(), Error> {
    let had = capabilities(None).map_err(failed("read the capabilities"))?;
    if had.effective.is_empty() {
        return Ok(());
    }
    // Capabilities are a thread's own.
    let without = || {
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, none)?;
        accessat(directory, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
    };
    let checked = thread::scope(|scope| scope.spawn(without).join());
    checked.unwrap_or(Err(Errno::ACCESS)).map_err(|_| Error::NeedsCapabilities)
}

/// Whether `need` bytes fit, where the file system says how much room it has.
fn check_room(directory: &OwnedFd, need: u64) -> Result<(), Error> {
    let Ok(system) = fstatvfs(directory) else {
        return Ok(());
    };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if system.f_blocks == 0 || free >= need { Ok(()) } else { Err(Error::Room(free, need)) }
}

/// Removes a memory file that a writer left when it was killed.
fn remove_unfinished(directory: &OwnedFd) -> Result<(), Error> {
    let kept = Error::Exists("the file 'memory', without a state,");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let (Ok(file), Ok(name)) = (
        openat(directory, MEMORY, flags, Mode::empty()),
        statat(directory, MEMORY, AtFlags::SYMLINK_NOFOLLOW),
    ) else {
        return Err(kept);
    };
    let found = fstat(&file).map_err(failed("examine a file"))?;
    let own = (FileType::from_raw_mode(found.st_mode), Mode::from_raw_mode(found.st_mode));
    let left = own == (FileType::RegularFile, UNFINISHED)
        && found.st_nlink == 1
        && found.st_uid == rustix::process::geteuid().as_raw()
        && (found.st_dev, found.st_ino) == (name.st_dev, name.st_ino)
        && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    // With the lock, its writer is gone; it may have been quick.
    if !left || statat(directory, STATE, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(kept);
    }
    unlinkat(directory, MEMORY, AtFlags::empty()).map_err(failed("remove a file"))
}

/// Opens a snapshot's directory.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    openat(CWD, path, flags, Mode::empty()).map_err(failed("open"))
}

/// Opens the directory that a file will be in, which must not be there yet.
fn directory_for(path: &Path, place: &mut Place<'_>) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(CWD, path, flags, Mode::empty()) {
        Ok(_) => return Err(Error::Exists("the file")),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(Error::Io("open", error.into())),
    }
    let parent = match (path.file_name(), path.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() => Path::new("."),
        (Some(_), Some(parent)) => parent,
        _ => return Err(Error::Io("open", io::ErrorKind::InvalidFilename.into())),
    };
    let missing = |error| match error {
        Error::Io(_, cause) if cause.kind() == io::ErrorKind::NotFound => Error::NoParent,
        other => other,
    };
    let parent = directory(parent).map_err(missing)?;
    place(parent).map_err(|error| Error::Io("open", error))
}

/// This process's descriptors.
pub(crate) fn links() -> Result<OwnedFd, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    let links = openat(CWD, "/proc/self/fd", flags, Mode::empty());
    links.map_err(failed("open /proc/self/fd"))
}
