//! What the jailer's processes tell each other and the caller.

use std::io::{self, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The process that the caller sees, as the keeper has it.
#[derive(Debug)]
pub struct Caller {
    /// Ends with that process.
    pub alive: OwnedFd,
    /// To that process, which prints for the keeper, as this has no descriptors of the caller's.
    pub messages: OwnedFd,
}

/// Precedes the lines: the program is ready.
pub const READY: u8 = b'r';

impl Caller {
    /// Has a line written to standard error, after the program's own.
    pub fn line(&self, text: &str) {
        let _ = rustix::io::write(&self.messages, format!("{text}\n").as_bytes());
    }

    /// Says that the program is ready.
    pub fn ready(&self) {
        let _ = rustix::io::write(&self.messages, &[READY]);
    }
}

/// Says something on standard error, which may be closed.
pub fn say(text: &impl std::fmt::Display) {
    let _ = io::stderr().write_all(format!("mote-jailer: {text}\n").as_bytes());
}

/// Waits until one of the descriptors is ready, or for this time.
///
/// # Errors
/// The system refuses.
pub fn poll_all(
    fds: &[(BorrowedFd<'_>, PollFlags)],
    limit: Option<&Timespec>,
) -> io::Result<Vec<PollFlags>> {
    let polled = fds.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags));
    let mut polled: Vec<_> = polled.collect();
    loop {
        match poll(&mut polled, limit) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map(|_| ())?,
        }
    }
    Ok(polled.iter().map(PollFd::revents).collect())
}
