//! The host's side of the VM: guest memory, the console, disk files, taps, userfaultfd, signals.

pub mod console;
pub mod disk;
pub mod files;
pub mod memory;
pub mod prefault;
pub mod signals;
pub mod tap;
pub mod uffd;

use std::io;

use crate::error::Error;

/// An identity that nothing else has.
///
/// # Errors
/// The kernel has no randomness, which it always has.
pub(crate) fn random_id() -> Result<[u8; 16], Error> {
    let mut id = [0; 16];
    // SAFETY: a live array of this length.
    let got = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    if got == 16 { Ok(id) } else { Err(Error::System("getrandom", io::Error::last_os_error())) }
}
