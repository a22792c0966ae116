//! A driver of others, the crate virtio-drivers, in a guest that cargo builds from
//! `tests/foreign`.

use std::path::{Path, PathBuf};
use std::process::Command;

use mote_tests::network::{self, Interface};
use mote_tests::{Scratch, have_kvm, mote, run};

/// The guest's ELF file.
fn built() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign");
    let target = folder.join("../../target/foreign");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--release"]);
    cargo.arg("--target-dir").arg(&target).current_dir(&folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", mote_tests::GUEST_FLAGS);
    assert!(cargo.status().unwrap().success());
    target.join("x86_64-unknown-linux-gnu/release/foreign")
}

#[test]
fn a_foreign_driver_starts_uses_and_drops_its_devices_again_and_again() {
    if !have_kvm() {
        return;
    }
    let guest = built();
    network::alone(move || {
        let scratch = Scratch::new();
        let disk = scratch.file("disk", vec![0; 1 << 20]);
        let tap = Interface::new("vm0");
        let mut command = mote(["run", "--net", "tap=vm0", "--kernel"]);
        command.arg(&guest).arg("--disk").arg(&disk);
        let end = run(&mut command);
        let out = &end.expect(0).out;
        assert_eq!(out, "round 0\nround 1\nround 2\nforeign ok\n");
        let bytes = std::fs::read(&disk).unwrap();
        for round in 0..3 {
            assert_eq!(bytes[round * 5 * 512..][..4 * 512], [round as u8 + 1; 2048]);
        }
        for round in 0..3 {
            assert_eq!(tap.receive()[12..15], [0x88, 0xb5, round]);
        }
    });
}
