//! How a VM starts. What it needs is opened; it is made while a thread of its
//! own reads what it boots from; and only then, when nothing is left that a
//! caller could have said wrongly, do its other threads begin. Until there what
//! fails gives everything back, and a process with a control API can try again.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::Kvm;
use mote_virtio::Dirty;
use vmm_sys_util::eventfd::EventFd;

use super::Machine;
use super::fds::{Open, PredictedFds};
use super::lease::Lease;
use super::shutdown::GracefulShutdown;
use super::source::Source;
use super::vcpu_threads::{BootTask, FirstVcpu, Prepared, StartState, start_vcpus, thread_lost};
use crate::channel::{Receiver, RecvError, Sender, channel};
use crate::config::{Mode, SerialTo, SnapshotKind, VmConfig};
use crate::devices::Devices;
use crate::devices::serial::Com1;
use crate::error::{Error, kvm};
use crate::host::console::{self, Console, Output};
use crate::host::files::New;
use crate::host::memory::GuestRam;
use crate::host::prefault::PrefaultQueue;
use crate::host::{memory, signals};
use crate::layout;
use crate::sandbox::{self, Confined, MainThread, Reach, Rules, Sandbox, Slot, Thread};
use crate::snapshot::dirty::Changes;
use crate::snapshot::pagemap::PageMap;
use crate::snapshot::save::SnapshotWriter;
use crate::snapshot::working_set::Recording;
use crate::timings::Timings;
use crate::vm::bus::Bus;
use crate::vm::vcpu;
use crate::vm::{self, Shared};

/// How often a wait for a thread looks for a signal.
const LOOK: Duration = Duration::from_millis(100);

/// What a VM needs of the host, before anything is given up.
pub struct Opened {
    host: Arc<Kvm>,
    devices: Devices,
    wake: Arc<EventFd>,
    console: Console,
    output: Output,
    line: EventFd,
    saving: Option<SnapshotWriter>,
    recording: Option<Recording>,
    /// Where pages are, for a snapshot.
    pages: Option<Arc<PageMap>>,
    /// Files that get their names last.
    new: Vec<New>,
    // Last: what uses it goes before.
    lent: Lent,
}

/// What devices and threads use until the process ends. What devices write to is
/// to be noted in `dirty`.
struct Lent {
    dirty: Option<Lease<Dirty>>,
    source: Lease<Source>,
    ram: Lease<GuestRam>,
}

impl Lent {
    fn keep(self) {
        if let Some(dirty) = self.dirty {
            dirty.keep();
        }
        self.source.keep();
        self.ram.keep();
    }
}

impl Opened {
    /// Opens everything that a VM needs; `wake` wakes its main thread, and a
    /// `clock` tells the time before each line of the console.
    ///
    /// # Errors
    /// The host lacks something, or a file or tap cannot be used. Nothing has
    /// changed then.
    pub fn open(
        config: &VmConfig,
        source: Source,
        wake: Arc<EventFd>,
        clock: Option<&Arc<Timings>>,
    ) -> Result<Self, Error> {
        let ram = memory::reserve_all(config.memory, config.huge_pages)?;
        let release = |ram: &GuestRam| {
            // SAFETY: all its users, the VM too, have gone before.
            unsafe { memory::release(ram) }
        };
        // SAFETY: what uses it is dropped before: here by the order in which it is
        // made, later by that of the fields; and threads have ended by then.
        let ram = unsafe { Lease::new(ram, release) };
        if let Some(pager) = source.pager() {
            pager.hand_over(ram.get())?;
        }
        // SAFETY: as above.
        let source = unsafe { Lease::new(source, |_| {}) };
        let dirty = config.track_dirty_pages.then(|| Dirty::new(ram.get()));
        // SAFETY: as above.
        let dirty = dirty.map(|dirty| unsafe { Lease::new(dirty, |_| {}) });
        let devices = Devices::open(config, ram.get(), dirty.as_ref().map(Lease::get))?;
        signals::catch(&wake)?;
        vcpu::allow_kicks()?;
        if config.serial.to == SerialTo::Stdio && io::stdin().is_terminal() {
            signals::catch_on_terminal()?;
        }
        let (mut console, output) = console::open(config, clock)?;
        let line = sandbox::event()?;
        // What will have changed is anybody's guess.
        let most = if config.kind == SnapshotKind::Full { config.memory } else { 0 };
        let saving = config.snapshot.as_deref().map(|to| SnapshotWriter::open(to, most));
        let saving = saving.transpose()?;
        let recording = Recording::open(config)?;
        let mut new = devices.take_new();
        new.extend(console.take_new());
        Ok(Self {
            // Last: one that was passed in is ours from here on.
            host: Arc::new(vm::open_host(config.kvm_fd)?),
            devices,
            wake,
            console,
            output,
            line,
            saving,
            recording,
            pages: None,
            new,
            lent: Lent { dirty, source, ram },
        })
    }

    /// Lets a snapshot skip pages that are known to be untouched.
    #[must_use]
    pub fn with_pages(mut self, pages: Option<Arc<PageMap>>) -> Self {
        self.pages = pages;
        self
    }

    /// What the main thread becomes, if it saves something.
    pub(super) fn main_thread(&self) -> MainThread {
        let main = self.saving.as_ref().map(SnapshotWriter::main_thread);
        let main = main.or(self.recording.as_ref().map(Recording::main_thread));
        main.unwrap_or_default()
    }

    /// Makes the VM, and reads what it boots from.
    ///
    /// # Errors
    /// The host refuses, or what the VM boots from is of no use. The process is
    /// confined then, and of no further use; if `main` says that it may try again,
    /// everything is as before.
    pub fn make(
        mut self,
        config: &VmConfig,
        timings: &Arc<Timings>,
        main: &MainThread,
    ) -> Result<Made, Error> {
        timings.mark("open /dev/kvm, devices, console");
        let again = main.start.is_none();
        if !again {
            self.confine(config, main)?;
        }
        let opens = config.sandbox.opens || again;
        let rules = match opens && config.sandbox.mode != Mode::Off {
            true => Some(Arc::new(Rules::nothing()?)),
            false => None,
        };
        let (expected, sandbox) = self.numbers(config, &[rules.as_deref(), main.files.as_ref()])?;
        let pages = self.pages.as_ref().map_or(-1, |pages| pages.number());
        let sandbox = main.numbers(sandbox).with(Slot::PageMap, pages);
        timings.mark("sandbox, process");
        let (ram, source) = (self.lent.ram.get(), self.lent.source.get());
        let ahead = Arc::new(PrefaultQueue::default());
        let preparation = BootTask {
            host: Some(Arc::clone(&self.host)),
            ram,
            source,
            windows: self.devices.windows(),
            deviceless: self.devices.is_empty(),
            cpus: config.cpus,
            ahead: Arc::clone(&ahead),
            prefault: config.prefault,
            sandbox: sandbox.with(Slot::Vcpu, expected.first()),
            start: main.start,
            rules: rules.clone(),
        };
        let ((first, wait), (release, released)) = (channel(), channel());
        let (thread, prepared) = preparation.start(wait, Sender::clone(&release))?;
        timings.mark("first thread");
        let Self { host, wake, lent, .. } = self;
        let com1 = Com1::new(self.line, self.output, Arc::clone(&wake));
        let bus = Bus::new(com1, self.devices);
        let shared = build(&host, bus, config, ram, &wake, timings);
        let made = shared.and_then(|shared| {
            expected.check(&shared)?;
            let guest = wait_for(&prepared)?;
            timings.mark("wait for kernel and CPUID");
            guest.restore(&shared)?;
            Ok((shared, guest))
        });
        let (shared, guest) = match made {
            Ok(made) => made,
            Err(error) if again => {
                drop((first, release));
                end(thread, &released);
                if config.kvm_fd.is_some() {
                    // The next try takes it once more.
                    std::mem::forget(host);
                }
                return Err(error);
            }
            Err(error) => {
                // The thread may still use it.
                lent.keep();
                return Err(error);
            }
        };
        let dirty = lent.dirty.as_ref().map(Lease::get);
        lent.keep();
        Ok(Made {
            shared,
            guest,
            ram,
            source,
            dirty,
            wake,
            console: self.console,
            saving: self.saving,
            recording: self.recording,
            pages: self.pages,
            new: self.new,
            ahead,
            sandbox,
            first,
            release,
            released,
            closed: (host, rules),
        })
    }

    /// Confines the process, which has one thread.
    fn confine(&mut self, config: &VmConfig, main: &MainThread) -> Result<(), Error> {
        let save_to = self.saving.as_ref().map(|saving| saving.create.directory());
        let record_to = self.recording.as_ref().map(|recording| recording.create.directory());
        let new = self.new.iter().filter_map(New::directory);
        let places: Vec<_> = save_to.or(record_to).into_iter().chain(new).collect();
        let reach = Reach::new(&places, main.files.as_ref());
        confine_process(config, &reach, &mut self.console)?;
        if config.sandbox.mode != Mode::Off {
            self.new.iter_mut().for_each(New::confine);
            self.saving.iter_mut().for_each(|saving| saving.create.confine());
        }
        Ok(())
    }

    /// The numbers of open descriptors and of those that the VM will create; `rules` are
    /// closed when the VM runs.
    fn numbers(
        &self,
        config: &VmConfig,
        rules: &[Option<&Rules>],
    ) -> Result<(PredictedFds, Sandbox), Error> {
        let rules = rules.iter().filter_map(|rules| rules.and_then(Rules::number));
        let open = Open {
            host: self.host.as_raw_fd(),
            closed: config.ready_fd.into_iter().chain(rules).collect(),
            new: &self.new,
            wake: self.wake.as_raw_fd(),
            line: self.line.as_raw_fd(),
            output: &self.output,
            console: &self.console,
            devices: &self.devices,
            source: self.lent.source.get(),
        };
        let (expected, sandbox) = PredictedFds::find(&config.sandbox, config.cpus, &open)?;
        let new = self.new.iter().flat_map(New::numbers);
        let sandbox = sandbox.with_row((Slot::NewFirst, Slot::NewLast), new);
        Ok((expected, sandbox))
    }
}

/// A VM that could run: what it boots from has been read, and nothing of it is
/// given back any more.
pub struct Made {
    shared: Arc<Shared>,
    guest: StartState,
    ram: &'static GuestRam,
    source: &'static Source,
    dirty: Option<&'static Dirty>,
    wake: Arc<EventFd>,
    console: Console,
    saving: Option<SnapshotWriter>,
    recording: Option<Recording>,
    pages: Option<Arc<PageMap>>,
    new: Vec<New>,
    ahead: Arc<PrefaultQueue>,
    sandbox: Sandbox,
    first: Sender<FirstVcpu>,
    release: Sender<()>,
    released: Receiver<()>,
    closed: (Arc<Kvm>, Option<Arc<Rules>>),
}

impl Made {
    /// Starts and confines all threads, and lets the vCPUs run.
    ///
    /// # Errors
    /// The host refuses. The process is of no further use then.
    pub fn run(mut self, config: &VmConfig, main: MainThread) -> Result<Machine, Error> {
        let (shared, guest, sandbox) = (self.shared, self.guest, self.sandbox);
        let timings = &shared.timings;
        let (host, rules) = self.closed;
        // Not before: its number would be the next that is free.
        drop(host);
        // Nothing has been changed on the host so far, and nothing is refused any
        // more.
        let name = |new: Vec<New>, console: &mut Console| {
            new.into_iter().try_for_each(New::name)?;
            console.begin()
        };
        if main.start.is_none() {
            name(std::mem::take(&mut self.new), &mut self.console)?;
            let files = main.files.as_ref().or(rules.as_deref());
            confine_process(config, &Reach::later(files), &mut self.console)?;
        }
        let confined = Confined::new();
        start_vcpus(&shared, &self.first, &self.release, &sandbox, &confined)?;
        guest.set_up(&shared)?;
        timings.mark("CPUID, registers");
        let workers = start_devices(&shared, &sandbox, &confined)?;
        guest.connect(&shared, self.saving.as_ref(), self.recording.as_mut())?;
        timings.mark("interrupts, workers");
        name(self.new, &mut self.console)?;
        drop((rules, main.files));
        // The first vCPU's has been confined since before it read the kernel.
        let others = workers + shared.vcpus().len() - 1;
        confine_main(main.thread, sandbox, confined, others, config.ready_fd)?;
        timings.mark("sandbox, threads");
        let paused = guest.start(config, &shared);
        Ok(Machine {
            ram: self.ram,
            source: self.source,
            wake: self.wake,
            console: self.console,
            typed: guest.typed(),
            ahead: self.ahead,
            settled: false,
            shutdown: GracefulShutdown::new(config.graceful),
            released: self.released,
            paused,
            reset_tries: 0,
            saving: self.saving,
            unsaved: false,
            recording: self.recording,
            pages: self.pages,
            changes: self.dirty.map(|dirty| Changes::new(dirty, self.ram, guest.base())),
            opens: config.sandbox.opens || config.sandbox.mode == Mode::Off,
            shared,
        })
    }
}

/// Makes the VM itself, with its memory and its vCPUs.
fn build(
    host: &Kvm,
    bus: Bus,
    config: &VmConfig,
    ram: &GuestRam,
    wake: &Arc<EventFd>,
    timings: &Arc<Timings>,
) -> Result<Arc<Shared>, Error> {
    let fd = Arc::new(vm::create(host, ram, config.track_dirty_pages)?);
    bus.devices().map(&fd)?;
    timings.mark("VM, memory, interrupt controllers");
    let shared = Shared::new(fd, bus, Arc::clone(timings), Arc::clone(wake));
    vm::create_vcpus(&shared, config.cpus)?;
    timings.mark("vCPUs");
    Ok(Arc::new(shared))
}

/// Waits until the first thread, which has no further use, has ended.
fn end(thread: JoinHandle<()>, released: &Receiver<()>) {
    while released.recv_timeout(LOOK) == Err(RecvError::Empty) {
        leave_if_asked();
    }
    // The thread reports no error and does not panic.
    let _ = thread.join();
}

/// Guest memory may be with a process that does not answer: a signal that asks
/// for the end does not wait for it.
fn leave_if_asked() {
    if let Some(signal) = signals::take() {
        signals::give_up(128 + signal);
    }
}
/// Connects interrupts and starts the devices' workers; returns their number.
fn start_devices(shared: &Shared, sandbox: &Sandbox, confined: &Confined) -> Result<usize, Error> {
    shared
        .fd
        .register_irqfd(shared.bus.com1().line(), layout::COM1_GSI)
        .map_err(kvm("connect an interrupt"))?;
    shared.bus.devices().connect(&shared.fd)?;
    shared.bus.devices().start(sandbox, confined)
}

/// Confines the process: from here on, only paths in `reach` can be opened.
fn confine_process(
    config: &VmConfig,
    reach: &Reach<'_>,
    console: &mut Console,
) -> Result<(), Error> {
    console.greet();
    warn(config.sandbox.mode);
    Sandbox::enter_process(&config.sandbox, addresses(config), reach)?;
    if config.sandbox.mode != Mode::Off {
        console.confine();
    }
    Ok(())
}

/// Confines the calling thread, the main one, besides `others`, and tells
/// the listener on descriptor `ready`.
fn confine_main(
    main: Thread,
    sandbox: Sandbox,
    confined: Confined,
    others: usize,
    ready: Option<RawFd>,
) -> Result<(), Error> {
    let Some(fd) = ready else {
        // All at once.
        sandbox.enter_thread(main)?;
        return confined.wait(others);
    };
    // A confined thread could not tell any more.
    confined.wait(others)?;
    tell_ready(fd);
    sandbox.enter_thread(main)
}

/// Tells the caller that waits, and closes the descriptor: it has no further use.
pub fn tell_ready(fd: RawFd) {
    // SAFETY: the caller passed the descriptor in for this.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // A caller that has gone does not concern the VM.
    let _ = rustix::io::write(&fd, b"ready\n");
}

/// Waits for what the first thread has read.
fn wait_for(prepared: &Receiver<Prepared>) -> Result<StartState, Error> {
    loop {
        match prepared.recv_timeout(LOOK) {
            Ok(prepared) => return prepared,
            Err(RecvError::Empty) => leave_if_asked(),
            Err(RecvError::Disconnected) => return Err(thread_lost()),
        }
    }
}

/// Bytes of addresses that a VM's process may take: its guest's memory, its
/// threads, and more than it needs for the program and its heap.
fn addresses(config: &VmConfig) -> u64 {
    /// For the stack of a thread, its guard page, a vCPU's page.
    const THREAD: u64 = 256 << 10;
    const REST: u64 = 64 << 20;
    let workers: u64 = config.drives.iter().map(|drive| u64::from(drive.threads)).sum();
    let threads = u64::from(config.cpus) + workers + config.nics.len() as u64;
    config.memory + threads * THREAD + REST
}

/// Warns if the sandbox is off or only logs.
fn warn(mode: Mode) {
    match mode {
        Mode::Kill => {}
        Mode::Log => {
            console::say("mote: WARNING: --seccomp log: disallowed system calls are only logged\n");
        }
        Mode::Off => {
            console::say("mote: WARNING: --no-sandbox: a guest escape runs with your privileges\n");
        }
    }
}
