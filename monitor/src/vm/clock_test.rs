use super::*;
use crate::snapshot::state;
use crate::snapshot::state::tests::whole;
use crate::vm;
use crate::vm::regs::Entry;

#[test]
fn ticks_become_nanoseconds() {
    for (ticks, khz, expected) in [
        (0, 3_000_000, 0),
        (3, 3_000_000, 1),
        (-3_000_000, 3_000_000, -1_000_000),
        (2_100_000, 2_100_000, 1_000_000),
        // A year.
        (94_608_000_000_000_000, 3_000_000, 31_536_000_000_000_000),
        (i64::MAX, 1_000_000, i64::MAX),
        (i64::MIN, 1_000_000, i64::MIN),
        // What no clock says.
        (i64::MAX, 1, 0),
        (1, 0, 0),
    ] {
        assert_eq!(nanoseconds(ticks, khz), expected, "{ticks} at {khz}");
    }
}

/// KVM's clock and the counter of each vCPU, read as one.
fn pairs(shared: &Shared, khz: u32) -> Vec<(u64, u64)> {
    let clock = |_| Ok(shared.fd.get_clock().unwrap().clock);
    let vcpus = shared.vcpus().iter();
    vcpus.map(|vcpu| beside(&vcpu.fd(), khz, clock).unwrap()).collect()
}

/// Between counter and clock of every vCPU lies as much after a restore as before,
/// and none of them has gone back: not in a VM's first second either, when KVM
/// takes counters for those of a VM just made, nor if counters differ.
#[test]
fn clocks_agree_after_a_restore() {
    let scratch = std::env::temp_dir().join(format!("mote-clock-{}", std::process::id()));
    std::fs::write(&scratch, [0; 4096]).unwrap();
    let Some(first) = whole(&scratch, 8) else {
        return;
    };
    let (_, _, host) = state::tests::machine().unwrap();
    let cpuid = vm::cpuid::supported(&host).unwrap();
    vm::set_up_vcpus(&first, &cpuid, Entry::Pvh(0x10_0000)).unwrap();
    let khz = first.vcpus()[0].fd().get_tsc_khz().unwrap();
    let before = pairs(&first, khz);
    let (_vm, fd, _) = state::tests::machine().unwrap();
    let far = (msrs::TSC, 1 << 62);
    msrs::set(&fd, &[far], |_, _| Ok(())).unwrap();
    let settable = msrs::get(&fd, msrs::TSC).unwrap() > Some(far.1);
    first.bus.devices().pause();
    let mut saved = state::save(&first).unwrap();
    drop(first);
    for (vcpu, (clock, counter)) in saved.vcpus.iter().zip(&before) {
        let (_, at) = super::saved(vcpu, msrs::TSC).next().unwrap();
        assert!(at > *counter && saved.vm.clock > *clock);
    }
    // As if it had run for so many milliseconds before.
    for ahead in [0, 400, 5_000] {
        saved.vm.clock += ahead * 1_000_000;
        for vcpu in &mut saved.vcpus {
            let mut msrs = vcpu.msrs.iter_mut();
            let counter = msrs.find(|(index, _)| *index == msrs::TSC).unwrap();
            counter.1 += ahead * u64::from(khz);
        }
        let second = whole(&scratch, 8).unwrap();
        state::restore(&second, &saved).unwrap();
        let after = pairs(&second, khz);
        assert!(after.iter().all(|(clock, _)| *clock > saved.vm.clock));
        if ahead > 0 && !settable {
            println!("skipped: the host's counter is the guest's (PVM)");
            continue;
        }
        for (vcpu, (clock, counter)) in saved.vcpus.iter().zip(after) {
            let (_, from) = super::saved(vcpu, msrs::TSC).next().unwrap();
            assert!(counter > from, "the counter goes back: {from} to {counter}");
            let counted = nanoseconds((counter - from) as i64, khz);
            let skew = counted - (clock - saved.vm.clock) as i64;
            // What Linux 6 takes for a clock that cannot be relied on: 100 us.
            assert!(skew.abs() < 100_000, "{ahead} ms: {skew} ns between them");
        }
    }
    std::fs::remove_file(&scratch).unwrap();
}
