//! One VM from start to end.

mod changes;
mod event_loop;
mod fds;
mod pages;
mod shutdown;
mod snapshot;
mod vcpu_threads;
mod working_set;

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::Kvm;
use mote_virtio::Dirty;
use rustix::event::{PollFd, PollFlags};
use vmm_sys_util::eventfd::EventFd;

use self::changes::Changes;
use self::fds::{Expected, Open};
pub use self::pages::PageMap;
use self::shutdown::Farewell;
pub use self::snapshot::{Saving, merge};
use self::vcpu_threads::{Guest, Preparation, Prepared, start_vcpus, thread_lost};
use self::working_set::Recording;
use crate::boot::{Cause, Loaded, Source};
use crate::boot::{acpi, mptable};
use crate::channel::{Nothing, Receiver, Sender, channel};
use crate::config::Mode;
use crate::config::{DEFAULT_CMDLINE, cmdline};
use crate::config::{OnReset, SerialTo, Then, VmConfig};
use crate::devices::VirtioWindow;
use crate::devices::serial::{Com1, TypedAhead};
use crate::devices::{self, Devices};
use crate::error::{Error, exit, kvm};
use crate::host::console::{self, Console, Output};
use crate::host::files::New;
use crate::host::memory::GuestRam;
use crate::host::prefault::WorkAhead;
use crate::host::{memory, signals};
use crate::layout;
use crate::sandbox::{self, Confined, Sandbox, Slot, Thread};
use crate::timings::Timings;
use crate::vm::bus::Bus;
use crate::vm::vcpu;
use crate::vm::{self, Ended, Shared};

/// How long the end of a VM waits for its vCPUs to leave their devices.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a VM to its end and returns the process's exit code.
///
/// # Errors
/// The VM cannot be made, or its guest cannot go on.
pub fn run(
    config: &VmConfig,
    source: Source,
    timings: &Arc<Timings>,
    demo: bool,
) -> Result<u8, Error> {
    let wake = Arc::new(sandbox::event()?);
    let opened = Opened::open(config, source, wake, demo.then_some(timings))?;
    let main = opened.saving.as_ref().map(Saving::main_thread);
    let main = main.or(opened.recording.as_ref().map(Recording::main_thread));
    let mut main = main.unwrap_or_default();
    if main.thread == Thread::Saver {
        let pages = PageMap::open();
        if config.record.is_some() {
            let path = Path::new(PageMap::PATH);
            main.pages = Some(pages.map_err(|e| Error::file("--record", path, &e))?.into());
        } else {
            main.pages = pages.ok().map(Arc::new);
        }
    }
    Machine::start(config, opened, timings, main)?.run(config, &mut Nobody)
}

/// Whoever controls a VM while it runs, on its main thread.
pub trait Control {
    /// What to wait for.
    fn waits<'a>(&'a self, fds: &mut Vec<PollFd<'a>>);

    /// When it has something to do anyway.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Serves what has happened to these, in the same order, and what is due.
    fn serve(&mut self, happened: &[PollFlags], machine: &mut Machine);

    /// The VM has ended; nothing of it counts any more.
    fn ended(&mut self, _: &Machine) {}
}

/// Nobody controls the VM.
pub struct Nobody;

impl Control for Nobody {
    fn waits<'a>(&'a self, _: &mut Vec<PollFd<'a>>) {}
    fn serve(&mut self, _: &[PollFlags], _: &mut Machine) {}
}

/// What kind of thread the main one becomes, and the numbers that its filter
/// needs beyond those of every VM.
pub struct MainThread {
    /// Its kind.
    pub thread: Thread,
    /// That of the whole process while the VM is made.
    pub start: Thread,
    /// Numbers of its own descriptors.
    pub slots: Vec<(Slot, RawFd)>,
    /// Where pages are, for whoever saves them.
    pub pages: Option<Arc<PageMap>>,
}

impl Default for MainThread {
    fn default() -> Self {
        Self {
            thread: Thread::Main,
            start: Thread::Start,
            slots: Vec::new(),
            pages: None,
        }
    }
}

impl MainThread {
    fn numbers(&self, sandbox: Sandbox) -> Sandbox {
        let slots = self.slots.iter();
        let sandbox = slots.fold(sandbox, |all, (slot, number)| all.with(*slot, *number));
        let pages = self.pages.as_ref();
        sandbox.with(Slot::PageMap, pages.map_or(-1, |pages| pages.number()))
    }
}

/// What a VM needs of the host, before anything is given up.
pub struct Opened {
    host: Arc<Kvm>,
    ram: &'static GuestRam,
    /// What devices write to is to be noted there.
    dirty: Option<&'static Dirty>,
    source: &'static Source,
    devices: Devices,
    wake: Arc<EventFd>,
    console: Console,
    output: Output,
    line: EventFd,
    saving: Option<Saving>,
    recording: Option<Recording>,
    /// Files that get their names last.
    new: Vec<New>,
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
        // Devices and threads use it until the process ends, so it is never
        // given back.
        let ram: &'static GuestRam = Box::leak(Box::new(memory::reserve_all(
            config.memory,
            config.huge_pages,
        )?));
        if let Some(pager) = source.pager() {
            pager.hand_over(ram)?;
        }
        let dirty = config.track_dirty_pages.then(|| Dirty::new(ram));
        let dirty = dirty.map(|dirty| &*Box::leak(Box::new(dirty)));
        let devices = Devices::open(config, ram, dirty)?;
        signals::catch(&wake)?;
        vcpu::allow_kicks()?;
        if config.serial.to == SerialTo::Stdio && io::stdin().is_terminal() {
            signals::catch_on_terminal()?;
        }
        let (mut console, output) = console::open(config, clock)?;
        let line = sandbox::event()?;
        let saving = config.snapshot.as_deref().map(Saving::open).transpose()?;
        let recording = Recording::open(config)?;
        // One that was passed in is ours from here on.
        let host = Arc::new(vm::open_host(config.kvm_fd)?);
        console.greet();
        let mut new = devices.take_new();
        new.extend(console.take_new());
        Ok(Self {
            host,
            ram,
            dirty,
            // Like guest memory: no thread has to close its files at the end.
            source: Box::leak(source.into()),
            devices,
            wake,
            console,
            output,
            line,
            saving,
            recording,
            new,
        })
    }

    /// The numbers that what is made will have, and what is open has.
    fn numbers(&self, config: &VmConfig) -> Result<(Expected, Sandbox), Error> {
        let open = Open {
            host: self.host.as_raw_fd(),
            ready: config.ready_fd,
            wake: self.wake.as_raw_fd(),
            line: self.line.as_raw_fd(),
            output: &self.output,
            console: &self.console,
            devices: &self.devices,
            source: self.source,
            new: &self.new,
        };
        let (expected, sandbox) = Expected::find(&config.sandbox, config.cpus, &open)?;
        let new = self.new.iter().flat_map(New::numbers);
        Ok((
            expected,
            sandbox.with_row((Slot::NewFirst, Slot::NewLast), new),
        ))
    }
}

/// A running VM as its main thread sees it.
pub struct Machine {
    shared: Arc<Shared>,
    ram: &'static GuestRam,
    source: &'static Source,
    wake: Arc<EventFd>,
    console: Console,
    typed: TypedAhead,
    ahead: Arc<WorkAhead>,
    /// What start-up used of the program is no longer mapped.
    settled: bool,
    farewell: Farewell,
    paused: bool,
    /// The snapshot that is due at the boot marker.
    saving: Option<Saving>,
    /// The guest's touched pages are being noted.
    recording: Option<Recording>,
    pages: Option<Arc<PageMap>>,
    /// What has changed since it was saved is noted.
    changes: Option<Changes>,
    opens: bool,
    /// Hangs up when all vCPUs' threads have let go of the VM.
    released: Receiver<()>,
}

impl Machine {
    /// Makes the VM and lets its vCPUs run.
    ///
    /// # Errors
    /// The host refuses. The process is confined then, and of no further use.
    pub fn start(
        config: &VmConfig,
        mut opened: Opened,
        timings: &Arc<Timings>,
        main: MainThread,
    ) -> Result<Self, Error> {
        confine_process(config, &mut opened, timings)?;
        let (expected, sandbox) = opened.numbers(config)?;
        let sandbox = main.numbers(sandbox);
        timings.mark("sandbox, process");
        let Opened {
            host,
            ram,
            dirty,
            source,
            devices,
            wake,
            mut console,
            output,
            line,
            saving,
            mut recording,
            new,
        } = opened;
        let ahead = Arc::new(WorkAhead::default());
        let preparation = Preparation {
            host: Some(Arc::clone(&host)),
            ram,
            source,
            windows: devices.windows(),
            cpus: config.cpus,
            ahead: Arc::clone(&ahead),
            prefault: config.prefault,
            sandbox: sandbox.with(Slot::Vcpu, expected.first()),
            start: main.start,
        };
        let ((first, wait), (let_go, released)) = (channel(), channel());
        let prepared = preparation.start(wait, Sender::clone(&let_go))?;
        timings.mark("first thread");
        let fd = vm::create(&host, ram, dirty.is_some())?;
        devices.map(&fd)?;
        timings.mark("VM, memory, interrupt controllers");
        let com1 = Com1::new(line, output, Arc::clone(&wake));
        let bus = Bus::new(com1, devices);
        let shared = Arc::new(Shared::new(fd, bus, Arc::clone(timings), Arc::clone(&wake)));
        vm::create_vcpus(&shared, config.cpus)?;
        // Not before: its number would be the next that is free.
        drop(host);
        timings.mark("vCPUs");
        let guest = wait_for(&prepared)?;
        timings.mark("wait for kernel and CPUID");
        expected.check(&shared)?;
        let confined = Confined::new();
        start_vcpus(&shared, &first, &let_go, (&sandbox, &confined))?;
        guest.set_up(&shared)?;
        timings.mark("CPUID, registers");
        let workers = start_devices(&shared, &sandbox, &confined)?;
        guest.go_on(&shared, saving.as_ref(), recording.as_mut())?;
        timings.mark("interrupts, workers");
        // Nothing has been changed on the host so far, and nothing is refused any
        // more.
        new.into_iter().try_for_each(New::name)?;
        console.begin()?;
        // The first vCPU's has been confined since before it read the kernel.
        let others = workers + shared.vcpus().len() - 1;
        confine_main((main.thread, sandbox), confined, others, config.ready_fd)?;
        timings.mark("sandbox, threads");
        let paused = guest.begin(config, &shared);
        Ok(Self {
            shared,
            ram,
            source,
            wake,
            console,
            typed: guest.typed(),
            ahead,
            settled: false,
            farewell: Farewell::new(config.graceful),
            released,
            paused,
            saving,
            recording,
            pages: main.pages,
            changes: dirty.map(|dirty| Changes::new(dirty, ram, &guest)),
            opens: config.sandbox.opens || config.sandbox.mode == Mode::Off,
        })
    }

    /// Serves the VM to its end and returns the process's exit code.
    ///
    /// # Errors
    /// The guest cannot go on.
    pub fn run(mut self, config: &VmConfig, control: &mut dyn Control) -> Result<u8, Error> {
        let result = self.serve(config, control);
        let result = result.and_then(|code| self.record(true).map(|()| code));
        vcpu::end(&self.shared);
        self.shared.bus.com1().output().finish();
        control.ended(&self);
        // Gives the terminal back before anything is printed.
        self.console.close();
        self.tell_marker(config);
        if config.timings {
            console::say(&self.shared.timings.table());
        }
        // Usually nobody else holds the VM a moment later: returning closes it,
        // which is mostly waiting, while the first vCPU's thread gives memory
        // back. A vCPU may also wait for a device whose host file is stuck;
        // then the process's end is what ends it.
        if let Err(Nothing::Yet) = self.released.recv_timeout(END_PATIENCE) {
            // Who lets go last closes the VM, which a vCPU's thread may not do.
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

    /// Takes all vCPUs out of the guest and stops all devices: nothing of the
    /// VM changes from then on, and all of its state can be read. Pausing a
    /// paused VM does nothing.
    ///
    /// # Errors
    /// A signal wants the end while a vCPU waits for a device whose host file
    /// is stuck.
    pub fn pause(&mut self) -> Result<(), Error> {
        if self.paused {
            return Ok(());
        }
        if !vcpu::close_gate(&self.shared) {
            let interrupted = io::ErrorKind::Interrupted.into();
            return Err(Error::System("pause the VM", interrupted));
        }
        self.shared.bus.devices().pause();
        self.paused = true;
        Ok(())
    }

    /// Lets a paused VM go on; one that runs does so anyway.
    pub fn resume(&mut self) {
        if !std::mem::take(&mut self.paused) {
            return;
        }
        vm::clock::tell_stopped(&self.shared);
        self.shared.bus.devices().resume();
        // What the guest asked for just before the pause comes first.
        if !self.shared.has_ended() {
            vcpu::open_gate(&self.shared);
        }
    }

    /// Has `change` change a device while no vCPU is in the guest: of what a driver
    /// reads in several loads, the generation (virtio 1.2, 2.5.1) can only tell
    /// what changes between two of them.
    ///
    /// # Errors
    /// What `change` says, or as [`pause`](Self::pause).
    pub fn change_device(
        &self,
        change: impl FnOnce(&Devices) -> Result<(), String>,
    ) -> Result<(), String> {
        let devices = self.shared.bus.devices();
        if self.paused {
            return change(devices);
        }
        let changed = match vcpu::close_gate(&self.shared) {
            true => change(devices),
            false => Err("a vCPU waits for a device whose host file is stuck".to_owned()),
        };
        if !self.shared.has_ended() {
            vcpu::open_gate(&self.shared);
        }
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
            // Empties the counter; it only says that one of these has news.
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
                && let Some(code) = self.farewell.asked(signal, &self.shared)?
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
                console::say(&format!("mote: {error}\n"));
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
                    if config.on_reset == OnReset::Exit || self.source.saved().is_some() =>
                {
                    return Ok(exit::RESET);
                }
                Some(Ended::Reset) => match self.farewell.instead() {
                    Some(code) => return Ok(code),
                    None => self.reset(config)?,
                },
            }
            // Last: whoever powered off in time has.
            if let Some(code) = self.farewell.over() {
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
        self.pause()?;
        let taken = saving.take(self, config.kind);
        // If the guest has ended meanwhile, that is what counts.
        if config.then == Then::Exit && !self.shared.has_ended() {
            return taken.map(|()| true);
        }
        if let Err(error) = taken {
            // The guest has nothing to do with it.
            console::say(&format!("mote: {error}\n"));
        }
        self.resume();
        Ok(false)
    }

    /// Writes down what was touched if the guest has come as far as was asked
    /// for, or is at its `end`.
    fn record(&mut self, end: bool) -> Result<(), Error> {
        let shared = &self.shared;
        let due = |recording: &mut Recording| end || recording.is_due(shared);
        match self.recording.take_if(due) {
            Some(recording) => recording.finish(self.pages.as_deref(), self.ram),
            None => Ok(()),
        }
    }

    /// Restarts the VM in place: power-on state, boot source read again.
    fn reset(&mut self, config: &VmConfig) -> Result<(), Error> {
        if !vcpu::close_gate(&self.shared) {
            // A signal wants the end, and a vCPU waits for a stuck device.
            self.farewell.no_more_time();
            return Ok(());
        }
        // Another vCPU may have asked for the same in the meantime.
        if let Some(Ended::Error(error)) = self.shared.take_end() {
            return Err(error);
        }
        // Devices first: their workers must not move data any more when
        // memory is given back and filled anew.
        self.shared.bus.reset();
        memory::power_on(self.ram).map_err(|e| Error::System("reset guest memory", e))?;
        let windows = self.shared.bus.devices().windows();
        let loaded = load(self.source, self.ram, config.cpus, &windows, Cause::Reset)?;
        vm::power_on(&self.shared, loaded.entry)?;
        if config.prefault {
            memory::prefault(self.ram, true)?;
        }
        self.ahead.text(loaded.written);
        if let Some(changes) = &mut self.changes {
            changes.everything();
        }
        vcpu::open_gate(&self.shared);
        Ok(())
    }
}

/// What the VM boots from: a snapshot, which brings its memory and processors
/// along, a kernel that is given, or the firmware.
///
/// # Errors
/// A file is missing, or not what it should be.
pub fn source(config: &mut VmConfig) -> Result<Source, Error> {
    if config.restore.is_some() {
        return Source::snapshot(config);
    }
    match config.kernel.as_deref() {
        Some(kernel) => {
            let cmdline = cmdline(config);
            Source::open(kernel, config.initrd.as_deref(), cmdline.as_deref())
        }
        None => Source::firmware(config, console::has_person(&config.serial)),
    }
}

/// The kernel's command line, with the devices on it if that was asked for
/// (Linux: Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`).
fn cmdline(config: &VmConfig) -> Option<String> {
    if !config.cmdline_devices {
        return config.cmdline.clone();
    }
    let mut text = config
        .cmdline
        .as_deref()
        .unwrap_or(DEFAULT_CMDLINE)
        .to_owned();
    for window in devices::windows(config.drives.len() + config.nics.len()) {
        let (size, base, gsi) = (window.size >> 10, window.base, window.gsi);
        text = cmdline::insert(
            &text,
            &format!("virtio_mmio.device={size}K@{base:#x}:{gsi}"),
        );
    }
    Some(text)
}

/// Writes everything the guest boots from into fresh memory.
fn load(
    source: &Source,
    ram: &GuestRam,
    cpus: u8,
    windows: &[VirtioWindow],
    cause: Cause,
) -> Result<Loaded, Error> {
    let no_room = |_| Error::Usage("--memory: too small for boot data".to_owned());
    let rsdp = acpi::write(ram, cpus, windows, source.generation()).map_err(no_room)?;
    mptable::write(ram, cpus, windows).map_err(no_room)?;
    let loaded = source.load(ram, rsdp, cause)?;
    vm::regs::write_tables(ram, loaded.entry).map_err(no_room)?;
    Ok(loaded)
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

/// Confines the process: from here on nothing is opened by its name.
fn confine_process(config: &VmConfig, opened: &mut Opened, timings: &Timings) -> Result<(), Error> {
    let save_to = opened.saving.as_ref().map(Saving::directory);
    let save_to = save_to.or(opened.recording.as_ref().map(Recording::directory));
    timings.mark("open /dev/kvm, devices, console");
    warn(config.sandbox.mode);
    let new = opened.new.iter().filter_map(New::directory);
    let places: Vec<_> = save_to.into_iter().chain(new).collect();
    Sandbox::enter_process(&config.sandbox, addresses(config), &places)?;
    if config.sandbox.mode != Mode::Off {
        opened.console.confine();
        opened.new.iter_mut().for_each(New::confine);
    }
    Ok(())
}

/// Confines the calling thread, the main one, besides `others`, and tells
/// whoever listens on descriptor `ready`.
fn confine_main(
    (main, sandbox): (Thread, Sandbox),
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

/// Tells whoever waits, and closes the descriptor: it has no further use.
pub fn tell_ready(fd: RawFd) {
    // SAFETY: the caller passed the descriptor in for this.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // That nobody listens is not the VM's trouble.
    let _ = rustix::io::write(&fd, b"ready\n");
}

/// Waits for the first thread; whoever asks for the end of the process need not.
fn wait_for(prepared: &Receiver<Prepared>) -> Result<Guest, Error> {
    /// Guest memory may be with a process that does not answer.
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        match prepared.recv_timeout(LOOK) {
            Ok(prepared) => return prepared,
            Err(Nothing::Yet) => {}
            Err(Nothing::Ever) => return Err(thread_lost()),
        }
        if let Some(signal) = signals::take() {
            signals::give_up(128 + signal);
        }
    }
}

/// Bytes of addresses that a VM's process may take: its guest's memory, its
/// threads, and more than it needs for the program and its heap.
fn addresses(config: &VmConfig) -> u64 {
    /// For the stack of a thread, its guard page, a vCPU's page.
    const THREAD: u64 = 256 << 10;
    const REST: u64 = 64 << 20;
    let workers: u64 = config
        .drives
        .iter()
        .map(|drive| u64::from(drive.threads))
        .sum();
    let threads = u64::from(config.cpus) + workers + config.nics.len() as u64;
    config.memory + threads * THREAD + REST
}

/// Nobody shall run without a sandbox, or with half of one, unawares.
fn warn(mode: Mode) {
    match mode {
        Mode::Kill => {}
        Mode::Log => {
            console::say(
                "mote: WARNING: --seccomp log: system calls are logged, none is refused\n",
            );
        }
        Mode::Off => {
            console::say("mote: WARNING: --no-sandbox: whoever breaks out of the guest is you\n");
        }
    }
}
