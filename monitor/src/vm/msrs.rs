//! Model-specific registers: one table for power-on, reset, snapshot and restore.

use std::io;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::error::{Error, kvm};

/// Time stamp counter: a snapshot takes it together with KVM's clock.
pub const TSC: u32 = 0x10;
/// Deadline of the local APIC's timer, by the counter above.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Fast string operations on.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// MTRRs on, write-back by default: no variable range is needed.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);
/// Control, status, address and miscellaneous register of each bank of machine
/// checks. Those that are zero, which is nearly all, are not saved.
const BANKS: (u32, u32) = (0x400, 0x47f);

/// First and last of rows of MSRs that make up a vCPU's state, besides what
/// `kvm_sregs` has, and their value at power-on, unless a guest cannot change
/// them. No other is taken from a snapshot. What a host or a vCPU does not
/// have is left out: no guest can have changed it either.
const STATE: &[(u32, u32, Option<u64>)] = &[
    // KVM's clock, stolen time, faults, ends of interrupts, polling. Most hold a
    // guest address that KVM keeps writing to: they are reset first.
    (0x4b56_4d01, 0x4b56_4d01, Some(0)),
    (0x12, 0x12, Some(0)),
    (0x4b56_4d03, 0x4b56_4d04, Some(0)),
    (0x4b56_4d05, 0x4b56_4d05, Some(1)),
    (0x4b56_4d06, 0x4b56_4d06, Some(0)),
    (0x4b56_4d02, 0x4b56_4d02, Some(0)),
    // KVM takes 0 for "as the other vCPUs": it undoes a guest's own changes.
    (TSC, TSC, Some(0)),
    (0x3b, 0x3b, Some(0)),
    // Entry points.
    (0x174, 0x176, Some(0)),
    (0xc000_0081, 0xc000_0084, Some(0)),
    (0xc000_0102, 0xc000_0103, Some(0)),
    // Memory types.
    (0x277, 0x277, Some(0x0007_0406_0007_0406)),
    (0x200, 0x20f, Some(0)),
    (0x250, 0x250, Some(0)),
    (0x258, 0x259, Some(0)),
    (0x268, 0x26f, Some(0)),
    (MTRR_DEF_TYPE.0, MTRR_DEF_TYPE.0, Some(MTRR_DEF_TYPE.1)),
    // Features: what the processor is not prone to, speculation control,
    // shadow stacks, bounds, extended states, waiting, transactions, power.
    (0x10a, 0x10a, None),
    (0x48, 0x48, Some(0)),
    (0xc001_011f, 0xc001_011f, Some(0)),
    (0x6a0, 0x6a0, Some(0)),
    (0x6a2, 0x6a2, Some(0)),
    (0x6a4, 0x6a8, Some(0)),
    (0xd90, 0xd90, Some(0)),
    (0xda0, 0xda0, Some(0)),
    (0x1c4, 0x1c5, Some(0)),
    (0xe1, 0xe1, Some(0)),
    (0x122, 0x122, Some(0)),
    (0x3a, 0x3a, Some(0)),
    (MISC_ENABLE.0, MISC_ENABLE.0, Some(MISC_ENABLE.1)),
    (0x140, 0x140, Some(0)),
    (0x1fc, 0x1fc, Some(0)),
    // AMD: hardware configuration, serializing LFENCE, two of SVM that KVM lets
    // guests write that have no SVM, counters where KVM cannot withhold them.
    (0xc001_0015, 0xc001_0015, Some(0)),
    (0xc001_1029, 0xc001_1029, Some(0)),
    (0xc001_0114, 0xc001_0114, Some(0)),
    (0xc001_0117, 0xc001_0117, Some(0)),
    (0xc001_0000, 0xc001_0007, Some(0)),
    // System management: where it is entered, how often it was.
    (0x9e, 0x9e, Some(0x3_0000)),
    (0x34, 0x34, Some(0)),
    // Debugging: bus locks are detected, branches stepped over.
    (0x1d9, 0x1d9, Some(0)),
    // Machine checks: reported errors.
    (0x17a, 0x17b, Some(0)),
    (BANKS.0, BANKS.1, Some(0)),
    (TSC_DEADLINE, TSC_DEADLINE, Some(0)),
];

/// MSRs that are not state but are reset, too: KVM's wall clock, a command to write the
/// time to guest memory once, and the last branch records.
const PASSING: &[(u32, u32, Option<u64>)] =
    &[(0x4b56_4d00, 0x4b56_4d00, Some(0)), (0x11, 0x11, Some(0)), (0x1db, 0x1de, Some(0))];

/// Whether a snapshot may have it.
fn is_state(index: u32) -> bool {
    let mut rows = STATE.iter();
    rows.any(|(first, last, _)| (*first..=*last).contains(&index))
}

fn list(msrs: &[(u32, u64)]) -> Result<Msrs, Error> {
    let entry = |&(index, data)| kvm_msr_entry { index, data, ..Default::default() };
    let entries: Vec<kvm_msr_entry> = msrs.iter().map(entry).collect();
    // The table is shorter than the most that KVM takes in one call.
    Msrs::from_entries(&entries)
        .map_err(|_| Error::Kvm("list MSRs", io::ErrorKind::OutOfMemory.into()))
}

/// Reads those of `indices` that there are, in this order.
fn read(fd: &VcpuFd, indices: impl Iterator<Item = u32>) -> Result<Vec<(u32, u64)>, Error> {
    let wanted: Vec<(u32, u64)> = indices.map(|index| (index, 0)).collect();
    let mut rest = wanted.as_slice();
    let mut all = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let mut msrs = list(rest)?;
        let done = fd.get_msrs(&mut msrs).map_err(kvm("read MSRs"))?;
        let read = msrs.as_slice().iter().take(done);
        all.extend(read.map(|msr| (msr.index, msr.data)));
        // KVM stops at one that it does not have.
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(all)
}

/// Reads one, if there is such a one.
///
/// # Errors
/// KVM refuses to tell of any.
pub fn get(fd: &VcpuFd, index: u32) -> Result<Option<u64>, Error> {
    let one = read(fd, std::iter::once(index))?;
    Ok(one.first().map(|(_, value)| *value))
}

/// Sets MSRs in this order. KVM stops at one that it does not let us set:
/// whether the rest follows is for `refused` to say.
///
/// # Errors
/// What `refused` returns, or KVM takes none at all.
pub fn set(
    fd: &VcpuFd,
    msrs: &[(u32, u64)],
    refused: impl Fn(u32, u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let done = fd.set_msrs(&list(rest)?).map_err(kvm("set MSRs"))?;
        rest = rest.get(done..).unwrap_or_default();
        if let Some(((index, value), behind)) = rest.split_first() {
            refused(*index, *value)?;
            rest = behind;
        }
    }
    Ok(())
}

fn invalid(what: &'static str) -> Error {
    Error::Kvm(what, io::Error::from_raw_os_error(libc::EINVAL))
}

/// Sets what a kernel expects firmware to have set.
///
/// # Errors
/// KVM refuses it.
pub fn boot(fd: &VcpuFd) -> Result<(), Error> {
    let refused = |_, _| Err(invalid("set MSRs"));
    set(fd, &[MISC_ENABLE, MTRR_DEF_TYPE], refused)
}

/// Brings all back to power-on.
///
/// # Errors
/// KVM takes none at all.
pub fn reset(fd: &VcpuFd) -> Result<(), Error> {
    let rows = PASSING.iter().chain(STATE);
    let each = |(first, last, value): &(u32, u32, Option<u64>)| {
        let value = *value;
        (*first..=*last).filter_map(move |index| Some((index, value?)))
    };
    let values: Vec<(u32, u64)> = rows.flat_map(each).collect();
    // A host without this MSR refuses it; so it did to the guest.
    set(fd, &values, |_, _| Ok(()))
}

/// Reads all that are a vCPU's state.
///
/// # Errors
/// KVM refuses to tell.
pub fn save(fd: &VcpuFd) -> Result<Vec<(u32, u64)>, Error> {
    let indices = STATE.iter().flat_map(|(first, last, _)| *first..=*last);
    let mut all = read(fd, indices)?;
    all.retain(|(index, value)| *value != 0 || !(BANKS.0..=BANKS.1).contains(index));
    Ok(all)
}

/// Sets those of a snapshot in a fresh vCPU.
///
/// # Errors
/// There is one that is no state, or that KVM refuses.
pub fn restore(fd: &VcpuFd, msrs: &[(u32, u64)]) -> Result<(), Error> {
    const WHAT: &str = "restore MSRs";
    if !msrs.iter().all(|(index, _)| is_state(*index)) {
        return Err(invalid(WHAT));
    }
    // It need not be set if it has its value by itself, as what the host's
    // processor is.
    set(fd, msrs, |index, value| match get(fd, index)? {
        Some(now) if now == value => Ok(()),
        _ => Err(invalid(WHAT)),
    })
}
