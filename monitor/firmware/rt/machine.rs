//! The machine's fixed addresses, and its ends.

use crate::gate::halt;
use crate::port;

/// First port of the serial port COM1.
pub const COM1: u16 = 0x3f8;
/// Global system interrupt of COM1.
pub const COM1_GSI: u32 = 4;
/// Global system interrupt of the first virtio device.
pub const FIRST_DEVICE_GSI: u32 = 7;
/// Command port of the i8042, of which only the reset command exists.
pub const I8042: u16 = 0x64;
/// ACPI sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI reset register (ACPI 6.5, 4.8.3.6).
pub const RESET: u16 = 0x602;
/// Boot marker: the monitor notes when a guest first writes 123 here.
pub const BOOT_MARKER: u16 = 0x604;
/// Register windows of virtio devices, 4 KiB each.
pub const VIRTIO: u64 = 0xd000_0000;
/// Configuration space of PCI bus 0, whose functions have their registers there, too.
pub const ECAM: u64 = 0xe000_0000;
/// The I/O interrupt controller.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local interrupt controllers.
pub const LAPIC: u64 = 0xfee0_0000;

/// Ends the machine: enters S5.
pub fn power_off() -> ! {
    port::out8(SLEEP_CONTROL, 5 << 2 | 1 << 5);
    halt()
}

/// Firmware status register: a write of [`NOTHING_TO_BOOT`] says that the
/// firmware gives up.
pub const FIRMWARE_STATUS: u16 = 0x608;
/// See [`FIRMWARE_STATUS`].
pub const NOTHING_TO_BOOT: u8 = 1;

/// Ends a machine whose program failed; the firmware's failure has a status.
pub fn give_up() -> ! {
    if cfg!(firmware) {
        port::out8(FIRMWARE_STATUS, NOTHING_TO_BOOT);
    }
    power_off()
}

/// A way to restart the machine.
#[derive(Clone, Copy, Debug)]
pub enum Reset {
    /// The ACPI reset register.
    Acpi,
    /// The i8042's reset line.
    I8042,
    /// A triple fault, which is not a reset everywhere.
    TripleFault,
}

/// Restarts the machine.
pub fn reset(how: Reset) -> ! {
    match how {
        Reset::Acpi => port::out8(RESET, 6),
        Reset::I8042 => port::out8(I8042, 0xfe),
        Reset::TripleFault => crate::triple_fault(),
    }
    halt()
}
