//! Dirty, reset, compare; and dirty, save, restore, compare: over everything
//! that KVM lets anybody read of a vCPU, not over what the code names.

use std::collections::BTreeMap;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::*;
use crate::snapshot::state::tests::machine;
use crate::snapshot::state::{restore_vcpu, save_vcpu};

const ENTRY: Entry = Entry::Linux64(0x10_0000);

/// Where Linux's KVM has MSRs, besides those that KVM lists.
const RANGES: [std::ops::Range<u32>; 4] =
    [0..0x2000, 0x4b56_4d00..0x4b56_4d09, 0xc000_0000..0xc000_0400, 0xc001_0000..0xc001_1100];
/// MSRs that only the host can set: a guest leaves them as they are.
const HOSTS: [std::ops::RangeInclusive<u32>; 10] = [
    // Microcode, SGX's keys, platform information, capabilities.
    0x8b..=0x8f,
    0xce..=0xcf,
    0x10a..=0x10a,
    0x345..=0x345,
    0x480..=0x493,
    // Hyper-V's interface, which no guest is offered.
    0x4000_0000..=0x4000_ffff,
    // Orders and answers, not state: end of an asynchronous fault, migration.
    0x4b56_4d07..=0x4b56_4d08,
    0xc000_0104..=0xc000_0104,
    // Of nested virtualization, and errata, which no guest is offered.
    0xc001_0140..=0xc001_0141,
    // The time stamp counter, compared elsewhere.
    0x10..=0x10,
];

fn entry(index: u32, data: u64) -> Msrs {
    let entry = kvm_msr_entry { index, data, ..Default::default() };
    Msrs::from_entries(&[entry]).unwrap()
}

fn read(fd: &VcpuFd, index: u32) -> Option<u64> {
    let mut one = entry(index, 0);
    (fd.get_msrs(&mut one).ok()? == 1).then(|| one.as_slice()[0].data)
}

/// All MSRs that can be read, but the host's.
fn all_msrs(fd: &VcpuFd, host: &Kvm) -> BTreeMap<u32, u64> {
    let listed = host.get_msr_index_list().unwrap();
    let all = RANGES.into_iter().flatten();
    all.chain(listed.as_slice().iter().copied())
        .filter(|index| !HOSTS.iter().any(|range| range.contains(index)))
        .filter_map(|index| Some((index, read(fd, index)?)))
        .collect()
}

/// Changes each MSR that can be changed; tells which.
fn dirty_msrs(fd: &VcpuFd, before: &BTreeMap<u32, u64>) -> Vec<u32> {
    let bits = (0..64).map(|bit| 1 << bit);
    // A word of which few bits, or many, or those of an address are valid.
    let masks = [!0, 0x606, 0x0101_0101_0101_0101, 0x40_0001, 0x40_0000];
    let masks: Vec<u64> = masks.into_iter().chain(bits).collect();
    let change = |(index, old): (&u32, &u64)| {
        let new = |mask: &u64| {
            let set = fd.set_msrs(&entry(*index, old ^ mask));
            set.is_ok_and(|set| set == 1) && read(fd, *index) != Some(*old)
        };
        // The local APIC's base and EFER are system registers: see below.
        let other = !matches!(*index, 0x1b | 0x800..=0x8ff | 0xc000_0080);
        (other && masks.iter().any(new)).then_some(*index)
    };
    before.iter().filter_map(change).collect()
}

/// Changes all other registers.
fn dirty_registers(fd: &VcpuFd) {
    let mut regs = fd.get_regs().unwrap();
    (regs.rax, regs.r15, regs.rip, regs.rflags) = (1, 2, 3, 0xad7);
    fd.set_regs(&regs).unwrap();
    let mut sregs = fd.get_sregs().unwrap();
    (sregs.cr2, sregs.cr8, sregs.gs.base) = (0x1234, 5, 0x5000);
    (sregs.gdt.base, sregs.idt.base, sregs.idt.limit) = (0x7000, 0x8000, 0x1ff);
    // PGE; system calls; x2APIC mode.
    (sregs.cr4, sregs.efer) = (sregs.cr4 | 1 << 7, sregs.efer | 1);
    sregs.apic_base |= 1 << 10;
    fd.set_sregs(&sregs).unwrap();
    let mut debug = fd.get_debug_regs().unwrap();
    (debug.db, debug.dr6, debug.dr7) = ([1, 2, 3, 4], 0xffff_0ff1, 0x401);
    fd.set_debug_regs(&debug).unwrap();
    let mut xsave = fd.get_xsave().unwrap();
    xsave.region[40..60].fill(0x5a5a_5a5a);
    xsave.region[128] |= 3;
    // SAFETY: no dynamic feature is enabled.
    unsafe { fd.set_xsave(&xsave) }.unwrap();
    if let Ok(mut xcrs) = fd.get_xcrs()
        && xcrs.nr_xcrs > 0
    {
        xcrs.xcrs[0].value = 3;
        fd.set_xcrs(&xcrs).unwrap();
    }
    let mut lapic = fd.get_lapic().unwrap();
    // Task priority, spurious vector, in service, pending, error, timer.
    for register in [0x80, 0xf0, 0x110, 0x210, 0x320, 0x350, 0x380, 0x3e0] {
        lapic.regs[register] = 0x31;
        lapic.regs[register + 1] = 1;
    }
    fd.set_lapic(&lapic).unwrap();
    let mut events = fd.get_vcpu_events().unwrap();
    events.flags |= kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING;
    (events.nmi.pending, events.nmi.masked) = (1, 1);
    fd.set_vcpu_events(&events).unwrap();
}

/// A vCPU as it starts.
fn started() -> Option<(VmFd, VcpuFd, Kvm)> {
    let (vm, fd, host) = machine()?;
    let cpuid = cpuid::supported(&host).unwrap();
    fd.set_cpuid2(&cpuid::for_vcpu(&cpuid, 0, 1, 0)).unwrap();
    msrs::boot(&fd).unwrap();
    regs::set_entry(&fd, ENTRY).unwrap();
    Some((vm, fd, host))
}

fn different(one: &BTreeMap<u32, u64>, other: &BTreeMap<u32, u64>) -> Vec<String> {
    let differ = |(index, value): (&u32, &u64)| {
        let now = other.get(index);
        (now != Some(value)).then(|| format!("{index:#x}: {value:#x}, now {now:x?}"))
    };
    one.iter().filter_map(differ).collect()
}

#[test]
fn whatever_can_be_changed_is_reset() {
    let Some((_vm, fd, host)) = started() else {
        return;
    };
    let mut fresh = save_vcpu(&fd).unwrap();
    let before = all_msrs(&fd, &host);
    let dirty = dirty_msrs(&fd, &before);
    assert!(dirty.len() > 100, "{dirty:x?}");
    dirty_registers(&fd);
    let changed = save_vcpu(&fd).unwrap();
    let parts = |vcpu: &mote_snapshot::VcpuV1| {
        [
            ("registers", vcpu.regs.to_vec()),
            ("system registers", vcpu.sregs.to_vec()),
            ("debug registers", vcpu.debug.to_vec()),
            ("XSAVE area", vcpu.xsave.clone()),
            ("local APIC", vcpu.lapic.to_vec()),
            ("events", vcpu.events.to_vec()),
        ]
    };
    for ((what, old), (_, new)) in parts(&fresh).into_iter().zip(parts(&changed)) {
        assert!(old != new, "{what}: not changed");
    }
    regs::power_on(&fd, Some(ENTRY)).unwrap();
    // KVM before Linux 6.7 never clears HWCR's bit 18 for anybody.
    let settable = |index: &u32, value: &mut u64| {
        fd.set_msrs(&entry(*index, *value)).unwrap();
        *index != 0xc001_0015 || read(&fd, *index) == Some(*value)
    };
    let after = all_msrs(&fd, &host);
    let mut before = before;
    before.retain(settable);
    assert_eq!(different(&before, &after), [""; 0]);
    let mut after = save_vcpu(&fd).unwrap();
    for vcpu in [&mut fresh, &mut after] {
        vcpu.msrs.clear();
    }
    for ((what, old), (_, new)) in parts(&fresh).into_iter().zip(parts(&after)) {
        let bytes = old.iter().zip(&new).enumerate();
        let differ = bytes.filter(|(_, (old, new))| old != new);
        assert_eq!(differ.collect::<Vec<_>>(), [], "{what}");
    }
    assert_eq!(after, fresh);
}

#[test]
fn whatever_can_be_changed_is_restored() {
    /// The order to write the wall clock, and where branches went.
    const NO_STATE: [std::ops::RangeInclusive<u32>; 3] =
        [0x11..=0x11, 0x4b56_4d00..=0x4b56_4d00, 0x1db..=0x1de];
    let Some((_vm, fd, host)) = started() else {
        return;
    };
    let before = all_msrs(&fd, &host);
    dirty_msrs(&fd, &before);
    let mut changed = all_msrs(&fd, &host);
    changed.retain(|index, _| !NO_STATE.iter().any(|range| range.contains(index)));
    let saved = save_vcpu(&fd).unwrap();
    let (_vm, other, _) = machine().unwrap();
    restore_vcpu(&other, &saved).unwrap();
    assert_eq!(different(&changed, &all_msrs(&other, &host)), [""; 0]);
}
