//! Port I/O that only tests do: wide, and of many ports at once.

use crate::gate::{Registers, Service, call};
use crate::port::{read, write};

/// Writes two bytes.
pub fn out16(port: u16, value: u16) {
    write(Service::Out16, port, value.into());
}

/// Writes four bytes.
pub fn out32(port: u16, value: u32) {
    write(Service::Out32, port, value);
}

/// Reads two bytes.
#[must_use]
pub fn in16(port: u16) -> u16 {
    read(Service::In16, port) as u16
}

/// Reads four bytes.
#[must_use]
pub fn in32(port: u16) -> u32 {
    read(Service::In32, port) as u32
}

/// Reads a byte from each of the ports from `first` up.
pub fn scan(first: u16, bytes: &mut [u8]) {
    let registers = Registers {
        rcx: bytes.len() as u64,
        rdx: first.into(),
        rsi: 0,
        rdi: bytes.as_mut_ptr() as u64,
    };
    if !bytes.is_empty() {
        // SAFETY: pointer and length are those of a slice.
        unsafe { call(Service::Scan, registers) };
    }
}

/// Writes a byte to each of `count` ports from `first` up.
pub fn fill(first: u16, count: usize, value: u8) {
    let registers = Registers { rcx: count as u64, rdx: first.into(), rsi: 0, rdi: value.into() };
    if count > 0 {
        // SAFETY: a port write touches no memory.
        unsafe { call(Service::Fill, registers) };
    }
}
