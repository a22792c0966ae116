//! `mote doctor`: what it prints, how it ends, and that it only reads.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use mote_tests::{End, Scratch, Vm, have_kvm, mote, run, tiny, vm};
use serde_json::Value;

/// Codes that say how the host is; which one depends on where the tests run.
const HOST: [i32; 3] = [0, 4, 9];

fn doctor(args: &[&str]) -> End {
    run(mote(["doctor"]).args(args))
}

fn code(end: &End) -> i32 {
    let code = end.code;
    assert!(end.err.is_empty(), "{}", end.err);
    code
}

fn json(args: &[&str]) -> (i32, Value) {
    let end = doctor(&[&["--json"], args].concat());
    let code = code(&end);
    assert_eq!(end.out.lines().count(), 1, "{}", end.out);
    let value: Value = serde_json::from_str(&end.out).unwrap();
    assert_eq!(value["exit_code"], code);
    (code, value)
}

/// Level and text of a point of an image.
fn image_point(image: &Path, point: &str) -> (String, String) {
    let (_, value) = json(&[image.to_str().unwrap()]);
    let findings = value["findings"].as_array().unwrap();
    let is = |f: &&Value| f["about"] == image.to_str().unwrap() && f["point"] == point;
    let found = findings.iter().find(is);
    let found = found.unwrap_or_else(|| panic!("no {point} in {value:#}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("level"), text("found"))
}

#[test]
fn the_table_names_every_part_of_the_host() {
    let end = doctor(&[]);
    assert!(HOST.contains(&code(&end)), "{}", end.code);
    for point in [
        "kernel",
        "CPU flaws",
        "mitigations",
        "SMT",
        "KSM",
        "swap",
        "core files",
        "memory",
        "huge pages",
        "/dev/kvm",
        "module",
        "capabilities",
        "nx_huge_pages",
        "favordynmods",
        "Landlock",
        "seccomp",
        "user namespaces",
        "control groups",
        "/dev/net/tun",
        "taps",
    ] {
        assert!(end.out.contains(&format!(" {point} ")), "no {point}:\n{}", end.out);
    }
    assert!(!end.out.contains('\x1b'), "colours are for terminals");
    let last = end.out.lines().last().unwrap();
    assert!(last.ends_with(" unknown"), "{last}");
}

#[test]
fn json_agrees_with_the_exit_code() {
    let (code, value) = json(&[]);
    let findings = value["findings"].as_array().unwrap();
    assert!(findings.len() >= 20, "{value:#}");
    for finding in findings {
        let level = finding["level"].as_str().unwrap();
        assert!(["fine", "weak", "in use", "missing", "unknown"].contains(&level));
        let advice = finding["advice"].as_str().unwrap();
        assert!(level == "fine" || level == "unknown" || !advice.is_empty());
    }
    let expected = match value["worst"].as_str().unwrap() {
        "fine" => 0,
        "missing" => 4,
        _ => 9,
    };
    assert_eq!(code, expected);
}

#[test]
fn wrong_arguments_are_code_2_and_point_to_the_help() {
    for args in [&["--fast"][..], &["--json=yes"], &["-x", "image"]] {
        let end = doctor(args);
        end.expect(2).complains(&["mote doctor --help"]);
        assert_eq!(end.out, "", "{args:?}");
    }
    for args in [&["--help"][..], &["image", "-h"]] {
        let end = doctor(args);
        assert_eq!(end.expect(0).err, "");
        assert!(end.out.contains("mote doctor [IMAGE...] [--json]"));
        assert!(end.out.lines().all(|line| line.chars().count() <= 80));
    }
}

#[test]
fn images_are_told_by_format_size_and_space() {
    let scratch = Scratch::new();
    let raw = scratch.file("raw", [0; 4096]);
    assert_eq!(image_point(&raw, "format"), ("fine".into(), "raw".into()));
    assert_eq!(image_point(&raw, "size"), ("fine".into(), "4.0 KiB".into()));
    let qcow2 = scratch.file("qcow2", b"QFI\xfb\0\0\0\x03");
    assert_eq!(image_point(&qcow2, "format").0, "weak");
    assert_eq!(image_point(&qcow2, "size").0, "weak");
    let sparse = scratch.join("sparse");
    // No file system here has so much room.
    File::create(&sparse).unwrap().set_len(1 << 42).unwrap();
    assert_eq!(image_point(&sparse, "space").0, "weak");
    let odd = scratch.file("\x1b]0;name", [0; 512]);
    let end = doctor(&[odd.to_str().unwrap()]);
    assert!(!end.out.contains('\x1b'), "{:?}", end.out);
}

#[test]
fn images_that_cannot_be_used_have_a_code() {
    let scratch = Scratch::new();
    let empty = scratch.file("empty", "");
    let fifo = scratch.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [&empty, &fifo, &scratch.join("none"), &scratch.to_path_buf()] {
        let (code, value) = json(&[path.to_str().unwrap()]);
        // A host without KVM comes first.
        assert!([3, 4].contains(&code), "{code}: {value:#}");
        assert_eq!(value["worst"], "missing");
    }
}

#[test]
fn an_image_in_use_is_seen_and_not_disturbed() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.file("disk", [0; 4096]);
    assert_eq!(image_point(&image, "lock").0, "fine");
    let disk = |options: &str| format!("{}{options}", image.display());
    for (options, level) in [("", "in use"), (",ro", "weak")] {
        let args = ["--disk", &disk(options)];
        let vm = Vm::start(&mut tiny("echo", args));
        vm::wait_until("it is locked", || image_point(&image, "lock").0 == level);
        drop(vm);
        vm::wait_until("it is free", || image_point(&image, "lock").0 == "fine");
    }
}

#[test]
fn an_unprivileged_user_can_run_it() {
    // SAFETY: asks who runs the tests.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let scratch = Scratch::new();
    // Where the program was built, others may not look.
    let program = scratch.join("mote");
    fs::copy(vm::binary(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = scratch.file("secret", [0; 512]);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let public = scratch.file("public", [0; 512]);
    let mut command = Command::new(&program);
    command.args(["doctor", "--json"]).args([&secret, &public]);
    let end = run(command.uid(65534).gid(65534));
    assert!([3, 4].contains(&code(&end)), "{}", end.code);
    let value: Value = serde_json::from_str(&end.out).unwrap();
    let find = |about: &Path, point| {
        let about = about.to_str().unwrap();
        let findings = value["findings"].as_array().unwrap();
        let found = findings.iter().find(|f| f["about"] == about && f["point"] == point);
        found.unwrap()["level"].clone()
    };
    assert_eq!(find(&secret, "file"), "missing");
    assert_eq!(find(&public, "file"), "weak");
    assert_eq!(find(&public, "format"), "fine");
    assert_eq!(find(Path::new("sandbox"), "seccomp"), "fine");
}

/// Every system call is looked at: nothing is opened to write, nothing is made,
/// no VM is created, and the image's times stay as they were.
#[test]
fn it_only_reads() {
    let scratch = Scratch::new();
    let image = scratch.file("disk", [7; 4096]);
    let old = fs::metadata(&image).unwrap();
    let trace = scratch.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-o"]).arg(&trace);
    strace.arg(vm::binary()).args(["doctor"]).arg(&image);
    let end = run(&mut strace);
    assert!(HOST.contains(&end.code), "{}", end.err);
    let calls = fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("openat("), "nothing was traced");
    for call in calls.lines() {
        let call = call.split_once(' ').unwrap().1.trim_start();
        let name = call.split('(').next().unwrap();
        match name {
            "open" | "openat" | "openat2" => {
                let bad = ["O_RDWR", "O_WRONLY", "O_CREAT", "O_TRUNC", "O_APPEND"];
                assert!(!bad.iter().any(|flag| call.contains(flag)), "{call}");
            }
            "write" | "writev" => {
                let out = call.starts_with("write(1<") || call.starts_with("write(2<");
                assert!(out, "{call}");
            }
            "ioctl" => assert!(!call.contains("KVM_CREATE"), "{call}"),
            "fcntl" => assert!(!call.contains("SETLK"), "{call}"),
            "access" | "faccessat" | "faccessat2" | "landlock_create_ruleset" => {}
            "pwrite64" | "pwritev" | "ftruncate" | "truncate" | "fallocate" | "mkdir"
            | "mkdirat" | "unlink" | "unlinkat" | "rename" | "renameat" | "renameat2" | "link"
            | "linkat" | "symlink" | "symlinkat" | "chmod" | "fchmod" | "fchmodat" | "chown"
            | "fchown" | "fchownat" | "utimensat" | "mount" | "setxattr" | "fsetxattr"
            | "socket" | "clone" | "clone3" | "fork" | "vfork" | "unshare" | "setns" => {
                panic!("{call}")
            }
            _ => {}
        }
    }
    let new = fs::metadata(&image).unwrap();
    let times = |m: &fs::Metadata| [m.atime_nsec(), m.mtime_nsec(), m.ctime_nsec()];
    assert_eq!(times(&old), times(&new));
}
