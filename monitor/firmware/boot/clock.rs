//! How fast the time-stamp counter runs, from KVM's clock (Linux,
//! Documentation/virt/kvm/x86/msr.rst).

use alloc::boxed::Box;

use rt::{Mmio, msr};

/// `MSR_KVM_SYSTEM_TIME_NEW`: where KVM writes its clock.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Offsets into the clock: nanoseconds are ticks × factor ÷ 2³² × 2^shift.
const FACTOR: u64 = 24;
const SHIFT: u64 = 28;
/// What to take where KVM does not say.
const USUAL_KHZ: u64 = 2_500_000;

#[repr(C, align(64))]
struct Clock([u8; 64]);

/// Ticks of the time-stamp counter in a millisecond.
pub fn tsc_khz() -> u64 {
    let clock = Box::into_raw(Box::new(Clock([0; 64]))) as u64;
    // SAFETY: memory of our own, which KVM writes to until it is told to stop,
    // and which is read as the device memory that it is.
    let (clock, told) = unsafe { (Mmio::new(clock, 64), msr::write(SYSTEM_TIME, clock | 1)) };
    let (factor, shift) = (u64::from(clock.read32(FACTOR)), clock.read8(SHIFT) as i8);
    // SAFETY: turns it off.
    unsafe { msr::write(SYSTEM_TIME, 0) };
    if !told || factor == 0 {
        return USUAL_KHZ;
    }
    let khz = (1_000_000 << 32) / factor;
    let khz = match shift {
        0.. => khz >> shift.min(32),
        _ => khz << shift.unsigned_abs().min(16),
    };
    khz.max(1)
}
