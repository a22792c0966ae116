//! What a vCPU's thread does: run the guest and answer its exits, while the gate is open.

use std::io;
use std::slice;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use kvm_bindings::KVM_MP_STATE_UNINITIALIZED;
use kvm_ioctls::{VcpuExit, VcpuFd};
use mote_virtio::Unpoisoned as _;
use rustix::event::{Timespec, poll};

use super::Shared;
use super::vcpu::Vcpu;
use super::waits::{Place, Waits};
use crate::error::Error;
use crate::host::signals;

/// How often KVM_RUN may answer "try again" in a row before that is an error.
const MAX_RETRIES: u32 = 200;

impl Vcpu {
    /// Runs the guest on the calling thread whenever the gate is open, until
    /// [`end`] is called.
    pub fn run(&self, shared: &Shared) {
        let mut waits = Waits::default();
        while shared.gate.wait() {
            let mut fd = self.fd();
            let mut retries = 0;
            while shared.gate.running.load(Ordering::Acquire) {
                match self.enter(&mut fd, shared, &mut waits) {
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
        // A thread that has gone must not be signalled.
        *self.thread.lock().unpoisoned() = None;
    }

    fn waits_for_start(fd: &VcpuFd) -> bool {
        fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_UNINITIALIZED)
    }

    /// Lets KVM complete the access at which the vCPU exited. Until then KVM holds
    /// back part of the vCPU's state, and would overwrite registers that are set
    /// meanwhile (KVM API, "KVM_RUN": pending operations).
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
    fn enter(&self, fd: &mut VcpuFd, shared: &Shared, waits: &mut Waits) -> Result<(), Stop> {
        let bus = &shared.bus;
        let exit = fd.run();
        let unknown = bus.unknown();
        let mut read = None;
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
                // SAFETY: as above; no other thread writes there while this
                // thread is out of KVM_RUN.
                let data = unsafe { slice::from_raw_parts_mut(start, length) };
                data.chunks_mut(size).for_each(|part| bus.port_read(port, part));
                read = Some(Place::Port(port));
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.mmio_read(address, data);
                read = Some(Place::Address(address));
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.mmio_write(address, data).map_err(Stop::Error)?
            }
            Ok(VcpuExit::Shutdown) => return Err(Stop::Error(Error::TripleFault(self.id))),
            Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IoapicEoi(_)) => return Ok(()),
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
        match read {
            // Another vCPU's accesses are counted, too: then it is seen later.
            _ if bus.unknown() == unknown => waits.met(),
            Some(place) => waits.missed(place),
            None => {}
        }
        match request {
            Some(request) => shared.request(request).map_err(Stop::Error),
            None => Ok(()),
        }
    }

    fn failed(&self, errno: i32) -> Result<(), Stop> {
        match errno {
            libc::EINTR => {
                // The gate may be open again since the kick. It is looked at after this:
                // a kick that comes later counts.
                self.immediate_exit.set(0);
                fence(Ordering::SeqCst);
                Ok(())
            }
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
        Stop::Error(Error::Stopped(format!("the guest cannot continue, vCPU {}: {why}", self.id)))
    }
}

/// Why a vCPU stopped.
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

/// Parks all vCPUs; false when one of them has not parked `until` then, or a signal asks
/// for the end: it may wait for a device whose host file hangs. The gate stays closed.
#[must_use]
pub fn close_gate(shared: &Shared, until: Instant) -> bool {
    shared.gate.halt();
    fence(Ordering::SeqCst);
    shared.vcpus().iter().for_each(|vcpu| vcpu.kick());
    let all = shared.vcpus().len();
    signals::wait_until(until, |limit| {
        let parked = shared.gate.parked();
        let waited = shared.gate.changed.wait_timeout_while(parked, limit, |parked| *parked < all);
        *waited.unpoisoned().0 == all
    })
}
