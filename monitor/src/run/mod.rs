//! One VM from start to end.

mod ahead;
mod farewell;
mod first;
mod numbers;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys_util::eventfd::EventFd;

use self::ahead::WorkAhead;
use self::farewell::Farewell;
use self::first::{Preparation, start_vcpus, thread_lost};
use self::numbers::{Expected, Open};
use crate::acpi::VirtioWindow;
use crate::boot::{Cause, Loaded, Source};
use crate::config::{OnReset, VmConfig};
use crate::console::{self, Console, Typed};
use crate::devices::Devices;
use crate::error::{Error, exit, kvm};
use crate::memory::GuestRam;
use crate::sandbox::{self, Confined, Mode, Sandbox, Slot, Thread};
use crate::serial::{Com1, TypedAhead};
use crate::timings::Timings;
use crate::vm::bus::Bus;
use crate::vm::vcpu::{self};
use crate::vm::{self, Ended, Shared};
use crate::{acpi, layout, memory, signals};

/// How long the end of a VM waits for its vCPUs to leave their devices.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How long nothing has to happen before a VM counts as one that stays: many
/// do not.
const SETTLE: Duration = Duration::from_millis(100);
/// Input that is read from the console in one go, in bytes.
const INPUT: usize = 64;

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
    // Like guest memory: no thread has to close its files at the end.
    let source = Box::leak(Box::new(source));
    let mut machine = Machine::start(config, source, timings, demo)?;
    let result = machine.serve(config);
    vcpu::end(&machine.shared);
    machine.shared.bus.com1().output().finish();
    // Gives the terminal back before anything is printed.
    machine.console.close();
    machine.tell_marker();
    if config.timings {
        console::say(&timings.table());
    }
    // Usually nobody else holds the VM a moment later: returning closes it,
    // which is mostly waiting, while the first vCPU's thread gives memory
    // back. A vCPU may also wait for a device whose host file is stuck; then
    // the process's end is what ends it.
    if let Err(RecvTimeoutError::Timeout) = machine.released.recv_timeout(END_PATIENCE) {
        // Who lets go last closes the VM, which a vCPU's thread may not do.
        std::mem::forget(machine);
    }
    result
}

/// A running VM as its main thread sees it.
struct Machine {
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
    /// Hangs up when all vCPUs' threads have let go of the VM.
    released: Receiver<()>,
}

impl Machine {
    /// Makes the VM and lets its vCPUs run.
    fn start(
        config: &VmConfig,
        source: &'static Source,
        timings: &Arc<Timings>,
        demo: bool,
    ) -> Result<Self, Error> {
        let host = Arc::new(vm::open_host(config.kvm_fd)?);
        // Devices and threads use it until the process ends, so it is never
        // given back.
        let ram: &'static GuestRam = Box::leak(Box::new(memory::create(config.memory)?));
        let devices = Devices::open(config, ram)?;
        let windows = devices.windows();
        let wake = Arc::new(sandbox::event()?);
        signals::catch(&wake)?;
        vcpu::allow_kicks()?;
        let (mut console, output) = console::open(&config.serial, demo.then_some(timings))?;
        let line = sandbox::event()?;
        timings.mark("open /dev/kvm, devices, console");
        warn(config.sandbox.mode);
        // From here on nothing is opened by its name.
        Sandbox::enter_process(&config.sandbox, addresses(config))?;
        if config.sandbox.mode != Mode::Off {
            console.confine();
        }
        let open = Open {
            host: host.as_raw_fd(),
            ready: config.ready_fd,
            wake: wake.as_raw_fd(),
            line: line.as_raw_fd(),
            output: &output,
            console: &console,
            devices: &devices,
            source,
        };
        let (expected, sandbox) = Expected::find(config.sandbox.mode, config.cpus, &open)?;
        timings.mark("sandbox, process");
        let ahead = Arc::new(WorkAhead::default());
        let (first, wait) = mpsc::sync_channel(1);
        let preparation = Preparation {
            host: Some(Arc::clone(&host)),
            ram,
            source,
            windows,
            cpus: config.cpus,
            ahead: Arc::clone(&ahead),
            sandbox: sandbox.with(Slot::Vcpu, expected.first()),
        };
        let (let_go, released) = mpsc::sync_channel(0);
        let prepared = preparation.start(wait, SyncSender::clone(&let_go))?;
        timings.mark("first thread");
        let fd = vm::create(&host, ram)?;
        devices.map(&fd)?;
        timings.mark("VM, memory, interrupt controllers");
        let com1 = Com1::new(line, output, Arc::clone(&wake));
        let bus = Bus::new(com1, devices);
        let shared = Arc::new(Shared::new(fd, bus, Arc::clone(timings), Arc::clone(&wake)));
        vm::create_vcpus(&shared, config.cpus)?;
        // Not before: its number would be the next that is free.
        drop(host);
        timings.mark("vCPUs");
        let (supported, loaded) = prepared.recv().unwrap_or_else(|_| Err(thread_lost()))?;
        timings.mark("wait for kernel and CPUID");
        expected.check(&shared)?;
        let confined = Confined::new();
        start_vcpus(&shared, &first, &let_go, (&sandbox, &confined))?;
        vm::set_up_vcpus(&shared, &supported, loaded.entry)?;
        timings.mark("CPUID, registers");
        shared
            .fd
            .register_irqfd(shared.bus.com1().line(), layout::COM1_GSI)
            .map_err(kvm("connect an interrupt"))?;
        shared.bus.devices().connect(&shared.fd)?;
        let workers = shared.bus.devices().start(&sandbox, &confined)?;
        timings.mark("interrupts, workers");
        // The first vCPU's has been confined since before it read the kernel.
        let others = workers + shared.vcpus().len() - 1;
        confine_main(&sandbox, confined, others, config.ready_fd)?;
        timings.mark("sandbox, threads");
        vcpu::open_gate(&shared);
        Ok(Self {
            shared,
            ram,
            source,
            wake,
            console,
            typed: TypedAhead::default(),
            ahead,
            settled: false,
            farewell: Farewell::new(config.graceful),
            released,
        })
    }

    /// Says, once, when the guest wrote the boot marker.
    fn tell_marker(&self) {
        if let Some(us) = self.shared.take_marker() {
            console::say(&format!("mote: boot marker after {us} us\n"));
        }
    }

    /// Serves console, signals and the guest's requests until the VM ends.
    fn serve(&mut self, config: &VmConfig) -> Result<u8, Error> {
        loop {
            // Empties the counter; it only says that one of these has news.
            let _ = self.wake.read();
            signals::follow();
            if let Some(signal) = signals::take()
                && let Some(code) = self.farewell.asked(signal, &self.shared)?
            {
                return Ok(code);
            }
            // On a terminal the line would land in the guest's own: it waits
            // for the end there.
            if self.console.escape.is_none() {
                self.tell_marker();
            }
            match self.shared.take_end() {
                None => {}
                Some(Ended::PowerOff) => return Ok(exit::OK),
                Some(Ended::NothingToBoot) => return Ok(exit::NOTHING_TO_BOOT),
                Some(Ended::Error(error)) => return Err(error),
                Some(Ended::Reset) if config.on_reset == OnReset::Exit => return Ok(exit::RESET),
                Some(Ended::Reset) => match self.farewell.instead() {
                    Some(code) => return Ok(code),
                    None => self.reset(config)?,
                },
            }
            // Last: whoever powered off in time has.
            if let Some(code) = self.farewell.over() {
                return Ok(code);
            }
            if self.wait_and_serve_console()? {
                return Ok(exit::OK);
            }
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
        self.ahead.put(loaded.written);
        vcpu::open_gate(&self.shared);
        Ok(())
    }

    /// Waits for news and moves console bytes; tells whether the user leaves.
    fn wait_and_serve_console(&mut self) -> Result<bool, Error> {
        let ahead = self.ahead.step(self.ram);
        let (room, pending) = {
            let mut com1 = self.shared.bus.com1();
            (com1.room() > 0, com1.output().waiting())
        };
        self.typed.hand_over(&mut self.shared.bus.com1());
        // A person is always listened to, to be able to leave.
        let listen = self.console.escape.is_some() || (room && self.typed.is_empty());
        let (input, input_flags) = match self.console.input() {
            input if listen => (input, PollFlags::IN),
            // A client's hang-up always counts: another one may be waiting.
            input => (
                input.filter(|_| self.console.serves_clients()),
                PollFlags::empty(),
            ),
        };
        let waits = [
            (News::Wake, Some(self.wake_fd()), PollFlags::IN),
            (News::Input, input, input_flags),
            (News::Client, self.console.listener(), PollFlags::IN),
            (
                News::Output,
                self.console.output().filter(|_| pending),
                PollFlags::OUT,
            ),
        ];
        let mut news = Vec::with_capacity(waits.len());
        let mut fds = Vec::with_capacity(waits.len());
        for (what, fd, flags) in waits {
            if let Some(fd) = fd {
                news.push(what);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        // Between two pieces of work ahead, only look.
        let timeout = match (ahead, self.settled) {
            (true, _) => Some(Duration::ZERO),
            (false, false) => Some(SETTLE),
            (false, true) => self.farewell.left(),
        };
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let quiet = match poll(&mut fds, timeout.as_ref()) {
            Ok(count) => count == 0 && !ahead,
            Err(Errno::INTR) => false,
            Err(error) => return Err(Error::System("poll", error.into())),
        };
        let happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let happened: Vec<News> = news
            .into_iter()
            .zip(happened)
            .filter(|n| n.1)
            .map(|n| n.0)
            .collect();
        if quiet {
            memory::forget_program();
            self.settled = true;
        }
        for what in happened {
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

    fn wake_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.wake`, which outlives the
        // borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) }
    }

    /// Reads what was typed; tells whether the user leaves.
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
                    console::HELP
                        .bytes()
                        .for_each(|byte| com1.output().put(byte));
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

/// Writes everything the guest boots from into fresh memory.
fn load(
    source: &Source,
    ram: &GuestRam,
    cpus: u8,
    windows: &[VirtioWindow],
    cause: Cause,
) -> Result<Loaded, Error> {
    let no_room = |_| Error::Usage("--memory: too small for boot data".to_owned());
    let rsdp = acpi::write(ram, cpus, windows).map_err(no_room)?;
    let loaded = source.load(ram, rsdp, cause)?;
    vm::regs::write_tables(ram, loaded.entry).map_err(no_room)?;
    Ok(loaded)
}

/// Confines the calling thread, the main one, besides `others`, and tells
/// whoever listens on descriptor `ready`.
fn confine_main(
    sandbox: &Sandbox,
    confined: Confined,
    others: usize,
    ready: Option<RawFd>,
) -> Result<(), Error> {
    let Some(fd) = ready else {
        // All at once.
        sandbox.enter_thread(Thread::Main)?;
        return confined.wait(others);
    };
    // A confined thread could not tell any more.
    confined.wait(others)?;
    tell_ready(fd);
    sandbox.enter_thread(Thread::Main)
}

/// Tells whoever waits, and closes the descriptor: it has no further use.
fn tell_ready(fd: RawFd) {
    // SAFETY: the caller passed the descriptor in for this.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // That nobody listens is not the VM's trouble.
    let _ = rustix::io::write(&fd, b"ready\n");
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
