//! The tests of the stock-KVM lab (`tests/lab`), each of which boots a lab host
//! of its own in an emulator: no `/dev/kvm` is needed here, but minutes are.

use std::path::Path;
use std::process::{Command, Stdio};

use mote_tests::vm;

/// What the lab ends with if it cannot be given what a test needs.
const SKIPPED: i32 = 122;

fn lab(name: &str) {
    run("lab", &[name]);
}

fn run(script: &str, args: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab");
    let mut command = Command::new(folder.join(script));
    // It looks for the newest build by itself; this one is meant.
    command.env("MOTE_BIN", vm::binary()).args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    if output.status.code() == Some(SKIPPED) {
        return vm::skip(String::from_utf8_lossy(&output.stderr).trim());
    }
    assert!(
        output.status.success(),
        "{script} {args:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn lab_block() {
    lab("block");
}

#[test]
fn lab_boot() {
    lab("boot");
}

#[test]
fn lab_clones() {
    lab("clones");
}

#[test]
fn lab_console() {
    lab("console");
}

#[test]
fn lab_debian() {
    lab("debian");
}

#[test]
fn lab_fio() {
    lab("fio");
}

#[test]
fn lab_install() {
    lab("install");
}

#[test]
fn lab_installer_cd() {
    lab("installer-cd");
}

#[test]
fn lab_jail() {
    lab("jail");
}

/// Layouts of installed systems that `lab_debian` does not have.
#[test]
fn lab_layouts() {
    run("lab", &["layouts", "lvm", "unified"]);
}

#[test]
fn lab_media() {
    lab("media");
}

#[test]
fn lab_mptable() {
    lab("mptable");
}

#[test]
fn lab_net() {
    lab("net");
}

#[test]
fn lab_pci() {
    lab("pci");
}

#[test]
fn lab_interrupts() {
    lab("interrupts");
}

#[test]
fn lab_pause() {
    lab("pause");
}

#[test]
fn lab_power() {
    lab("power");
}

#[test]
fn lab_registers() {
    let guest = mote_tests::guest("registers");
    let file = format!("{}:/lab/registers", guest.display());
    run("lab", &["--file", &file, "registers"]);
}

#[test]
fn lab_reset() {
    lab("reset");
}

#[test]
fn lab_saved() {
    lab("saved");
}

#[test]
fn lab_smp32() {
    lab("smp32");
}

/// A few rounds of what takes 20 by itself: `tests/lab/power-cut`.
#[test]
fn lab_power_cut() {
    run("power-cut", &["2"]);
}
