//! Interrupts. They arrive only inside [`wait`] unless [`enable`] was called:
//! a program that looks at a counter and then waits misses none.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::gate::{Registers, Service, call};
use crate::machine::{IOAPIC, LAPIC};
use crate::mmio::Mmio;
use crate::window::Window;

unsafe extern "C" {
    /// Interrupts handled per vector, counted by ring 0 (entry.s).
    #[link_name = "rt_interrupts"]
    safe static COUNTS: [AtomicU32; 256];
}

// SAFETY: the interrupt controllers write to no memory.
const IO: Mmio = unsafe { Mmio::new(IOAPIC, 0x20) };
// SAFETY: as above.
const LOCAL: Mmio = unsafe { Mmio::new(LAPIC, 0x400) };

const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const LEVEL: u32 = 1 << 15;

/// In a PCI function's page: the MSI-X table.
const TABLE: u64 = 0x800;
/// In its configuration space: command; MSI-X message control, with the bit that enables it.
const FUNCTION_COMMAND: u64 = 0x04;
const MSIX_CONTROL: u64 = 0x9a;
const MSIX_ENABLE: u16 = 1 << 15;

/// How an interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Active high, by its edge.
    Edge,
    /// Active high, by its level.
    Level,
}

/// This CPU's APIC id.
#[must_use]
pub fn apic_id() -> u32 {
    LOCAL.read32(0x20) >> 24
}

/// Turns this CPU's local interrupt controller on.
pub fn enable_local() {
    LOCAL.write32(SPURIOUS, 0x1ff);
}

/// Sends an inter-processor interrupt; `command` is the low half of the
/// interrupt command register.
pub fn send(apic_id: u32, command: u32) {
    LOCAL.write32(COMMAND_HIGH, apic_id << 24);
    LOCAL.write32(COMMAND, command);
}

/// Routes a global system interrupt to a vector of this CPU, and turns on both
/// controllers. Vectors from 32 up are free.
pub fn route(gsi: u32, vector: u8, trigger: Trigger) {
    enable_local();
    let low = u32::from(vector) | if trigger == Trigger::Level { LEVEL } else { 0 };
    write_io(0x11 + 2 * gsi, apic_id() << 24);
    write_io(0x10 + 2 * gsi, low);
}

/// Masks a global system interrupt.
pub fn mask(gsi: u32) {
    write_io(0x10 + 2 * gsi, 1 << 16);
}

fn write_io(register: u32, value: u32) {
    IO.write32(0, register);
    IO.write32(0x10, value);
}

/// How many interrupts have come in on a vector.
#[must_use]
pub fn count(vector: u8) -> u32 {
    COUNTS[usize::from(vector)].load(Ordering::Relaxed)
}

/// Halts this CPU until an interrupt has been handled.
pub fn wait() {
    // SAFETY: the handlers touch only their counters.
    unsafe { call(Service::Wait, Registers::default()) };
}

/// Lets interrupts come in at any time.
pub fn enable() {
    // SAFETY: the handlers touch only their counters.
    unsafe { call(Service::InterruptsOn, Registers::default()) };
}

/// Keeps interrupts back, except in [`wait`].
pub fn disable() {
    // SAFETY: the handlers touch only their counters.
    unsafe { call(Service::InterruptsOff, Registers::default()) };
}

impl Window {
    /// Has the interrupts of a device that runs arrive at `vector` of this CPU; over MMIO
    /// they come by the I/O APIC's pin `gsi`.
    pub fn route(&self, gsi: u32, vector: u8, queues: u16) {
        let Some(space) = self.space() else {
            return route(gsi, vector, Trigger::Edge);
        };
        enable_local();
        let page = self.page();
        for entry in [TABLE, TABLE + 16] {
            page.write32(entry, 0xfee0_0000 | apic_id() << 12);
            page.write32(entry + 4, 0);
            page.write32(entry + 8, vector.into());
            page.write32(entry + 12, 0);
        }
        page.write16(0x10, 0);
        for queue in 0..queues {
            page.write16(0x16, queue);
            page.write16(0x1a, 1);
        }
        // Memory space, bus master.
        space.write16(FUNCTION_COMMAND, 6);
        space.write16(MSIX_CONTROL, MSIX_ENABLE);
    }
}
