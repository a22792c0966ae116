use std::sync::Arc;

use kvm_bindings::{kvm_debugregs, kvm_regs};
use kvm_ioctls::{Kvm, VmFd};
use mote_snapshot::{DeviceV1, decode, encode};

use super::*;
use crate::config::{Drive, Media, VmConfig};
use crate::devices::Devices;
use crate::devices::serial::Com1;
use crate::host::console::Output;
use crate::host::memory;
use crate::timings::Timings;
use crate::vm::bus::Bus;
use crate::{layout, sandbox, vm};

/// A word of the refusal, and what earns it.
type Spoil<T> = (&'static str, fn(&mut T));

/// A VM with one vCPU; nothing where there is no KVM.
pub fn machine() -> Option<(VmFd, VcpuFd, Kvm)> {
    let Ok(host) = vm::open_host(None) else {
        assert!(std::env::var_os("MOTE_SKIPPED").is_some(), "no /dev/kvm");
        return None;
    };
    let ram = Box::leak(Box::new(memory::create(16 << 20).unwrap()));
    let fd = vm::create(&host, ram, false).unwrap();
    let vcpu = fd.create_vcpu(0).unwrap();
    Some((fd, vcpu, host))
}

/// Everything that can be set differs from power-on, and is the same in
/// another vCPU afterwards, and again in one made from that.
#[test]
fn a_vcpu_comes_back_as_it_was() {
    let Some((_vm, fd, host)) = machine() else {
        return;
    };
    let cpuid = vm::cpuid::supported(&host).unwrap();
    fd.set_cpuid2(&vm::cpuid::for_vcpu(&cpuid, 0, 1, 0)).unwrap();
    vm::msrs::boot(&fd).unwrap();
    vm::regs::set_entry(&fd, crate::vm::regs::Entry::Linux64(0x10_0000)).unwrap();
    let mut vcpu = save_vcpu(&fd).unwrap();
    let mut regs: kvm_regs = transmute!(vcpu.regs);
    (regs.rax, regs.r15, regs.rip) = (0x1122_3344_5566_7788, u64::MAX, 0x12_3456);
    vcpu.regs = transmute!(regs);
    let mut debug: kvm_debugregs = transmute!(vcpu.debug);
    debug.db = [1, 2, 3, 4];
    vcpu.debug = transmute!(debug);
    // The first vector register, and the states in use: x87 and SSE.
    vcpu.xsave[160..176].fill(0x5a);
    vcpu.xsave[512] = 3;
    let values = [(0x174, 0x10), (0xc000_0082, 0x10_2000), (0x277, 0x0606_0606_0606_0606)];
    for (index, value) in values {
        let msr = vcpu.msrs.iter_mut().find(|msr| msr.0 == index);
        msr.unwrap().1 = value;
    }
    // A timer's vector, unmasked, and an interrupt that waits.
    vcpu.lapic[0xf1] = 1;
    vcpu.lapic[0x320..0x324].copy_from_slice(&0x31u32.to_le_bytes());
    vcpu.lapic[0x210] = 4;
    let mut from = vcpu.clone();
    for round in 0..2 {
        let (_vm, fd, _) = machine().unwrap();
        restore_vcpu(&fd, &from).unwrap();
        let mut saved = save_vcpu(&fd).unwrap();
        // Time went on.
        let mut expected = vcpu.clone();
        for vcpu in [&mut saved, &mut expected] {
            vcpu.msrs.retain(|msr| !matches!(msr.0, 0x10 | 0x3b));
        }
        assert_eq!(saved.msrs, expected.msrs, "round {round}");
        assert!(saved.lapic == expected.lapic, "local APIC, round {round}");
        assert!(saved.xsave == expected.xsave, "XSAVE, round {round}");
        assert_eq!(saved, expected, "round {round}");
        from = save_vcpu(&fd).unwrap();
    }
}

/// CPUID comes before MSRs, or a guest loses what its processor is not prone to.
#[test]
fn msrs_depend_on_cpuid() {
    let Some((_vm, fd, host)) = machine() else {
        return;
    };
    let before = save_vcpu(&fd).unwrap().msrs.len();
    let cpuid = vm::cpuid::supported(&host).unwrap();
    fd.set_cpuid2(&vm::cpuid::for_vcpu(&cpuid, 0, 1, 0)).unwrap();
    let saved = save_vcpu(&fd).unwrap();
    assert!(saved.msrs.len() >= before);
    let (_vm, other, _) = machine().unwrap();
    restore_vcpu(&other, &saved).unwrap();
    let list = |msrs: &[(u32, u64)]| msrs.iter().map(|msr| msr.0).collect::<Vec<_>>();
    assert_eq!(list(&save_vcpu(&other).unwrap().msrs), list(&saved.msrs));
}

/// What no vCPU can be is refused by name, and an MSR that is not a vCPU's
/// state is not even tried.
#[test]
fn nonsense_is_refused() {
    let Some((_vm, fd, _)) = machine() else {
        return;
    };
    let good = save_vcpu(&fd).unwrap();
    let spoil: [Spoil<VcpuV1>; 5] = [
        ("MSRs", |vcpu| {
            vcpu.msrs.push((0x4b56_4d00, 1));
        }),
        ("MSRs", |vcpu| {
            // Reserved bits.
            vcpu.msrs.push((0x4b56_4d02, 0x30));
        }),
        ("run state", |vcpu| vcpu.mp_state = 77),
        ("XCRs", |vcpu| vcpu.xcrs = vec![(0, 0)]),
        ("events", |vcpu| vcpu.events[23] = 0x80),
    ];
    for (word, spoil) in spoil {
        let (_vm, fd, _) = machine().unwrap();
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = restore_vcpu(&fd, &bad).map_err(|e| e.to_string());
        assert!(error.as_ref().is_err_and(|e| e.contains(word)), "{word}: {error:?}");
    }
}

#[test]
fn only_the_same_processor_will_do() {
    let here = processor();
    check_processor(&here).unwrap();
    let mut other = here.clone();
    other.signature ^= 1 << 4;
    let error = check_processor(&other).unwrap_err();
    assert!(error.contains("saved on processor"), "{error}");
    let mut more = here.clone();
    more.features[0] = u32::MAX;
    assert!(check_processor(&more).is_err());
    let mut fewer = here;
    fewer.features[2] = 0;
    check_processor(&fewer).unwrap();
}

/// A machine of some vCPUs and a disk, whose workers do not run.
pub fn whole(disk: &std::path::Path, cpus: u8) -> Option<Shared> {
    let (_, _, host) = machine()?;
    let ram = Box::leak(Box::new(memory::create(16 << 20).unwrap()));
    let config = VmConfig {
        bus: crate::config::Bus::Mmio,
        drives: vec![Drive::new(Media::Disk, disk.to_owned(), "disk0".to_owned())],
        cpus,
        ..VmConfig::default()
    };
    let devices = Devices::open(&config, ram, None).unwrap();
    let event = || sandbox::event().unwrap();
    let wake = Arc::new(event());
    let fd = Arc::new(vm::create(&host, ram, false).unwrap());
    devices.map(&fd).unwrap();
    let com1 = Com1::new(event(), Output::nowhere(), Arc::clone(&wake));
    let timings = Arc::new(Timings::start());
    let shared = Shared::new(fd, Bus::new(com1, devices), timings, wake);
    vm::create_vcpus(&shared, cpus).unwrap();
    Some(shared)
}

/// Brings the disk's driver up, with one queue of 8 entries.
fn start_disk(shared: &Shared) {
    let set = |offset: u64, value: u32| {
        let stored = shared.bus.mmio_write(layout::WINDOWS + offset, &value.to_le_bytes());
        assert_eq!(stored.unwrap(), None);
    };
    for status in [1, 3] {
        set(0x70, status);
    }
    // VIRTIO_F_VERSION_1, in the upper half.
    set(0x24, 1);
    set(0x20, 1);
    set(0x70, 11);
    for (register, value) in
        [(0x30, 0), (0x38, 8), (0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000), (0x44, 1)]
    {
        set(register, value);
    }
    set(0x70, 15);
}

/// Registers, queues, interrupt controller and serial port are the same in
/// another machine, through the file's format, and in a third.
#[test]
fn a_machine_comes_back_as_it_was() {
    let path = std::env::temp_dir().join(format!("mote-state-{}", std::process::id()));
    std::fs::write(&path, [0; 4096]).unwrap();
    let Some(shared) = whole(&path, 2) else {
        return;
    };
    let (_, _, host) = machine().unwrap();
    let cpuid = vm::cpuid::supported(&host).unwrap();
    vm::set_up_vcpus(&shared, &cpuid, crate::vm::regs::Entry::Pvh(0x10_0000)).unwrap();
    for (register, value) in [(0x10 + 2 * 4, 0x31), (0x11 + 2 * 7, 1 << 24), (0x10 + 2 * 7, 0x33)] {
        shared.bus.mmio_write(layout::IOAPIC, &u32::to_le_bytes(register)).unwrap();
        shared.bus.mmio_write(layout::IOAPIC + 0x10, &u32::to_le_bytes(value)).unwrap();
    }
    shared.bus.port_write(layout::COM1 + 7, &[0x77]);
    start_disk(&shared);
    shared.bus.devices().pause();
    let mut first = save(&shared).unwrap();
    first.memory.ranges = vec![(0, 16 << 20)];
    assert_eq!(first.devices[0].endpoint.registers.status, 15);
    assert_eq!(first.vm.ioapic.entries[4], 0x31);
    drop(shared);
    for round in 0..2 {
        let file = encode(&first).unwrap();
        let other = whole(&path, 2).unwrap();
        restore(&other, &decode(&file).unwrap()).unwrap();
        let mut second = save(&other).unwrap();
        second.memory = first.memory.clone();
        assert_eq!(second.devices, first.devices, "round {round}");
        assert_eq!(second.vm.ioapic, first.vm.ioapic, "round {round}");
        assert_eq!(second.serial, first.serial, "round {round}");
        assert!(second.vm.clock >= first.vm.clock, "the clock runs backwards");
        assert_eq!(second.vcpus[1].regs, first.vcpus[1].regs);
        assert_eq!(second.vcpus[1].cpuid, first.vcpus[1].cpuid);
        assert_eq!(second.vcpus[0].sregs, first.vcpus[0].sregs);
        other.bus.devices().connect_doorbells().unwrap();
        let mut mapped = [0; 4];
        other.bus.port_read(layout::COM1 + 7, &mut mapped[..1]);
        assert_eq!(mapped[0], 0x77);
        first = second;
    }
    refuse(&path, &first);
    std::fs::remove_file(&path).unwrap();
}

/// Another machine than the saved one is refused, with what differs.
fn refuse(path: &std::path::Path, good: &StateV1) {
    let spoil: [Spoil<StateV1>; 7] = [
        ("1 vCPUs were saved, this VM has 2", |state| {
            state.vcpus.truncate(1);
        }),
        ("0 devices were saved", |state| state.devices.clear()),
        ("device disk0: type 1", |state| state.devices[0].kind = 1),
        ("device disk0: ", |state| {
            state.devices[0].endpoint.registers.status = 4;
        }),
        ("device disk0: one of both", |state| {
            state.devices[0].read_only = true;
        }),
        ("I/O APIC: 0 pins", |state| state.vm.ioapic.entries.clear()),
        ("processor", |state| state.cpu.signature ^= 1),
    ];
    for (word, spoil) in spoil {
        let other = whole(path, 2).unwrap();
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = restore(&other, &bad).unwrap_err();
        assert!(error.to_string().contains(word), "{word}: {error}");
        assert_eq!(error.exit_code(), crate::error::exit::INPUT);
    }
    // Rings outside memory are found at the resume: the guest is told.
    let other = whole(path, 2).unwrap();
    let mut bad = good.clone();
    let DeviceV1 { endpoint, .. } = &mut bad.devices[0];
    endpoint.registers.queues[0].config.descriptors = 1 << 40;
    restore(&other, &bad).unwrap();
    other.bus.devices().resume();
    other.bus.devices().pause();
    let status = save(&other).unwrap().devices[0].endpoint.registers.status;
    assert_eq!(status & 0x40, 0x40, "NEEDS_RESET");
}
