//! Raw mode, and the way back from it, whatever ends the process.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The modes of the terminal on standard input before we changed them.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Puts the terminal into raw mode: keys go to the guest one by one, Ctrl-C
/// among them.
///
/// # Errors
/// The terminal refuses.
pub fn raw(fd: BorrowedFd<'_>) -> io::Result<()> {
    let before = tcgetattr(fd)?;
    let mut modes = before.clone();
    modes.make_raw();
    if let Ok(mut saved) = SAVED.lock() {
        saved.get_or_insert(before);
    }
    Ok(tcsetattr(fd, OptionalActions::Now, &modes)?)
}

/// Whether this process is in the terminal's foreground. By number: a group of
/// another PID namespace is 0, which the library's type cannot hold.
pub fn in_foreground() -> bool {
    // SAFETY: plain system calls.
    unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp() }
}

/// Gives the terminal its modes back; does nothing when they were not changed.
/// Safe to call more than once, and from a signal handler: it never waits.
pub fn restore() {
    if let Ok(mut saved) = SAVED.try_lock()
        && let Some(modes) = saved.take()
    {
        // Nothing is left to be done if the terminal has gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &modes);
    }
}
