//! A virtio device's registers, on either bus (virtio 1.2, 4.1 and 4.2): named by their
//! offsets over MMIO.

use crate::{Mmio, machine};

/// Bytes of a device's page of registers, and of a function's configuration space.
const PAGE: u64 = 0x1000;
/// Bytes of configuration space of all functions of a PCI device.
const FUNCTIONS: u64 = 0x8000;
/// "virt", at the start of an MMIO window, and where the device type is.
const MAGIC: u32 = 0x7472_6976;
const DEVICE: u64 = 0x008;
/// Vendor and first device of PCI functions that are virtio devices.
const FUNCTION: u32 = 0x1040_1af4;
/// Configuration space of the device.
const CONFIG: u64 = 0x100;

/// In a function's page: configuration, doorbell. All functions of this machine have this
/// layout, which their capabilities tell.
const FUNCTION_CONFIG: u64 = 0x200;
const FUNCTION_DOORBELL: u64 = 0x300;

/// A device's registers.
#[derive(Clone, Copy)]
pub struct Window {
    page: Mmio,
    space: Option<Mmio>,
}

impl Window {
    /// The registers of the device with this number; without a device they read as nothing
    /// that a device has.
    #[must_use]
    pub fn new(index: u64) -> Self {
        let index = index % 16;
        // SAFETY: a page of virtio registers; the device is only ever told of memory that
        // is meant for it.
        let page = unsafe { Mmio::new(machine::VIRTIO + index * PAGE, PAGE) };
        // SAFETY: configuration space; no function's decides where memory is.
        let space = unsafe { Mmio::new(machine::ECAM + (index + 1) * FUNCTIONS, PAGE) };
        let mmio = page.read32(0) == MAGIC;
        let space = (!mmio && space.read32(0) & 0xffc0_ffff == FUNCTION).then_some(space);
        Self { page, space }
    }

    /// The registers over MMIO that begin at this page.
    #[must_use]
    pub fn mmio(page: Mmio) -> Self {
        Self { page, space: None }
    }

    /// The page itself.
    #[must_use]
    pub fn page(&self) -> &Mmio {
        &self.page
    }

    /// Configuration space, if the device is a PCI function.
    #[must_use]
    pub fn space(&self) -> Option<&Mmio> {
        self.space.as_ref()
    }

    /// The device's type (virtio 1.2, 5); 0 without a device.
    #[must_use]
    pub fn device(&self) -> u32 {
        match self.space {
            Some(space) => space.read32(0) >> 16 & 0x3f,
            None if self.page.read32(0) == MAGIC => self.page.read32(DEVICE),
            None => 0,
        }
    }

    /// Reads the register that MMIO has at `at`.
    #[must_use]
    pub fn read32(&self, at: u64) -> u32 {
        if self.space.is_none() {
            return self.page.read32(at);
        }
        match place(at) {
            (place, 1) => self.page.read8(place).into(),
            (place, 2) => self.page.read16(place).into(),
            (place, _) => self.page.read32(place),
        }
    }

    /// Writes the register that MMIO has at `at`.
    pub fn write32(&self, at: u64, value: u32) {
        if self.space.is_none() {
            return self.page.write32(at, value);
        }
        match place(at) {
            // The acknowledge, which a function does without.
            (_, 0) => {}
            (place, 1) => self.page.write8(place, value as u8),
            (place, 2) => self.page.write16(place, value as u16),
            (place, _) => self.page.write32(place, value),
        }
    }
}

/// Where a function has an MMIO register, and its width in bytes.
fn place(at: u64) -> (u64, u8) {
    match at {
        0x010 => (0x04, 4),
        0x014 => (0x00, 4),
        0x020 => (0x0c, 4),
        0x024 => (0x08, 4),
        0x030 => (0x16, 2),
        0x034 | 0x038 => (0x18, 2),
        0x044 => (0x1c, 2),
        0x050 => (FUNCTION_DOORBELL, 2),
        0x060 => (0x100, 1),
        0x070 => (0x14, 1),
        0x080 | 0x084 => (at - 0x060, 4),
        0x090 | 0x094 => (at - 0x068, 4),
        0x0a0 | 0x0a4 => (at - 0x070, 4),
        0x0fc => (0x15, 1),
        CONFIG.. => (at - CONFIG + FUNCTION_CONFIG, 4),
        _ => (0, 0),
    }
}
