//! The terminal on standard input: raw while its keyboard is ours, and as it was
//! whenever it is not, whatever stops or ends the process.

use std::io;
use std::sync::Mutex;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// What has to be put back.
struct Changed {
    /// The modes before we changed them.
    before: Termios,
    /// What we made of them.
    raw: Termios,
    group: libc::pid_t,
}

static CHANGED: Mutex<Option<Changed>> = Mutex::new(None);

/// The keyboard, which a shell gives to one job and then to another.
#[derive(Debug)]
pub(super) struct Keyboard {
    group: libc::pid_t,
    /// Keys are ours: reading another job's keys would stop this process.
    pub(super) ours: bool,
}

impl Keyboard {
    /// That of the terminal on standard input, taken if it is ours to take.
    pub(super) fn open() -> Self {
        let mut keyboard = Self {
            // SAFETY: a plain system call.
            group: unsafe { libc::getpgrp() },
            ours: false,
        };
        keyboard.update();
        keyboard
    }

    /// Looks whose the terminal is. Ours is put into raw mode: keys go to the guest
    /// one by one, Ctrl-C among them.
    pub(super) fn update(&mut self) {
        self.ours = is_foreground(self.group) && raw(self.group).is_ok();
        if !self.ours {
            restore();
        }
    }
}

/// By number: a group of another PID namespace is 0, which the library's type
/// cannot hold.
fn is_foreground(group: libc::pid_t) -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == group }
}

fn raw(group: libc::pid_t) -> io::Result<()> {
    let before = tcgetattr(stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    if let Ok(mut changed) = CHANGED.lock() {
        changed.get_or_insert(Changed { before, raw: raw.clone(), group });
    }
    Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
}

/// Gives the terminal its modes back; does nothing when they were not changed,
/// or when a shell that has the terminal by now has changed them itself.
/// Safe to call more than once, and from a signal handler: it never waits.
pub fn restore() {
    if let Ok(mut changed) = CHANGED.try_lock()
        && let Some(Changed { before, raw, group }) = changed.take()
    {
        let modes = |t: &Termios| (t.input_modes, t.output_modes, t.control_modes, t.local_modes);
        let untouched = || tcgetattr(stdin()).is_ok_and(|now| modes(&now) == modes(&raw));
        if is_foreground(group) || untouched() {
            // Nothing is left to be done if the terminal has gone.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }
}
