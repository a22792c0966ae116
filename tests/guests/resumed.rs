//! The smallest guest to be saved and restored: the boot marker, where it is
//! saved, then one byte on the serial port, then power off.
//!
//! It has no runtime, as `hello` has none.
#![no_std]
#![no_main]

use core::arch::global_asm;

global_asm!(
    ".section .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "    mov $0x604, %dx", // the boot marker
    "    mov $123, %al",
    "    out %al, %dx",
    "    mov $0x3f8, %dx", // COM1, transmit holding register
    "    mov $'H', %al",
    "    out %al, %dx",
    "    mov $0x600, %dx", // ACPI sleep control register
    "    mov $0x34, %al",  // S5 with the enable bit: power off
    "    out %al, %dx",
    "0:  hlt",
    "    jmp 0b",
    options(att_syntax)
);

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
