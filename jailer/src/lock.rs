//! One jail for each id and user, whatever else it is made of.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, open, openat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, jail, message};
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
        let above = place(own);
        let path = above.join(DIRECTORY);
        let what = || format!("lock directory {}", path.display());
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let parent = match open(&above, flags, Mode::empty()) {
            // No other place will do: in one where others can write, one of them can be first.
            Err(Errno::NOENT) if own != 0 => {
                let why = format!(
                    "{} is missing: log in through a session manager, have root run \
                     'loginctl enable-linger {own}', or have it make that directory, mode 0700, \
                     for user {own}",
                    above.display()
                );
                return Err(Error::Jail(format!("{}: {why}", what())));
            }
            other => other.map_err(jail(what()))?,
        };
        only_own(&parent, own, 0o022).map_err(|why| {
            let remedy = format!("have root make it writable for user {own} alone");
            Error::Jail(format!("{}: {} {why}: {remedy}", what(), above.display()))
        })?;
        match mkdirat(&parent, DIRECTORY, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => other.map_err(jail(what()))?,
        }
        let directory =
            beneath(&parent, Path::new(DIRECTORY), OFlags::DIRECTORY).map_err(jail(what()))?;
        only_own(&directory, own, 0o077)
            .map_err(|why| Error::Jail(format!("{} {why}: remove it", what())))?;
        let file = file(&directory, &plan.args.id).map_err(|error| match error {
            Errno::WOULDBLOCK => {
                let why = "in use by another jail: choose another --id, or end that jail";
                Error::InUse(format!("id {}: {why}", plan.args.id))
            }
            other => jail(format!("lock {}", path.join(&plan.args.id).display()))(other),
        })?;
        Ok(Self { file, directory })
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> [&OwnedFd; 2] {
        [&self.file, &self.directory]
    }

    /// Removes the file, which no other jailer can lock before this one's end.
    pub fn remove(self, plan: &Plan) {
        let _ = unlinkat(&self.directory, plan.args.id.as_str(), AtFlags::empty());
    }
}

/// Name of the directory for locks.
const DIRECTORY: &str = "mote-jailer";

/// Where the directory for locks lies: a directory that no other user can make or fill.
fn place(uid: u32) -> PathBuf {
    match uid {
        0 => PathBuf::from("/run"),
        _ => PathBuf::from(format!("/run/user/{uid}")),
    }
}

/// Whether a directory belongs to `own`, without any of these permissions for others.
fn only_own(directory: &OwnedFd, own: u32, forbidden: u32) -> Result<(), String> {
    let stat =
        fstat(directory).map_err(|e| format!("cannot be examined: {}", message(&e.into())))?;
    match stat.st_uid {
        owner if owner != own => Err(format!("belongs to user {owner}, not to {own}")),
        _ if stat.st_mode & forbidden != 0 => Err("is open to other users".to_owned()),
        _ => Ok(()),
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
