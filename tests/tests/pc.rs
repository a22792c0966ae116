//! Guests that expect a PC: what Mote has of one, and what it says of the rest.

use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use mote_tests::{Vm, have_kvm, run, tap, tiny};

/// Seconds since 1970 by the host's clock.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_clock_chip_tells_the_hosts_time() {
    if !have_kvm() {
        return;
    }
    let before = now();
    let end = run(&mut tiny("pc", [""; 0]));
    let after = now();
    let told = end.expect(0).out.trim();
    let date = Command::new("date").args(["-u", "+%s", "-d", told]).output().unwrap();
    let told: u64 = String::from_utf8(date.stdout).unwrap().trim().parse().unwrap();
    assert!((before..=after).contains(&told), "{before}, {told}, {after}");
    assert_eq!(end.err, "");
}

/// A guest that would hang without a word is named, once.
#[test]
fn a_guest_that_waits_for_a_missing_device_is_named() {
    if !have_kvm() {
        return;
    }
    for (place, name) in [
        ("port=64", "port 0x40 (8254 timer)"),
        ("port=1000", "port 0x3e8, "),
        ("address=4275044352", "address 0xfed00000 (HPET)"),
    ] {
        let mut vm = Vm::start(&mut tiny("pc", ["--cmdline", place]));
        let named = |err: &[u8]| tap::count(err, "the guest waits for") > 0;
        assert!(vm.err.wait(Duration::from_secs(30), named), "{place}: {}", vm.err.text());
        // It goes on waiting.
        thread::sleep(Duration::from_millis(1500));
        assert!(!vm.has_ended());
        vm.signal(libc::SIGTERM);
        let end = vm.end();
        let err = &end.expect(143).err;
        assert_eq!(err.matches("the guest waits for").count(), 1, "{err}");
        assert!(err.contains(name) && err.contains("monitor/docs/boot.md"), "{err}");
    }
}
