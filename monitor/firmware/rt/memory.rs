//! Physical memory as seen from ring 3, and the functions that compiled code
//! expects to find.

use core::arch::asm;

/// The bytes at a physical address below 4 GiB, or one that has been mapped.
///
/// # Safety
/// The range must be RAM (or ROM) that nothing changes while the slice lives.
#[must_use]
pub unsafe fn bytes(address: u64, len: usize) -> &'static [u8] {
    // SAFETY: mapped one to one; the rest is the caller's promise.
    unsafe { core::slice::from_raw_parts(address as *const u8, len) }
}

/// Writable bytes at a physical address, as [`bytes`].
///
/// # Safety
/// The range must be RAM that nothing else uses while the slice lives.
#[must_use]
pub unsafe fn bytes_mut(address: u64, len: usize) -> &'static mut [u8] {
    // SAFETY: mapped one to one; the rest is the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(address as *mut u8, len) }
}

// Compiled code calls these; they are what a C library would have. `rep` string
// instructions do not turn into calls of themselves, as loops would.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller of memcpy promises both ranges.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: the ranges do not overlap, or `to` is below: upwards is right.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: both ranges are the caller's promise; downwards, as they overlap
    // with `to` above. `len` is not 0 here.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller of memset promises the range.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: the caller of memcmp promises the range.
        let x = unsafe { *a.wrapping_add(at) };
        // SAFETY: as above.
        let y = unsafe { *b.wrapping_add(at) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, len) }
}
