//! A split virtqueue (virtio 1.2, 2.7) over checked guest memory.
//!
//! The rings are found in guest memory once, when the queue starts, so that
//! an access to them is one load or store. rust-vmm's `virtio-queue` looks
//! every address up again, ends a broken chain silently instead of reporting
//! it, and does not know the driver's no-interrupt flag. The ignored test
//! `cost` in `queue_compare_test.rs` measures both side by side: a block-like chain
//! taken, given back and asked about costs 44 to 91 ns here, 285 to 352 there.

use std::num::Wrapping;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MmapRegion, VolatileMemory,
};

use crate::chain::{Chain, MAX_QUEUE_SIZE, Table};
use crate::memory::Memory;
use crate::{Dirty, Error, RingPart, features};

/// Chains that [`Queue::publish_some`] shows at once.
const SOME: u16 = 16;

/// Size and place of a queue, as the driver wrote them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// Entries, a power of two.
    pub size: u32,
    /// Guest address of the descriptor table, a multiple of 16.
    pub descriptors: u64,
    /// Guest address of the available ring, a multiple of 2.
    pub available: u64,
    /// Guest address of the used ring, a multiple of 4.
    pub used: u64,
}

/// Where work in a queue stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueState {
    /// The next entry of the available ring to take.
    pub next_available: u16,
    /// The next entry of the used ring to fill.
    pub next_used: u16,
    /// Chains taken and not given back, to be done again: at most the size.
    pub in_flight: Vec<u16>,
}

/// A ring found in guest memory: one region, checked to be whole in it.
#[derive(Debug, Clone, Copy)]
struct Ring<'m> {
    region: &'m MmapRegion,
    base: usize,
    part: RingPart,
    addr: u64,
}

impl<'m> Ring<'m> {
    fn new(mem: &'m Memory, part: RingPart, addr: u64, len: usize) -> Result<Self, Error> {
        let error = Error::RingAddress(part, addr);
        let align = match part {
            RingPart::Descriptors => 16,
            RingPart::Available => 2,
            RingPart::Used => 4,
        };
        if !addr.is_multiple_of(align) {
            return Err(error);
        }
        let region = mem.find_region(GuestAddress(addr)).ok_or(error.clone())?;
        let base = addr - region.start_addr().raw_value();
        let base = usize::try_from(base).map_err(|_| error.clone())?;
        let region: &MmapRegion = region;
        region.get_slice(base, len).map_err(|_| error)?;
        Ok(Self { region, base, part, addr })
    }

    fn u16_at(&self, offset: usize) -> Result<&'m AtomicU16, Error> {
        self.region
            .get_atomic_ref(self.base + offset)
            .map_err(|_| Error::RingAddress(self.part, self.addr))
    }

    fn u32_at(&self, offset: usize) -> Result<&'m AtomicU32, Error> {
        self.region
            .get_atomic_ref(self.base + offset)
            .map_err(|_| Error::RingAddress(self.part, self.addr))
    }
}

/// A running queue. One at a time may take from it and give back to it.
#[derive(Debug)]
pub struct Queue<'m> {
    mem: &'m Memory,
    size: u16,
    event_idx: bool,
    indirect: bool,
    descriptors: Ring<'m>,
    available: Ring<'m>,
    used: Ring<'m>,
    available_idx: &'m AtomicU16,
    used_idx: &'m AtomicU16,
    next_available: Wrapping<u16>,
    /// The driver's index when it was last looked at.
    seen_available: Wrapping<u16>,
    next_used: Wrapping<u16>,
    /// `next_used` as the driver sees it.
    published: Wrapping<u16>,
    /// `next_used` when the driver was last told, or not told by its wish.
    signalled: Wrapping<u16>,
    /// The driver's wish is unknown after a start: tell it once regardless.
    signal_once: bool,
    armed: bool,
    /// One bit for each head that is with the device.
    in_flight: Vec<u64>,
    in_flight_count: u16,
    /// Heads in flight that were set aside, to be taken again first.
    parked: Vec<u16>,
    dirty: Option<&'m Dirty>,
}

impl<'m> Queue<'m> {
    /// Starts a queue of at most `max_size` entries.
    ///
    /// # Errors
    /// A size or address that is not valid for a queue in `mem`, or a state
    /// that no stopped queue could have handed back.
    pub fn new(
        mem: &'m Memory,
        max_size: u16,
        features: u64,
        config: &QueueConfig,
        state: &QueueState,
    ) -> Result<Self, Error> {
        let size = u16::try_from(config.size)
            .ok()
            .filter(|s| s.is_power_of_two() && *s <= max_size.min(MAX_QUEUE_SIZE))
            .ok_or(Error::QueueSize(config.size))?;
        let n = usize::from(size);
        let descriptors = Ring::new(mem, RingPart::Descriptors, config.descriptors, 16 * n)?;
        let available = Ring::new(mem, RingPart::Available, config.available, 6 + 2 * n)?;
        let used = Ring::new(mem, RingPart::Used, config.used, 6 + 8 * n)?;
        let mut queue = Self {
            mem,
            size,
            event_idx: features & features::EVENT_IDX != 0,
            indirect: features & features::INDIRECT_DESC != 0,
            descriptors,
            available,
            used,
            available_idx: available.u16_at(2)?,
            used_idx: used.u16_at(2)?,
            next_available: Wrapping(state.next_available),
            seen_available: Wrapping(state.next_available),
            next_used: Wrapping(state.next_used),
            published: Wrapping(state.next_used),
            signalled: Wrapping(state.next_used),
            signal_once: true,
            armed: true,
            in_flight: vec![0; n.div_ceil(64)],
            in_flight_count: 0,
            parked: Vec::new(),
            dirty: None,
        };
        queue.adopt(&state.in_flight)?;
        Ok(queue)
    }

    /// Notes from here on what may be written to: its used ring, and what the
    /// driver lends it for that, before it is written.
    pub fn track(&mut self, dirty: &'m Dirty) {
        let bytes = 6 + 8 * u64::from(self.size);
        dirty.mark(self.used.addr, bytes);
        self.dirty = Some(dirty);
    }

    /// Takes over the heads of a saved state: they come out first.
    fn adopt(&mut self, heads: &[u16]) -> Result<(), Error> {
        let taken = self.next_available - self.next_used;
        if usize::from(taken.0) != heads.len() || heads.len() > usize::from(self.size) {
            return Err(Error::State("queue indices"));
        }
        for head in heads {
            self.claim(*head).map_err(|_| Error::State("requests in flight"))?;
        }
        self.parked = heads.iter().rev().copied().collect();
        Ok(())
    }

    /// The size the driver chose.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Chains that are with the device now.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight_count
    }

    /// Stops the queue: what is in flight is in the state.
    #[must_use]
    pub fn into_state(self) -> QueueState {
        let heads = (0..self.size).filter(|head| self.is_claimed(*head));
        QueueState {
            next_available: self.next_available.0,
            next_used: self.next_used.0,
            in_flight: heads.collect(),
        }
    }

    /// How many chains wait, without taking any or arming the doorbell.
    ///
    /// The driver's index is only a claim here: at most the size is returned.
    #[must_use]
    pub fn pending(&self) -> u16 {
        let index = Wrapping(u16::from_le(self.available_idx.load(Ordering::Relaxed)));
        let parked = u16::try_from(self.parked.len()).unwrap_or(u16::MAX);
        (index - self.next_available).0.saturating_add(parked).min(self.size)
    }

    /// Takes the next chain into `chain`; false if there is none.
    ///
    /// # Errors
    /// What the driver did that no driver may do. The queue is then to be
    /// stopped: the chain is neither usable nor given back.
    pub fn take(&mut self, chain: &mut Chain<'m>) -> Result<bool, Error> {
        if let Some(head) = self.parked.pop() {
            chain.load(&self.table()?, head)?;
            return Ok(true);
        }
        if self.next_available == self.seen_available && !self.look()? {
            return Ok(false);
        }
        if self.armed && !self.event_idx {
            self.set_used_flags(VRING_USED_F_NO_NOTIFY as u16)?;
        }
        self.armed = false;
        let slot = usize::from(self.next_available.0 & (self.size - 1));
        let head = self.available.u16_at(4 + 2 * slot)?;
        let head = u16::from_le(head.load(Ordering::Relaxed));
        self.claim(head)?;
        self.next_available += 1;
        chain.load(&self.table()?, head)?;
        Ok(true)
    }

    /// Looks at the driver's index; true if there are chains to take.
    fn look(&mut self) -> Result<bool, Error> {
        // Acquire: the entries were written before the index.
        let index = Wrapping(u16::from_le(self.available_idx.load(Ordering::Acquire)));
        let ahead = (index - self.next_available).0;
        // What the driver has out and what it offers fits its table together.
        if ahead > self.size - self.in_flight_count {
            return Err(Error::AvailableIndex(index.0));
        }
        self.seen_available = index;
        Ok(ahead != 0)
    }

    fn table(&self) -> Result<Table<'m>, Error> {
        let ring = &self.descriptors;
        let descriptors = ring
            .region
            .get_slice(ring.base, 16 * usize::from(self.size))
            .map_err(|_| Error::RingAddress(ring.part, ring.addr))?;
        Ok(Table {
            mem: self.mem,
            descriptors,
            size: self.size,
            indirect: self.indirect,
            dirty: self.dirty,
        })
    }

    /// Sets a taken chain aside: the next `take` returns it again.
    pub fn park(&mut self, head: u16) {
        if self.is_claimed(head) && !self.parked.contains(&head) {
            self.parked.push(head);
        }
    }

    /// Gives a chain back and shows it to the driver at once.
    ///
    /// # Errors
    /// [`Error::UsedUnclaimed`] for a head that was not taken.
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), Error> {
        self.stage(head, written)?;
        self.publish();
        Ok(())
    }

    /// Gives a chain back of whose writable bytes the first `written` were
    /// written; the driver sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Error::UsedUnclaimed`] for a head that was not taken.
    pub fn stage(&mut self, head: u16, written: u32) -> Result<(), Error> {
        self.release(head)?;
        let slot = usize::from(self.next_used.0 & (self.size - 1));
        let id = u32::from(head).to_le();
        self.used.u32_at(4 + 8 * slot)?.store(id, Ordering::Relaxed);
        let len = self.used.u32_at(8 + 8 * slot)?;
        len.store(written.to_le(), Ordering::Relaxed);
        self.next_used += 1;
        Ok(())
    }

    /// Shows the driver the chains given back if there are some by now: each
    /// showing takes the index out of the driver's cache.
    pub fn publish_some(&mut self) {
        if (self.next_used - self.published).0 >= SOME {
            self.publish();
        }
    }

    /// Shows the driver every chain given back.
    pub fn publish(&mut self) {
        if self.published == self.next_used {
            return;
        }
        self.published = self.next_used;
        // Release: the entries and the buffers are written before the index.
        self.used_idx.store(self.next_used.0.to_le(), Ordering::Release);
    }

    /// Asks for the doorbell and looks again: true if the queue is empty, so
    /// that the next chain rings; false if there is something to take.
    ///
    /// # Errors
    /// A driver's index out of reach.
    pub fn arm(&mut self) -> Result<bool, Error> {
        if !self.parked.is_empty() {
            return Ok(false);
        }
        if self.event_idx {
            let event = self.used.u16_at(4 + 8 * usize::from(self.size))?;
            event.store(self.next_available.0.to_le(), Ordering::Relaxed);
        } else {
            self.set_used_flags(0)?;
        }
        self.armed = true;
        // The wish is visible before the index is read; the driver does the
        // same the other way round, so one of the two sees the other.
        fence(Ordering::SeqCst);
        Ok(!self.look()?)
    }

    /// True if the driver wants an interrupt for what was published since
    /// this was last asked.
    ///
    /// # Errors
    /// None that a guest can cause.
    pub fn needs_signal(&mut self) -> Result<bool, Error> {
        let (old, new) = (self.signalled, self.next_used);
        if old == new {
            return Ok(false);
        }
        // The used index is visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.available.u16_at(4 + 2 * usize::from(self.size))?;
            let event = Wrapping(u16::from_le(event.load(Ordering::Relaxed)));
            // 2.7.7.2: the event index is among the entries old..new.
            new - event - Wrapping(1) < new - old
        } else {
            let flags = self.available.u16_at(0)?.load(Ordering::Relaxed);
            u16::from_le(flags) & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0
        };
        let once = std::mem::take(&mut self.signal_once);
        self.signalled = new;
        Ok(wanted || once)
    }

    fn set_used_flags(&self, flags: u16) -> Result<(), Error> {
        self.used.u16_at(0)?.store(flags.to_le(), Ordering::Relaxed);
        Ok(())
    }

    fn is_claimed(&self, head: u16) -> bool {
        self.in_flight
            .get(usize::from(head / 64))
            .is_some_and(|word| word & (1 << (head % 64)) != 0)
    }

    fn claim(&mut self, head: u16) -> Result<(), Error> {
        if head >= self.size {
            return Err(Error::DescriptorIndex(head));
        }
        let bit = 1 << (head % 64);
        match self.in_flight.get_mut(usize::from(head / 64)) {
            Some(word) if *word & bit == 0 => *word |= bit,
            _ => return Err(Error::DuplicateHead(head)),
        }
        self.in_flight_count += 1;
        Ok(())
    }

    fn release(&mut self, head: u16) -> Result<(), Error> {
        if !self.is_claimed(head) {
            return Err(Error::UsedUnclaimed(head));
        }
        if let Some(word) = self.in_flight.get_mut(usize::from(head / 64)) {
            *word &= !(1 << (head % 64));
        }
        self.in_flight_count -= 1;
        self.parked.retain(|parked| *parked != head);
        Ok(())
    }
}

/// Only to be sure, at build time, that a queue can be shared by a pool.
const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<Queue<'static>>();
};
