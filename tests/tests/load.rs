//! What a guest can make the monitor's process occupy: memory, processor time
//! and its log, by load and by malice.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mote_tests::network::{self, Interface, frame};
use mote_tests::{Scratch, Vm, have_kvm, proc, tiny};

/// A disk of noughts that is there, not sparse.
fn disk(scratch: &Scratch, mib: usize) -> String {
    let path = scratch.file("disk", vec![0; mib << 20]);
    path.to_str().unwrap().to_owned()
}

/// KiB of memory that the process occupies, the guest's in it. The program's
/// own pages are not: an idle process lets go of them, and they are bounded.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ticks of processor time in a second of rest.
fn at_rest(pid: u32) -> u64 {
    thread::sleep(Duration::from_millis(300));
    let before = proc::ticks(pid);
    thread::sleep(Duration::from_secs(1));
    proc::ticks(pid) - before
}

/// Flaw table lines 19 and 6: however many and large requests are in flight, the process grows by a
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

/// The same of frames, flaw table line 4: sent and received as fast as the guest can while more
/// come than it takes, none of them waits here (CVE-2020-16843 and its kin).
#[test]
fn a_flood_of_frames_does_not_make_it_grow() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let tap = Interface::new("vm0");
        for more in ["", ",poll_us=0"] {
            let flag = format!("tap=vm0{more}");
            let mut vm = Vm::start(&mut tiny("bench_net", ["--net", &flag]));
            vm.wait_for("ready\n");
            let before = resident(vm.pid());
            let incoming = frame(1514, 1);
            let orders = [
                "t 64 128 20000",
                "t 1514 256 20000",
                "T 65535 64 2000",
                "r 1514 256 20000",
                "R 1514 256 20000",
            ];
            for (order, done) in orders.iter().zip(1..) {
                vm.send(format!("{order}\n"));
                while !vm.has_ended() && vm.out.text().matches("took ").count() < done {
                    (0..100).for_each(|_| _ = tap.send(&incoming));
                }
            }
            let grown = resident(vm.pid()).saturating_sub(before);
            assert!(grown <= 1024, "{grown} KiB more, {more}");
            let ticks = at_rest(vm.pid());
            assert!(ticks <= 5, "{ticks} hundredths of a second of rest, {more}");
            vm.send("q\n");
            vm.end().expect(0);
        }
    });
}

/// Both ways at once: the guest sends back what it gets. Its own buffers are
/// there after the first thousands.
#[test]
fn an_echoed_flood_does_not_make_it_grow() {
    if !have_kvm() {
        return;
    }
    network::alone(|| {
        let tap = Interface::new("vm0");
        // Lenient: a frame that was dropped may have left its front in a buffer.
        let flags = ["--net", "tap=vm0", "--cmdline", "do=deaf give=200"];
        let mut vm = Vm::start(&mut tiny("net", flags));
        vm.send("g");
        vm.wait_for("deaf done");
        tap.wait_for_echo(&frame(60, 1));
        let frames = [60, 1514, 9014, 65_535].map(|len| frame(len, 2));
        let flood = |count: usize| {
            let sent = frames.iter().cycle().take(count);
            sent.filter(|frame| tap.send(frame)).count()
        };
        flood(4000);
        let before = resident(vm.pid());
        let sent = flood(100_000);
        let grown = resident(vm.pid()).saturating_sub(before);
        assert!(grown <= 1024, "{grown} KiB more after {sent} frames");
        while !vm.has_ended() {
            tap.send(&frame(15, 0));
            thread::sleep(Duration::from_millis(5));
        }
        vm.end().expect(0);
    });
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
