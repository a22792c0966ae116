//! What the main thread does while the guest runs: it waits.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Control, Machine};
use crate::error::Error;
use crate::host::console::{self, Typed};
use crate::host::memory;
use crate::snapshot::working_set::Recording;

/// Input that is read from the console in one go, in bytes.
const INPUT: usize = 64;
/// How long nothing has to happen before a VM counts as one that stays: many
/// do not.
const SETTLE: Duration = Duration::from_millis(100);
/// How often a VM in a terminal's background looks whether it has been fetched.
const AWAY: Duration = Duration::from_millis(250);

impl Machine {
    /// Waits for events, moves console bytes and lets `control` do its part;
    /// tells whether the user leaves.
    pub(super) fn wait_and_serve(&mut self, control: &mut dyn Control) -> Result<bool, Error> {
        let ahead = self.ahead.prefault_next(self.ram);
        let (room, pending, full) = {
            let mut com1 = self.shared.bus.com1();
            com1.release();
            let full = self.typed.waits(INPUT);
            (com1.room() > 0, com1.output().waiting(), full)
        };
        self.typed.hand_over(&mut self.shared.bus.com1());
        let (input, input_flags) = match self.console.input() {
            input if self.listens(room, full.is_some()) => (input, PollFlags::IN),
            // A client's hang-up always counts: another one may be waiting.
            input => (input.filter(|_| self.console.serves_clients()), PollFlags::empty()),
        };
        let waits = [
            (News::Wake, Some(self.wake_fd()), PollFlags::IN),
            (News::Input, input, input_flags),
            (News::Client, self.console.listener(), PollFlags::IN),
            (News::Output, self.console.output().filter(|_| pending), PollFlags::OUT),
        ];
        let mut news = Vec::with_capacity(waits.len());
        let mut fds = Vec::with_capacity(waits.len());
        for (what, fd, flags) in waits {
            if let Some(fd) = fd {
                news.push(what);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        control.waits(&mut fds);
        // Between two pieces of work ahead, or tries to reset, only look.
        let busy = ahead || (self.reset_tries > 0 && !self.paused);
        let timeout = match (busy, self.settled) {
            (true, _) => Some(Duration::ZERO),
            (false, false) => Some(SETTLE),
            (false, true) => {
                let recording = self.recording.as_ref().and_then(Recording::left);
                let away = self.console.is_away().then_some(AWAY);
                let all = [self.shutdown.remaining(), control.due(), recording, away, full];
                all.into_iter().flatten().min()
            }
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let quiet = match poll(&mut fds, timeout.as_ref()) {
            Ok(count) => count == 0 && !ahead,
            Err(Errno::INTR) => false,
            Err(error) => return Err(Error::System("poll", error.into())),
        };
        let (own, others) = fds.split_at(news.len());
        let others: Vec<PollFlags> = others.iter().map(PollFd::revents).collect();
        let happened = own.iter().map(|fd| !fd.revents().is_empty());
        let happened: Vec<bool> = happened.collect();
        drop(fds);
        if quiet && !self.settled {
            memory::forget_program();
            self.settled = true;
        }
        let due = control.due() == Some(Duration::ZERO);
        if due || others.iter().any(|flags| !flags.is_empty()) {
            control.serve(&others, self);
        }
        for (what, _) in news.into_iter().zip(happened).filter(|n| n.1) {
            match what {
                News::Wake => {}
                News::Input => {
                    if self.read_input() {
                        return Ok(true);
                    }
                }
                News::Client => {
                    if let Some(output) = self.console.accept() {
                        self.shared.bus.com1().output().connect_client(output);
                    }
                }
                News::Output => self.shared.bus.com1().output().drain(),
            }
        }
        Ok(false)
    }

    /// Whether input is read now: that of a person always, to be able to leave,
    /// unless the terminal buffers a paste that the guest is still reading.
    fn listens(&self, room: bool, full: bool) -> bool {
        match self.console.escape {
            Some(_) => !full,
            None => room && self.typed.is_empty(),
        }
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.wake`, which outlives the
        // borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) }
    }

    /// Reads console input; true if the user leaves.
    fn read_input(&mut self) -> bool {
        let mut bytes = [0; INPUT];
        let read = match self.console.input() {
            Some(fd) => rustix::io::read(fd, &mut bytes),
            None => return false,
        };
        let bytes = match read {
            Ok(0) => &[],
            Ok(count) => bytes.get(..count).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => &[],
        };
        if bytes.is_empty() && self.console.hang_up() {
            self.shared.bus.com1().output().disconnect();
        }
        for byte in bytes {
            let typed = match &mut self.console.escape {
                Some(escape) => escape.feed(*byte),
                None => Typed::Byte(*byte),
            };
            match typed {
                Typed::Byte(byte) => self.typed.push(byte),
                Typed::Nothing => {}
                Typed::Help => {
                    let mut com1 = self.shared.bus.com1();
                    console::HELP.bytes().for_each(|byte| com1.output().put(byte));
                }
                Typed::Leave => return true,
            }
        }
        self.typed.hand_over(&mut self.shared.bus.com1());
        false
    }
}

/// What the main thread waits for.
#[derive(Clone, Copy)]
enum News {
    Wake,
    Input,
    Client,
    Output,
}
