//! How a virtual machine ends, and how it starts again.

use std::process::{Command, Stdio};
use std::time::Duration;

use mote_tests::{Scratch, Vm, have_kvm, proc, run, tiny, wait_until};

/// A guest that resets itself for each `r` that it is sent.
fn resetting(by: &str, flags: &[&str]) -> Command {
    tiny("reset", [&["--cmdline", by][..], flags].concat())
}

/// The guest found nothing wrong, and was started `times` times.
fn check_starts(out: &str, times: usize) {
    assert_eq!(out, "boot\n".repeat(times));
}

#[test]
fn power_off_is_code_0() {
    if have_kvm() {
        let end = run(tiny("echo_irq", ["--cpus", "2"]).stdin(keys(b"\x04")));
        end.expect(0);
        assert!(end.out.ends_with("interrupts ok\n"), "{}", end.out);
    }
}

/// A pipe that has some bytes in it and then ends.
fn keys(bytes: &[u8]) -> Stdio {
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, bytes).unwrap();
    reader.into()
}

#[test]
fn a_reset_starts_the_same_vm_from_power_on() {
    if !have_kvm() {
        return;
    }
    for by in ["by=acpi", "by=i8042"] {
        // Memory on both sides of the hole is zero again: the guest looks.
        for memory in ["128M", "4G"] {
            let mut vm = Vm::start(&mut resetting(by, &["--memory", memory]));
            for start in 1..=3 {
                vm.wait_for_times("boot\n", start);
                vm.send("r");
            }
            vm.wait_for_times("boot\n", 4);
            vm.send("q");
            check_starts(&vm.end().expect(0).out, 4);
        }
    }
}

/// Dirty, reset, compare: every register that a guest can read.
#[test]
fn a_reset_leaves_no_register_behind() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let disk = scratch.file("disk", [0; 4096]);
    let mut vm = Vm::start(tiny("registers", ["--disk"]).arg(disk));
    vm.wait_for_times("shown\n", 1);
    vm.send("r");
    vm.wait_for_times("shown\n", 2);
    vm.send("q");
    let end = vm.end();
    let out = &end.expect(0).out;
    let (first, rest) = out.split_once("shown\n").unwrap();
    let (changed, again) = rest.split_once('\n').unwrap();
    let number = changed.strip_prefix("changed ").unwrap();
    assert!(number.parse::<u32>().unwrap() > 40, "{changed}");
    let again = again.strip_suffix("shown\n").unwrap();
    let lines = first.lines().zip(again.lines());
    let differ = lines.filter(|(first, again)| first != again);
    assert_eq!(differ.collect::<Vec<_>>(), [], "after {changed}");
    assert_eq!(first.len(), again.len());
}

#[test]
fn on_reset_exit_ends_the_vm_with_code_7() {
    if !have_kvm() {
        return;
    }
    for by in ["by=acpi", "by=i8042"] {
        let mut vm = Vm::start(&mut resetting(by, &["--on-reset", "exit"]));
        vm.wait_for("boot\n");
        vm.send("r");
        let end = vm.end();
        check_starts(&end.expect(7).out, 1);
        assert_eq!(end.complaints(), [""; 0], "a guest's own wish is no error");
    }
}

#[test]
fn a_triple_fault_is_code_5_and_one_line() {
    if !have_kvm() {
        return;
    }
    for flags in [&[][..], &["--cpus", "4"], &["--on-reset", "exit"]] {
        let end = run(&mut tiny("triple", flags));
        end.expect(5).complains(&["triple fault", "vCPU 0"]);
        assert_eq!(end.out, "triple\n");
    }
}

#[test]
fn signals_end_a_vm_whatever_it_does() {
    if !have_kvm() {
        return;
    }
    // Halted, running without an exit, and polling.
    for (guest, word) in [("idle", "idle"), ("spin", "spin"), ("echo", "ready")] {
        for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130), (libc::SIGHUP, 129)] {
            let vm = Vm::start(&mut tiny(guest, ["--cpus", "2"]));
            vm.wait_for(word);
            vm.signal(signal);
            let end = vm.end();
            assert_eq!(end.expect(code).complaints(), [""; 0]);
        }
    }
}

/// Whenever a signal comes during the start, the process ends: by its own
/// code, or by the signal as long as it is not caught.
#[test]
fn a_signal_during_the_start_is_not_lost() {
    if !have_kvm() {
        return;
    }
    for after in 0..40 {
        let vm = Vm::start(&mut tiny("spin", ["--cpus", "4"]));
        std::thread::sleep(Duration::from_micros(after * 250));
        vm.signal(libc::SIGTERM);
        let code = vm.end().code;
        assert!(code == 143 || code == -libc::SIGTERM, "{code}");
    }
}

#[test]
fn a_reset_works_while_other_vcpus_run() {
    if !have_kvm() {
        return;
    }
    let mut vm = Vm::start(&mut tiny("reset_smp", ["--cpus", "4"]));
    for start in 1..=20 {
        vm.wait_for_times("4 run\n", start);
        vm.send("r");
    }
    vm.wait_for_times("4 run\n", 21);
    vm.send("q");
    assert_eq!(vm.end().expect(0).out, "4 run\n".repeat(21));
}

/// What a process holds on to.
fn holdings(pid: u32) -> (Vec<String>, Vec<String>, u64) {
    let (fds, threads) = (proc::descriptors(pid), proc::threads(pid));
    (fds, threads, proc::status(pid, "VmRSS:"))
}

#[test]
fn a_hundred_resets_leak_nothing() {
    if !have_kvm() {
        return;
    }
    let mut vm = Vm::start(&mut resetting("by=acpi", &["--cpus", "2"]));
    let reset = |vm: &mut Vm, start: usize| {
        vm.wait_for_times("boot\n", start);
        vm.send("r");
    };
    // The first few may still fill caches.
    for start in 1..=10 {
        reset(&mut vm, start);
    }
    vm.wait_for_times("boot\n", 11);
    let (fds, threads, memory) = holdings(vm.pid());
    for start in 11..=110 {
        reset(&mut vm, start);
    }
    vm.wait_for_times("boot\n", 111);
    let (fds_after, threads_after, memory_after) = holdings(vm.pid());
    assert_eq!(fds, fds_after);
    assert_eq!(threads, threads_after);
    assert!(memory_after <= memory + 256, "{memory} KiB before, {memory_after} KiB after");
    vm.send("q");
    check_starts(&vm.end().expect(0).out, 111);
}

/// What was typed before a reset is for the next start, and a terminal's or
/// pipe's input still arrives after it.
#[test]
fn input_works_after_a_reset() {
    if !have_kvm() {
        return;
    }
    let mut vm = Vm::start(&mut tiny("touch", ["--cmdline", "start=16777216 bytes=8"]));
    vm.wait_for("ready");
    vm.send("b");
    vm.wait_for_times("ready", 2);
    vm.send("r");
    vm.wait_for("hash ");
    vm.send("q");
    vm.end().expect(0);
}

#[test]
fn the_process_does_not_outlive_its_end() {
    if !have_kvm() {
        return;
    }
    // 32 vCPUs that are told to stop while they run.
    let mut vm = Vm::start(&mut tiny("reset_smp", ["--cpus", "32"]));
    vm.wait_for("32 run\n");
    vm.send("q");
    wait_until("the end", || vm.has_ended());
    vm.end().expect(0);
}

/// A guest that has a power button, and a minute to react to it.
fn with_button(cmdline: &str, seconds: &str) -> Vm {
    let vm = Vm::start(&mut tiny("button", ["--graceful", seconds, "--cmdline", cmdline]));
    vm.wait_for("ready\n");
    vm
}

#[test]
fn a_graceful_end_presses_the_power_button() {
    if !have_kvm() {
        return;
    }
    for (then, signal, code) in [
        ("off", libc::SIGTERM, 0),
        ("off", libc::SIGINT, 0),
        // It was to end, not to start again.
        ("reset", libc::SIGTERM, 143),
    ] {
        let vm = with_button(&format!("then={then}"), "60");
        vm.signal(signal);
        assert_eq!(vm.end().expect(code).out, "ready\npressed\n");
    }
}

#[test]
fn a_graceful_end_comes_at_last() {
    if !have_kvm() {
        return;
    }
    // The time is over.
    let vm = with_button("then=go-on", "1");
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.end().expect(143).out, "ready\npressed\n");
    // A second signal ends it at once.
    let vm = with_button("then=go-on", "86400");
    vm.signal(libc::SIGTERM);
    vm.wait_for("pressed\n");
    vm.signal(libc::SIGHUP);
    assert_eq!(vm.end().expect(129).out, "ready\npressed\n");
    // So does the first if the guest does not listen.
    let vm = with_button("deaf", "86400");
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.end().expect(143).out, "ready\n");
}
