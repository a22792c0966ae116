//! Events in a row of descriptors, which a filter can check with two
//! comparisons instead of one for each.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_sys_util::eventfd::EventFd;

use crate::error::Error;

/// The most numbers that a VM uses.
const MOST: u64 = 256;
/// First descriptor numbers of the eventfds, above all others of a VM, and of the control
/// API.
const EVENTS: RawFd = 128;
/// See [`EVENTS`].
const BEHIND: RawFd = 192;

/// The descriptor that has the number `of` where 256 may be open, and a lower one
/// in the same order where the user may have fewer (`RLIMIT_NOFILE`).
pub fn number(of: RawFd) -> RawFd {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    let limit = *LIMIT.get_or_init(|| {
        let now = getrlimit(Resource::Nofile);
        let most = now.maximum.unwrap_or(MOST).min(MOST);
        let own = now.current.unwrap_or(MOST).min(MOST);
        let raised = Rlimit { current: Some(most), maximum: now.maximum };
        match own < most && setrlimit(Resource::Nofile, raised).is_ok() {
            true => most,
            false => own,
        }
    });
    // At most 256.
    of * limit as RawFd / MOST as RawFd
}

/// There are not enough numbers.
pub fn crowded() -> Error {
    let why = "too many open files for RLIMIT_NOFILE: allow 256, or pass in fewer descriptors";
    Error::Host(why.to_owned())
}

/// Gives a descriptor a number at which there is nothing, or nothing of use any
/// more.
///
/// # Errors
/// The user may not have that many descriptors.
pub fn renumber(fd: OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: copies a live descriptor to a number that its user sets aside.
    if unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A new event of the row, to which nothing else belongs.
///
/// # Errors
/// The user may have too few descriptors.
pub fn event() -> Result<EventFd, Error> {
    let failed = |e| Error::System("eventfd", e);
    let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed)?;
    // SAFETY: copies a live descriptor to a free number.
    let copy = unsafe { libc::fcntl(event.as_raw_fd(), libc::F_DUPFD_CLOEXEC, number(EVENTS)) };
    if copy < 0 {
        // No number is so high, or none is left.
        return Err(crowded());
    }
    // SAFETY: a fresh descriptor of an eventfd that nothing else owns.
    let event = unsafe { EventFd::from_raw_fd(copy) };
    match copy < number(BEHIND) {
        true => Ok(event),
        false => Err(crowded()),
    }
}
