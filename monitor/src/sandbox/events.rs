//! Events in a row of descriptors, which a filter can check with two
//! comparisons instead of one for each.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use vmm_sys_util::eventfd::EventFd;

use crate::error::Error;

/// Where the row begins: above what a VM opens else. The second is for users
/// who may not have that many descriptors.
const FROM: [libc::c_int; 2] = [128, 64];

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
    for from in FROM {
        // SAFETY: copies a live descriptor to a free number.
        let copy = unsafe { libc::fcntl(event.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) };
        if copy >= 0 {
            // SAFETY: a fresh descriptor of an eventfd that nothing else owns.
            return Ok(unsafe { EventFd::from_raw_fd(copy) });
        }
    }
    Err(failed(io::Error::last_os_error()))
}
