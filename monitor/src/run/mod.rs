//! One VM from start to end.

mod event_loop;
mod fds;
mod lease;
mod shutdown;
mod source;
mod start;
mod vcpu_threads;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use vmm_sys_util::eventfd::EventFd;

use self::shutdown::GracefulShutdown;
pub use self::source::Source;
pub use self::start::{Made, Opened, tell_ready};
use crate::boot::Cause;
use crate::channel::{Receiver, RecvError};
use crate::config::{OnReset, SnapshotKind, Then, VmConfig};
use crate::devices::serial::TypedAhead;
use crate::devices::{Devices, HOST_FILE_TIMEOUT};
use crate::error::{Error, exit};
use crate::host::console::{self, Console};
use crate::host::memory::{self, GuestRam};
use crate::host::prefault::PrefaultQueue;
use crate::host::signals;
use crate::sandbox::{self, Thread};
use crate::snapshot::dirty::Changes;
pub use crate::snapshot::pagemap::PageMap;
use crate::snapshot::save::Parts;
pub use crate::snapshot::save::{SnapshotWriter, merge};
use crate::snapshot::working_set::Recording;
use crate::timings::Timings;
use crate::vm::run_loop;
use crate::vm::{self, Ended, Shared};

/// How long the end of a VM waits for its vCPUs to leave their devices, and for workers
/// to leave their host files.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one try to reset the machine waits for the same: the API is served in between.
const RESET_TRY: Duration = Duration::from_millis(100);

/// Runs a VM to its end and returns the process's exit code.
///
/// # Errors
/// The VM cannot be created, or its guest cannot continue.
pub fn run(
    config: &VmConfig,
    source: Source,
    timings: &Arc<Timings>,
    demo: bool,
) -> Result<u8, Error> {
    let wake = Arc::new(sandbox::event()?);
    let opened = Opened::open(config, source, wake, demo.then_some(timings))?;
    let main = opened.main_thread();
    let pages = match main.thread == Thread::Saver {
        true => open_pages(config)?,
        false => None,
    };
    let made = opened.with_pages(pages).make(config, timings, &main)?;
    made.run(config, main)?.run(config, &mut NoControl)
}

/// Where pages are. A snapshot can do without, a recording cannot.
fn open_pages(config: &VmConfig) -> Result<Option<Arc<PageMap>>, Error> {
    let pages = PageMap::open();
    if config.record.is_none() {
        return Ok(pages.ok().map(Arc::new));
    }
    let unreadable = |e| Error::file("--record", Path::new(PageMap::PATH), &e);
    pages.map(|pages| Some(Arc::new(pages))).map_err(unreadable)
}

/// Controls a VM while it runs, on its main thread.
pub trait Control {
    /// What to wait for.
    fn waits<'a>(&'a self, fds: &mut Vec<PollFd<'a>>);

    /// When it has something to do anyway.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Handles the events of these descriptors, in the same order, and expired timers.
    fn serve(&mut self, happened: &[PollFlags], machine: &mut Machine);

    /// The VM has ended; nothing of it counts any more.
    fn ended(&mut self, _: &Machine) {}
}

/// No requests: the VM runs by itself.
pub struct NoControl;

impl Control for NoControl {
    fn waits<'a>(&'a self, _: &mut Vec<PollFd<'a>>) {}
    fn serve(&mut self, _: &[PollFlags], _: &mut Machine) {}
}

/// A running VM as its main thread sees it.
pub struct Machine {
    shared: Arc<Shared>,
    ram: &'static GuestRam,
    source: &'static Source,
    wake: Arc<EventFd>,
    console: Console,
    typed: TypedAhead,
    ahead: Arc<PrefaultQueue>,
    /// What start-up used of the program is no longer mapped.
    settled: bool,
    shutdown: GracefulShutdown,
    paused: bool,
    /// How often the guest's reset had to wait.
    reset_tries: u32,
    /// The snapshot that is due at the boot marker.
    saving: Option<SnapshotWriter>,
    /// It could not be written, which was reported.
    unsaved: bool,
    /// The guest's touched pages are being noted.
    recording: Option<Recording>,
    pages: Option<Arc<PageMap>>,
    /// What has changed since it was saved is noted.
    changes: Option<Changes>,
    opens: bool,
    /// Disconnects when all vCPU threads have released the VM.
    released: Receiver<()>,
}

impl Machine {
    /// Serves the VM to its end and returns the process's exit code.
    ///
    /// # Errors
    /// The guest cannot continue.
    pub fn run(mut self, config: &VmConfig, control: &mut dyn Control) -> Result<u8, Error> {
        let result = self.serve(config, control);
        let result = result.and_then(|code| self.record(true).map(|()| code));
        let result = match (result, &self.saving, &config.snapshot) {
            (Ok(exit::OK), Some(_), Some(to)) => Err(Error::Unsaved(to.clone())),
            (Ok(exit::OK), ..) if self.unsaved => Ok(exit::UNSAVED),
            (result, ..) => result,
        };
        run_loop::end(&self.shared);
        let until = Instant::now() + END_TIMEOUT;
        let lost = {
            let mut com1 = self.shared.bus.com1();
            com1.output().finish();
            com1.output().lost()
        };
        control.ended(&self);
        // Gives the terminal back before anything is printed.
        self.console.close();
        if let Some((bytes, why)) = lost {
            console::say(&format!("mote: serial output: {bytes} bytes were lost: {why}\n"));
        }
        let untaken = self.typed.lost();
        if untaken > 0 {
            console::say(&format!(
                "mote: serial input: {untaken} bytes were lost: the guest did not take them\n"
            ));
        }
        self.tell_marker(config);
        if config.timings {
            console::say(&self.shared.timings.table());
        }
        // Usually no other thread holds the VM a moment later: returning closes it,
        // which is mostly waiting, while the first vCPU's thread gives memory
        // back. A vCPU may also wait for a device whose host file hangs;
        // then the process's end is what ends it.
        let released = self.released.recv_timeout(END_TIMEOUT);
        let devices = self.shared.bus.devices();
        let held = devices.hold(until);
        if let (Err(_), Some(name)) = (held, devices.used()) {
            // Linux does not end a thread in every wait for a file.
            console::say(&format!(
                "mote: drive {name}: its host file does not respond: the process may not exit until it does\n"
            ));
        }
        if let Err(RecvError::Empty) = released {
            // The last owner closes the VM, which a vCPU thread's filter does not allow.
            std::mem::forget(self);
        }
        result
    }

    /// What all threads share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether this thread may still open files.
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// Whether it has been paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Takes all vCPUs out of the guest and all workers out of the host's files.
    ///
    /// # Errors
    /// One has not come within `limit`: its host file hangs; or a signal asks for the end.
    fn halt(&self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        let devices = self.shared.bus.devices();
        let halted = match run_loop::close_gate(&self.shared, until) {
            true => devices.hold(until),
            false => Err(devices.hung()),
        };
        halted.map_err(Error::Host)
    }

    /// Resumes vCPUs and workers, unless the VM is paused.
    fn go_on(&self) {
        if self.paused {
            return;
        }
        self.shared.bus.devices().release();
        // What the guest asked for just before comes first.
        if !self.shared.has_ended() {
            run_loop::open_gate(&self.shared);
        }
    }

    /// Takes all vCPUs out of the guest and stops all devices: nothing of the
    /// VM changes from then on, and all of its state can be read. Pausing a
    /// paused VM does nothing.
    ///
    /// # Errors
    /// As [`halt`](Self::halt); the VM then resumes.
    pub fn pause(&mut self) -> Result<(), Error> {
        if self.paused {
            return Ok(());
        }
        self.halt(HOST_FILE_TIMEOUT).inspect_err(|_| self.go_on())?;
        self.shared.bus.devices().pause();
        self.paused = true;
        Ok(())
    }

    /// Resumes a paused VM; a running one is left alone.
    pub fn resume(&mut self) {
        if !std::mem::take(&mut self.paused) {
            return;
        }
        vm::clock::tell_stopped(&self.shared);
        self.shared.bus.devices().resume();
        self.go_on();
    }

    /// Has `change` change a device while no vCPU is in the guest: of what a driver
    /// reads in several loads, the generation (virtio 1.2, 2.5.1) can only tell
    /// what changes between two of them.
    ///
    /// # Errors
    /// What `change` says, or as [`halt`](Self::halt).
    pub fn change_device(
        &self,
        change: impl FnOnce(&Devices) -> Result<(), String>,
    ) -> Result<(), String> {
        let halted = self.halt(HOST_FILE_TIMEOUT).map_err(|e| e.to_string());
        let changed = halted.and_then(|()| change(self.shared.bus.devices()));
        self.go_on();
        changed
    }

    /// Says, once, when the guest wrote the boot marker, to those who ask for times.
    fn tell_marker(&self, config: &VmConfig) {
        if config.timings
            && let Some(us) = self.shared.take_marker()
        {
            console::say(&format!("mote: boot marker after {us} us\n"));
        }
    }

    /// Serves console, signals and the guest's requests until the VM ends.
    fn serve(&mut self, config: &VmConfig, control: &mut dyn Control) -> Result<u8, Error> {
        loop {
            // Clears the eventfd; it only signals that one of these sources has an event.
            let _ = self.wake.read();
            signals::follow();
            if signals::take_stop() {
                console::restore();
                signals::stop();
            }
            if signals::take_continued() || self.console.is_away() {
                self.console.look_after_keyboard();
            }
            if let Some(signal) = signals::take()
                && let Some(code) = self.shutdown.on_signal(signal, &self.shared)?
            {
                return Ok(code);
            }
            // On a terminal the line would land in the guest's own: it waits
            // for the end there.
            if self.console.escape.is_none() {
                self.tell_marker(config);
            }
            if let Err(error) = self.record(false) {
                // The guest has nothing to do with it.
                console::complain(&error);
            }
            if self.save(config)? {
                return Ok(exit::OK);
            }
            let end = match self.paused {
                true => None,
                false => self.shared.take_end(),
            };
            match end {
                None => {}
                Some(Ended::PowerOff) => return Ok(exit::OK),
                Some(Ended::NothingToBoot) => return Ok(exit::NOTHING_TO_BOOT),
                Some(Ended::Error(error)) => return Err(error),
                // A restored VM has nothing to boot from.
                Some(Ended::Reset)
                    if config.on_reset == Some(OnReset::Exit) || self.source.saved().is_some() =>
                {
                    return Ok(exit::RESET);
                }
                Some(Ended::Reset) => match self.shutdown.reset_code() {
                    Some(code) => return Ok(code),
                    None => self.reset(config)?,
                },
            }
            // Last: a guest that has powered off was in time.
            if let Some(code) = self.shutdown.expired() {
                return Ok(code);
            }
            if self.wait_and_serve(control)? {
                return Ok(exit::OK);
            }
        }
    }

    /// Takes the snapshot, once the boot marker has been written; tells whether
    /// that was all there was to do.
    fn save(&mut self, config: &VmConfig) -> Result<bool, Error> {
        if !self.shared.bus.is_marked() {
            return Ok(false);
        }
        let Some(saving) = self.saving.take() else {
            return Ok(false);
        };
        let paused = self.pause();
        if paused.is_err() && signals::received() {
            return Ok(false);
        }
        let taken = paused.and_then(|()| saving.save(&mut self.parts(), config.kind));
        // If the guest has ended meanwhile, that is what counts.
        if config.then == Then::Exit && !self.shared.has_ended() {
            return taken.map(|()| true);
        }
        if let Err(error) = taken {
            // The guest continues; the exit code tells the caller.
            console::complain(&error);
            self.unsaved = true;
        }
        self.resume();
        Ok(false)
    }

    /// Saves a paused VM to two files that are not there yet; see
    /// [`opens`](Self::opens).
    ///
    /// # Errors
    /// A file is there, or cannot be written; then there is no snapshot.
    pub fn save_to(
        &mut self,
        state: &Path,
        memory: &Path,
        kind: SnapshotKind,
    ) -> Result<(), Error> {
        SnapshotWriter::open_at(state, memory)?.save(&mut self.parts(), kind)
    }

    /// What a snapshot is made of.
    fn parts(&mut self) -> Parts<'_> {
        Parts {
            shared: &self.shared,
            typed: &self.typed,
            ram: self.ram,
            mapped: self.source.mapped(),
            paged: self.source.pager().is_some(),
            pages: self.pages.as_deref(),
            changes: self.changes.as_mut(),
        }
    }

    /// Writes the working set if the guest has reached the end of the recording, or its own
    /// `end`.
    fn record(&mut self, end: bool) -> Result<(), Error> {
        let shared = &self.shared;
        let due = |recording: &mut Recording| end || recording.is_due(shared);
        match self.recording.take_if(due) {
            Some(recording) => recording.finish(self.pages.as_deref(), self.ram),
            None => Ok(()),
        }
    }

    /// Restarts the VM in place: power-on state, boot source read again. While a host
    /// file hangs, that is tried again later.
    #[inline(never)]
    fn reset(&mut self, config: &VmConfig) -> Result<(), Error> {
        if let Err(error) = self.halt(RESET_TRY) {
            self.shared.defer(Ended::Reset);
            self.reset_tries += 1;
            if RESET_TRY * self.reset_tries == HOST_FILE_TIMEOUT {
                console::say(&format!("mote: {error}; the guest's reset waits for it\r\n"));
            }
            return Ok(());
        }
        self.reset_tries = 0;
        // Another vCPU may have asked for the same in the meantime.
        if let Some(Ended::Error(error)) = self.shared.take_end() {
            return Err(error);
        }
        // Devices first: their workers must not move data any more when
        // memory is given back and filled anew.
        self.shared.bus.reset();
        memory::power_on(self.ram).map_err(|e| Error::System("reset guest memory", e))?;
        let windows = self.shared.bus.devices().windows();
        let loaded = self.source.load(self.ram, config.cpus, &windows, Cause::Reset)?;
        vm::power_on(&self.shared, loaded.entry)?;
        if config.prefault {
            memory::prefault(self.ram, true)?;
        }
        self.ahead.text(loaded.written);
        if let Some(changes) = &mut self.changes {
            changes.everything();
        }
        self.go_on();
        Ok(())
    }
}
