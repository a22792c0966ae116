//! One VM from start to end.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::getpid;
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::acpi::VirtioWindow;
use crate::boot::{Cause, Loaded, Source};
use crate::config::{OnReset, VmConfig};
use crate::console::{self, Console, Typed};
use crate::devices::Devices;
use crate::error::{Error, exit, kvm};
use crate::memory::GuestRam;
use crate::sandbox::{self, Confined, Mode, Report, Sandbox, Slot, Thread};
use crate::serial::{Com1, TypedAhead};
use crate::timings::Timings;
use crate::vm::bus::Bus;
use crate::vm::vcpu::{self, Vcpu};
use crate::vm::{self, Ended, Shared};
use crate::{acpi, layout, memory, signals};

/// How long the end of a VM waits for its vCPUs to leave their devices.
const END_PATIENCE: Duration = Duration::from_secs(1);
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
    let _ = machine.released.recv_timeout(END_PATIENCE);
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
    /// Hangs up when all vCPUs' threads have let go of the VM.
    released: Receiver<()>,
}

/// What the first vCPU's thread has to say once it is done preparing.
type Prepared = Result<(CpuId, Loaded), Error>;

/// What the first vCPU's thread waits for while the VM is made.
type FirstVcpu = (Arc<Vcpu>, Arc<Shared>, Sandbox, Report);

impl Machine {
    /// Makes the VM and lets its vCPUs run.
    fn start(
        config: &VmConfig,
        source: &'static Source,
        timings: &Arc<Timings>,
        demo: bool,
    ) -> Result<Self, Error> {
        let host = Arc::new(vm::open_host()?);
        // Devices and threads use it until the process ends, so it is never
        // given back.
        let ram: &'static GuestRam = Box::leak(Box::new(memory::create(config.memory)?));
        let devices = Devices::open(config, ram)?;
        let windows = devices.windows();
        let wake = Arc::new(sandbox::event()?);
        signals::catch(&wake)?;
        vcpu::allow_kicks()?;
        let (mut console, output) = console::open(&config.serial)?;
        let line = sandbox::event()?;
        timings.mark("open /dev/kvm, devices, console");
        warn(config.sandbox.mode);
        // From here on nothing is opened by its name.
        Sandbox::enter_process(&config.sandbox)?;
        if config.sandbox.mode != Mode::Off {
            console.confine();
        }
        timings.mark("sandbox, process");
        let numbers = Sandbox::new(config.sandbox.mode)
            .with(Slot::Wake, wake.as_raw_fd())
            .with(Slot::ConsoleOut, output.number().unwrap_or(-1))
            .with(Slot::Kernel, source.kernel_fd())
            .with(Slot::Initrd, source.initrd_fd().unwrap_or(-1));
        let ahead = Arc::new(WorkAhead::default());
        let (first, wait) = mpsc::sync_channel(1);
        let preparation = Preparation {
            host: Some(Arc::clone(&host)),
            ram,
            source,
            windows,
            cpus: config.cpus,
            ahead: Arc::clone(&ahead),
            sandbox: numbers,
        };
        let (let_go, released) = mpsc::sync_channel(0);
        let prepared = preparation.start(wait, SyncSender::clone(&let_go))?;
        timings.mark("first thread");
        let fd = vm::create(&host, ram)?;
        drop(host);
        devices.map(&fd)?;
        timings.mark("VM, memory, interrupt controllers");
        let com1 = Com1::new(line, output, Arc::clone(&wake));
        let bus = Bus::new(com1, devices, demo);
        let shared = Arc::new(Shared::new(fd, bus, Arc::clone(timings), Arc::clone(&wake)));
        vm::create_vcpus(&shared, config.cpus)?;
        timings.mark("vCPUs");
        let (supported, loaded) = prepared.recv().unwrap_or_else(|_| Err(thread_lost()))?;
        timings.mark("wait for kernel and CPUID");
        let numbers = all_numbers(numbers, &shared, &console, source)?;
        let confined = Confined::new();
        start_vcpus(&shared, &first, &let_go, (&numbers, &confined))?;
        vm::set_up_vcpus(&shared, &supported, loaded.entry)?;
        timings.mark("CPUID, registers");
        shared
            .fd
            .register_irqfd(shared.bus.com1().line(), layout::COM1_GSI)
            .map_err(kvm("connect an interrupt"))?;
        shared.bus.devices().connect(&shared.fd)?;
        let workers = shared.bus.devices().start(&numbers, &confined)?;
        timings.mark("interrupts, workers");
        numbers.enter_thread(Thread::Main)?;
        confined.wait(workers + shared.vcpus().len())?;
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
            if let Some(signal) = signals::received() {
                return Ok(exit::SIGNAL + signal);
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
                Some(Ended::Reset) => self.reset(config)?,
            }
            if self.wait_and_serve_console()? {
                return Ok(exit::OK);
            }
        }
    }

    /// Restarts the VM in place: power-on state, boot source read again.
    fn reset(&self, config: &VmConfig) -> Result<(), Error> {
        if !vcpu::close_gate(&self.shared) {
            // A signal wants the end, and a vCPU waits for a stuck device.
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
        let timeout = ahead.then(Timespec::default);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::System("poll", error.into())),
        }
        let happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let happened: Vec<News> = news
            .into_iter()
            .zip(happened)
            .filter(|n| n.1)
            .map(|n| n.0)
            .collect();
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

/// Ranges of mapped guest memory that have yet to be made the guest's own,
/// before it writes there. Whoever has nothing else to do takes a piece.
#[derive(Default)]
struct WorkAhead(Mutex<Vec<(u64, u64)>>);

impl WorkAhead {
    /// Bytes between two looks at what else there is to do.
    const PIECE: u64 = 256 << 10;
    /// What linkers fill code with, up to the next huge page (`int3`). Such a
    /// piece is never written to.
    const PADDING: [u8; 16] = [0xcc; 16];

    fn put(&self, ranges: Vec<(u64, u64)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// Takes a piece of the work.
    fn take(&self) -> Option<(u64, u64)> {
        let mut ranges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, length) = ranges.pop()?;
        let piece = Self::PIECE.min(length);
        if piece < length {
            ranges.push((address + piece, length - piece));
        }
        Some((address, piece))
    }

    /// Does a piece of the work; tells whether there was one.
    fn step(&self, ram: &GuestRam) -> bool {
        let Some((address, length)) = self.take() else {
            return false;
        };
        let mut start = [0; 16];
        let _ = ram.read_slice(&mut start, GuestAddress(address));
        if start != Self::PADDING {
            memory::prepare_writes(ram, address, length as usize);
        }
        true
    }
}

/// What the first vCPU's thread does while the VM is made: it takes about as
/// long, and on some hosts making a VM is mostly waiting.
struct Preparation {
    /// Given up when it has been asked: it could make further VMs.
    host: Option<Arc<Kvm>>,
    ram: &'static GuestRam,
    source: &'static Source,
    windows: Vec<VirtioWindow>,
    cpus: u8,
    ahead: Arc<WorkAhead>,
    sandbox: Sandbox,
}

impl Preparation {
    /// Starts the thread; it becomes a vCPU when it is handed one.
    fn start(
        mut self,
        wait: Receiver<FirstVcpu>,
        let_go: SyncSender<()>,
    ) -> Result<Receiver<Prepared>, Error> {
        let (tell, prepared) = mpsc::sync_channel(1);
        vcpu::spawn(0, move || {
            let own = vcpu::own();
            // Whoever asked may have given up; then nothing follows either.
            let _ = tell.send(self.prepare());
            let first = loop {
                match wait.try_recv() {
                    Err(TryRecvError::Empty) if self.ahead.step(self.ram) => {}
                    Err(TryRecvError::Empty) => break wait.recv().ok(),
                    other => break other.ok(),
                }
            };
            if let Some((vcpu, shared, sandbox, report)) = first {
                confine(&vcpu, own, &sandbox, &report);
                drop(report);
                while !shared.gate.is_open() && self.ahead.step(self.ram) {}
                vcpu.run(&shared);
            }
            drop(let_go);
            // The VM is over. What fails here the process's end does anyway.
            // A device's worker may still be writing guest memory to a disk,
            // which must not turn into zeroes meanwhile.
            if self.windows.is_empty() {
                let _ = memory::power_on(self.ram);
            }
        })?;
        Ok(prepared)
    }

    fn prepare(&mut self) -> Prepared {
        let host = self.host.take().ok_or_else(thread_lost)?;
        let cpuid = vm::cpuid::supported(&host)?;
        drop(host);
        // What comes now is read from files that may be anybody's.
        self.sandbox.enter_thread(Thread::Loader)?;
        let mut loaded = load(
            self.source,
            self.ram,
            self.cpus,
            &self.windows,
            Cause::PowerOn,
        )?;
        self.ahead.put(std::mem::take(&mut loaded.written));
        Ok((cpuid, loaded))
    }
}

/// Starts the threads of all vCPUs but the first, and hands that to its own.
fn start_vcpus(
    shared: &Arc<Shared>,
    first: &SyncSender<FirstVcpu>,
    let_go: &SyncSender<()>,
    (numbers, confined): (&Sandbox, &Confined),
) -> Result<(), Error> {
    let sandbox = |vcpu: &Vcpu| numbers.with(Slot::Vcpu, vcpu.number());
    for (id, vcpu) in shared.vcpus().iter().enumerate().skip(1) {
        let (vcpu, shared) = (Arc::clone(vcpu), Arc::clone(shared));
        let let_go = SyncSender::clone(let_go);
        let (sandbox, report) = (sandbox(&vcpu), confined.report());
        vcpu::spawn(id, move || {
            let own = vcpu::own();
            confine(&vcpu, own, &sandbox, &report);
            drop(report);
            vcpu.run(&shared);
            drop((vcpu, shared));
            drop(let_go);
        })?;
    }
    match shared.vcpus().first() {
        Some(vcpu) => {
            let (vcpu, shared) = (Arc::clone(vcpu), Arc::clone(shared));
            let sandbox = sandbox(&vcpu);
            let all = (vcpu, shared, sandbox, confined.report());
            first.send(all).map_err(|_| thread_lost())
        }
        None => Ok(()),
    }
}

fn thread_lost() -> Error {
    Error::System("vCPU thread", io::ErrorKind::BrokenPipe.into())
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

/// Makes the calling thread a vCPU's that can do nothing else any more.
fn confine(vcpu: &Vcpu, own: vcpu::Own, sandbox: &Sandbox, report: &Report) {
    vcpu.claim(own);
    // Whoever asked has given up if he does not listen.
    let _ = report.send(sandbox.enter_thread(Thread::Vcpu));
}

/// Nobody shall run without a sandbox, or with half of one, unawares.
fn warn(mode: Mode) {
    match mode {
        Mode::Kill => {}
        Mode::Log => {
            console::say("mote: WARNING: --seccomp log: system calls are logged, none is refused\n")
        }
        Mode::Off => {
            console::say("mote: WARNING: --no-sandbox: whoever breaks out of the guest is you\n")
        }
    }
}

/// The numbers that the filters of all threads check. Everything is open.
fn all_numbers(
    sandbox: Sandbox,
    shared: &Shared,
    console: &Console,
    source: &Source,
) -> Result<Sandbox, Error> {
    let vcpus = || shared.vcpus().iter().map(|vcpu| vcpu.number());
    let mut com1 = shared.bus.com1();
    let line = com1.line().as_raw_fd();
    let output = com1.output().number();
    let devices = shared.bus.devices();
    let numbers = sandbox
        .with(Slot::Vm, shared.fd.as_raw_fd())
        .with_row((Slot::VcpuFirst, Slot::VcpuLast), vcpus())
        .with_fd(Slot::ConsoleIn, console.input().as_ref())
        .with_fd(Slot::Listener, console.listener().as_ref())
        .with(Slot::Process, getpid().as_raw_nonzero().get())
        .with(Slot::Kick, vcpu::kick_signal());
    // A client gets the lowest number that is free, as this does.
    let next = rustix::io::dup(rustix::stdio::stderr());
    let next = next.map_err(|e| Error::System("dup", e.into()))?;
    let events = || devices.events().chain([line]);
    let others = vcpus().chain(devices.backends()).chain(output).chain([
        shared.fd.as_raw_fd(),
        source.kernel_fd(),
        next.as_raw_fd(),
    ]);
    // What a filter takes for an event must be one.
    let (first, last) = (events().min(), events().max());
    if others
        .map(Some)
        .any(|other| first <= other && other <= last)
    {
        let why = "too many open descriptors were passed in, or RLIMIT_NOFILE is below 256";
        return Err(Error::Host(why.to_owned()));
    }
    Ok(numbers
        .with(Slot::Client, next.as_raw_fd())
        .with_row((Slot::EventFirst, Slot::EventLast), events()))
}
