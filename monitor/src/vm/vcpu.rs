//! A vCPU and the thread that runs it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use mote_virtio::Unpoisoned as _;
use rustix::process::{Pid, getpid};
use rustix::thread::gettid;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::error::{Error, no_thread};
use crate::host::signals;

/// Stack of a vCPU's thread in bytes; its deepest path is a serial write.
const STACK: usize = 128 << 10;

/// The one byte of a vCPU's shared page that another thread writes.
pub(super) struct ImmediateExit(*mut u8);

// SAFETY: the pointer leads into the vCPU's shared page, which is mapped as
// long as the `Vcpu` that owns this lives, and is only accessed volatilely.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above; a byte store cannot tear.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    pub(super) fn set(&self, value: u8) {
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
    pub(super) fn count(&self, exit: Result<&VcpuExit<'_>, &kvm_ioctls::Error>) {
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

/// A vCPU. Its own thread holds the descriptor while the guest runs; other threads take it
/// to change registers while the vCPU is parked.
pub struct Vcpu {
    pub(super) id: usize,
    number: RawFd,
    fd: Mutex<VcpuFd>,
    pub(super) immediate_exit: ImmediateExit,
    /// How often it left the guest.
    pub exits: Exits,
    /// Numbers of the process and of the thread that runs it.
    pub(super) thread: Mutex<Option<Own>>,
}

/// Whether vCPUs run, and how many are parked.
#[derive(Default)]
pub struct Gate {
    pub(super) running: AtomicBool,
    /// The VM has ended: no vCPU waits any more.
    pub(super) over: AtomicBool,
    parked: Mutex<usize>,
    pub(super) changed: Condvar,
}

impl Gate {
    pub(super) fn parked(&self) -> MutexGuard<'_, usize> {
        self.parked.lock().unpoisoned()
    }

    /// Parks the calling vCPU until the VM runs; tells whether it ever will.
    pub(super) fn wait(&self) -> bool {
        let mut parked = self.parked();
        *parked += 1;
        self.changed.notify_all();
        while !self.running.load(Ordering::Acquire) && !self.over.load(Ordering::Acquire) {
            parked = self.changed.wait(parked).unpoisoned();
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

    pub(super) fn open(&self) {
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
        self.fd.lock().unpoisoned()
    }

    /// Gets the vCPU out of the guest, if it is there.
    pub(super) fn kick(&self) {
        // The flag first: a vCPU that is about to enter the guest sees it, one
        // that is inside gets the signal.
        self.immediate_exit.set(1);
        fence(Ordering::SeqCst);
        let thread = self.thread.lock().unpoisoned();
        if let Some((process, thread)) = *thread {
            // SAFETY: a plain system call: it signals a thread of this process, or fails
            // if no thread has that number. The signal's handler does nothing.
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
        *self.thread.lock().unpoisoned() = Some(own);
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
