//! A driver of virtio-blk over either bus (virtio 1.2, 5.2): one
//! request at a time, polled. Data goes straight from and to where it is.
//!
//! Own code: the crates for it bring traits for other machines' memory and
//! devices, and are larger than this with them.

use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};

use crate::window::Window;
use crate::{Mmio, tsc};

/// Bytes of a sector, the unit of every request.
pub const SECTOR: usize = 512;
/// Bytes of one request at most.
pub const MOST: usize = 8 << 20;

/// Registers.
const FEATURES: u64 = 0x020;
const FEATURES_HALF: u64 = 0x024;
const QUEUE_LEN: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const DOORBELL: u64 = 0x050;
const STATUS: u64 = 0x070;
const QUEUE_PLACES: [u64; 3] = [0x080, 0x090, 0x0a0];
const CAPACITY: u64 = 0x100;

/// Device status: reset, acknowledged, driver; features chosen; running.
const STARTED: [u32; 3] = [0, 1, 3];
const FEATURES_OK: u32 = 11;
const RUNNING: u32 = 15;
const NEEDS_RESET: u32 = 64;
/// The two halves of the features: FLUSH and VERSION_1.
const WANTED: [u32; 2] = [1 << 9, 1];

/// Request types.
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;

/// Entries in the queue: one request takes three.
const ENTRIES: u16 = 4;
const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;

/// Where the parts of the shared page are: descriptors, available ring, used
/// ring; request header and status.
const PLACES: [u64; 3] = [0, 0x100, 0x200];
const REQUEST: u64 = 0x300;
const ANSWER: u64 = 0x310;
/// What the answer is before there is one.
const UNANSWERED: u8 = 0xee;

/// Memory that device and driver share.
#[repr(C, align(4096))]
pub struct Shared([u8; 4096]);

impl Shared {
    /// A page for one device.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; 4096])
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// A block device that runs.
pub struct Blk {
    window: Window,
    /// The shared page, read and written as the device does.
    memory: Mmio,
    base: u64,
    sectors: u64,
    /// Requests so far.
    count: Cell<u16>,
    /// Ticks of the time-stamp counter after which a request is given up.
    patience: u64,
}

/// The device did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// Stops the device with this number for good.
pub fn reset(index: u64) {
    Window::new(index).write32(STATUS, 0);
}

impl Blk {
    /// Starts the device with this number; `patience` is the
    /// time that it has for a request, in ticks of the time-stamp counter.
    ///
    /// # Errors
    /// There is no block device, or it does not start.
    pub fn start(index: u64, shared: &'static mut Shared, patience: u64) -> Result<Self, Failed> {
        let window = Window::new(index);
        if window.device() != 2 {
            return Err(Failed);
        }
        for status in STARTED {
            window.write32(STATUS, status);
        }
        for (half, features) in (0..).zip(WANTED) {
            window.write32(FEATURES_HALF, half);
            window.write32(FEATURES, features);
        }
        window.write32(STATUS, FEATURES_OK);
        shared.0.fill(0);
        let base = shared.0.as_mut_ptr() as u64;
        window.write32(QUEUE_LEN, ENTRIES.into());
        for (register, offset) in QUEUE_PLACES.iter().zip(PLACES) {
            window.write32(*register, (base + offset) as u32);
            window.write32(register + 4, 0);
        }
        window.write32(QUEUE_READY, 1);
        window.write32(STATUS, RUNNING);
        if window.read32(STATUS) != RUNNING {
            return Err(Failed);
        }
        let halves = (window.read32(CAPACITY), window.read32(CAPACITY + 4));
        Ok(Self {
            window,
            // SAFETY: the page is the device's and this driver's alone.
            memory: unsafe { Mmio::new(base, 4096) },
            base,
            sectors: u64::from(halves.0) | u64::from(halves.1) << 32,
            count: Cell::new(0),
            patience,
        })
    }

    /// Sectors of the medium.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Reads whole sectors, [`MOST`] bytes at most.
    ///
    /// # Errors
    /// The device refuses, or does not answer in time.
    pub fn read(&self, sector: u64, into: &mut [u8]) -> Result<(), Failed> {
        let (at, len) = (into.as_mut_ptr() as u64, into.len() as u32);
        self.request(READ, sector, Some((at, len)))
    }

    /// Writes whole sectors, [`MOST`] bytes at most.
    ///
    /// # Errors
    /// The device refuses, or does not answer in time.
    pub fn write(&self, sector: u64, from: &[u8]) -> Result<(), Failed> {
        let (at, len) = (from.as_ptr() as u64, from.len() as u32);
        self.request(WRITE, sector, Some((at, len)))
    }

    /// Makes sure that what was written stays.
    ///
    /// # Errors
    /// The device refuses, or does not answer in time.
    pub fn flush(&self) -> Result<(), Failed> {
        self.request(FLUSH, 0, None)
    }

    fn describe(&self, index: u16, at: u64, len: u32, flags: u16) {
        let descriptor = u64::from(index) * 16;
        self.memory.write64(descriptor, at);
        self.memory.write32(descriptor + 8, len);
        self.memory.write16(descriptor + 12, flags);
        self.memory.write16(descriptor + 14, index + 1);
    }

    fn request(&self, kind: u32, sector: u64, data: Option<(u64, u32)>) -> Result<(), Failed> {
        let [_, available, used] = PLACES;
        self.memory.write32(REQUEST, kind);
        self.memory.write32(REQUEST + 4, 0);
        self.memory.write64(REQUEST + 8, sector);
        self.memory.write8(ANSWER, UNANSWERED);
        self.describe(0, self.base + REQUEST, 16, NEXT);
        let mut last = 1;
        if let Some((at, len)) = data {
            let direction = if kind == READ { DEVICE_WRITES } else { 0 };
            self.describe(1, at, len, NEXT | direction);
            last = 2;
        }
        self.describe(last, self.base + ANSWER, 1, DEVICE_WRITES);
        let count = self.count.get();
        self.memory.write16(available + 4 + 2 * u64::from(count % ENTRIES), 0);
        fence(Ordering::SeqCst);
        self.count.set(count.wrapping_add(1));
        self.memory.write16(available + 2, self.count.get());
        fence(Ordering::SeqCst);
        self.window.write32(DOORBELL, 0);
        let begin = tsc();
        while self.memory.read16(used + 2) != self.count.get() {
            let late = tsc().wrapping_sub(begin) > self.patience;
            if late || self.window.read32(STATUS) & NEEDS_RESET != 0 {
                return Err(Failed);
            }
            core::hint::spin_loop();
        }
        fence(Ordering::SeqCst);
        match self.memory.read8(ANSWER) {
            0 => Ok(()),
            _ => Err(Failed),
        }
    }
}
