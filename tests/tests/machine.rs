//! What a VM's process is made of, and what it does when the guest touches
//! what is not there.

use std::thread;
use std::time::Duration;

use mote_tests::vm::LIMIT;
use mote_tests::{Vm, have_kvm, proc, run, tiny, wait_until};

#[test]
fn accesses_to_nothing_do_nothing() {
    if !have_kvm() {
        return;
    }
    for memory in ["128M", "5G"] {
        let end = run(&mut tiny("ports", ["--memory", memory]));
        let text = &end.expect(0).out;
        assert!(!text.contains("FAIL"), "{text}");
        for word in ["ports ok ", "addresses ok "] {
            let count = text.lines().find_map(|line| line.strip_prefix(word));
            let count: u32 = count.unwrap().parse().unwrap();
            assert!(count > 500, "{text}");
        }
        // Never a line per access, not even one.
        assert_eq!(end.complaints(), [""; 0]);
    }
}

/// A VM that has started: what it opened only to start is closed.
fn idle(cpus: &str) -> Vm {
    let vm = Vm::start(&mut tiny("idle", ["--cpus", cpus, "--timings"]));
    vm.wait_for("idle");
    assert!(vm.err.wait(LIMIT, |text| text.ends_with(b"\n")));
    vm
}

#[test]
fn there_is_a_thread_for_each_vcpu_and_one_more() {
    if !have_kvm() {
        return;
    }
    for cpus in [1, 4, 32] {
        let vm = idle(&cpus.to_string());
        let threads = || {
            let mut threads = proc::threads(vm.pid());
            // The kernel's own, on hosts that need it.
            threads.retain(|name| !name.starts_with("kvm-nx-lpage"));
            threads
        };
        let mut expected: Vec<String> = (0..cpus).map(|id| format!("vcpu{id}")).collect();
        expected.push("mote".to_owned());
        expected.sort();
        // A thread names itself, which may be a moment after its start.
        wait_until("as many threads as that", || threads() == expected);
    }
}

#[test]
fn every_open_descriptor_has_a_reason() {
    if !have_kvm() {
        return;
    }
    let vm = idle("2");
    let mut kinds = std::collections::BTreeMap::new();
    for target in proc::descriptors(vm.pid()) {
        // Pipes are numbered.
        let kind = if target.starts_with("pipe:") { "pipe".to_owned() } else { target };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    let kernel = mote_tests::guest("idle").to_str().unwrap().to_owned();
    // To read the kernel again at a reset.
    assert_eq!(kinds.remove(&kernel), Some(1), "{kinds:?}");
    assert_eq!(kinds.remove("anon_inode:kvm-vm"), Some(1), "{kinds:?}");
    for cpu in 0..2 {
        let vcpu = format!("anon_inode:kvm-vcpu:{cpu}");
        assert_eq!(kinds.remove(&vcpu), Some(1), "{kinds:?}");
    }
    // Standard input, output, error, and the console's own copies of them.
    let pipes = kinds.remove("pipe");
    assert!(pipes.is_some_and(|count| count <= 6), "{pipes:?}");
    // To wake the main thread, and the serial port's interrupt.
    let events = kinds.remove("anon_inode:[eventfd]");
    assert!(events.is_some_and(|count| count <= 3), "{events:?}");
    // Above all not /dev/kvm, which could make further VMs.
    assert!(kinds.is_empty(), "{kinds:?}");
}

/// Memory is the guest's only when it has been touched.
#[test]
fn memory_that_is_not_used_costs_nothing() {
    if !have_kvm() {
        return;
    }
    let mut resident = Vec::new();
    for memory in ["64M", "8G"] {
        let vm = Vm::start(&mut tiny("idle", ["--memory", memory]));
        vm.wait_for("idle");
        thread::sleep(Duration::from_millis(50));
        resident.push(proc::status(vm.pid(), "VmRSS:"));
    }
    assert!(resident[1] < resident[0] + 2048, "{resident:?} KiB");
}

/// A halted guest takes no time from the host.
#[test]
fn a_halted_guest_sleeps() {
    if !have_kvm() {
        return;
    }
    let vm = idle("4");
    let switches = || {
        let all = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
        all.map(|key| proc::status(vm.pid(), key)).iter().sum::<u64>()
    };
    let before = switches();
    thread::sleep(Duration::from_secs(1));
    assert!(switches() - before < 20, "{before}, {}", switches());
}
