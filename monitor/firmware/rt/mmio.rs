//! Device registers, used directly from ring 3.

use core::arch::asm;

use crate::console::fail;

/// A range of device registers. An access outside it fails the guest.
#[derive(Clone, Copy)]
pub struct Mmio {
    base: u64,
    len: u64,
}

impl Mmio {
    /// Registers at `base`.
    ///
    /// # Safety
    /// The range must be mapped (everything below 4 GiB is), must not hold what
    /// the program uses as memory, and a device behind it must not be told to
    /// write to such memory.
    #[must_use]
    pub const unsafe fn new(base: u64, len: u64) -> Mmio {
        Mmio { base, len }
    }

    fn at(&self, offset: u64, size: u64) -> u64 {
        if offset.checked_add(size).is_none_or(|end| end > self.len) {
            fail(format_args!("register {offset:#x} outside the device at {:#x}", self.base));
        }
        self.base + offset
    }

    // Plain `mov` each: a hypervisor has to decode the instruction, and the
    // compiler would be free to choose another one for a volatile access.

    /// Reads a byte.
    #[must_use]
    pub fn read8(&self, offset: u64) -> u8 {
        let value;
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov {}, [{}]", out(reg_byte) value, in(reg) self.at(offset, 1)) };
        value
    }

    /// Reads two bytes.
    #[must_use]
    pub fn read16(&self, offset: u64) -> u16 {
        let value;
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov {:x}, [{}]", out(reg) value, in(reg) self.at(offset, 2)) };
        value
    }

    /// Reads four bytes.
    #[must_use]
    pub fn read32(&self, offset: u64) -> u32 {
        let value;
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) self.at(offset, 4)) };
        value
    }

    /// Reads eight bytes.
    #[must_use]
    pub fn read64(&self, offset: u64) -> u64 {
        let value;
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) self.at(offset, 8)) };
        value
    }

    /// Writes a byte.
    pub fn write8(&self, offset: u64, value: u8) {
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov [{}], {}", in(reg) self.at(offset, 1), in(reg_byte) value) };
    }

    /// Writes two bytes.
    pub fn write16(&self, offset: u64, value: u16) {
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov [{}], {:x}", in(reg) self.at(offset, 2), in(reg) value) };
    }

    /// Writes four bytes.
    pub fn write32(&self, offset: u64, value: u32) {
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov [{}], {:e}", in(reg) self.at(offset, 4), in(reg) value) };
    }

    /// Writes eight bytes.
    pub fn write64(&self, offset: u64, value: u64) {
        // SAFETY: in the range that `new` was promised.
        unsafe { asm!("mov [{}], {}", in(reg) self.at(offset, 8), in(reg) value) };
    }
}
