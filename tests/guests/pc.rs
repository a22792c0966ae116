//! Does what programs do that were written for a PC: reads the clock chip, or with `port=N` or
//! `address=N` (decimal) waits for good for a bit there to clear; and powers off as QEMU's
//! machines are powered off.
#![no_std]
#![no_main]

use rt::{Boot, Mmio, fail, machine, port, ports, println};

const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;
const STATUS_D: u8 = 0xd;
/// An update is in progress.
const UPDATE: u8 = 1 << 7;
/// 24 hours; binary digits.
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
/// The time is valid.
const VALID: u8 = 1 << 7;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let number = |name| boot.option(name)?.parse::<u64>().ok();
    if let Some(at) = number("port") {
        while port::in8(at as u16) & UPDATE != 0 {}
    }
    if let Some(at) = number("address") {
        // SAFETY: mapped by the runtime, no RAM, no device.
        let register = unsafe { Mmio::new(at, 4) };
        while register.read32(0) & 1 != 0 {}
    }
    let [century, year, month, day, hour, minute, second] = time();
    println(format_args!(
        "{century:02x}{year:02x}-{month:02x}-{day:02x} {hour:02x}:{minute:02x}:{second:02x}"
    ));
    if cmos(STATUS_B) & (HOURS_24 | BINARY) != HOURS_24 || cmos(STATUS_D) & VALID == 0 {
        fail(format_args!("not a clock of 24 hours with a valid time"));
    }
    ports::out16(machine::BOOT_MARKER, 0x2000);
    fail(format_args!("the machine is on"));
}

fn cmos(register: u8) -> u8 {
    port::out8(0x70, register);
    port::in8(0x71)
}

/// The time, once no update is in progress and it reads alike twice.
fn time() -> [u8; 7] {
    let read = || [0x32, 9, 8, 7, 4, 2, 0].map(cmos);
    for _ in 0..1000 {
        let first = read();
        if cmos(STATUS_A) & UPDATE == 0 && first == read() {
            return first;
        }
    }
    fail(format_args!("the clock is always being updated"))
}
