//! A device as its workers see it: registers, doorbell, interrupts.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use mote_virtio::transport::{Message, NOTIFY, VECTORS, Window};
use mote_virtio::{Device, Endpoint, Outcome, Unpoisoned as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, kvm};
use crate::layout;
use crate::sandbox;

/// Requests or frames that a worker serves before it looks at other work.
pub(super) const BUDGET: usize = 64;
/// The shortest that a worker sleeps for a rate limit: as long as the shortest
/// time in which a bucket fills, so that it fills meanwhile and does not drip.
const NAP: Duration = Duration::from_millis(1);
/// Register offset of the doorbell (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;
/// Register offset of the interrupt acknowledge.
const INTERRUPT_ACK: u64 = 0x64;
/// Acknowledge of used buffers alone; one of a configuration change has to
/// arrive as a store.
const ACK_USED: u32 = 1;
/// Why an interrupt is raised: buffers were used.
pub(super) const USED: usize = 0;
/// The configuration or the status changed.
pub(super) const CONFIG: usize = 1;

/// Which vectors have a message, a bit each.
fn unmasked(messages: &[Option<Message>; VECTORS]) -> u8 {
    let bit = |(vector, message): (usize, &Option<Message>)| u8::from(message.is_some()) << vector;
    messages.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
}

/// The memory that guests read instead of registers.
pub(super) struct Place<'a> {
    pub(super) region: &'a Arc<MmapRegion>,
    pub(super) ecam: Option<&'a Arc<MmapRegion>>,
}

/// A device behind its registers, and what connects it with its driver: all that its
/// worker threads see of the VM.
pub(super) struct Connection {
    endpoint: Mutex<Endpoint<'static>>,
    /// The device's name.
    pub(super) name: String,
    base: u64,
    pci: bool,
    pub(super) doorbell: EventFd,
    /// One; or of a PCI function, one for each vector.
    pub(super) interrupts: Vec<EventFd>,
    /// Which of them to raise for used buffers, and for a changed configuration: a bit each.
    vectors: [AtomicU8; 2],
    /// A PCI function's messages, for KVM's routes: apart from the endpoint, which a reset
    /// holds for as long as a worker is in the host's file.
    messages: Mutex<[Option<Message>; VECTORS]>,
    /// Which interrupts lead somewhere, in the lower byte; above it a number that every
    /// change makes another one.
    routed: AtomicU64,
    /// Which were raised while they led nowhere.
    pending: AtomicU8,
    /// Its workers' time is since then.
    pub(super) clock: Instant,
    /// Swallows acknowledges; never read.
    pub(super) acknowledge: EventFd,
    connected: Mutex<bool>,
}

impl Connection {
    /// Puts `device` at its place, the one with this number.
    ///
    /// # Errors
    /// The host has no further descriptor.
    pub(super) fn new(
        device: Arc<dyn Device>,
        name: &str,
        index: usize,
        place: &Place,
    ) -> Result<Self, Error> {
        let refused = |e: mote_virtio::Error| Error::Usage(format!("device {name}: {e}"));
        let offset = index * layout::WINDOW_SIZE as usize;
        let window = Window::new(Arc::clone(place.region), offset).map_err(refused)?;
        let base = layout::WINDOWS + offset as u64;
        let endpoint = match place.ecam {
            None => Endpoint::new(window, device),
            Some(ecam) => {
                let space = (index + 1) * layout::ECAM_DEVICE as usize;
                let space = Window::new(Arc::clone(ecam), space).map_err(refused)?;
                // Windows lie below 4 GiB.
                Endpoint::pci(space, window, base as u32, device)
            }
        }
        .map_err(refused)?;
        let vectors = if place.ecam.is_some() { VECTORS } else { 1 };
        let interrupts: Result<_, _> = (0..vectors).map(|_| sandbox::event()).collect();
        let event = || {
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .map_err(|e| Error::System("eventfd", e))
        };
        Ok(Self {
            vectors: endpoint.transport().vectors().map(AtomicU8::new),
            endpoint: Mutex::new(endpoint),
            name: name.to_owned(),
            base,
            pci: place.ecam.is_some(),
            messages: Mutex::new([None; VECTORS]),
            routed: AtomicU64::new(if place.ecam.is_some() { 0 } else { u8::MAX.into() }),
            pending: AtomicU8::new(0),
            doorbell: sandbox::event()?,
            interrupts: interrupts?,
            clock: Instant::now(),
            acknowledge: event()?,
            connected: Mutex::new(false),
        })
    }

    pub(super) fn endpoint(&self) -> MutexGuard<'_, Endpoint<'static>> {
        self.endpoint.lock().unpoisoned()
    }

    pub(super) fn ring(&self) {
        // The counter is emptied by the worker; it cannot overflow.
        let _ = self.doorbell.write(1);
    }

    /// Tells the guest what a `run` of its device came to.
    pub(super) fn answer(&self, outcome: &Outcome) {
        if outcome.refresh && self.endpoint().refresh() {
            self.raise(CONFIG);
        }
        if outcome.signal {
            self.raise(USED);
        }
    }

    /// Takes over which interrupts a PCI driver wants, after a store of its: those that it
    /// has masked lead nowhere from now on.
    pub(super) fn note_vectors(&self, endpoint: &Endpoint) {
        for (to, bits) in self.vectors.iter().zip(endpoint.transport().vectors()) {
            to.store(bits, Ordering::Release);
        }
        if self.pci {
            let mut messages = self.messages();
            *messages = endpoint.transport().messages();
            let still = self.routed.load(Ordering::SeqCst) as u8 & unmasked(&messages);
            self.set_routed(still);
        }
    }

    /// Only with the messages' lock.
    fn set_routed(&self, bits: u8) {
        let before = self.routed.load(Ordering::SeqCst) | 0xff;
        self.routed.store(before.wrapping_add(1) | u64::from(bits), Ordering::SeqCst);
    }

    /// A PCI function's messages.
    pub(super) fn messages(&self) -> MutexGuard<'_, [Option<Message>; VECTORS]> {
        self.messages.lock().unpoisoned()
    }

    /// KVM has these messages: raises interrupts that were due while masked. One that has
    /// changed since follows with the next routes.
    pub(super) fn routes_are_set(&self, routed: &[Option<Message>; VECTORS]) {
        if !self.pci {
            return;
        }
        let (mut known, messages) = (*routed, self.messages());
        for (known, current) in known.iter_mut().zip(*messages) {
            *known = known.filter(|message| Some(*message) == current);
        }
        let bits = unmasked(&known);
        self.set_routed(bits);
        self.write(self.pending.fetch_and(!bits, Ordering::SeqCst) & bits);
    }

    /// Lets doorbell and acknowledge bypass this process, if they do not already.
    ///
    /// # Errors
    /// KVM refuses.
    pub(super) fn connect(&self, fd: &VmFd) -> Result<(), Error> {
        const WHAT: &str = "connect a doorbell";
        let mut connected = self.connected.lock().unpoisoned();
        if !*connected {
            let at = |offset| IoEventAddress::Mmio(self.base + offset);
            let doorbell = at(if self.pci { NOTIFY as u64 } else { QUEUE_NOTIFY });
            fd.register_ioevent(&self.doorbell, &doorbell, NoDatamatch).map_err(kvm(WHAT))?;
            if !self.pci {
                fd.register_ioevent(&self.acknowledge, &at(INTERRUPT_ACK), ACK_USED)
                    .map_err(kvm(WHAT))?;
            }
            *connected = true;
        }
        Ok(())
    }

    pub(super) fn interrupt_numbers(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.interrupts.iter().map(AsRawFd::as_raw_fd)
    }

    /// Raises the interrupts of `why`. One that has no route is pending until KVM has its
    /// message, and none is lost:
    ///
    /// - Unchanged `routed` around the write: the write went where `routed` says. Otherwise
    ///   a mask or new routes came between, and all is written again; the driver may see
    ///   one interrupt too many, which virtio allows, at a vector that it had open.
    /// - A vector without a route is set in `pending` before `routed` is read again. Who
    ///   unmasks changes `routed` before it takes `pending` (both orders sequentially
    ///   consistent), so that one of the two sees the other: unchanged means that the next
    ///   [`routes_are_set`](Self::routes_are_set) finds the bit.
    /// - If it has changed, the bit is taken back. Only one of both gets it, and writes it;
    ///   where the other did, `due` is 0.
    pub(super) fn raise(&self, why: usize) {
        let mut due = self.vectors.get(why).map_or(0, |bits| bits.load(Ordering::Acquire));
        // Ends when no vector was masked or unmasked in between.
        while due != 0 {
            let routed = self.routed.load(Ordering::SeqCst);
            self.write(due & routed as u8);
            if self.routed.load(Ordering::SeqCst) != routed {
                continue;
            }
            let masked = due & !(routed as u8);
            self.pending.fetch_or(masked, Ordering::SeqCst);
            if masked == 0 || self.routed.load(Ordering::SeqCst) == routed {
                return;
            }
            // Who unmasked it may have looked before it was pending.
            due = self.pending.fetch_and(!masked, Ordering::SeqCst) & masked;
        }
    }

    fn write(&self, bits: u8) {
        for (vector, interrupt) in self.interrupts.iter().enumerate() {
            if bits >> vector & 1 == 1 {
                // As above, by KVM; without a route it leads nowhere.
                let _ = interrupt.write(1);
            }
        }
    }

    /// Sleeps until the doorbell rings, `other` can be read, or `limit` is over,
    /// which is [`NAP`] at least.
    pub(super) fn sleep(&self, other: Option<BorrowedFd<'_>>, limit: Option<Duration>) {
        // SAFETY: the descriptor belongs to `self`, which outlives this.
        let doorbell = unsafe { BorrowedFd::borrow_raw(self.doorbell.as_raw_fd()) };
        let both = [doorbell, other.unwrap_or(doorbell)];
        let mut fds = both.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let limit = limit.and_then(|limit| Timespec::try_from(limit.max(NAP)).ok());
        let count = if other.is_some() { 2 } else { 1 };
        // A signal or a failure only makes it look once more.
        let _ = poll(fds.get_mut(..count).unwrap_or_default(), limit.as_ref());
        // Says only that there may be something; several may have rung.
        let _ = self.doorbell.read();
    }
}
