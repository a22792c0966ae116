//! The threads of vCPUs, the first of which prepares the guest while the VM is
//! made.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
use mote_snapshot::StateV1;

use super::source::Source;
use crate::boot::acpi;
use crate::boot::{Cause, Loaded};
use crate::channel::{Receiver, RecvError, Sender, channel};
use crate::config::VmConfig;
use crate::devices::Windows;
use crate::devices::serial::TypedAhead;
use crate::error::Error;
use crate::host::memory::{self, GuestRam};
use crate::host::prefault::PrefaultQueue;
use crate::sandbox::{Confined, Rules, Sandbox, Slot, Thread};
use crate::snapshot::restore;
use crate::snapshot::save::SnapshotWriter;
use crate::snapshot::state;
use crate::snapshot::working_set::Recording;
use crate::vm::vcpu::{self, After, Vcpu};
use crate::vm::{self, Shared, run_loop};

/// What the first vCPU's thread has to say once it is done preparing.
pub(super) type Prepared = Result<StartState, Error>;

/// How a guest begins.
pub(super) enum StartState {
    /// At its kernel's entry.
    Fresh(CpuId, Loaded),
    /// Where it was when it was saved.
    Restored(Box<StateV1>),
}

impl StartState {
    /// Gives a fresh machine the state of a saved one.
    pub(super) fn restore(&self, shared: &Shared) -> Result<(), Error> {
        match self {
            Self::Fresh(..) => Ok(()),
            Self::Restored(state) => state::restore(shared, state),
        }
    }

    /// Gives the vCPUs of a new one their identity and registers.
    pub(super) fn set_up(&self, shared: &Shared) -> Result<(), Error> {
        match self {
            Self::Fresh(supported, loaded) => vm::set_up_vcpus(shared, supported, loaded.entry),
            Self::Restored(_) => Ok(()),
        }
    }

    /// Identity of the snapshot that it comes from.
    pub(super) fn base(&self) -> Option<[u8; 16]> {
        match self {
            Self::Fresh(..) => None,
            Self::Restored(state) => Some(state.memory.id),
        }
    }

    /// Input that was queued when the VM was saved.
    pub(super) fn typed(&self) -> TypedAhead {
        match self {
            Self::Fresh(..) => TypedAhead::default(),
            Self::Restored(state) => TypedAhead::restore(&state.serial.typed),
        }
    }

    /// Connects a saved one, once all else is connected.
    pub(super) fn connect(
        &self,
        shared: &Shared,
        saving: Option<&SnapshotWriter>,
        recording: Option<&mut Recording>,
    ) -> Result<(), Error> {
        if saving.is_some() {
            shared.hold.store(true, Ordering::Relaxed);
        }
        match self {
            Self::Fresh(..) => Ok(()),
            Self::Restored(state) => {
                if let Some(recording) = recording {
                    recording.begin(state.memory.id);
                }
                restore::connect(shared)
            }
        }
    }

    /// Starts the vCPUs, and a restored VM's devices; true if the start is
    /// deferred.
    pub(super) fn start(&self, config: &VmConfig, shared: &Shared) -> bool {
        if config.restore.as_ref().is_some_and(|saved| saved.paused) {
            return true;
        }
        if let Self::Restored(_) = self {
            shared.bus.devices().resume();
        }
        if config.timings {
            shared.timings.count_faults();
        }
        run_loop::open_gate(shared);
        false
    }
}

/// What the first vCPU's thread waits for while the VM is made.
pub(super) type FirstVcpu = (Arc<Vcpu>, Arc<Shared>);

/// What the first vCPU's thread does while the VM is made: it takes about as
/// long, and on some hosts making a VM is mostly waiting.
pub(super) struct BootTask {
    /// Given up when it has been asked: it could make further VMs.
    pub(super) host: Option<Arc<Kvm>>,
    pub(super) ram: &'static GuestRam,
    pub(super) source: &'static Source,
    pub(super) windows: Windows,
    /// No device's worker writes guest memory.
    pub(super) deviceless: bool,
    pub(super) cpus: u8,
    pub(super) ahead: Arc<PrefaultQueue>,
    /// All memory is to be there before the guest runs.
    pub(super) prefault: bool,
    pub(super) sandbox: Sandbox,
    /// The filter of all threads for now.
    pub(super) start: Option<Thread>,
    /// What it gives up by itself, of files.
    pub(super) rules: Option<Arc<Rules>>,
}

impl BootTask {
    /// Starts the thread; it becomes a vCPU when it is handed one, and ends when
    /// it never will be.
    pub(super) fn start(
        mut self,
        wait: Receiver<FirstVcpu>,
        release: Sender<()>,
    ) -> Result<(JoinHandle<()>, Receiver<Prepared>), Error> {
        let (tell, prepared) = channel();
        let thread = vcpu::spawn(0, move || {
            let own = vcpu::own();
            // The main thread may have given up; then nothing follows either.
            let _ = tell.send(self.prepare());
            let first = loop {
                match wait.try_recv() {
                    Err(RecvError::Empty) if self.ahead.prefault_next(self.ram) => {}
                    Err(RecvError::Empty) => break wait.recv(),
                    other => break other.ok(),
                }
            };
            let Some((vcpu, shared)) = first else {
                return After::End;
            };
            vcpu.claim(own);
            let saved = self.source.saved().is_some();
            while (saved || !shared.gate.is_open()) && self.ahead.prefault_next(self.ram) {}
            vcpu.run(&shared);
            drop((vcpu, shared));
            drop(release);
            // The VM is over. What fails here the process's end does anyway.
            // A device's worker may still be writing guest memory to a disk,
            // which must not turn into zeroes meanwhile.
            if self.deviceless {
                let _ = memory::give_back(self.ram);
            }
            After::Stay
        })?;
        Ok((thread, prepared))
    }

    fn prepare(&mut self) -> Prepared {
        let host = self.host.take().ok_or_else(thread_lost)?;
        let saved = self.source.saved();
        let cpuid = match saved {
            Some(_) => None,
            None => Some(vm::cpuid::supported(&host)?),
        };
        drop(host);
        // From here on this thread reads untrusted files. An attacker who takes it
        // over shares the main thread's memory, so the main thread is confined
        // along with it, by a thread that is idle.
        if let Some(rules) = self.rules.take() {
            rules.enter()?;
        }
        if let Some(start) = self.start {
            self.sandbox.enter_thread(start)?;
        }
        self.sandbox.enter_thread(Thread::FirstVcpu)?;
        if let Some(saved) = saved {
            let state = restore::read(saved, self.ram, self.cpus, &self.ahead)?;
            if self.prefault {
                memory::prefault(self.ram, saved.copy)?;
            }
            // Another one than it was saved with, before it runs again.
            acpi::set_generation(self.ram, self.source.generation)
                .map_err(|_| Error::Snapshot("too little memory".to_owned()))?;
            return Ok(StartState::Restored(Box::new(state)));
        }
        let cpuid = cpuid.ok_or_else(thread_lost)?;
        let (cpus, windows) = (self.cpus, &self.windows);
        let mut loaded = self.source.load(self.ram, cpus, windows, Cause::PowerOn)?;
        if self.prefault {
            memory::prefault(self.ram, true)?;
        }
        self.ahead.text(std::mem::take(&mut loaded.written));
        Ok(StartState::Fresh(cpuid, loaded))
    }
}

/// Starts the threads of all vCPUs but the first, and hands that to its own.
pub(super) fn start_vcpus(
    shared: &Arc<Shared>,
    first: &Sender<FirstVcpu>,
    release: &Sender<()>,
    sandbox: &Sandbox,
    confined: &Confined,
) -> Result<(), Error> {
    for (id, vcpu) in shared.vcpus().iter().enumerate() {
        let (vcpu, shared) = (Arc::clone(vcpu), Arc::clone(shared));
        if id == 0 {
            first.send((vcpu, shared)).map_err(|_| thread_lost())?;
            continue;
        }
        let release = Sender::clone(release);
        let report = confined.report();
        let sandbox = sandbox.with(Slot::Vcpu, vcpu.number());
        vcpu::spawn(id, move || {
            vcpu.claim(vcpu::own());
            // A main thread that has given up does not listen.
            let _ = report.send(sandbox.enter_thread(Thread::Vcpu));
            drop(report);
            vcpu.run(&shared);
            drop((vcpu, shared));
            drop(release);
            After::Stay
        })?;
    }
    Ok(())
}

/// The thread is gone, or is no longer waited for.
pub(super) fn thread_lost() -> Error {
    Error::System("vCPU thread", io::ErrorKind::BrokenPipe.into())
}
