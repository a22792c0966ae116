//! The runtime of the programs that run inside a virtual machine.
//!
//! A guest is a `#![no_std] #![no_main]` program with
//!
//! ```ignore
//! #[unsafe(no_mangle)]
//! fn main(boot: &rt::Boot) { rt::println(format_args!("hello")); }
//! ```
//!
//! It is entered by the Linux 64-bit boot protocol at 2 MiB, needs RAM up to
//! 4 MiB, and runs in **ring 3**: on a KVM host without hardware
//! virtualisation ring 0 is emulated instruction by instruction, ring 3 runs at
//! full speed everywhere. The first four GiB are mapped one to one and usable
//! from ring 3, device registers included; code is read-only, data is not
//! executable, page 0 and the page under each stack are absent. What only
//! ring 0 may do goes through a gate ([`port`], [`msr`], [`halt`], …).
//!
//! The first instructions write the boot marker ([`machine::BOOT_MARKER`]).
//! When `main` returns, the machine is powered off. An exception or a panic is
//! reported on the serial port and ends the machine the same way: who runs a
//! guest looks at what it printed.
//!
//! What only the tests' guests need lies beside them, for `--cfg tests`: interrupts,
//! further CPUs, memory above 4 GiB, wide port accesses.
//!
//! The boot firmware (`boot.rs`) runs on the same runtime, built with
//! `--cfg firmware`: then it lies below 640 KiB, has one CPU, leaves the boot
//! marker to what it boots, and ends in [`enter`].
#![no_std]
#![warn(missing_docs)]

#[path = "rt/acpi.rs"]
pub mod acpi;
#[path = "rt/blk.rs"]
pub mod blk;
#[path = "rt/boot.rs"]
mod boot;
#[path = "rt/console.rs"]
mod console;
#[path = "rt/gate.rs"]
mod gate;
#[cfg(tests)]
#[path = "../../tests/guests/rt/irq.rs"]
pub mod irq;
#[path = "rt/machine.rs"]
pub mod machine;
#[path = "rt/memory.rs"]
pub mod memory;
#[path = "rt/mmio.rs"]
mod mmio;
#[path = "rt/msr.rs"]
pub mod msr;
#[cfg(tests)]
#[path = "../../tests/guests/rt/paging.rs"]
pub mod paging;
#[path = "rt/port.rs"]
pub mod port;
#[cfg(tests)]
#[path = "../../tests/guests/rt/ports.rs"]
pub mod ports;
#[cfg(tests)]
#[path = "../../tests/guests/rt/smp.rs"]
pub mod smp;
#[path = "rt/window.rs"]
pub mod window;

use core::arch::global_asm;
use core::panic::PanicInfo;

pub use boot::{Boot, Region};
pub use console::{fail, has_byte, print, println, read_byte};
pub use gate::{enter, enter_pvh, halt, triple_fault};
pub use machine::{power_off, reset};
pub use mmio::Mmio;

#[cfg(not(firmware))]
global_asm!(include_str!("rt/layout_guest.s"));
#[cfg(firmware)]
global_asm!(include_str!("rt/layout_firmware.s"));
global_asm!(include_str!("rt/entry.s"));
global_asm!(include_str!("rt/tables.s"));
#[cfg(tests)]
global_asm!(include_str!("../../tests/guests/rt/smp.s"));

unsafe extern "Rust" {
    /// The guest's own entry.
    safe fn main(boot: &Boot);
}

/// Where the entry stub arrives in ring 3.
#[unsafe(no_mangle)]
extern "C" fn rt_ring3(params: u64) -> ! {
    // SAFETY: the entry stub passes on what the boot protocol put into RSI.
    let boot = unsafe { Boot::new(params) };
    main(&boot);
    power_off()
}

/// Where the exception stub arrives in ring 3, on a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn rt_report(vector: u64, error: u64, rip: u64, cr2: u64, rsp: u64, cs: u64) -> ! {
    println(format_args!(
        "EXCEPTION {vector} error {error:#x} at {rip:#x} (ring {}) address {cr2:#x} stack {rsp:#x}",
        cs & 3
    ));
    machine::give_up()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("{info}"))
}

/// The time-stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: the instruction only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
