//! The CPUID leaves a guest sees.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;

use crate::error::{Error, kvm};

/// Asks KVM what the host supports and takes out what Mote's machine is not.
/// This costs a third of a millisecond, so it is asked once, beside the
/// creation of the VM.
///
/// # Errors
/// KVM refuses the question.
pub fn supported(host: &Kvm) -> Result<CpuId, Error> {
    let mut cpuid =
        host.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(kvm("get the supported CPUID"))?;
    let amd = is_amd(&cpuid);
    // The topology is ours alone; see `for_vcpu`.
    cpuid.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    for entry in cpuid.as_mut_slice() {
        withhold(entry);
        // AMD processors have no ARCH_CAPABILITIES; KVM offers it all the
        // same, and a guest that believes it reads an MSR for nothing.
        if amd && (entry.function, entry.index) == (0x7, 0) {
            entry.edx &= !(1 << 29);
        }
    }
    Ok(cpuid)
}

/// Takes out what no guest has here, whatever the host has.
fn withhold(entry: &mut kvm_cpuid_entry2) {
    // KVM asks nothing of an index that is not said to matter.
    let matters = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
    match (entry.function, if matters { entry.index } else { 0 }) {
        // No virtualization inside: it is the part of KVM with the most
        // holes, and a vCPU in a nested guest cannot be reset.
        (0x1, _) => entry.ecx &= !(1 << 5),
        // Nor AMD's; its list of errata, which no snapshot keeps, its watchpoints' and
        // counters' extensions.
        (0x8000_0001, _) => entry.ecx &= !(1 << 2 | 1 << 9 | 1 << 23 | 1 << 24 | 1 << 28),
        // The same in full, enclaves, traces, and performance counters: they tell a guest
        // about its neighbours.
        (0x8000_000a | 0x8000_0022 | 0x12 | 0x14 | 0xa, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        // Power management hints (EPB) that no MSR stands behind.
        (0x6, _) => entry.ecx &= !(1 << 3),
        (0x7, 0) => {
            // SGX: there are no enclaves. Processor trace: its state is not kept.
            entry.ebx &= !(1 << 2 | 1 << 25);
            entry.ecx &= !(1 << 30);
            // Shadow stacks and branch tracking: the shadow stack's pointer is no
            // MSR and would be lost in a snapshot.
            entry.ecx &= !(1 << 7);
            entry.edx &= !(1 << 20);
        }
        _ => {}
    }
}

/// Whether a snapshot's leaf has features that Mote does not offer on this host: those that
/// [`supported`] removes, or another hypervisor's interface, which KVM would emulate.
pub fn is_foreign(entry: &kvm_cpuid_entry2) -> bool {
    /// EAX of the leaf after the signature of one with Hyper-V's interface.
    const HYPER_V: u32 = u32::from_le_bytes(*b"Hv#1");
    const XEN: [u32; 3] =
        [u32::from_le_bytes(*b"XenV"), u32::from_le_bytes(*b"MMXe"), u32::from_le_bytes(*b"nVMM")];
    let mut ours = *entry;
    withhold(&mut ours);
    let hypervisor = (0x4000_0000..0x5000_0000).contains(&entry.function);
    let other = entry.eax == HYPER_V || [entry.ebx, entry.ecx, entry.edx] == XEN;
    ours != *entry || hypervisor && other
}

fn is_amd(cpuid: &CpuId) -> bool {
    // "AuthenticAMD" and "HygonGenuine" begin so in EBX.
    let amd = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
    cpuid.as_slice().iter().any(|entry| entry.function == 0 && amd.contains(&entry.ebx))
}

/// The leaves of one vCPU: every vCPU is a separate core in one package.
/// Leaf 0xb (extended topology) is made here: its level 0 is the thread, level 1
/// the core. So is that of frequencies, if that of the time stamp counter is known.
pub fn for_vcpu(supported: &CpuId, cpu: u8, cpus: u8, tsc_khz: u32) -> CpuId {
    let mut cpuid = supported.clone();
    let (id, count) = (u32::from(cpu), u32::from(cpus));
    // Bits of an APIC id that number the cores of a package.
    let core_bits = count.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                // EBX: CLFLUSH size stays; logical processors and APIC id.
                entry.ebx = entry.ebx & 0xff00 | count << 16 | id << 24;
                // HTT says that the count above is valid.
                entry.edx = entry.edx & !(1 << 28) | u32::from(cpus > 1) << 28;
                // A hypervisor. And the local APIC's timer takes deadlines, which KVM leaves
                // to its caller to say: without, a kernel that has no ACPI waits for a PIT.
                entry.ecx |= 1 << 31 | 1 << 24;
            }
            // Deterministic caches: L1 and L2 are a core's own, L3 is shared.
            0x4 if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                let cores = (1 << core_bits) - 1;
                entry.eax = entry.eax & 0x3fff | sharing << 14 | cores << 26;
            }
            // AMD: core count and APIC id size.
            0x8000_0008 => entry.ecx = core_bits << 12 | (count - 1),
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let level = entry.eax >> 5 & 7;
                let sharing = if level >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
            }
            // AMD: extended APIC id, one thread a core, node 0.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    for (eax, ebx, index, kind) in [(0, 1, 0, 1), (core_bits, count, 1, 2), (0, 0, 2, 0)] {
        let level = kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: kind << 8 | index,
            edx: id,
            ..Default::default()
        };
        // There is room: KVM supports fewer leaves than the table holds. A
        // guest without this one still has the older ones.
        let _ = cpuid.push(level);
    }
    if tsc_khz > 0 {
        add_frequencies(&mut cpuid, tsc_khz);
    }
    cpuid
}

/// The leaf in which hypervisors tell the frequency of the time stamp counter and of
/// the local APIC's timer, so that a guest need not measure them.
fn add_frequencies(cpuid: &mut CpuId, tsc_khz: u32) {
    const SIGNATURE: u32 = 0x4000_0000;
    const FREQUENCIES: u32 = 0x4000_0010;
    /// KVM's local APICs count nanoseconds.
    const APIC_KHZ: u32 = 1_000_000;
    let leaf = kvm_cpuid_entry2 {
        function: FREQUENCIES,
        eax: tsc_khz,
        ebx: APIC_KHZ,
        ..Default::default()
    };
    let mut leaves = cpuid.as_mut_slice().iter_mut();
    let signature = leaves.find(|leaf| leaf.function == SIGNATURE);
    if let Some(signature) = signature {
        signature.eax = signature.eax.max(FREQUENCIES);
        // There is room; see above.
        let _ = cpuid.push(leaf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_guest_is_given_is_foreign() {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        // VMX, SVM, shadow stacks, SGX, counters, SVM's leaf.
        for leaf in [
            leaf(0x1, 0, 0, 1 << 5, 0),
            leaf(0x8000_0001, 0, 0, 1 << 2, 0),
            leaf(0x8000_0001, 0, 0, 1 << 9, 0),
            leaf(0x7, 0, 1 << 25, 0, 0),
            leaf(0x7, 0, 0, 1 << 7, 0),
            leaf(0x7, 0, 1 << 2, 0, 0),
            leaf(0xa, 2, 0, 0, 0),
            leaf(0x8000_000a, 1, 0, 0, 0),
            leaf(0x4000_0001, u32::from_le_bytes(*b"Hv#1"), 0, 0, 0),
            leaf(0x4000_0100, 0, 0x566e_6558, 0x6558_4d4d, 0x4d4d_566e),
        ] {
            assert!(is_foreign(&leaf), "{leaf:?}");
        }
        // An index matters to KVM if it is said to.
        let mut other = leaf(0x7, 0, 1 << 2, 0, 0);
        other.index = 5;
        assert!(is_foreign(&other));
        other.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        assert!(!is_foreign(&other));
        let kvm = leaf(0x4000_0000, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d);
        assert!(!is_foreign(&kvm));
        assert!(!is_foreign(&leaf(0x1, !0, !0, !(1 << 5), !0)));
        assert!(!is_foreign(&leaf(0x4000_0001, !0, 0, 0, 0)));
    }

    #[test]
    fn frequencies_are_told_where_they_are_known() {
        let signature =
            kvm_cpuid_entry2 { function: 0x4000_0000, eax: 0x4000_0001, ..Default::default() };
        let supported = CpuId::from_entries(&[signature]).unwrap();
        let last = |khz| {
            let cpuid = for_vcpu(&supported, 0, 1, khz);
            let last = *cpuid.as_slice().last().unwrap();
            (cpuid.as_slice()[0].eax, last.function, last.eax, last.ebx)
        };
        let told = (0x4000_0010, 0x4000_0010, 2_100_000, 1_000_000);
        assert_eq!(last(2_100_000), told);
        assert_eq!(last(0).0, 0x4000_0001);
        assert_eq!(last(0).1, 0xb);
    }

    #[test]
    fn every_vcpu_is_a_core_with_its_own_id() {
        let leaves: Vec<kvm_cpuid_entry2> = [(1, 0), (0x8000_001e, 0)]
            .map(|(function, index)| kvm_cpuid_entry2 { function, index, ..Default::default() })
            .into();
        let supported = CpuId::from_entries(&leaves).unwrap();
        let cpuid = for_vcpu(&supported, 5, 6, 0);
        let leaf = |n: usize| cpuid.as_slice()[n];
        assert_eq!(leaf(0).ebx, 5 << 24 | 6 << 16);
        assert_eq!(leaf(0).edx >> 28 & 1, 1);
        assert_eq!(leaf(0).ecx, 1 << 31 | 1 << 24);
        assert_eq!(leaf(1).eax, 5);
        assert_eq!((leaf(2).eax, leaf(2).ebx, leaf(2).ecx), (0, 1, 1 << 8));
        assert_eq!((leaf(3).eax, leaf(3).ebx, leaf(3).edx), (3, 6, 5));
        let single = for_vcpu(&supported, 0, 1, 0);
        assert_eq!(single.as_slice()[0].edx >> 28 & 1, 0);
    }
}
