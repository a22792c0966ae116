//! Configuration space of a virtio PCI function (PCI Local Bus 3.0, 6.1, 6.7, 6.8;
//! virtio 1.2, 4.1.2 to 4.1.4): bytes of which a driver can change some.
//!
//! It has one 32-bit memory BAR of one page and MSI-X; no interrupt pin, no I/O ports, no
//! expansion ROM, no function level reset. What a driver cannot change ignores stores, which
//! is all that finding out the BAR's size needs.

use super::Window;
use crate::Error;

/// Bytes of conventional configuration space.
pub(super) const SPACE_SIZE: usize = 256;
/// Entries of the MSI-X table: one vector for the configuration, one for all queues, or
/// as the driver likes.
pub const VECTORS: usize = 2;

/// Where the structures are in the BAR's page.
pub(super) const COMMON: usize = 0;
/// Bytes of the common configuration structure.
pub(super) const COMMON_SIZE: usize = 0x40;
pub(super) const ISR: usize = 0x100;
pub(super) const DEVICE: usize = 0x200;
/// Most bytes of device configuration.
pub(super) const DEVICE_SIZE: usize = 0x100;
/// The doorbell of every queue.
pub const NOTIFY: usize = 0x300;
pub(super) const TABLE: usize = 0x800;
const PENDING: usize = 0xc00;

const COMMAND: usize = 0x04;
const BAR: usize = 0x10;
/// The capabilities: common, ISR, device, notify, access to the BAR, MSI-X.
const CAPABILITIES: [usize; 6] = [0x40, 0x50, 0x60, 0x70, 0x84, 0x98];
/// Fields of the capability that gives access to the BAR: which, where, how much, data.
const ACCESS_BAR: usize = 0x88;
const ACCESS_OFFSET: usize = 0x8c;
const ACCESS_LENGTH: usize = 0x90;
pub(super) const ACCESS_DATA: usize = 0x94;
const MSIX_CONTROL: usize = 0x9a;

/// Command register: the function answers to memory accesses.
const MEMORY_SPACE: u8 = 1 << 1;
/// Command register: the function may write to memory. Without it messages stop; a device
/// that runs goes on with its queues.
const BUS_MASTER: u8 = 1 << 2;
/// MSI-X message control: enable, and mask all vectors.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// Virtio's PCI vendor, and its first device for devices of virtio 1.
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// Base class, subclass: network controller, Ethernet; mass storage, other.
const ETHERNET: [u8; 2] = [0x00, 0x02];
const STORAGE: [u8; 2] = [0x80, 0x01];

/// One function's configuration space, and the page of it that the guest reads.
#[derive(Debug)]
pub(super) struct Space {
    window: Window,
    bytes: [u8; SPACE_SIZE],
    base: u32,
}

impl Space {
    /// The space at power-on of a virtio device of this type whose BAR is at guest address
    /// `base`, with `config` bytes of device configuration.
    pub(super) fn new(window: Window, device_id: u32, base: u32, config: usize) -> Self {
        let mut space = Self { window, bytes: [0; SPACE_SIZE], base };
        space.fill(device_id, config);
        space.publish(0..SPACE_SIZE);
        space
    }

    fn fill(&mut self, device_id: u32, config: usize) {
        let device = FIRST_DEVICE + device_id as u16;
        let class = if device_id == 1 { ETHERNET } else { STORAGE };
        let [common, isr, own, notify, access, msix] = CAPABILITIES;
        self.set(0x00, &VENDOR.to_le_bytes());
        self.set(0x02, &device.to_le_bytes());
        self.set(COMMAND, &[MEMORY_SPACE]);
        // Status: there are capabilities. Revision 1: no transitional device (4.1.2.1).
        self.set(0x06, &[1 << 4, 0, 1, 0]);
        self.set(0x0a, &class);
        self.set(BAR, &self.base.to_le_bytes());
        self.set(0x2c, &VENDOR.to_le_bytes());
        self.set(0x2e, &device.to_le_bytes());
        self.set(0x34, &[common as u8]);
        // Next capability, type, place and length: 4.1.4.3 to 4.1.4.8.
        let structures = [
            (common, isr, 1, COMMON, COMMON_SIZE),
            (isr, own, 3, ISR, 1),
            (own, notify, 4, DEVICE, config),
            (notify, access, 2, NOTIFY, 4),
            (access, msix, 5, 0, 0),
        ];
        for (at, next, kind, offset, length) in structures {
            // With the multiplier 0 of the notify structure, or data of the access one.
            let size = if matches!(kind, 2 | 5) { 20 } else { 16 };
            self.set(at, &[9, next as u8, size, kind, 0, 0, 0, 0]);
            self.set(at + 8, &(offset as u32).to_le_bytes());
            self.set(at + 12, &(length as u32).to_le_bytes());
        }
        self.set(msix, &[0x11, 0, VECTORS as u8 - 1, 0]);
        self.set(msix + 4, &(TABLE as u32).to_le_bytes());
        self.set(msix + 8, &(PENDING as u32).to_le_bytes());
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn word(&self, at: usize) -> u32 {
        let word = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.copied().map_or(0, u32::from_le_bytes)
    }

    fn publish(&self, range: std::ops::Range<usize>) {
        let first = range.start & !3;
        self.window.set_bytes(first, self.bytes.get(first..range.end).unwrap_or_default());
    }

    /// The page of it that the guest reads.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// The guest stored `data` at byte `at`; false if there is no such place.
    pub(super) fn write(&mut self, at: usize, data: &[u8]) -> bool {
        let end = at.saturating_add(data.len());
        let Some(bytes) = self.bytes.get_mut(at..end) else {
            return false;
        };
        for ((to, from), place) in bytes.iter_mut().zip(data).zip(at..) {
            *to = *to & !writable(place) | from & writable(place);
        }
        self.publish(at..end.next_multiple_of(4));
        true
    }

    /// Whether stores into the BAR's page reach the function: memory accesses are enabled,
    /// and the BAR is where the page is, which does not move with it.
    pub(super) fn decodes_memory(&self) -> bool {
        self.word(COMMAND) as u8 & MEMORY_SPACE != 0 && self.word(BAR) == self.base
    }

    /// Whether MSI-X is enabled and not masked as a whole, and the function may write to
    /// memory, as a message does.
    pub(super) fn sends_messages(&self) -> bool {
        let control = (self.word(MSIX_CONTROL & !3) >> 16) as u16;
        let masters = self.word(COMMAND) as u8 & BUS_MASTER != 0;
        masters && control & (MSIX_ENABLE | MSIX_MASK_ALL) == MSIX_ENABLE
    }

    /// The access to the BAR that the capability asks for (4.1.4.9): offset and length,
    /// where these are such as a driver may give.
    pub(super) fn access(&self) -> Option<(usize, usize)> {
        let (offset, length) = (self.word(ACCESS_OFFSET), self.word(ACCESS_LENGTH));
        let fits = matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && (offset as usize) < super::PAGE_SIZE
            && self.word(ACCESS_BAR) as u8 == 0;
        fits.then_some((offset as usize, length as usize))
    }

    /// What is stored in the access capability's data field.
    pub(super) fn access_data(&self) -> [u8; 4] {
        self.word(ACCESS_DATA).to_le_bytes()
    }

    /// Shows what an access to the BAR reads.
    pub(super) fn show_access_data(&mut self, data: [u8; 4]) {
        self.set(ACCESS_DATA, &data);
        self.publish(ACCESS_DATA..ACCESS_DATA + 4);
    }

    /// All bytes, to be saved.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes over what a driver can have stored of saved bytes.
    ///
    /// # Errors
    /// [`Error::State`] for another device's.
    pub(super) fn restore(&mut self, saved: &[u8]) -> Result<(), Error> {
        let fixed = |(place, bytes): (usize, (&u8, &u8))| (bytes.0 ^ bytes.1) & !writable(place);
        let differs = self.bytes.iter().zip(saved).enumerate().any(|byte| fixed(byte) != 0);
        if saved.len() != SPACE_SIZE || differs {
            return Err(Error::State("PCI configuration space"));
        }
        self.set(0, saved);
        self.publish(0..SPACE_SIZE);
        Ok(())
    }
}

/// Which bits of a byte of the space a driver can change.
fn writable(at: usize) -> u8 {
    const ACCESS: usize = ACCESS_OFFSET;
    const ACCESS_END: usize = ACCESS_DATA + 4;
    match at {
        // Memory space and bus master.
        COMMAND => 0x06,
        // No INTx, which there is none of.
        0x05 => 0x04,
        // A page: the lower 12 bits stay 0.
        0x11 => 0xf0,
        0x12 | 0x13 | ACCESS_BAR => 0xff,
        ACCESS..ACCESS_END => 0xff,
        0x9b => 0xc0,
        _ => 0,
    }
}
