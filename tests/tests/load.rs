//! What a guest can make the monitor's process occupy: memory, processor time
//! and its log, by load and by malice.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mote_tests::{Scratch, Vm, have_kvm, proc, tiny};

/// A disk of noughts that is there, not sparse.
fn disk(scratch: &Scratch, mib: usize) -> String {
    let path = scratch.file("disk", vec![0; mib << 20]);
    path.to_str().unwrap().to_owned()
}

/// KiB of memory that the process occupies, the guest's in it.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ticks of processor time in a second of rest.
fn at_rest(pid: u32) -> u64 {
    thread::sleep(Duration::from_millis(300));
    let before = proc::ticks(pid);
    thread::sleep(Duration::from_secs(1));
    proc::ticks(pid) - before
}

/// However many and large requests are in flight, the process grows by a
/// mebibyte at most (QEMU CVE-2016-5403, Firecracker #5762), and an idle VM
/// rests although its worker has just looked out for work.
#[test]
fn load_does_not_make_it_grow() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = disk(&scratch, 16);
    for more in ["", ",poll_us=0", ",poll_us=1000", ",threads=4"] {
        let flag = format!("{image}{more}");
        let mut vm = Vm::start(&mut tiny("bench_block", ["--disk", &flag]));
        vm.wait_for("ready\n");
        let before = resident(vm.pid());
        let orders = [
            "r 4096 1 500",
            "r 512 64 5000",
            "w 4096 64 5000",
            "R 1048576 64 500",
            "W 1048576 64 500",
            "f 4096 1 20",
        ];
        for (order, done) in orders.iter().zip(1..) {
            vm.send(format!("{order}\n"));
            vm.wait_for_times("took ", done);
        }
        let grown = resident(vm.pid()).saturating_sub(before);
        assert!(grown <= 1024, "{grown} KiB more, {more}");
        let ticks = at_rest(vm.pid());
        assert!(ticks <= 5, "{ticks} hundredths of a second of rest, {more}");
        vm.send("q\n");
        vm.end().expect(0);
    }
}

/// Flaw table line 25: a guest drives the host's logs (OpenBSD 6.9 errata 001);
/// line 17: after a broken queue the host is idle.
#[test]
fn a_million_kicks_leave_nothing_behind() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = disk(&scratch, 1);
    let mut vm = Vm::start(&mut tiny("kicks", ["--disk", &image]));
    vm.wait_for("ready\n");
    assert!(vm.out.text().contains("75 times broken"));
    let ticks = at_rest(vm.pid());
    assert!(ticks <= 5, "{ticks} hundredths of a second of rest");
    vm.send("q\n");
    let end = vm.end();
    end.expect(0);
    assert!(end.bytes.len() + end.err.len() <= 64 << 10);
    let bytes = fs::read(Path::new(&image)).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0), "the disk was written");
}
