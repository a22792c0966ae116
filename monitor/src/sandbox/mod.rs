//! What a VM's process gives up before its guest runs.
//!
//! In this order: everything that the VM needs is opened; then, before there
//! is a second thread, [`Sandbox::enter_process`] makes the process one that
//! can gain nothing (no new privileges, no capabilities, not dumpable, no core,
//! no memory that is first written and then executed) and reach nothing by name
//! (Landlock); then every thread takes on its own filter of system calls with
//! [`Sandbox::enter_thread`], before it reads a byte of a kernel, an image or a
//! guest. The gate through which vCPUs enter the guest opens when all have.
//!
//! A process with a control API is confined before it hears its first request
//! ([`confine_early`], [`Thread::Early`]): it can gain nothing from then on, but
//! open, make and remove files and connect to Unix sockets for its clients. It keeps
//! that until a thread, confined by itself, has read what the VM boots from: if that
//! is refused, another one can be opened.

#[cfg(feature = "breakout")]
#[path = "../../../tests/breakout.rs"]
mod breakout;
#[cfg(test)]
#[allow(dead_code, reason = "the build script uses all of it")]
mod compile;
mod events;
mod filter;
mod main_thread;
mod process;
pub mod rule;
pub mod table;

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

pub use self::events::{crowded, event, number, renumber};
pub use self::main_thread::MainThread;
pub use self::process::{
    Reach, Rules, confine_early, errata as landlock_errata, version as landlock_version,
};
pub use self::rule::{Slot, Thread};

use crate::channel::{Receiver, Sender, channel};
use crate::config::{Mode, Policy};
use crate::error::Error;

/// The confinement of one VM's process, and the numbers that its filters need.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox {
    mode: Mode,
    /// Threads have to give up files by themselves.
    opens: bool,
    slots: [u32; rule::SLOTS],
}

impl Sandbox {
    /// A sandbox whose filters know no descriptor yet.
    pub fn new(policy: &Policy) -> Self {
        Self {
            mode: policy.mode,
            opens: policy.opens && policy.mode != Mode::Off,
            slots: [u32::MAX; rule::SLOTS],
        }
    }

    /// Puts a number into its slot.
    #[must_use]
    pub fn with(mut self, slot: Slot, number: RawFd) -> Self {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = number.cast_unsigned();
        }
        self
    }

    /// The same for a descriptor that a VM may have.
    #[must_use]
    pub fn with_fd(self, slot: Slot, fd: Option<&impl AsRawFd>) -> Self {
        match fd {
            Some(fd) => self.with(slot, fd.as_raw_fd()),
            None => self,
        }
    }

    /// Puts the length of a worker's image, in bytes, into its slots.
    #[must_use]
    pub fn with_end(mut self, end: u64) -> Self {
        let halves = [(Slot::EndLow, end as u32), (Slot::EndHigh, (end >> 32) as u32)];
        for (slot, half) in halves {
            if let Some(place) = self.slots.get_mut(slot as usize) {
                *place = half;
            }
        }
        self
    }

    /// Puts the first and the last of `numbers` into two slots.
    #[must_use]
    pub fn with_row(self, slots: (Slot, Slot), numbers: impl Iterator<Item = RawFd>) -> Self {
        let (mut first, mut last) = (RawFd::MAX, -1);
        for number in numbers {
            (first, last) = (first.min(number), last.max(number));
        }
        if last < 0 {
            return self;
        }
        self.with(slots.0, first).with(slots.1, last)
    }

    /// Confines the process, and lets it have `memory` bytes of addresses. What
    /// concerns files holds for the calling thread and those to come.
    ///
    /// # Errors
    /// The kernel refuses what every supported one has, or has too old a
    /// Landlock.
    pub fn enter_process(policy: &Policy, memory: u64, reach: &Reach<'_>) -> Result<(), Error> {
        match policy.mode {
            Mode::Off => Ok(()),
            Mode::Kill | Mode::Log => process::enter(policy, memory, reach),
        }?;
        #[cfg(feature = "breakout")]
        breakout::attempt("Process", &[u32::MAX; rule::SLOTS]);
        Ok(())
    }

    /// Confines the calling thread, for good; with [`Thread::Start`] all that
    /// there are.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter_thread(&self, thread: Thread) -> Result<(), Error> {
        use Thread::{Early, FirstVcpu, Opener, StartOpen};
        // The first vCPU's has done so before.
        if self.opens && !matches!(thread, Early | StartOpen | Opener | FirstVcpu) {
            process::give_up_files(&[])?;
        }
        match self.mode {
            Mode::Off => Ok(()),
            Mode::Kill => filter::install(thread, &self.slots, false),
            Mode::Log => filter::install(thread, &self.slots, true),
        }?;
        #[cfg(feature = "breakout")]
        breakout::attempt(&format!("{thread:?}"), &self.slots);
        Ok(())
    }
}

/// Bytes of addresses that a process has which only reads files: the greatest
/// bitmap of a snapshot, twice, and more than all the rest.
const READER: u64 = 1 << 30;

/// Confines a process of one thread that is to read the files with these numbers,
/// and is no VM. Into `written` it may write, and files may appear in the directory
/// `save_to`.
///
/// # Errors
/// The kernel refuses.
pub fn confine_reader(
    files: impl Iterator<Item = RawFd>,
    written: impl Iterator<Item = (Slot, RawFd)>,
    save_to: Option<BorrowedFd<'_>>,
) -> Result<(), Error> {
    let policy = Policy::default();
    let sandbox = Sandbox::new(&policy).with_row((Slot::SourceFirst, Slot::SourceLast), files);
    let sandbox = written.fold(sandbox, |all, (slot, number)| all.with(slot, number));
    Sandbox::enter_process(&policy, READER, &Reach::new(save_to.as_slice(), None))?;
    sandbox.enter_thread(Thread::Reader)
}

/// How a thread tells that it has been confined, or could not be.
pub type Report = Sender<Result<(), Error>>;

/// Waits until threads are confined.
#[derive(Debug)]
pub struct Confined {
    report: Report,
    reports: Receiver<Result<(), Error>>,
}

impl Confined {
    /// No thread has reported yet.
    #[expect(clippy::new_without_default, reason = "it is no value but a channel")]
    pub fn new() -> Self {
        let (report, reports) = channel();
        Self { report, reports }
    }

    /// For a thread to report with.
    pub fn report(&self) -> Report {
        Sender::clone(&self.report)
    }

    /// Waits for `threads` reports.
    ///
    /// # Errors
    /// One of them could not be confined.
    pub fn wait(self, threads: usize) -> Result<(), Error> {
        drop(self.report);
        for _ in 0..threads {
            let lost = || Error::System("confine a thread", std::io::ErrorKind::BrokenPipe.into());
            self.reports.recv().ok_or_else(lost)??;
        }
        Ok(())
    }
}
