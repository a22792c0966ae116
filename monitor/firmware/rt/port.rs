//! Port I/O. Safe, because no device of this machine reaches memory by a port.

use crate::gate::{Registers, Service, call};

pub(crate) fn write(service: Service, port: u16, value: u32) {
    let registers = Registers { rcx: value.into(), rdx: port.into(), ..Registers::default() };
    // SAFETY: a port write touches no memory.
    unsafe { call(service, registers) };
}

pub(crate) fn read(service: Service, port: u16) -> u64 {
    let registers = Registers { rdx: port.into(), ..Registers::default() };
    // SAFETY: a port read touches no memory.
    unsafe { call(service, registers).0 }
}

/// Writes a byte.
pub fn out8(port: u16, value: u8) {
    write(Service::Out8, port, value.into());
}

/// Writes each byte to the same port.
pub fn out_bytes(port: u16, bytes: &[u8]) {
    let registers =
        Registers { rcx: bytes.len() as u64, rdx: port.into(), rsi: bytes.as_ptr() as u64, rdi: 0 };
    // SAFETY: pointer and length are those of a slice.
    unsafe { call(Service::Outs, registers) };
}

/// Reads a byte.
#[must_use]
pub fn in8(port: u16) -> u8 {
    read(Service::In8, port) as u8
}
