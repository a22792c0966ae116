//! Memory above 4 GiB.

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
