//! Shows every register that it can read, a line each: MSRs, local APIC, I/O APIC,
//! COM1, the first virtio device, and the leaves of CPUID that the monitor makes.
//! Then it prints `shown` and waits for a byte on the serial port: `r` changes
//! all of them that can be changed, prints how many MSRs those were and resets the
//! machine; anything else powers off.
#![no_std]
#![no_main]

use core::arch::x86_64::__cpuid;
use core::ops::Range;
use rt::machine::{self, Reset};
use rt::{Boot, Mmio, msr, port, println, read_byte};

/// Where KVM has MSRs; those of x2APIC mode, which is off, are not among them.
const MSRS: [Range<u32>; 6] = [
    0..0x800,
    0xc00..0x1000,
    0x4b56_4d00..0x4b56_4d09,
    0xc000_0080..0xc000_0110,
    0xc001_0000..0xc001_0210,
    0xc001_1000..0xc001_1040,
];
/// Counters, which are never twice the same: time, cycles.
const COUNTERS: [u32; 3] = [0x10, 0xe7, 0xe8];
/// What this program needs as it is: APIC base, EFER, FS and GS base.
const NEEDED: [u32; 4] = [0x1b, 0xc000_0080, 0xc000_0100, 0xc000_0101];

// SAFETY: none of them writes to memory as long as no device is started.
const LOCAL: Mmio = unsafe { Mmio::new(machine::LAPIC, 0x400) };
// SAFETY: as above.
const IO: Mmio = unsafe { Mmio::new(machine::IOAPIC, 0x20) };
// SAFETY: as above.
const DEVICE: Mmio = unsafe { Mmio::new(machine::VIRTIO, 0x110) };
/// Local APIC: end of interrupt, interrupt command, count of the timer.
const ORDERS: [u64; 4] = [0xb0, 0x300, 0x310, 0x390];

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    show();
    println(format_args!("shown"));
    let command = loop {
        if let Some(byte) = read_byte() {
            break byte;
        }
    };
    if command == b'r' {
        dirty();
        machine::reset(Reset::Acpi);
    }
}

fn msrs() -> impl Iterator<Item = (u32, u64)> {
    let all = MSRS.into_iter().flatten();
    all.filter(|index| !COUNTERS.contains(index))
        .filter_map(|index| Some((index, msr::read(index)?)))
}

fn show() {
    for (index, value) in msrs() {
        println(format_args!("MSR {index:x} {value:x}"));
    }
    for offset in (0..0x400).step_by(16).filter(|at| !ORDERS.contains(at)) {
        println(format_args!("LAPIC {offset:x} {:x}", LOCAL.read32(offset)));
    }
    for register in (0..3).chain(0x10..0x30) {
        IO.write32(0, register);
        println(format_args!("I/O APIC {register:x} {:x}", IO.read32(0x10)));
    }
    for register in [1, 3, 4, 7] {
        let value = port::in8(machine::COM1 + register);
        println(format_args!("COM1 {register} {value:x}"));
    }
    for offset in (0..0x110).step_by(4) {
        println(format_args!("device {offset:x} {:x}", DEVICE.read32(offset)));
    }
    for leaf in [0x4000_0000, 0x4000_0010] {
        let it = __cpuid(leaf);
        let (eax, ebx) = (it.eax, it.ebx);
        println(format_args!("CPUID {leaf:x} {eax:x} {ebx:x}"));
    }
}

fn dirty() {
    /// All bits, memory types, a bit of each byte, an address that is in use, one
    /// that is on; then each bit alone.
    const MASKS: [u64; 5] = [!0, 0x606, 0x0101_0101_0101_0101, 0x40_0000, 0x40_0001];
    let mut changed = 0;
    for (index, old) in msrs().filter(|(index, _)| !NEEDED.contains(index)) {
        let bits = (0..64).map(|bit| 1 << bit);
        let mut masks = MASKS.into_iter().chain(bits);
        changed += u32::from(masks.any(|mask| {
            // SAFETY: this program needs none of these; addresses that KVM
            // writes to are above what it uses, or are none.
            let set = unsafe { msr::write(index, old ^ mask) };
            set && msr::read(index) != Some(old)
        }));
    }
    println(format_args!("changed {changed}"));
    // SAFETY: no time is kept here; the counter goes on from there.
    unsafe { msr::write(0x10, 1 << 50) };
    for offset in [0x80, 0xd0, 0xe0, 0xf0, 0x320, 0x340, 0x350, 0x360, 0x370, 0x3e0, 0x380] {
        // Masked, with a vector; the timer counts.
        LOCAL.write32(offset, 0x0101_0031);
    }
    for register in (0..1).chain(0x10..0x30) {
        IO.write32(0, register);
        IO.write32(0x10, 0x0300_0031);
    }
    for (offset, value) in [(0x14, 1), (0x24, 1), (0x70, 1), (0x70, 3), (0x30, 1)] {
        DEVICE.write32(offset, value);
    }
    for (register, value) in [(1, 1), (7, 0x5a), (4, 0xb), (3, 0x83), (0, 3), (1, 1)] {
        port::out8(machine::COM1 + register, value);
    }
}
