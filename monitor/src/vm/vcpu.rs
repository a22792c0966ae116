//! A vCPU and the thread that runs it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::raw::c_int;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::{KVM_MP_STATE_UNINITIALIZED, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::event::{Timespec, poll};
use rustix::process::{Pid, getpid};
use rustix::thread::gettid;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::Shared;
use crate::error::{Error, no_thread};
use crate::host::signals;

/// Stack of a vCPU's thread in bytes; its deepest path is a serial write.
const STACK: usize = 128 << 10;
/// How often KVM_RUN may answer "try again" in a row before that is an error.
const MAX_RETRIES: u32 = 200;

/// The one byte of a vCPU's shared page that another thread writes.
struct ImmediateExit(*mut u8);

// SAFETY: the pointer leads into the vCPU's shared page, which is mapped as
// long as the `Vcpu` that owns this lives, and is only accessed volatilely.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above; a byte store cannot tear.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn set(&self, value: u8) {
        // SAFETY: see the `Send` implementation: valid, and a byte.
        unsafe { self.0.write_volatile(value) }
    }
}

/// Numbers of a process and of a thread of it.
pub type Own = (Pid, Pid);

/// Those of the calling thread; a confined one cannot ask.
pub fn own() -> Own {
    (getpid(), gettid())
}

/// How often a vCPU left the guest, by reason. Only its own thread counts, so
/// that it needs no lock and no locked instruction.
#[derive(Debug, Default)]
pub struct Exits([AtomicU64; EXITS.len()]);

/// Names of the reasons: those that are Firecracker's, then Mote's.
const EXITS: [&str; 7] = [
    "exit_io_in",
    "exit_io_out",
    "exit_mmio_read",
    "exit_mmio_write",
    "exit_interrupted",
    "exit_halt",
    "failures",
];

impl Exits {
    fn count(&self, exit: Result<&VcpuExit<'_>, &kvm_ioctls::Error>) {
        let reason = match exit {
            Ok(VcpuExit::IoIn(..)) => 0,
            Ok(VcpuExit::IoOut(..)) => 1,
            Ok(VcpuExit::MmioRead(..)) => 2,
            Ok(VcpuExit::MmioWrite(..)) => 3,
            Ok(VcpuExit::Intr) => 4,
            Err(error) if error.errno() == libc::EINTR => 4,
            Ok(VcpuExit::Hlt) => 5,
            _ => 6,
        };
        if let Some(count) = self.0.get(reason) {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Names and counts.
    pub fn counts(&self) -> [(&'static str, u64); EXITS.len()] {
        let mut all = EXITS.map(|name| (name, 0));
        for ((_, count), counter) in all.iter_mut().zip(&self.0) {
            *count = counter.load(Ordering::Relaxed);
        }
        all
    }
}

/// A vCPU. Its own thread holds the descriptor while the guest runs, whoever
/// wants to change its registers while it is parked.
pub struct Vcpu {
    id: usize,
    number: RawFd,
    fd: Mutex<VcpuFd>,
    immediate_exit: ImmediateExit,
    /// How often it left the guest.
    pub exits: Exits,
    /// Numbers of the process and of the thread that runs it.
    thread: Mutex<Option<Own>>,
}

/// Whether vCPUs run, and how many are parked.
#[derive(Default)]
pub struct Gate {
    running: AtomicBool,
    /// The VM has ended: nobody waits any more.
    over: AtomicBool,
    parked: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn parked(&self) -> MutexGuard<'_, usize> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks the calling vCPU until the VM runs; tells whether it ever will.
    fn wait(&self) -> bool {
        let mut parked = self.parked();
        *parked += 1;
        self.changed.notify_all();
        while !self.running.load(Ordering::Acquire) && !self.over.load(Ordering::Acquire) {
            parked = self.changed.wait(parked).unwrap_or_else(PoisonError::into_inner);
        }
        *parked -= 1;
        !self.over.load(Ordering::Acquire)
    }

    /// Lets no vCPU enter the guest again; those inside stay there until they
    /// are kicked.
    pub fn halt(&self) {
        self.running.store(false, Ordering::Release);
    }

    /// Whether vCPUs may enter the guest.
    pub fn is_open(&self) -> bool {
        self.running.load(Ordering::Acquire) || self.over.load(Ordering::Acquire)
    }

    fn open(&self) {
        let _parked = self.parked();
        self.running.store(true, Ordering::Release);
        self.changed.notify_all();
    }
}

impl Vcpu {
    /// Takes over a vCPU that KVM has made.
    pub fn new(id: usize, mut fd: VcpuFd) -> Self {
        let run: *mut kvm_run = fd.get_kvm_run();
        // SAFETY: `run` points at the vCPU's shared page; taking a field's
        // address reads nothing.
        let immediate_exit = unsafe { &raw mut (*run).immediate_exit };
        Self {
            id,
            number: fd.as_raw_fd(),
            fd: Mutex::new(fd),
            immediate_exit: ImmediateExit(immediate_exit),
            exits: Exits::default(),
            thread: Mutex::new(None),
        }
    }

    /// Number of its descriptor.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// The descriptor; waits for the vCPU to be parked.
    pub fn fd(&self) -> MutexGuard<'_, VcpuFd> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the vCPU out of the guest, if it is there.
    fn kick(&self) {
        // The flag first: a vCPU that is about to enter the guest sees it, one
        // that is inside gets the signal.
        self.immediate_exit.set(1);
        fence(Ordering::SeqCst);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((process, thread)) = *thread {
            // SAFETY: a plain system call: to a thread of this process or, if
            // there is none of that number, to nobody. The signal's handler
            // does nothing.
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    process.as_raw_nonzero().get(),
                    thread.as_raw_nonzero().get(),
                    kick_signal(),
                );
            }
        }
    }

    /// Makes `own` the thread that is kicked, and that will
    /// [run](Vcpu::run) it.
    pub fn claim(&self, own: Own) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
    }

    /// Runs the guest on the calling thread whenever the gate is open, until
    /// [`end`] is called.
    pub fn run(&self, shared: &Shared) {
        while shared.gate.wait() {
            let mut fd = self.fd();
            self.immediate_exit.set(0);
            fence(Ordering::SeqCst);
            let mut retries = 0;
            while shared.gate.running.load(Ordering::Acquire) {
                match self.enter(&mut fd, shared) {
                    Ok(()) => retries = 0,
                    // One that waits for its start signal: KVM was woken by
                    // something else.
                    Err(Stop::Retry) if Self::waits_for_start(&fd) => {
                        sleep(Duration::from_millis(1));
                    }
                    Err(Stop::Retry) if retries < MAX_RETRIES => {
                        retries += 1;
                        // KVM could not start its helper thread; give the
                        // host a moment (5 s in all at most).
                        sleep(Duration::from_millis(u64::from(retries / 4)));
                    }
                    Err(Stop::Retry) => {
                        let why = "KVM cannot start its helper thread: too many processes or \
                                   threads (see pids.max and RLIMIT_NPROC)";
                        shared.stop(Error::Host(why.to_owned()));
                    }
                    Err(Stop::Error(error)) => shared.stop(error),
                }
            }
            if !shared.gate.over.load(Ordering::Acquire) {
                self.settle(&mut fd);
            }
        }
        // Nobody may signal a thread that has gone.
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn waits_for_start(fd: &VcpuFd) -> bool {
        fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_UNINITIALIZED)
    }

    /// Lets KVM finish the access at which the vCPU left the guest. Until then
    /// KVM holds back part of the vCPU's state, and would put it over what is
    /// set meanwhile (KVM API, "KVM_RUN": pending operations).
    fn settle(&self, fd: &mut VcpuFd) {
        // A string instruction has a few accesses under way at most.
        for _ in 0..64 {
            self.immediate_exit.set(1);
            match fd.run() {
                Ok(VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data)) => data.fill(0xff),
                Ok(_) => {}
                // EINTR is the good answer; any other comes again later.
                Err(_) => return,
            }
        }
    }

    /// Runs the guest until its next exit and answers that.
    fn enter(&self, fd: &mut VcpuFd, shared: &Shared) -> Result<(), Stop> {
        let bus = &shared.bus;
        let exit = fd.run();
        self.exits.count(exit.as_ref());
        let request = match exit {
            Ok(VcpuExit::IoOut(port, data)) => {
                let (start, length) = (data.as_ptr(), data.len());
                let size = port_width(fd).min(length.max(1));
                // SAFETY: the bytes lie in the vCPU's shared page and stay
                // valid until the next KVM_RUN on this thread.
                let data = unsafe { slice::from_raw_parts(start, length) };
                data.chunks(size).filter_map(|part| bus.port_write(port, part)).last()
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                let (start, length) = (data.as_mut_ptr(), data.len());
                let size = port_width(fd).min(length.max(1));
                // SAFETY: as above; nobody else writes there while this
                // thread is out of KVM_RUN.
                let data = unsafe { slice::from_raw_parts_mut(start, length) };
                data.chunks_mut(size).for_each(|part| bus.port_read(port, part));
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.mmio_read(address, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => bus.mmio_write(address, data),
            Ok(VcpuExit::Shutdown) => return Err(Stop::Error(Error::TripleFault(self.id))),
            Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IoapicEoi(_)) => None,
            Ok(VcpuExit::InternalError) => return Err(self.internal_error(fd)),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return Err(
                    self.stopped(&format!("the processor refused to enter it ({reason:#x})"))
                );
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => return Err(self.memory_gone(Some(gpa))),
            Ok(other) => {
                let why = format!("KVM exit that Mote does not know: {other:?}");
                return Err(self.stopped(&why));
            }
            Err(error) => return self.failed(error.errno()),
        };
        match request {
            Some(request) => shared.request(request).map_err(Stop::Error),
            None => Ok(()),
        }
    }

    fn failed(&self, errno: i32) -> Result<(), Stop> {
        match errno {
            libc::EINTR => Ok(()),
            libc::EAGAIN => Err(Stop::Retry),
            libc::EFAULT => Err(self.memory_gone(None)),
            _ => {
                let error = io::Error::from_raw_os_error(errno);
                Err(Stop::Error(Error::Kvm("run the guest", error)))
            }
        }
    }

    fn memory_gone(&self, address: Option<u64>) -> Stop {
        let at = address.map_or(String::new(), |gpa| format!(" at {gpa:#x}"));
        self.stopped(&format!(
            "its memory{at} is gone; was the kernel or initrd file changed while it ran?"
        ))
    }

    fn internal_error(&self, fd: &mut VcpuFd) -> Stop {
        let rip = fd.get_regs().map_or(0, |regs| regs.rip);
        let run = fd.get_kvm_run();
        // SAFETY: for this exit reason KVM has filled in this member.
        let code = unsafe { run.__bindgen_anon_1.internal.suberror };
        let what = match code {
            1 => "KVM cannot emulate its instruction".to_owned(),
            code => format!("KVM internal error {code}"),
        };
        self.stopped(&format!("{what} at {rip:#x}"))
    }

    fn stopped(&self, why: &str) -> Stop {
        Stop::Error(Error::Stopped(format!("the guest cannot go on, vCPU {}: {why}", self.id)))
    }
}

/// Why a vCPU did not just go on.
enum Stop {
    Retry,
    Error(Error),
}

/// Bytes of one element of the port access that made the guest exit.
fn port_width(fd: &mut VcpuFd) -> usize {
    // SAFETY: the last exit was a port access, for which KVM has filled in
    // this member.
    let width = unsafe { fd.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(width.max(1))
}

/// By the one call that a vCPU's thread has for waiting.
fn sleep(time: Duration) {
    if let Ok(time) = Timespec::try_from(time) {
        // A signal only makes it shorter.
        let _ = poll(&mut [], Some(&time));
    }
}

/// The signal that gets a thread out of KVM_RUN.
pub fn kick_signal() -> c_int {
    SIGRTMIN()
}

extern "C" fn kicked(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the do-nothing handler that lets a kick interrupt KVM_RUN.
///
/// # Errors
/// The system refuses.
pub fn allow_kicks() -> Result<(), Error> {
    register_signal_handler(kick_signal(), kicked)
        .map_err(|e| Error::System("signal handler", io::Error::from_raw_os_error(e.errno())))
}

/// What becomes of a vCPU's thread that has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It stays until the process ends: what the C library does at a thread's end
    /// takes system calls that nothing else needs.
    Stay,
    /// It ends.
    End,
}

/// Starts the thread of a vCPU, whose work it is to [run](Vcpu::run) it.
///
/// # Errors
/// The host has no room for another thread.
pub fn spawn<F>(id: usize, body: F) -> Result<JoinHandle<()>, Error>
where
    F: FnOnce() -> After + Send + 'static,
{
    thread::Builder::new()
        .name(format!("vcpu{id}"))
        .stack_size(STACK)
        .spawn(move || {
            signals::leave_to_main(Some(kick_signal()));
            if body() == After::Stay {
                loop {
                    thread::park();
                }
            }
        })
        .map_err(|e| no_thread("start a vCPU thread", e))
}

/// Lets all vCPUs run.
pub fn open_gate(shared: &Shared) {
    shared.gate.open();
}

/// Makes all vCPUs leave the guest and their threads return from
/// [`Vcpu::run`].
pub fn end(shared: &Shared) {
    shared.gate.halt();
    shared.gate.over.store(true, Ordering::Release);
    fence(Ordering::SeqCst);
    shared.vcpus().iter().for_each(|vcpu| vcpu.kick());
    let _parked = shared.gate.parked();
    shared.gate.changed.notify_all();
}

/// Parks all vCPUs and returns when they are out of the guest, or false when
/// a signal came while one of them would not park: it may wait for a device
/// whose host file is stuck.
#[must_use]
pub fn close_gate(shared: &Shared) -> bool {
    const LOOK: Duration = Duration::from_millis(100);
    shared.gate.halt();
    fence(Ordering::SeqCst);
    shared.vcpus().iter().for_each(|vcpu| vcpu.kick());
    let mut parked = shared.gate.parked();
    while *parked < shared.vcpus().len() {
        if signals::received() {
            return false;
        }
        let waited = shared.gate.changed.wait_timeout(parked, LOOK);
        (parked, _) = waited.unwrap_or_else(PoisonError::into_inner);
    }
    true
}
