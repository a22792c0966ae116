//! One jail for each id and user, whatever else it is made of.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, open, openat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, jail};
use crate::paths::beneath;
use crate::plan::Plan;

/// An id that is taken for as long as this is held, even by a copy.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
    directory: OwnedFd,
}

impl Lock {
    /// Takes the id.
    ///
    /// # Errors
    /// Another jail has it, or there is no place for the lock that only this
    /// user can open: with any other, its lock could be taken by strangers.
    pub fn take(plan: &Plan) -> Result<Self, Error> {
        let own = rustix::process::geteuid().as_raw();
        let (above, name) = place(own);
        let path = above.join(&name);
        let what = || format!("lock directory {}", path.display());
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let above = open(&above, flags, Mode::empty()).map_err(jail(what()))?;
        match mkdirat(&above, &name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => other.map_err(jail(what()))?,
        }
        let directory =
            beneath(&above, Path::new(&name), OFlags::DIRECTORY).map_err(jail(what()))?;
        let stat = fstat(&directory).map_err(jail(what()))?;
        if stat.st_uid != own || stat.st_mode & 0o077 != 0 {
            let why = "is open to other users: remove it";
            return Err(Error::Jail(format!("{} {why}", what())));
        }
        let file = file(&directory, &plan.id).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                let why = "in use by another jail: choose another --id, or end that jail";
                Error::InUse(format!("id {}: {why}", plan.id))
            }
            other => jail(format!("lock {}", path.join(&plan.id).display()))(other),
        })?;
        Ok(Self { file, directory })
    }

    /// What is open of it.
    pub fn descriptors(&self) -> [&OwnedFd; 2] {
        [&self.file, &self.directory]
    }

    /// Removes the file, which is nobody else's as long as it is locked.
    pub fn remove(self, plan: &Plan) {
        let _ = unlinkat(&self.directory, plan.id.as_str(), AtFlags::empty());
    }
}

/// The directory for locks: where it lies, and its name.
fn place(uid: u32) -> (PathBuf, String) {
    let system = match uid {
        0 => PathBuf::from("/run"),
        _ => PathBuf::from(format!("/run/user/{uid}")),
    };
    if system.is_dir() {
        (system, "mote-jailer".to_owned())
    } else {
        ("/tmp".into(), format!("mote-jailer-{uid}"))
    }
}

fn file(directory: &OwnedFd, id: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let file = openat(directory, id, flags, Mode::RUSR | Mode::WUSR)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Its last holder may have removed it after it was opened here.
        if fstat(&file)?.st_nlink > 0 {
            return Ok(file);
        }
    }
}
