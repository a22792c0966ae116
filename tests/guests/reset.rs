//! Resets the machine and checks that it comes back as it was at power-on.
//!
//! At each start it checks memory, its own data, the interrupt controllers, an
//! MSR and the serial port, prints `boot` and waits for a byte on the serial
//! port: `r` leaves a mark on all of them and resets by the way that
//! `by=acpi|i8042|triple` on the command line names, anything else powers off.
//! So whoever sends the bytes counts the starts.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};
use rt::machine::Reset;
use rt::{Boot, Mmio, Region, fail, irq, machine, msr, paging, port, println, read_byte};

const MARK: u64 = 0x4d61_726b_6564_2121;

/// COM1's scratch register.
const SCRATCH: u16 = machine::COM1 + 7;
/// Local APIC: spurious-interrupt register, and its value at power-on.
const SPURIOUS: u64 = 0xf0;
const SPURIOUS_RESET: u32 = 0xff;
/// I/O APIC: low half of a redirection entry, and its value at power-on.
const GSI: u32 = 5;
const MASKED: u32 = 1 << 16;
/// An MSR that nothing here needs: target of `syscall`.
const LSTAR: u32 = 0xc000_0082;

/// Loaded with the program: 1 again after a reset.
static STARTS: AtomicU32 = AtomicU32::new(1);
/// Cleared by the loader.
static CLEARED: AtomicU32 = AtomicU32::new(0);

// SAFETY: the interrupt controllers write to no memory.
const LOCAL: Mmio = unsafe { Mmio::new(machine::LAPIC, 0x400) };
// SAFETY: as above.
const IO: Mmio = unsafe { Mmio::new(machine::IOAPIC, 0x20) };

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let how = match boot.option("by") {
        Some("acpi") => Reset::Acpi,
        Some("i8042") => Reset::I8042,
        Some("triple") => Reset::TripleFault,
        other => fail(format_args!("by={other:?}: not a way to reset")),
    };
    check(boot);
    println(format_args!("boot"));
    let command = loop {
        if let Some(byte) = read_byte() {
            break byte;
        }
    };
    if command == b'r' {
        mark(boot);
        machine::reset(how);
    }
}

fn check(boot: &Boot) {
    for word in words(boot) {
        if *word != 0 {
            fail(format_args!("memory at {word:p} still holds {word:#x}"));
        }
    }
    let data = STARTS.load(Ordering::Relaxed);
    if data != 1 || CLEARED.load(Ordering::Relaxed) != 0 {
        fail(format_args!("the program's data was not loaded again: {data}"));
    }
    let spurious = LOCAL.read32(SPURIOUS);
    if spurious != SPURIOUS_RESET {
        fail(format_args!("the local APIC is still on: {spurious:#x}"));
    }
    IO.write32(0, 0x10 + 2 * GSI);
    let entry = IO.read32(0x10);
    if entry & MASKED == 0 {
        fail(format_args!("the I/O APIC still has an open entry: {entry:#x}"));
    }
    let lstar = msr::read(LSTAR);
    if lstar != Some(0) {
        fail(format_args!("an MSR is not zero: {lstar:x?}"));
    }
    let scratch = port::in8(SCRATCH);
    if scratch != 0 {
        fail(format_args!("the serial port still holds {scratch:#x}"));
    }
}

fn mark(boot: &Boot) {
    for word in words(boot) {
        *word = MARK;
    }
    STARTS.store(2, Ordering::Relaxed);
    CLEARED.store(2, Ordering::Relaxed);
    irq::route(GSI, 0x50, irq::Trigger::Edge);
    // SAFETY: no `syscall` is executed here.
    unsafe { msr::write(LSTAR, MARK & 0xffff_ffff) };
    port::out8(SCRATCH, 0x5a);
}

/// The last word of each region of RAM, and one in its middle.
fn words(boot: &Boot) -> impl Iterator<Item = &'static mut u64> + use<> {
    boot.regions().filter(Region::is_ram).flat_map(|region| {
        if paging::map(region.start, region.len).is_err() {
            fail(format_args!("{:#x} cannot be mapped", region.start));
        }
        let middle = (region.start + region.len / 2) & !7;
        [middle, region.end() - 8].map(|address| {
            // SAFETY: RAM by the memory map, mapped, and clear of the program
            // and the loader's data; one reference at a time is in use.
            unsafe { &mut *(address as *mut u64) }
        })
    })
}
