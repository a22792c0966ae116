//! The virtio devices of a VM: their register windows, interrupts and worker
//! threads.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use mote_virtio::blk::{Block, Medium, Options, Worker};
use mote_virtio::transport::Window;
use mote_virtio::{Effect, Endpoint, Step, WhenEmpty};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use crate::acpi::VirtioWindow;
use crate::backend::{CdImage, DiskFile, OpenDisk};
use crate::config::{Drive, MAX_DEVICES, Media, VmConfig};
use crate::error::{Error, kvm};
use crate::layout;
use crate::memory::GuestRam;

/// Stack of a worker thread in bytes.
const STACK: usize = 128 << 10;
/// Requests that a worker serves before it looks at its other queues.
const BUDGET: usize = 64;
/// How long a worker waits before it tries a full disk again.
const NO_SPACE: Duration = Duration::from_millis(500);
/// Register offset of the doorbell (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;
/// Register offset of the interrupt acknowledge.
const INTERRUPT_ACK: u64 = 0x64;
/// Acknowledge of used buffers alone; one of a configuration change has to
/// arrive as a store.
const ACK_USED: u32 = 1;

/// One device and what connects it.
struct Slot {
    endpoint: Mutex<Endpoint<'static>>,
    drive: Arc<Block<'static>>,
    name: String,
    queues: usize,
    threads: usize,
    base: u64,
    doorbell: EventFd,
    interrupt: EventFd,
    /// Swallows acknowledges; nobody reads it.
    acknowledge: EventFd,
    connected: Mutex<bool>,
}

impl Slot {
    fn endpoint(&self) -> MutexGuard<'_, Endpoint<'static>> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // The counter is emptied by the worker; it cannot overflow.
        let _ = self.doorbell.write(1);
    }

    fn raise(&self) {
        // As above, by KVM.
        let _ = self.interrupt.write(1);
    }
}

/// All devices of a VM.
#[derive(Default)]
pub struct Devices {
    slots: Vec<Arc<Slot>>,
    /// The register windows, which KVM maps into the guest to read.
    windows: Option<Arc<MmapRegion>>,
}

/// What the bus has to pass on to KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect(usize);

impl Devices {
    /// Opens everything that `config` names.
    ///
    /// # Errors
    /// A file is missing, unusable or in use; the host is out of descriptors
    /// or memory.
    pub fn open(config: &VmConfig, ram: &'static GuestRam) -> Result<Self, Error> {
        if config.drives.is_empty() {
            return Ok(Self::default());
        }
        let size = MAX_DEVICES * layout::WINDOW_SIZE as usize;
        let region = MmapRegion::new(size)
            .map_err(|e| Error::System("register windows", io::Error::other(e)))?;
        let region = Arc::new(region);
        let mut slots = Vec::with_capacity(config.drives.len());
        for (index, drive) in config.drives.iter().enumerate() {
            slots.push(Arc::new(slot(drive, index, &region, config.cpus, ram)?));
        }
        Ok(Self {
            slots,
            windows: Some(region),
        })
    }

    /// The windows as ACPI describes them.
    pub fn windows(&self) -> Vec<VirtioWindow> {
        windows(self.slots.len())
    }

    /// Gives KVM the register windows, as memory that the guest can only read.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn map(&self, fd: &VmFd) -> Result<(), Error> {
        let Some(region) = &self.windows else {
            return Ok(());
        };
        let slot = kvm_userspace_memory_region {
            // RAM has 0 and 1.
            slot: 2,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: layout::WINDOWS,
            memory_size: region.size() as u64,
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is a mapping of this size, and lives as long as
        // `self`, which lives as long as the VM.
        unsafe { fd.set_user_memory_region(slot) }.map_err(kvm("set the register windows"))
    }

    /// Gives KVM the interrupts. Doorbells follow when a guest first starts a
    /// device: they are what makes the VM's end wait.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect(&self, fd: &VmFd) -> Result<(), Error> {
        for (slot, gsi) in self.slots.iter().zip(layout::FIRST_DEVICE_GSI..) {
            fd.register_irqfd(&slot.interrupt, gsi)
                .map_err(kvm("connect an interrupt"))?;
        }
        Ok(())
    }

    /// Starts the worker threads.
    ///
    /// # Errors
    /// The host has no room for another thread.
    pub fn start(&self) -> Result<(), Error> {
        for slot in &self.slots {
            for _ in 0..slot.threads {
                let slot = Arc::clone(slot);
                thread::Builder::new()
                    .name(format!("blk-{}", slot.name).chars().take(15).collect())
                    .stack_size(STACK)
                    .spawn(move || work(&slot))
                    .map_err(|e| Error::System("start a block worker", e))?;
            }
        }
        Ok(())
    }

    /// A guest's store at `address`; `None` if no device is there.
    pub fn write(&self, address: u64, data: &[u8]) -> Option<Option<Connect>> {
        let offset = address.checked_sub(layout::WINDOWS)?;
        let index = usize::try_from(offset / layout::WINDOW_SIZE).ok()?;
        let slot = self.slots.get(index)?;
        let effect = slot.endpoint().write(offset % layout::WINDOW_SIZE, data);
        match effect {
            Effect::Notify(_) => slot.ring(),
            Effect::Started => {
                slot.ring();
                let connected = slot
                    .connected
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                return Some((!*connected).then_some(Connect(index)));
            }
            Effect::Interrupt => slot.raise(),
            Effect::None | Effect::Reset => {}
        }
        Some(None)
    }

    /// Lets doorbell and acknowledge of a device bypass this process.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect_doorbell(&self, fd: &VmFd, which: Connect) -> Result<(), Error> {
        const WHAT: &str = "connect a doorbell";
        let Some(slot) = self.slots.get(which.0) else {
            return Ok(());
        };
        let mut connected = slot
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !*connected {
            let at = |offset| IoEventAddress::Mmio(slot.base + offset);
            fd.register_ioevent(&slot.doorbell, &at(QUEUE_NOTIFY), NoDatamatch)
                .map_err(kvm(WHAT))?;
            fd.register_ioevent(&slot.acknowledge, &at(INTERRUPT_ACK), ACK_USED)
                .map_err(kvm(WHAT))?;
            *connected = true;
        }
        Ok(())
    }

    /// Back to power-on. No vCPU may run.
    pub fn reset(&self) {
        self.slots
            .iter()
            .for_each(|slot| slot.endpoint().power_cycle());
    }
}

/// The first `count` windows.
pub fn windows(count: usize) -> Vec<VirtioWindow> {
    let window = |index: u32| VirtioWindow {
        // Below 4 GiB and few, so both fit.
        base: layout::WINDOWS as u32 + index * layout::WINDOW_SIZE as u32,
        size: layout::WINDOW_SIZE as u32,
        gsi: layout::FIRST_DEVICE_GSI + index,
    };
    (0u32..).take(count).map(window).collect()
}

fn slot(
    drive: &Drive,
    index: usize,
    region: &Arc<MmapRegion>,
    cpus: u8,
    ram: &'static GuestRam,
) -> Result<Slot, Error> {
    let medium = match drive.media {
        Media::CdRom => Medium::ReadOnly(Box::new(CdImage::open(&drive.path)?)),
        Media::Disk => {
            let how = OpenDisk {
                read_only: drive.read_only,
                direct: drive.direct,
                create: drive.create,
            };
            let disk = Box::new(DiskFile::open(&drive.path, &how)?);
            if drive.read_only {
                Medium::ReadOnly(disk)
            } else {
                Medium::Disk(disk)
            }
        }
    };
    let refused = |e: mote_virtio::Error| Error::Input("drive", drive.path.clone(), e.to_string());
    let queues = u16::from(cpus);
    let options = Options {
        id: drive.id.clone(),
        queues,
        ..Options::default()
    };
    let block = Arc::new(Block::new(ram, medium, options).map_err(refused)?);
    let offset = index * layout::WINDOW_SIZE as usize;
    let window = Window::new(Arc::clone(region), offset).map_err(refused)?;
    let endpoint = Endpoint::new(window, block.clone()).map_err(refused)?;
    let event = || {
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(|e| Error::System("eventfd", e))
    };
    Ok(Slot {
        endpoint: Mutex::new(endpoint),
        drive: block,
        name: drive.id.clone(),
        queues: queues.into(),
        threads: drive.threads.into(),
        base: layout::WINDOWS + offset as u64,
        doorbell: event()?,
        interrupt: event()?,
        acknowledge: event()?,
        connected: Mutex::new(false),
    })
}

/// What a worker thread does: serve all queues, sleep on the doorbell.
fn work(slot: &Slot) {
    let clock = Instant::now();
    let mut worker = Worker::default();
    let mut told = false;
    loop {
        let mut until = None;
        let mut more = false;
        for queue in 0..slot.queues {
            let now = clock.elapsed();
            let outcome = slot
                .drive
                .run(&mut worker, queue, now, BUDGET, WhenEmpty::Arm);
            let refreshed = outcome.refresh && slot.endpoint().refresh();
            if outcome.signal || refreshed {
                slot.raise();
            }
            let wake = match outcome.step {
                Step::More => {
                    more = true;
                    None
                }
                Step::WaitUntil(at) => Some(at),
                Step::Paused => {
                    if !std::mem::replace(&mut told, true) {
                        let name = &slot.name;
                        crate::console::say(&format!(
                            "mote: disk {name}: the host has no room left; its guest waits\r\n"
                        ));
                    }
                    Some(now + NO_SPACE)
                }
                _ => None,
            };
            until = [until, wake].into_iter().flatten().min();
        }
        if !more {
            sleep(
                slot.doorbell.as_raw_fd(),
                until.map(|at| at.saturating_sub(clock.elapsed())),
            );
            // Says only that there may be something; several may have rung.
            let _ = slot.doorbell.read();
        }
    }
}

fn sleep(doorbell: i32, limit: Option<Duration>) {
    // SAFETY: the doorbell belongs to the slot, which outlives its worker.
    let doorbell = unsafe { BorrowedFd::borrow_raw(doorbell) };
    let mut fds = [PollFd::from_borrowed_fd(doorbell.as_fd(), PollFlags::IN)];
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // A signal or a failure only makes it look once more.
    let _ = poll(&mut fds, limit.as_ref());
}
