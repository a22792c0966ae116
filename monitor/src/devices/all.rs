//! All devices of a VM, together.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use mote_snapshot::DeviceV1;
use mote_virtio::rate::RateLimiter;
use mote_virtio::transport::{Message, VECTORS};
use mote_virtio::{Dirty, Effect, EndpointStateV1};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use super::connection::{CONFIG, Connection, Place, USED};
use super::slot::{HOST_FILE_TIMEOUT, Slot, Work, ask, hung, twice};
use super::window::{Windows, windows};
use super::{drive, nic};
use crate::config::{MAX_DEVICES, VmConfig};
use crate::counts::Counts;
use crate::error::{Error, kvm, no_thread};
use crate::host::files::New;
use crate::host::memory::GuestRam;
use crate::host::signals;
use crate::layout;
use crate::sandbox::{Confined, Sandbox};

/// Stack of a worker thread in bytes.
const STACK: usize = 128 << 10;
/// All devices of a VM.
#[derive(Default)]
pub struct Devices {
    slots: Vec<Arc<Slot>>,
    /// The register windows, which KVM maps into the guest to read.
    windows: Option<Arc<MmapRegion>>,
    /// The same of PCI configuration space.
    ecam: Option<Arc<MmapRegion>>,
    pci: bool,
    /// The VM, for doorbells: since the register windows are mapped.
    vm: OnceLock<Arc<VmFd>>,
}

/// What a guest's store came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// No device has this address.
    Nowhere,
    /// The device has it.
    Done,
    /// Interrupts of PCI functions have new messages: KVM's routes must follow.
    Messages,
}

impl Devices {
    /// Opens everything that `config` names; what it writes to guest memory is
    /// noted in `dirty`.
    ///
    /// # Errors
    /// A file is missing, unusable or in use; the host is out of descriptors
    /// or memory.
    pub fn open(
        config: &VmConfig,
        ram: &'static GuestRam,
        dirty: Option<&'static Dirty>,
    ) -> Result<Self, Error> {
        let (count, pci) = (config.drives.len() + config.nics.len(), config.is_pci());
        if count == 0 {
            return Ok(Self { pci, ..Self::default() });
        }
        let pages = |size| match MmapRegion::new(size) {
            Ok(region) => Ok(Arc::new(region)),
            Err(e) => Err(Error::System("register windows", io::Error::other(e))),
        };
        let region = pages(MAX_DEVICES * layout::WINDOW_SIZE as usize)?;
        let ecam = match pci {
            true => Some(pages((count + 1) * layout::ECAM_DEVICE as usize)?),
            false => None,
        };
        if let Some(ecam) = &ecam {
            // There is no first device, which reads as all ones (PCI 3.0, 6.1).
            let absent = ecam.as_volatile_slice().write_slice(&[0xff; 256], 0);
            absent.map_err(|e| Error::System("register windows", io::Error::other(e)))?;
        }
        let place = Place { region: &region, ecam: ecam.as_ref() };
        let mut slots = Vec::with_capacity(count);
        for drive in &config.drives {
            let opened = drive::open(drive, config, ram, dirty);
            let (device, mut work) = opened.map_err(|error| twice(drive, &slots, error))?;
            if config.changes {
                // The image may grow, but its worker's filter cannot.
                work.end = u64::MAX;
            }
            let link = Arc::new(Connection::new(device, &drive.id, slots.len(), &place)?);
            slots.push(Arc::new(Slot { link, work: Work::Drive(work) }));
        }
        for nic in &config.nics {
            let (device, work) = nic::open(nic, ram, dirty)?;
            let link = Arc::new(Connection::new(device, &nic.id, slots.len(), &place)?);
            slots.push(Arc::new(Slot { link, work: Work::Nic(work) }));
        }
        Ok(Self { slots, windows: Some(region), ecam, pci, vm: OnceLock::new() })
    }

    /// New images, which have no names so far.
    pub fn take_new(&self) -> Vec<New> {
        let new = |slot: &Arc<Slot>| match &slot.work {
            Work::Drive(work) => work.take_new(),
            Work::Nic(_) => None,
        };
        self.slots.iter().filter_map(new).collect()
    }

    /// How ACPI describes the devices.
    pub fn windows(&self) -> Windows {
        match self.pci {
            true => Windows::Pci,
            false => Windows::Mmio(windows(self.slots.len())),
        }
    }

    /// Whether the VM has no devices.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Gives KVM the register windows, as memory that the guest can only read, and keeps
    /// `vm` to connect doorbells to.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn map(&self, vm: &Arc<VmFd>) -> Result<(), Error> {
        // RAM has the slots 0 and 1.
        let regions = [(2, &self.windows, layout::WINDOWS), (3, &self.ecam, layout::ECAM)];
        for (slot, region, guest_phys_addr) in regions {
            let Some(region) = region else {
                continue;
            };
            let slot = kvm_userspace_memory_region {
                slot,
                flags: KVM_MEM_READONLY,
                guest_phys_addr,
                memory_size: region.size() as u64,
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of this size, and lives as long as
            // `self`, which lives as long as the VM.
            unsafe { vm.set_user_memory_region(slot) }.map_err(kvm("set the register windows"))?;
        }
        self.vm.get_or_init(|| Arc::clone(vm));
        Ok(())
    }

    /// Gives KVM the interrupts. Doorbells follow when a guest first starts a
    /// device: they are what makes the VM's end wait.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect(&self, vm: &VmFd) -> Result<(), Error> {
        let interrupts = self.slots.iter().flat_map(|slot| &slot.link.interrupts);
        for (interrupt, gsi) in interrupts.zip(self.first_gsi()..) {
            vm.register_irqfd(interrupt, gsi).map_err(kvm("connect an interrupt"))?;
        }
        Ok(())
    }

    /// Interrupts of the devices are from here on: pins of the I/O APIC; or behind all
    /// pins, the vectors of PCI functions.
    pub fn first_gsi(&self) -> u32 {
        if self.pci { layout::FIRST_MESSAGE_GSI } else { layout::FIRST_DEVICE_GSI }
    }

    /// The messages of each device's interrupts, from [`first_gsi`](Self::first_gsi) on;
    /// `None` where a guest lets none through.
    pub fn messages(&self) -> Vec<[Option<Message>; VECTORS]> {
        self.slots.iter().map(|slot| *slot.link.messages()).collect()
    }

    /// Numbers of the descriptors of all doorbells and interrupts.
    pub fn events(&self) -> impl Iterator<Item = RawFd> + '_ {
        let all = |slot: &Arc<Slot>| {
            slot.link
                .interrupt_numbers()
                .chain([slot.link.doorbell.as_raw_fd()])
                .collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(all)
    }

    /// Numbers of the descriptors of all images and taps.
    pub fn backends(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.slots.iter().map(|slot| slot.backend())
    }

    /// Starts the worker threads, which confine themselves and report; returns
    /// how many there are.
    ///
    /// # Errors
    /// The host has no room for another thread.
    pub fn start(&self, sandbox: &Sandbox, confined: &Confined) -> Result<usize, Error> {
        let mut started = 0;
        for slot in &self.slots {
            let threads = match &slot.work {
                Work::Drive(work) => work.threads,
                Work::Nic(_) => 1,
            };
            for _ in 0..threads {
                let slot = Arc::clone(slot);
                let report = confined.report();
                let (thread, sandbox) = slot.confinement(*sandbox);
                thread::Builder::new()
                    // A thread's name has 15 bytes at most.
                    .name(slot.link.name.split_at(slot.link.name.floor_char_boundary(15)).0.into())
                    .stack_size(STACK)
                    .spawn(move || {
                        signals::leave_to_main(None);
                        // The receiver may have given up.
                        let _ = report.send(sandbox.enter_thread(thread));
                        drop(report);
                        match &slot.work {
                            Work::Drive(work) => work.serve(&slot.link),
                            Work::Nic(work) => work.serve(&slot.link),
                        }
                    })
                    .map_err(|e| no_thread("start a worker", e))?;
                started += 1;
            }
        }
        Ok(started)
    }

    /// The device that has `address`, and the byte in its window, or in its configuration
    /// space if `space`.
    fn at(&self, address: u64, space: bool) -> Option<(&Slot, u64)> {
        let (index, offset) = if space {
            let offset = address - layout::ECAM;
            // The first device number is left to a host bridge, which this bus lacks.
            let device = (offset / layout::ECAM_DEVICE).checked_sub(1)?;
            (device, offset % layout::ECAM_DEVICE)
        } else {
            let offset = address.checked_sub(layout::WINDOWS)?;
            (offset / layout::WINDOW_SIZE, offset % layout::WINDOW_SIZE)
        };
        Some((self.slots.get(usize::try_from(index).ok()?)?, offset))
    }

    /// A guest's store at `address`. The first that starts a device has its doorbell and
    /// acknowledge bypass this process from then on.
    ///
    /// # Errors
    /// KVM refuses the doorbell.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<Stored, Error> {
        let space = self.pci && address >= layout::ECAM;
        let Some((slot, offset)) = self.at(address, space) else {
            return Ok(Stored::Nowhere);
        };
        let mut endpoint = slot.link.endpoint();
        let effect = match space {
            true => endpoint.write_space(offset, data),
            false => endpoint.write(offset, data),
        };
        if self.pci {
            slot.link.note_vectors(&endpoint);
        }
        drop(endpoint);
        match effect {
            Effect::Notify(_) => slot.link.ring(),
            Effect::Started => {
                slot.link.ring();
                self.connect_doorbell(slot)?;
            }
            Effect::QueueStopped => {
                slot.link.ring();
                slot.link.raise(USED);
            }
            Effect::Interrupt => slot.link.raise(CONFIG),
            Effect::Messages => return Ok(Stored::Messages),
            Effect::None | Effect::Reset => {}
        }
        Ok(Stored::Done)
    }

    /// KVM has these [`messages`](Self::messages).
    pub fn routes_are_set(&self, messages: &[[Option<Message>; VECTORS]]) {
        for (slot, messages) in self.slots.iter().zip(messages) {
            slot.link.routes_are_set(messages);
        }
    }

    fn connect_doorbell(&self, slot: &Slot) -> Result<(), Error> {
        self.vm.get().map_or(Ok(()), |vm| slot.link.connect(vm))
    }

    /// Connects the doorbells of devices that run, or will when they are resumed.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect_doorbells(&self) -> Result<(), Error> {
        let runs = |slot: &&Arc<Slot>| slot.link.endpoint().transport().registers().is_active();
        self.slots.iter().filter(runs).try_for_each(|slot| self.connect_doorbell(slot))
    }

    fn drives(&self) -> impl Iterator<Item = (&Connection, &drive::Work)> {
        self.slots.iter().filter_map(|slot| match &slot.work {
            Work::Drive(work) => Some((&*slot.link, work)),
            Work::Nic(_) => None,
        })
    }

    /// Keeps workers away from drives' images, so that no device waits for them.
    ///
    /// # Errors
    /// A worker has not stopped by `until`, see [`hung`](Self::hung); all then resume.
    pub fn hold(&self, until: Instant) -> Result<(), String> {
        let mut drives = self.drives();
        match drives.all(|(_, work)| signals::wait_until(until, |limit| work.access.hold(limit))) {
            true => Ok(()),
            false => {
                let why = self.hung();
                self.release();
                Err(why)
            }
        }
    }

    /// Resumes the workers.
    pub fn release(&self) {
        for (link, work) in self.drives() {
            work.access.release();
            link.ring();
        }
    }

    /// What the control of the VM has waited for in vain.
    pub fn hung(&self) -> String {
        match self.used() {
            _ if signals::received() => "a signal asks for the end".to_owned(),
            Some(name) => hung(name),
            None => format!("a vCPU has not stopped for {} s", HOST_FILE_TIMEOUT.as_secs()),
        }
    }

    /// The first drive of which a worker is at the image.
    pub fn used(&self) -> Option<&str> {
        let mut drives = self.drives();
        drives.find(|(_, work)| work.access.is_used()).map(|(link, _)| &*link.name)
    }

    /// Stops all devices, which keep their state. No vCPU may run, and workers are
    /// [held](Self::hold).
    pub fn pause(&self) {
        self.slots.iter().for_each(|slot| slot.link.endpoint().pause());
    }

    /// Makes durable what a guest has written to its disks. They must be
    /// [paused](Self::pause).
    ///
    /// # Errors
    /// The host cannot, or could not before: which disk, and why.
    pub fn flush(&self) -> Result<(), Error> {
        self.drives().try_for_each(|drive| {
            ask(drive, |block| block.sync().map_err(|e| format!("flush: {e}"))).map_err(Error::Host)
        })
    }

    /// Starts again those that ran.
    pub fn resume(&self) {
        for slot in &self.slots {
            if let Work::Drive(work) = &slot.work {
                work.access.release();
            }
            let mut endpoint = slot.link.endpoint();
            let (effect, news) = (endpoint.resume(), endpoint.take_news());
            drop(endpoint);
            if effect != Effect::None {
                // Both may have been due at the stop.
                slot.link.raise(USED);
                if news || effect == Effect::Interrupt {
                    slot.link.raise(CONFIG);
                }
                slot.link.ring();
            }
        }
    }

    /// Sets the limits of a drive, or of what an interface receives and sends.
    pub fn limit(&self, device: usize, limits: [Option<RateLimiter>; 2]) {
        let Some(slot) = self.slots.get(device) else {
            return;
        };
        match (&slot.work, limits) {
            (Work::Drive(work), [Some(limit), _]) => work.block.set_limiter(limit),
            (Work::Drive(_), _) => {}
            (Work::Nic(work), limits) => work.limit(limits),
        }
        // A worker may wait for the old limit.
        slot.link.ring();
    }

    /// Looks how large a drive's image is now, and tells the guest.
    ///
    /// # Errors
    /// The host's, or the image has become smaller.
    pub fn resize(&self, device: usize) -> Result<(), String> {
        let Some(slot) = self.slots.get(device) else {
            return Ok(());
        };
        if let Work::Drive(work) = &slot.work {
            ask((&slot.link, work), |block| block.resize().map_err(|e| e.to_string()))?;
            if slot.link.endpoint().refresh() {
                slot.link.raise(CONFIG);
            }
        }
        Ok(())
    }

    /// Changes the medium of a CD-ROM drive, see [`drive::Work::change`].
    ///
    /// # Errors
    /// Why not.
    pub fn change(&self, device: usize, path: Option<&Path>) -> Result<(), String> {
        let Some(slot) = self.slots.get(device) else {
            return Ok(());
        };
        if let Work::Drive(work) = &slot.work {
            // SAFETY: the descriptor belongs to the slot, which outlives this.
            let nothing = unsafe { BorrowedFd::borrow_raw(slot.link.acknowledge.as_raw_fd()) };
            work.change(path, nothing)?;
            if slot.link.endpoint().refresh() {
                slot.link.raise(CONFIG);
            }
        }
        Ok(())
    }

    /// Numbers of the descriptors of CD-ROM drives.
    pub fn cdrom_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        let tray = |slot: &Arc<Slot>| match &slot.work {
            Work::Drive(work) => work.is_cdrom().then_some(work.image),
            Work::Nic(_) => None,
        };
        self.slots.iter().filter_map(tray)
    }

    /// What all devices have counted.
    pub fn count(&self, to: &mut Counts) {
        for slot in &self.slots {
            match &slot.work {
                Work::Drive(work) => to.add("block", &slot.link.name, &work.counts()),
                Work::Nic(work) => to.add("net", &slot.link.name, &work.counts()),
            }
        }
    }

    /// The state of all devices, which must be [paused](Self::pause).
    pub fn save(&self) -> Vec<DeviceV1> {
        let save = |slot: &Arc<Slot>| Some(slot.saved(slot.link.endpoint().save()?));
        self.slots.iter().filter_map(save).collect()
    }

    /// Takes over saved states; the devices are paused then.
    ///
    /// # Errors
    /// There are others than were saved, or no driver could have brought them
    /// there.
    pub fn restore(&self, saved: &[DeviceV1]) -> Result<(), String> {
        let (there, here) = (saved.len(), self.slots.len());
        if there != here {
            return Err(format!("{there} devices were saved, this VM has {here}"));
        }
        for (saved, slot) in saved.iter().zip(&self.slots) {
            let (id, here) = (&saved.id, slot.saved(EndpointStateV1::default()));
            if saved.kind != here.kind {
                let (there, here) = (saved.kind, here.kind);
                return Err(format!("device {id}: type {there} was saved, {here} is here"));
            }
            // Or a guest would write one image's metadata into another.
            if *id != here.id {
                let here = here.id;
                return Err(format!(
                    "device {id} was saved where {here} is now: give the same ids in the same order, \
                     disks before CD-ROMs; a CD-ROM saved before a disk is given as \
                     --disk PATH,ro,id={id}"
                ));
            }
            if saved.read_only != here.read_only {
                return Err(format!("device {id}: one of both can only be read"));
            }
            if let (Work::Drive(work), Some(sectors)) =
                (&slot.work, saved.endpoint.config.first_chunk())
                && !work.is_cdrom()
            {
                // A larger one is announced to the guest when it is resumed.
                let (was, now) = (u64::from_le_bytes(*sectors), work.block.sectors());
                if now < was {
                    return Err(format!(
                        "disk {id}: {was} sectors of 512 bytes were saved, and the image has {now}: \
                         give one of at least that size"
                    ));
                }
            }
            let mut endpoint = slot.link.endpoint();
            endpoint.restore(&saved.endpoint).map_err(|e| format!("device {id}: {e}"))?;
            slot.link.note_vectors(&endpoint);
            drop(endpoint);
            match &slot.work {
                Work::Drive(work) => work.block.set_levels(&saved.limits),
                Work::Nic(work) => work.net.set_levels(&saved.limits),
            }
        }
        Ok(())
    }

    /// Back to power-on. No vCPU may run.
    pub fn reset(&self) {
        for slot in &self.slots {
            let mut endpoint = slot.link.endpoint();
            endpoint.power_cycle();
            slot.link.note_vectors(&endpoint);
        }
    }
}
