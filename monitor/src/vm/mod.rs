//! The virtual machine: KVM objects, made in the order that costs least.

pub mod bus;
pub mod clock;
pub mod cpuid;
pub mod ioapic;
pub mod msrs;
pub mod regs;
pub mod run_loop;
pub mod vcpu;
pub mod waits;

use std::io;
use std::os::fd::{FromRawFd as _, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use kvm_bindings::{
    CpuId, KVM_CAP_PMU_CAPABILITY, KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PMU_CAP_DISABLE, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use mote_virtio::Unpoisoned as _;
use mote_virtio::transport::Message;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm_sys_util::eventfd::EventFd;

use self::regs::Entry;
use crate::error::{Error, kvm};
use crate::host::memory::GuestRam;
use crate::layout;
use crate::timings::Timings;

use self::bus::{Bus, Request};
use self::vcpu::{Gate, Vcpu};

/// Why the VM stopped by itself.
#[derive(Debug)]
pub enum Ended {
    /// The guest powered off.
    PowerOff,
    /// The boot firmware found nothing to boot.
    NothingToBoot,
    /// The guest asked for a reset.
    Reset,
    /// The guest or KVM cannot continue.
    Error(Error),
}

/// What all threads of a VM share.
pub struct Shared {
    /// The VM; KVM's routing table is changed through it while it runs.
    pub fd: Arc<VmFd>,
    /// Devices.
    pub bus: Bus,
    /// Whether vCPUs run.
    pub gate: Gate,
    /// Start-up stages, and the boot marker's time.
    pub timings: Arc<Timings>,
    /// The boot marker parks the vCPU that writes it: a snapshot is due.
    pub hold: AtomicBool,
    vcpus: OnceLock<Vec<Arc<Vcpu>>>,
    ended: Mutex<Option<Ended>>,
    /// Microseconds from exec to the boot marker; 0 without a new marker.
    marker: AtomicU64,
    wake: Arc<EventFd>,
}

impl Shared {
    /// The VM's common part, before its vCPUs exist.
    pub fn new(fd: Arc<VmFd>, bus: Bus, timings: Arc<Timings>, wake: Arc<EventFd>) -> Self {
        Self {
            fd,
            bus,
            gate: Gate::default(),
            timings,
            hold: AtomicBool::new(false),
            vcpus: OnceLock::new(),
            ended: Mutex::new(None),
            marker: AtomicU64::new(0),
            wake,
        }
    }

    /// All vCPUs.
    pub fn vcpus(&self) -> &[Arc<Vcpu>] {
        self.vcpus.get().map_or(&[], Vec::as_slice)
    }

    /// Why the VM has stopped, if it has; asking clears it.
    pub fn take_end(&self) -> Option<Ended> {
        self.ended.lock().unpoisoned().take()
    }

    /// Whether it has stopped, and the reason has not been taken.
    pub fn has_ended(&self) -> bool {
        let ended = self.ended.lock().unpoisoned();
        ended.is_some()
    }

    /// Microseconds from exec to the boot marker, once after it was written.
    pub fn take_marker(&self) -> Option<u64> {
        Some(self.marker.swap(0, Ordering::Relaxed)).filter(|us| *us > 0)
    }

    /// Ends the VM with an error; the first one counts.
    pub fn stop(&self, error: Error) {
        self.end(Ended::Error(error));
    }

    fn end(&self, why: Ended) {
        self.gate.halt();
        self.defer(why);
        self.wake();
    }

    /// Keeps an end for later; the first one counts.
    pub fn defer(&self, why: Ended) {
        let mut ended = self.ended.lock().unpoisoned();
        ended.get_or_insert(why);
    }

    fn wake(&self) {
        // The counter cannot overflow: the main thread empties it.
        let _ = self.wake.write(1);
    }

    /// Does what a guest asked of its machine.
    ///
    /// # Errors
    /// KVM refuses a new routing table.
    pub fn request(&self, request: Request) -> Result<(), Error> {
        match request {
            Request::PowerOff => self.end(Ended::PowerOff),
            Request::NothingToBoot => self.end(Ended::NothingToBoot),
            Request::Reset => self.end(Ended::Reset),
            Request::Marker => {
                let us = u64::try_from(self.timings.elapsed().as_micros()).unwrap_or(u64::MAX);
                // Once: a guest must not fill a log or memory with it.
                if self.bus.note_marker() {
                    if self.hold.load(Ordering::Relaxed) {
                        self.gate.halt();
                    }
                    self.timings.mark("boot marker");
                    self.marker.store(us.max(1), Ordering::Relaxed);
                    self.wake();
                }
            }
            Request::Routes => self.set_routes()?,
        }
        Ok(())
    }

    /// Raises an interrupt that no irqfd leads to: of the power button, of the
    /// generation ID. Tells whether the guest listens for it.
    ///
    /// # Errors
    /// KVM refuses the interrupt.
    pub fn interrupt(&self, gsi: u32) -> Result<bool, Error> {
        let route = self.bus.ioapic().route(gsi);
        let Some(route) = route else {
            return Ok(false);
        };
        let msi = kvm_msi { address_lo: route.address, data: route.data, ..Default::default() };
        // 0: no vCPU took it.
        let taken = self.fd.signal_msi(msi).map_err(kvm("send an interrupt"))?;
        Ok(taken > 0)
    }

    /// Hands the routes of the I/O APIC's pins and of PCI functions to KVM.
    ///
    /// # Errors
    /// KVM refuses them.
    pub fn set_routes(&self) -> Result<(), Error> {
        const WHAT: &str = "set interrupt routes";
        // Held over the call, so that two vCPUs cannot swap their tables.
        let ioapic = self.bus.ioapic();
        let entry = |(gsi, message): (u32, Message)| {
            let mut entry =
                kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
            [entry.u.msi.address_lo, entry.u.msi.address_hi] = message.address;
            entry.u.msi.data = message.data;
            entry
        };
        let pin = |route: ioapic::Route| {
            (route.gsi, Message { address: [route.address, 0], data: route.data })
        };
        let devices = self.bus.devices();
        let messages = devices.messages();
        let vectors = (devices.first_gsi()..).zip(messages.as_flattened());
        let vectors = vectors.filter_map(|(gsi, message)| Some((gsi, (*message)?)));
        let entries: Vec<_> = ioapic.routes().map(pin).chain(vectors).map(entry).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| Error::Kvm(WHAT, io::ErrorKind::OutOfMemory.into()))?;
        self.fd.set_gsi_routing(&table).map_err(kvm(WHAT))?;
        devices.routes_are_set(&messages);
        Ok(())
    }
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// It is missing, not permitted, or not the KVM this program was made for.
pub fn open_host(passed: Option<RawFd>) -> Result<Kvm, Error> {
    if let Some(fd) = passed {
        // SAFETY: the caller says that it is ours.
        let host = unsafe { Kvm::from_raw_fd(fd) };
        return match host.get_api_version() {
            12 => Ok(host),
            _ => Err(Error::Usage(format!("--kvm-fd: {fd} is not /dev/kvm"))),
        };
    }
    let host = Kvm::new().map_err(|error| {
        Error::Host(match error.errno() {
            libc::ENOENT => "/dev/kvm is missing: load the kvm module, or run on a host with \
                             hardware virtualization"
                .to_owned(),
            libc::EACCES | libc::EPERM => "/dev/kvm: permission denied; add your user to the \
                                           group that owns it (usually kvm)"
                .to_owned(),
            errno => {
                let cause = io::Error::from_raw_os_error(errno);
                format!("/dev/kvm: {}", crate::error::os_message(&cause))
            }
        })
    })?;
    match host.get_api_version() {
        12 => Ok(host),
        other => Err(Error::Host(format!("/dev/kvm: API version {other} instead of 12"))),
    }
}

/// Creates the VM with its memory and interrupt controllers; vCPUs and
/// interrupt lines follow. KVM notes which pages change if it is to `track`
/// them.
///
/// The order of all of this matters by milliseconds. Registering anything on
/// KVM's I/O bus (an ioeventfd, an in-kernel I/O APIC, PIC or PIT) starts a
/// grace period of about 13 ms for which the next change of memory slots or
/// routes, and the destruction of the VM, have to wait. So: VM, memory slots,
/// interrupt controllers in the variant that registers nothing, vCPUs, their
/// CPUID and registers, then irqfds, and ioeventfds last of all, when a guest
/// first uses a device.
///
/// # Errors
/// KVM refuses, or lacks what Mote needs (Linux 5.10 has all of it).
pub fn create(host: &Kvm, ram: &GuestRam, track: bool) -> Result<VmFd, Error> {
    if !host.check_extension(Cap::ImmediateExit) {
        return Err(Error::Host("/dev/kvm is too old: Linux 5.10 or later is needed".to_owned()));
    }
    let fd = loop {
        match host.create_vm() {
            // A signal during creation is no reason to give up.
            Err(error) if error.errno() == libc::EINTR => {}
            result => break result.map_err(kvm("create a VM"))?,
        }
    };
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let host_address = region
            .as_volatile_slice()
            .map_err(|e| Error::System("guest memory", io::Error::other(e)))?
            .ptr_guard_mut();
        let slot = kvm_userspace_memory_region {
            slot,
            flags: if track { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host_address.as_ptr() as u64,
        };
        // SAFETY: the range is a mapping of exactly this size that lives until
        // the process ends, and guest memory is all that it is used for.
        unsafe { fd.set_user_memory_region(slot) }.map_err(kvm("set guest memory"))?;
    }
    // Intel hosts want these pages named before the first vCPU.
    fd.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(kvm("set the identity map"))?;
    fd.set_tss_address(layout::KVM_TSS).map_err(kvm("set the TSS address"))?;
    let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    split.args = [ioapic::MAX_PINS as u64, 0, 0, 0];
    fd.enable_cap(&split).map_err(kvm("create the interrupt controllers"))?;
    // No leaf of CPUID announces AMD's first four counters, so none withholds
    // them. KVM can since Linux 5.18, where it has counters at all.
    let mut counters = kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, ..Default::default() };
    counters.args = [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0];
    let _ = fd.enable_cap(&counters);
    Ok(fd)
}

/// Creates the vCPUs.
///
/// # Errors
/// KVM refuses, usually for want of memory.
pub fn create_vcpus(shared: &Shared, cpus: u8) -> Result<(), Error> {
    let mut all = Vec::with_capacity(cpus.into());
    for id in 0..cpus {
        let fd = shared.fd.create_vcpu(id.into()).map_err(kvm("create a vCPU"))?;
        all.push(Arc::new(Vcpu::new(id.into(), fd)));
    }
    // Set once: this function is called once.
    let _ = shared.vcpus.set(all);
    Ok(())
}

/// Gives every vCPU its identity, and the first its registers.
///
/// # Errors
/// KVM refuses.
pub fn set_up_vcpus(shared: &Shared, supported: &CpuId, entry: Entry) -> Result<(), Error> {
    let vcpus = shared.vcpus();
    // Checked when it was configured: at most 32.
    let count = vcpus.len() as u8;
    // The same for all, and not for KVM to say everywhere.
    let khz = vcpus.first().and_then(|vcpu| vcpu.fd().get_tsc_khz().ok());
    for (id, vcpu) in (0u8..).zip(vcpus) {
        let fd = vcpu.fd();
        let cpuid = cpuid::for_vcpu(supported, id, count, khz.unwrap_or(0));
        fd.set_cpuid2(&cpuid).map_err(kvm("set CPUID"))?;
        msrs::boot(&fd)?;
        if id == 0 {
            regs::set_entry(&fd, entry)?;
        }
    }
    Ok(())
}

/// Brings vCPUs and interrupt routes back to power-on, after the bus. All
/// vCPUs must be parked.
///
/// # Errors
/// KVM or the host refuses a part of it.
pub fn power_on(shared: &Shared, entry: Entry) -> Result<(), Error> {
    shared.set_routes()?;
    for (id, vcpu) in shared.vcpus().iter().enumerate() {
        regs::power_on(&vcpu.fd(), (id == 0).then_some(entry))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "reset_test.rs"]
mod reset_test;
