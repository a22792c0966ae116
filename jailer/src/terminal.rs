//! A terminal of the jail's own, and its relay to the caller's. No descriptor of
//! the caller's terminal gets into the jail: the program could read what is
//! typed to other programs there, change modes, or type itself (TIOCSTI).

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::error::{Error, jail};
use crate::plan::{Plan, Slot};

/// Which of the standard descriptors are terminals.
pub fn standard() -> [bool; 3] {
    [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()]
}

/// Moves bytes between the caller's terminal and the jail's.
#[derive(Debug)]
pub struct Relay {
    master: OwnedFd,
    /// The program has closed its side.
    hung_up: bool,
    /// Standard input is a terminal that has not hung up.
    keyboard: bool,
    screen: OwnedFd,
    /// To write to that may block: it is the caller's own open file.
    shared: bool,
    /// Modes of the caller's terminal before it was made raw.
    before: Option<Termios>,
    typed: Vec<u8>,
    shown: Vec<u8>,
}

/// Bytes moved at once.
const PIECE: usize = 4096;
/// How long the end of the output waits for a terminal that takes nothing.
const FLUSH_TIMEOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

impl Relay {
    /// Makes the terminal that the plan wants; returns the program's side too.
    ///
    /// # Errors
    /// The system has no more.
    pub fn open(plan: &Plan) -> Result<Option<(Self, OwnedFd)>, Error> {
        let at = |number: usize| plan.table.get(number) == Some(&Slot::Terminal);
        let screen = match [1, 2, 0].into_iter().find(|number| at(*number)) {
            None => return Ok(None),
            Some(1) => stdout(),
            Some(2) => stderr(),
            _ => stdin(),
        };
        let (relay, slave) = pair(screen, at(0)).map_err(jail("terminal for the jail"))?;
        Ok(Some((relay, slave)))
    }

    /// Its open descriptors.
    pub fn descriptors(&self) -> [&OwnedFd; 2] {
        [&self.master, &self.screen]
    }

    /// Makes the caller's terminal raw, if this is its foreground: then all
    /// keys are for the jail. In the background it is left alone.
    pub fn take_keyboard(&mut self) {
        if !self.keyboard || !in_foreground() {
            // The new foreground job sets its own modes.
            self.before = None;
        } else if self.before.is_none()
            && let Ok(before) = tcgetattr(stdin())
        {
            let mut raw = before.clone();
            raw.make_raw();
            if tcsetattr(stdin(), OptionalActions::Now, &raw).is_ok() {
                self.before = Some(before);
            }
            self.resize();
        }
    }

    /// Gives the caller's terminal its modes back.
    pub fn give_back(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }

    /// The jail's terminal gets the size of the caller's, and its program a
    /// SIGWINCH if that is new.
    pub fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.screen) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// How long to wait: a shell moves a running job to the foreground without a
    /// signal.
    pub fn timeout(&self) -> Option<Timespec> {
        let waits = self.keyboard && self.before.is_none();
        waits.then_some(Timespec { tv_sec: 0, tv_nsec: 250_000_000 })
    }

    /// What to wait for: keys, the screen, the jail. One that is not waited for
    /// is left out, as it would report its end for ever.
    pub fn events(&self) -> [Option<(BorrowedFd<'_>, PollFlags)>; 3] {
        let keys = self.before.is_some() && self.typed.is_empty();
        let mut jail = PollFlags::empty();
        jail.set(PollFlags::IN, self.shown.is_empty());
        jail.set(PollFlags::OUT, !self.typed.is_empty());
        [
            keys.then_some((stdin(), PollFlags::IN)),
            (!self.shown.is_empty()).then_some((self.screen.as_fd(), PollFlags::OUT)),
            (!self.hung_up && !jail.is_empty()).then_some((self.master.as_fd(), jail)),
        ]
    }

    /// Relays available data, given the reported events.
    pub fn relay(&mut self, [keys, screen, jail]: [PollFlags; 3]) {
        if !keys.is_empty() && in_foreground() {
            self.typed.resize(PIECE, 0);
            let read = rustix::io::read(stdin(), &mut self.typed);
            self.typed.truncate(read.unwrap_or(0));
            self.keyboard = !matches!(read, Ok(0) | Err(Errno::IO));
        }
        if jail.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && self.shown.is_empty()
        {
            self.listen();
        }
        if !self.typed.is_empty() && !pass(&self.master, &mut self.typed, PIECE) {
            self.typed.clear();
        }
        if !screen.is_empty() || !self.shown.is_empty() {
            self.show();
        }
        self.take_keyboard();
    }

    /// Shows the rest of the output and restores the terminal.
    pub fn finish(mut self) {
        loop {
            if self.shown.is_empty() {
                self.listen();
            }
            if self.shown.is_empty() {
                return;
            }
            let mut screen = [PollFd::new(&self.screen, PollFlags::OUT)];
            match poll(&mut screen, Some(&FLUSH_TIMEOUT)) {
                Ok(1..) | Err(Errno::INTR) => self.show(),
                _ => return,
            }
        }
    }

    fn listen(&mut self) {
        self.shown.resize(PIECE, 0);
        let read = rustix::io::read(&self.master, &mut self.shown);
        self.shown.truncate(read.unwrap_or(0));
        self.hung_up = !matches!(read, Ok(1..) | Err(Errno::AGAIN | Errno::INTR));
    }

    /// Without a terminal, output is lost as it would be anyway.
    fn show(&mut self) {
        if !self.shared {
            if !pass(&self.screen, &mut self.shown, PIECE) {
                self.shown.clear();
            }
            return;
        }
        // A single byte, for which there is room; unless the terminal is stopped in between.
        interruptibly(|| {
            while !self.shown.is_empty() && is_ready(&self.screen) {
                if !pass(&self.screen, &mut self.shown, 1) {
                    self.shown.clear();
                }
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Interrupts what waits for longer than a moment meanwhile. The caller's own alarm is kept.
fn interruptibly(write: impl FnOnce()) {
    const MOMENT: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    let timer = libc::itimerval { it_interval: MOMENT, it_value: MOMENT };
    // SAFETY: plain system calls on live locals, for which zeroes are values; the handler does
    // nothing, and the first calls' outcome is undone by the last ones.
    unsafe {
        let (mut action, mut set): (libc::sigaction, libc::sigset_t) = std::mem::zeroed();
        let (mut old_action, mut old_set, mut old_timer) = (action, set, timer);
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaddset(&raw mut set, libc::SIGALRM);
        libc::sigaction(libc::SIGALRM, &raw const action, &raw mut old_action);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, &raw mut old_set);
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, &raw mut old_timer);
        write();
        libc::setitimer(libc::ITIMER_REAL, &raw const old_timer, std::ptr::null_mut());
        libc::sigprocmask(libc::SIG_SETMASK, &raw const old_set, std::ptr::null_mut());
        libc::sigaction(libc::SIGALRM, &raw const old_action, std::ptr::null_mut());
    }
}

/// Whether it can be written to, or never again.
fn is_ready(screen: &OwnedFd) -> bool {
    let mut screen = [PollFd::new(screen, PollFlags::OUT)];
    poll(&mut screen, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Writes what can be written of the first `most` bytes; whether more can be some
/// time.
fn pass(to: &OwnedFd, bytes: &mut Vec<u8>, most: usize) -> bool {
    let part = bytes.get(..most).unwrap_or(bytes);
    match rustix::io::write(to, part) {
        Ok(len) => {
            bytes.drain(..len.min(bytes.len()));
            true
        }
        Err(error) => matches!(error, Errno::AGAIN | Errno::INTR),
    }
}

/// The two sides, with the modes and the size of the caller's terminal.
fn pair(screen: BorrowedFd<'_>, keyboard: bool) -> io::Result<(Relay, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    let mut modes = tcgetattr(if keyboard { stdin() } else { screen })?;
    if !keyboard {
        // The caller's terminal, which is not raw then, does this.
        modes.output_modes.remove(OutputModes::OPOST);
    }
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
    let (screen, shared) = reopen(screen)?;
    let relay = Relay {
        master,
        hung_up: false,
        keyboard,
        screen,
        shared,
        before: None,
        typed: Vec::new(),
        shown: Vec::new(),
    };
    relay.resize();
    Ok((relay, slave))
}

/// Once more and without blocking, which is a flag of the open file that others
/// share; where that is not permitted, as another user's terminal is not, a copy.
/// Tells whether it is one.
fn reopen(screen: BorrowedFd<'_>) -> io::Result<(OwnedFd, bool)> {
    let path = format!("/proc/self/fd/{}", screen.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(CWD, path, flags, Mode::empty()) {
        Ok(own) => Ok((own, false)),
        Err(_) => Ok((rustix::io::fcntl_dupfd_cloexec(screen, 3)?, true)),
    }
}

/// Whether keys are for this process. By number: a group of another PID
/// namespace is 0, which the library's type cannot hold.
fn in_foreground() -> bool {
    // SAFETY: plain system calls.
    unsafe { libc::tcgetpgrp(0) == libc::getpgrp() }
}
