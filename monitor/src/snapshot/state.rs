//! Saves KVM's state of a VM, and restores it into a new one.
//!
//! The order counts: CPUID comes before all else, because KVM answers for many
//! MSRs by what CPUID offers; whether a vCPU runs comes last but for its time, of
//! which the local APIC comes before the deadline of its timer.

use std::arch::x86_64::__cpuid_count;
use std::io;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_SIPI_RECEIVED, KVM_VCPUEVENT_VALID_SMM,
    kvm_cpuid_entry2, kvm_mp_state, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use mote_snapshot::{CpuV1, CpuidV1, StateV1, VcpuV1, VmV1};
use zerocopy::{FromBytes as _, IntoBytes as _, transmute};

use crate::error::{Error, kvm};
use crate::vm::{Shared, clock, msrs};

/// This processor's identity and features (CPUID).
pub fn processor() -> CpuV1 {
    let vendor = __cpuid_count(0, 0);
    let mut name = [0; 12];
    let words = [vendor.ebx, vendor.edx, vendor.ecx];
    for (to, word) in name.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let (one, seven) = (__cpuid_count(1, 0), __cpuid_count(7, 0));
    CpuV1 {
        vendor: name,
        signature: one.eax,
        features: [one.ecx, one.edx, seven.ebx, seven.ecx, seven.edx],
    }
}

/// Whether a machine saved on `there` runs on this processor: the same kind,
/// and nothing missing.
///
/// # Errors
/// What differs.
pub fn check_processor(there: &CpuV1) -> Result<(), String> {
    let here = processor();
    let name = |cpu: &CpuV1| {
        let vendor = String::from_utf8_lossy(&cpu.vendor).into_owned();
        format!("{vendor:?} {:#x}", cpu.signature)
    };
    if (there.vendor, there.signature) != (here.vendor, here.signature) {
        let (there, here) = (name(there), name(&here));
        return Err(format!("saved on processor {there}, this is {here}"));
    }
    let mut both = there.features.iter().zip(&here.features);
    match both.find(|(there, here)| *there & !*here != 0) {
        Some((there, here)) => Err(format!(
            "the processor lacks saved features: {there:#x} were saved, {here:#x} are available"
        )),
        None => Ok(()),
    }
}

/// Reads all of a vCPU, which must be parked.
///
/// # Errors
/// KVM refuses to tell.
pub fn save_vcpu(fd: &VcpuFd) -> Result<VcpuV1, Error> {
    const WHAT: &str = "save a vCPU";
    // First: KVM works off INIT and SIPI before it answers.
    let state = fd.get_mp_state().map_err(kvm(WHAT))?;
    let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(kvm(WHAT))?;
    let leaf = |entry: &kvm_cpuid_entry2| {
        let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = *entry;
        [function, index, flags, eax, ebx, ecx, edx]
    };
    // The timer's deadline before the local APIC: one that passes in between
    // is in both, not in neither.
    let msrs = msrs::save(fd)?;
    // A host without XSAVE has neither of these.
    let xcrs = fd.get_xcrs().unwrap_or_default();
    let xcrs = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    Ok(VcpuV1 {
        cpuid: cpuid.as_slice().iter().map(leaf).collect(),
        regs: transmute!(fd.get_regs().map_err(kvm(WHAT))?),
        sregs: transmute!(fd.get_sregs().map_err(kvm(WHAT))?),
        debug: transmute!(fd.get_debug_regs().map_err(kvm(WHAT))?),
        xcrs: xcrs.map(|xcr| (xcr.xcr, xcr.value)).collect(),
        xsave: fd.get_xsave().map_err(kvm(WHAT))?.region.as_bytes().to_vec(),
        lapic: transmute!(fd.get_lapic().map_err(kvm(WHAT))?),
        events: transmute!(fd.get_vcpu_events().map_err(kvm(WHAT))?),
        mp_state: state.mp_state,
        tsc_khz: fd.get_tsc_khz().unwrap_or(0),
        msrs,
    })
}

/// Restores the state of a vCPU into a new one. Its time stamp counter, and what
/// depends on it, follow with [`clock::restore`].
///
/// # Errors
/// [`Error::Kvm`] names the part that KVM refuses: it is not what a vCPU can
/// be, or not of this host.
pub fn restore_vcpu(fd: &VcpuFd, vcpu: &VcpuV1) -> Result<(), Error> {
    let entry = |saved: &CpuidV1| {
        let [function, index, flags, eax, ebx, ecx, edx] = *saved;
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
    };
    let leaves: Vec<kvm_cpuid_entry2> = vcpu.cpuid.iter().map(entry).collect();
    if let Some(leaf) = leaves.iter().find(|leaf| crate::vm::cpuid::is_foreign(leaf)) {
        let leaf = leaf.function;
        let why =
            format!("CPUID leaf {leaf:#x} has features that Mote does not offer on this host");
        return Err(Error::Snapshot(why));
    }
    let cpuid = CpuId::from_entries(&leaves).map_err(|_| refused("restore CPUID"))?;
    fd.set_cpuid2(&cpuid).map_err(kvm("restore CPUID"))?;
    if vcpu.tsc_khz != 0 && fd.get_tsc_khz().ok() != Some(vcpu.tsc_khz) {
        fd.set_tsc_khz(vcpu.tsc_khz).map_err(kvm("restore the TSC's frequency"))?;
    }
    fd.set_sregs(&transmute!(vcpu.sregs)).map_err(kvm("restore system registers"))?;
    restore_xcrs(fd, &vcpu.xcrs)?;
    let region = <[u32; 1024]>::read_from_bytes(&vcpu.xsave);
    let region = region.map_err(|_| refused("restore the XSAVE area"))?;
    let xsave = kvm_xsave { region, ..Default::default() };
    // SAFETY: no dynamic feature is enabled, so KVM reads no more than this.
    unsafe { fd.set_xsave(&xsave) }.map_err(kvm("restore the XSAVE area"))?;
    fd.set_debug_regs(&transmute!(vcpu.debug)).map_err(kvm("restore debug registers"))?;
    fd.set_lapic(&transmute!(vcpu.lapic)).map_err(kvm("restore the local APIC"))?;
    let timeless = vcpu.msrs.iter().filter(|(index, _)| !clock::is_time(*index));
    msrs::restore(fd, &timeless.copied().collect::<Vec<_>>())?;
    fd.set_regs(&transmute!(vcpu.regs)).map_err(kvm("restore registers"))?;
    restore_events(fd, transmute!(vcpu.events))?;
    if vcpu.mp_state > KVM_MP_STATE_SIPI_RECEIVED {
        return Err(refused("restore the run state"));
    }
    let state = kvm_mp_state { mp_state: vcpu.mp_state };
    fd.set_mp_state(state).map_err(kvm("restore the run state"))
}

fn refused(what: &'static str) -> Error {
    Error::Kvm(what, io::Error::from_raw_os_error(libc::EINVAL))
}

fn restore_xcrs(fd: &VcpuFd, saved: &[(u32, u64)]) -> Result<(), Error> {
    const WHAT: &str = "restore XCRs";
    // A host without XSAVE has none.
    if saved.is_empty() {
        return Ok(());
    }
    let mut xcrs = kvm_xcrs::default();
    if saved.len() > xcrs.xcrs.len() {
        return Err(refused(WHAT));
    }
    xcrs.nr_xcrs = saved.len() as u32;
    for (to, (number, value)) in xcrs.xcrs.iter_mut().zip(saved) {
        (to.xcr, to.value) = (*number, *value);
    }
    fd.set_xcrs(&xcrs).map_err(kvm(WHAT))
}

fn restore_events(fd: &VcpuFd, mut events: kvm_vcpu_events) -> Result<(), Error> {
    if fd.set_vcpu_events(&events).is_ok() {
        return Ok(());
    }
    // A KVM without system management mode does not take what it gave.
    events.flags &= !KVM_VCPUEVENT_VALID_SMM;
    fd.set_vcpu_events(&events).map_err(kvm("restore events"))
}

/// Everything of a paused machine but its memory.
///
/// # Errors
/// KVM refuses to tell.
pub fn save(shared: &Shared) -> Result<StateV1, Error> {
    let vcpus = shared.vcpus().iter().map(|vcpu| save_vcpu(&vcpu.fd()));
    let mut vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    // Last, and together: what lies between them is lost between the guest's clocks.
    let clock = clock::save(shared, &mut vcpus)?;
    Ok(StateV1 {
        written_by: concat!("mote ", env!("CARGO_PKG_VERSION")).to_owned(),
        cpu: processor(),
        vm: VmV1 {
            clock,
            ioapic: shared.bus.ioapic().save(),
            rtc_select: shared.bus.rtc().selected(),
        },
        serial: shared.bus.com1().save(),
        vcpus,
        devices: shared.bus.devices().save(),
        ..StateV1::default()
    })
}

/// Makes a fresh machine, whose interrupts are connected, the one that was
/// saved. Its devices are paused then: doorbells and workers follow, and then
/// their [resume](crate::devices::Devices::resume).
///
/// # Errors
/// It was saved on another processor or with other devices, or says what no
/// machine can be. The machine is of no further use then.
pub fn restore(shared: &Shared, state: &StateV1) -> Result<(), Error> {
    check_processor(&state.cpu).map_err(Error::Snapshot)?;
    let (there, here) = (state.vcpus.len(), shared.vcpus().len());
    if there != here {
        let why = format!("{there} vCPUs were saved, this VM has {here}");
        return Err(Error::Snapshot(why));
    }
    // First: what a user can have given wrongly.
    let devices = shared.bus.devices().restore(&state.devices);
    devices.map_err(Error::Snapshot)?;
    for (vcpu, saved) in shared.vcpus().iter().zip(&state.vcpus) {
        restore_vcpu(&vcpu.fd(), saved)?;
    }
    let ioapic = shared.bus.ioapic().restore(&state.vm.ioapic);
    ioapic.map_err(Error::Snapshot)?;
    shared.bus.rtc().select(state.vm.rtc_select);
    shared.set_routes()?;
    let serial = shared.bus.com1().restore(&state.serial);
    serial.map_err(Error::Snapshot)?;
    clock::restore(shared, state)
}

#[cfg(test)]
#[path = "state_test.rs"]
pub(crate) mod tests;
