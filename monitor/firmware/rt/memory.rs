//! Physical memory as seen from ring 3, and the functions that compiled code
//! expects to find.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::gate::{Registers, Service, call};

const GIB: u64 = 1 << 30;

/// Entry flags: present, writable, user, accessed, dirty.
const TABLE: u64 = 0x67;
/// The same for a 2 MiB page, not executable.
const LARGE: u64 = 0xe7 | 1 << 63;

/// GiB above the fourth that can be mapped.
const DIRECTORIES: usize = 32;

#[repr(align(4096))]
struct Directory([AtomicU64; 512]);

static POOL: [Directory; DIRECTORIES] =
    [const { Directory([const { AtomicU64::new(0) }; 512]) }; DIRECTORIES];
static USED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// Page-directory-pointer table of the first 512 GiB (tables.s).
    #[link_name = "rt_pdpt"]
    safe static PDPT: [AtomicU64; 512];
}

/// The bytes at a physical address below 4 GiB, or in a range given to [`map`].
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

/// No page table is left for memory above 4 GiB.
#[derive(Debug)]
pub struct NoTables;

/// Maps a range above 4 GiB one to one, in whole GiB. Not for several CPUs at
/// once.
///
/// # Errors
/// The range needs more page tables than the runtime has, or ends above
/// 512 GiB.
pub fn map(start: u64, len: u64) -> Result<(), NoTables> {
    let end = start.checked_add(len).ok_or(NoTables)?;
    for gib in start / GIB..end.div_ceil(GIB) {
        let entry = PDPT.get(gib as usize).ok_or(NoTables)?;
        if entry.load(Ordering::Relaxed) != 0 {
            continue;
        }
        let used = USED.fetch_add(1, Ordering::Relaxed);
        let directory = POOL.get(used as usize).ok_or(NoTables)?;
        for (page, large) in (0..).zip(&directory.0) {
            large.store((gib * GIB + page * (2 << 20)) | LARGE, Ordering::Relaxed);
        }
        entry.store(directory.0.as_ptr() as u64 | TABLE, Ordering::Release);
    }
    // SAFETY: only adds translations.
    unsafe { call(Service::Flush, Registers::default()) };
    Ok(())
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
