//! virtio-blk over virtio-mmio (virtio 1.2, 4.2 and 5.2), one request at a
//! time, polled. Data goes by DMA to where it is wanted.
//!
//! Own code: the crates for it bring traits for other machines' memory and
//! devices, and are larger than this with them.

use alloc::boxed::Box;
use core::cell::Cell;
use core::sync::atomic::{Ordering, fence};

use mote_firmware::Error;
use mote_firmware::disk::{Disk, SECTOR};
use rt::Mmio;

/// Bytes of a device's register window.
pub const WINDOW: u64 = 0x1000;

/// Registers.
const MAGIC: u64 = 0x000;
const DEVICE: u64 = 0x008;
const FEATURES: u64 = 0x020;
const FEATURES_HALF: u64 = 0x024;
const QUEUE_LEN: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const DOORBELL: u64 = 0x050;
const STATUS: u64 = 0x070;
const QUEUE_PLACES: [u64; 3] = [0x080, 0x090, 0x0a0];
const CAPACITY: u64 = 0x100;

/// Device status: acknowledged, driver, features chosen, running, failed.
const STARTED: [u32; 3] = [0, 1, 3];
const FEATURES_OK: u32 = 11;
const RUNNING: u32 = 15;
const NEEDS_RESET: u32 = 64;

/// Entries in the queue: one request takes three.
const ENTRIES: u16 = 4;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Where the parts of a page of shared memory are: descriptors, available
/// ring, used ring, request header, status, one sector.
const PLACES: [u64; 3] = [0, 0x100, 0x200];
const REQUEST: u64 = 0x300;
const ANSWER: u64 = 0x310;
const BOUNCE: u64 = 0x400;
/// What the answer is before there is one.
const UNANSWERED: u8 = 0xee;

/// Bytes of one request.
const MOST: usize = 8 << 20;
/// Milliseconds after which a device is given up.
const PATIENCE_MS: u64 = 30_000;

/// Memory that device and driver share.
#[repr(C, align(4096))]
struct Shared([u8; 4096]);

/// A drive that runs.
pub struct Drive {
    window: Mmio,
    /// The page in [`Shared`], read and written as the device does.
    memory: Mmio,
    base: u64,
    capacity: u64,
    /// Requests so far.
    count: Cell<u16>,
    patience: u64,
}

/// Stops the device in a window for good.
pub fn reset(window: u64) {
    registers(window).write32(STATUS, 0);
}

fn registers(window: u64) -> Mmio {
    // SAFETY: a virtio register window; the device is only ever told of memory
    // that is meant for it.
    unsafe { Mmio::new(window, WINDOW) }
}

impl Drive {
    /// Starts the device in `window`.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub fn start(window: u64, khz: u64) -> Result<Self, Error> {
        const NONE: Error = Error::Unsupported("what is in place of the drive");
        let window = registers(window);
        if (window.read32(MAGIC), window.read32(DEVICE)) != (0x7472_6976, 2) {
            return Err(NONE);
        }
        for status in STARTED {
            window.write32(STATUS, status);
        }
        // VERSION_1, and nothing else.
        for (half, features) in [(0, 0), (1, 1)] {
            window.write32(FEATURES_HALF, half);
            window.write32(FEATURES, features);
        }
        window.write32(STATUS, FEATURES_OK);
        // The device's from now on, as long as the firmware runs.
        let base = Box::into_raw(Box::new(Shared([0; 4096]))) as u64;
        window.write32(QUEUE_LEN, ENTRIES.into());
        for (register, offset) in QUEUE_PLACES.iter().zip(PLACES) {
            window.write32(*register, (base + offset) as u32);
            window.write32(register + 4, 0);
        }
        window.write32(QUEUE_READY, 1);
        window.write32(STATUS, RUNNING);
        if window.read32(STATUS) != RUNNING {
            return Err(NONE);
        }
        let halves = (window.read32(CAPACITY), window.read32(CAPACITY + 4));
        let capacity = u64::from(halves.0) | u64::from(halves.1) << 32;
        // SAFETY: memory of our own, which nothing else refers to.
        let memory = unsafe { Mmio::new(base, 4096) };
        let patience = PATIENCE_MS.saturating_mul(khz);
        let count = Cell::new(0);
        Ok(Self {
            window,
            memory,
            base,
            capacity,
            count,
            patience,
        })
    }

    fn describe(&self, index: u16, at: u64, len: u32, flags: u16) {
        let descriptor = u64::from(index) * 16;
        self.memory.write64(descriptor, at);
        self.memory.write32(descriptor + 8, len);
        self.memory.write16(descriptor + 12, flags);
        self.memory.write16(descriptor + 14, index + 1);
    }

    /// Reads sectors to an address.
    fn transfer(&self, sector: u64, at: u64, len: u32) -> Result<(), Error> {
        let [_, available, used] = PLACES;
        self.memory.write64(REQUEST, 0);
        self.memory.write64(REQUEST + 8, sector);
        self.memory.write8(ANSWER, UNANSWERED);
        self.describe(0, self.base + REQUEST, 16, NEXT);
        self.describe(1, at, len, NEXT | WRITE);
        self.describe(2, self.base + ANSWER, 1, WRITE);
        let count = self.count.get();
        self.memory
            .write16(available + 4 + 2 * u64::from(count % ENTRIES), 0);
        fence(Ordering::SeqCst);
        self.count.set(count.wrapping_add(1));
        self.memory.write16(available + 2, self.count.get());
        fence(Ordering::SeqCst);
        self.window.write32(DOORBELL, 0);
        let begin = rt::tsc();
        while self.memory.read16(used + 2) != self.count.get() {
            let late = rt::tsc().wrapping_sub(begin) > self.patience;
            if late || self.window.read32(STATUS) & NEEDS_RESET != 0 {
                return Err(Error::Drive(sector));
            }
            core::hint::spin_loop();
        }
        fence(Ordering::SeqCst);
        match self.memory.read8(ANSWER) {
            0 => Ok(()),
            _ => Err(Error::Drive(sector)),
        }
    }

    /// Reads a part of one sector.
    fn partial(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        self.transfer(at / SECTOR, self.base + BOUNCE, SECTOR as u32)?;
        for (offset, byte) in (BOUNCE + at % SECTOR..).zip(into) {
            *byte = self.memory.read8(offset);
        }
        Ok(())
    }
}

impl Disk for Drive {
    fn len(&self) -> u64 {
        self.capacity.saturating_mul(SECTOR)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let skip = (at % SECTOR) as usize;
            let sectors = rest.len().min(MOST) / SECTOR as usize * SECTOR as usize;
            let whole = skip == 0 && sectors > 0;
            let len = if whole {
                sectors
            } else {
                rest.len().min(SECTOR as usize - skip)
            };
            let (now, later) = rest.split_at_mut(len);
            if whole {
                self.transfer(at / SECTOR, now.as_mut_ptr() as u64, len as u32)?;
            } else {
                self.partial(at, now)?;
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }
}
