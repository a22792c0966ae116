//! Model-specific registers; an access that the CPU refuses is an answer.

use crate::gate::{Registers, Service, call};

/// Reads an MSR; `None` where the CPU raises #GP.
#[must_use]
pub fn read(index: u32) -> Option<u64> {
    let registers = Registers { rcx: index.into(), ..Registers::default() };
    // SAFETY: reading an MSR changes nothing, and ring 0 catches the refusal.
    let (low, high, refused) = unsafe { call(Service::ReadMsr, registers) };
    (refused == 0).then_some(high << 32 | low & 0xffff_ffff)
}

/// Writes an MSR; `false` where the CPU raises #GP.
///
/// # Safety
/// The CPU must go on running this program with that value.
pub unsafe fn write(index: u32, value: u64) -> bool {
    let registers =
        Registers { rcx: index.into(), rdx: value >> 32, rsi: 0, rdi: value & 0xffff_ffff };
    // SAFETY: as the caller promises; ring 0 catches the refusal.
    unsafe { call(Service::WriteMsr, registers).2 == 0 }
}
