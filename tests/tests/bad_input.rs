//! Whatever is wrong with what it was given, `mote` says so in one line that
//! names it, ends with the documented code, and says nothing else.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use mote_tests::vm::refused;
use mote_tests::{Scratch, guest, have_kvm, kernel, mote, run, tiny, vm};

const USAGE: i32 = 2;
const INPUT: i32 = 3;
const HOST: i32 = 4;

/// A kernel that must be refused; the line names the file.
#[track_caller]
fn kernel_refused(path: &Path, flags: &[&str], words: &[&str]) {
    let mut command = mote(["run", "--kernel"]);
    let words = [words, &["kernel", path.to_str().unwrap()]].concat();
    refused(command.arg(path).args(flags), INPUT, &words);
}

#[test]
fn what_is_no_kernel_is_called_what_it_is() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let fifo = scratch.join("fifo");
    let name = CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a plain system call with a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let mut disk = vec![0; 4096];
    disk[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel_refused(&scratch.join("none"), &[], &["no such file"]);
    kernel_refused(&scratch, &[], &["is a directory"]);
    kernel_refused(&fifo, &[], &["not a regular file"]);
    kernel_refused(Path::new("/dev/zero"), &[], &["not a regular file"]);
    for (name, bytes, words) in [
        ("empty", &b""[..], &["empty"][..]),
        ("text", b"Dear kernel,\n", &["text file"]),
        ("script", b"#!/bin/sh\n", &["script"]),
        ("gzip", b"\x1f\x8b\x08\0\0\0", &["gzip"]),
        ("zeroes", &[0; 5000], &["zeroes"]),
        ("disk", &disk, &["disk image"]),
        ("one byte", b"\x7f", &["unknown kind"]),
        ("only magic", b"\x7fELF", &["truncated"]),
    ] {
        kernel_refused(&scratch.file(name, bytes), &[], words);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    if !have_kvm() || !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.file("kernel", fs::read(guest("hello")).unwrap());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = as_nobody(&scratch, &["run", "--kernel", file.to_str().unwrap()]);
    refused(&mut command, INPUT, &["kernel", "permission denied"]);
}

/// A guest's ELF file with some bytes changed.
fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut elf = fs::read(guest("memory")).unwrap();
    elf[at..at + bytes.len()].copy_from_slice(bytes);
    elf
}

/// Where a field of a program header is in the file.
fn field(segment: usize, offset: usize) -> usize {
    64 + segment * 56 + offset
}

const OFFSET: usize = 8;
const ADDRESS: usize = 24;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;

#[test]
fn broken_elf_files_are_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let number = |n: u64| n.to_le_bytes();
    let huge = number(u64::MAX - 0xfff);
    for (name, elf, words) in [
        ("32 bits", changed(4, &[1]), &["32-bit"][..]),
        ("big endian", changed(5, &[2]), &["big-endian"]),
        ("arm", changed(18, &[183, 0]), &["machine 183"]),
        ("object", changed(16, &[1, 0]), &["object file"]),
        ("library", changed(16, &[3, 0]), &["position-independent"]),
        ("core", changed(16, &[4, 0]), &["core dump"]),
        ("none", changed(56, &[0, 0]), &["0 program headers"]),
        ("many", changed(56, &[255, 255]), &["65535 program headers"]),
        ("table", changed(32, &huge), &["truncated"]),
        ("entry", changed(24, &number(0x1000)), &["entry point 0x1000"]),
        ("low", changed(field(1, ADDRESS), &number(0)), &["outside"]),
        (
            "hole",
            changed(field(1, ADDRESS), &number(3 << 30)),
            &["segment at 0xc0000000", "outside"],
        ),
        ("beyond", changed(field(1, ADDRESS), &number(1 << 40)), &["outside"]),
        ("wraps", changed(field(1, ADDRESS), &huge), &["outside"]),
        ("overlap", changed(field(1, ADDRESS), &number(0x20_0000)), &["overlap at 0x200000"]),
        ("offset", changed(field(1, OFFSET), &huge), &["truncated"]),
        ("file size", changed(field(1, FILE_SIZE), &huge), &["truncated"]),
        ("memory size", changed(field(2, MEMORY_SIZE), &huge), &["outside"]),
        ("memory below file", changed(field(2, MEMORY_SIZE), &number(1)), &["larger in the file"]),
    ] {
        kernel_refused(&scratch.file(name, elf), &[], words);
    }
}

/// Cut anywhere, a kernel is truncated, and never half loaded.
#[test]
fn truncated_kernels_are_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let large = kernel::with_payload(&guest("hello"), 1 << 20).unwrap();
    for length in [5, 63, 64, 100, 300, 4096, 5000, 500_000, large.len() - 2000] {
        let file = scratch.file("kernel", &large[..length]);
        kernel_refused(&file, &[], &["truncated"]);
    }
    // A bzImage whose header promises more than there is.
    let mut bzimage = vec![0; 8192];
    bzimage[0x1f1] = 4;
    bzimage[0x1f4..0x1f8].copy_from_slice(&100_000u32.to_le_bytes());
    bzimage[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    bzimage[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    bzimage[0x236] = 1;
    kernel_refused(&scratch.file("bzimage", &bzimage), &[], &["truncated"]);
    bzimage[0x206..0x208].copy_from_slice(&0x200u16.to_le_bytes());
    let old = scratch.file("bzimage", &bzimage);
    kernel_refused(&old, &[], &["without a 64-bit entry point"]);
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let large = kernel::with_payload(&guest("hello"), 40 << 20).unwrap();
    let file = scratch.file("kernel", large);
    kernel_refused(&file, &["--memory", "32M"], &["outside"]);
}

#[test]
fn unusable_initrds_are_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let large = scratch.file("large", vec![1; 40 << 20]);
    let exact = scratch.file("exact", vec![1; 32 << 20]);
    let empty = scratch.file("empty", "");
    for (path, words) in [
        (&*large, &["initrd", "41943040 bytes", "room"][..]),
        (&exact, &["initrd", "room"]),
        (&empty, &["initrd", "empty"]),
        (&scratch, &["initrd", "directory"]),
        (&scratch.join("none"), &["initrd", "no such file"]),
    ] {
        let name = path.to_str().unwrap();
        let flags = ["--memory", "32M", "--initrd", name];
        let words = [words, &[name]].concat();
        refused(&mut tiny("hello", flags), INPUT, &words);
    }
}

#[test]
fn unusable_values_name_their_flag() {
    let long = "x".repeat(5000);
    for (flag, value, word) in [
        ("--memory", "0", "too few"),
        ("--memory", "1", "too few"),
        ("--memory", "3M", "too few"),
        ("--memory", "4194305", "multiple of 4K"),
        ("--memory", "1000T", "more than the host has"),
        ("--memory", "16777216T", "too large"),
        ("--memory", "99999999999999999999", "too large"),
        ("--memory", "-1", "not a size"),
        ("--memory", "1.5G", "not a size"),
        ("--memory", "", "not a size"),
        ("--memory", "lots", "not a size"),
        ("--cpus", "0", "1 to 32"),
        ("--cpus", "33", "1 to 32"),
        ("--cpus", "257", "1 to 32"),
        ("--cpus", "4294967297", "1 to 32"),
        ("--cpus", "-1", "not a number"),
        ("--cpus", "two", "not a number"),
        ("--cmdline", &long, "5000 bytes"),
        ("--cmdline", &long[..2048], "at most 2047"),
        ("--serial", "com2", "not one of stdio"),
        ("--serial", "file:", "path is empty"),
        ("--serial", "stdio,append,hold", "only a file"),
        ("--serial", "none,hold", "cannot be combined"),
        ("--serial", "socket:", "path is empty"),
        ("--on-reset", "sleep", "restart nor exit"),
    ] {
        refused(&mut tiny("hello", [flag, value]), USAGE, &[flag, word]);
    }
}

#[test]
fn flags_that_are_wrong_in_themselves_are_named() {
    for flag in ["--kernel", "--memory", "--cpus", "--config", "--serial"] {
        let mut command = mote(["run", flag]);
        refused(&mut command, USAGE, &[flag]);
    }
    for (args, word) in [
        (["--cpus", "1", "--cpus", "1"], "--cpus is given twice"),
        (["--kernel", "k", "--timings", "--kernel=k"], "--kernel"),
        (["--timings=yes", "--kernel", "k", "--timings"], "--timings"),
    ] {
        refused(mote(["run"]).args(args), USAGE, &[word]);
    }
}

/// A name may hold what would start a new line or turn the text round.
#[test]
fn an_error_is_one_line_whatever_names_hold() {
    let odd = "a\nb\x1b[31m\u{202e}c";
    for (args, code) in [
        (&["run", "--kernel", odd][..], INPUT),
        (&["run", "--cpus", odd], USAGE),
        (&["run", "--config", odd], USAGE),
        (&["restore", odd], INPUT),
        (&["merge", odd, "b", "c"], INPUT),
        (&[odd], USAGE),
    ] {
        let end = refused(&mut mote(args), code, &["a\\u000ab\\u001b[31m\\u202ec"]);
        assert!(!end.err.trim_end().contains(char::is_control), "{args:?}");
    }
}

/// Arguments need not be text.
#[test]
fn arguments_that_are_no_text_do_no_harm() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    refused(mote([""; 0]).arg(odd), USAGE, &["unknown command"]);
    for flag in ["--cmdline", "--memory", "--serial"] {
        refused(tiny("hello", [flag]).arg(odd), USAGE, &["mote: "]);
    }
    refused(mote(["run", "--kernel"]).arg(odd), INPUT, &["kernel"]);
}

#[test]
fn files_for_the_console_that_cannot_be_are_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let long = scratch.join("x".repeat(200));
    let dir = scratch.to_str().unwrap();
    for (to, words) in [
        (format!("file:{dir}"), &["serial file", dir][..]),
        (format!("file:{dir}/no/log"), &["serial file", "no such"]),
        (format!("socket:{dir}/no/socket"), &["serial socket", "no such"]),
        (format!("socket:{}", long.display()), &["serial socket"]),
    ] {
        refused(&mut tiny("hello", ["--serial", &to]), INPUT, words);
    }
}

fn is_root() -> bool {
    // SAFETY: a plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        mote_tests::vm::skip("only root can take a privilege away from a test");
    }
    root
}

/// The command `mote ARGS…` as a user without any rights, with a copy of the
/// program that such a user can reach.
fn as_nobody(scratch: &Scratch, args: &[&str]) -> Command {
    let copy = scratch.join("mote");
    fs::copy(vm::binary(), &copy).unwrap();
    let mut command = Command::new(copy);
    command.args(args).stdin(std::process::Stdio::null());
    // SAFETY: these calls may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let done = libc::setgroups(0, std::ptr::null()) == 0
                && libc::setresgid(65534, 65534, 65534) == 0
                && libc::setresuid(65534, 65534, 65534) == 0;
            done.then_some(()).ok_or_else(io::Error::last_os_error)
        });
    }
    command
}

#[test]
fn a_kvm_that_is_not_permitted_is_named() {
    if !have_kvm() || !is_root() {
        return;
    }
    let device = fs::metadata("/dev/kvm").unwrap();
    if device.permissions().mode() & 0o6 == 0o6 {
        println!("skipped: everybody may use /dev/kvm here");
        return;
    }
    let scratch = Scratch::new();
    let mut command = as_nobody(&scratch, &["demo"]);
    refused(&mut command, HOST, &["/dev/kvm", "permission denied"]);
}

/// The command `mote demo` with something else in the place of /dev/kvm.
fn with_other_dev(source: &str, target: &str) -> Command {
    let mut command = mote(["demo"]);
    let path = |text: &str| CString::new(text).unwrap();
    let (source, target) = (path(source), path(target));
    // SAFETY: these calls may be made between fork and exec; the strings were
    // made before.
    unsafe {
        command.pre_exec(move || {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (root, none, data) = (c"/".as_ptr(), std::ptr::null(), std::ptr::null());
            let done = libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, root, none, private, data) == 0
                && libc::mount(source.as_ptr(), target.as_ptr(), none, libc::MS_BIND, data) == 0;
            done.then_some(()).ok_or_else(io::Error::last_os_error)
        });
    }
    command
}

#[test]
fn a_kvm_that_is_missing_is_named() {
    if !have_kvm() || !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let mut command = with_other_dev(scratch.to_str().unwrap(), "/dev");
    refused(&mut command, HOST, &["/dev/kvm is missing"]);
}

#[test]
fn a_kvm_that_is_something_else_is_named() {
    if !have_kvm() || !is_root() {
        return;
    }
    for other in ["/dev/null", "/dev/zero"] {
        let mut command = with_other_dev(other, "/dev/kvm");
        refused(&mut command, HOST, &["/dev/kvm"]);
    }
}

/// Limits of the process end in a line, too, and not in a panic.
#[test]
fn a_host_without_room_is_named() {
    if !have_kvm() {
        return;
    }
    for (limit, value, words) in [
        (libc::RLIMIT_NOFILE, 6, &[][..]),
        (libc::RLIMIT_NOFILE, 9, &[]),
        (libc::RLIMIT_AS, 64 << 20, &["128M of guest memory"]),
    ] {
        let mut command = tiny("idle", ["--cpus", "4"]);
        let new = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: setrlimit may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::setrlimit(limit, &raw const new);
                Ok(())
            });
        }
        let end = run(&mut command);
        end.complains(words);
        assert!([1, HOST].contains(&end.code), "{end:?}");
    }
}

/// What was mistyped is named, with the help that has it; numbers that are too large are
/// called so; what may be given once is.
#[test]
fn what_is_wrong_with_an_argument_is_named() {
    let cases: &[(&str, &[&str])] = &[
        ("--bogus", &["--bogus", "'mote --help'"]),
        ("-x", &["-x", "'mote --help'"]),
        ("api --bogus", &["--bogus", "'mote api --help'"]),
        ("api --api-sock", &["--api-sock", "argument", "'mote api --help'"]),
        ("run --kernel k --cpus 99999999999999999999", &["--cpus", "too large"]),
        ("run --kernel k --memory 99999999999999999999", &["--memory", "too large"]),
        ("run --kernel k --graceful 99999999999999999999", &["--graceful", "too large"]),
        ("run --kernel k --disk d,id=a,id=b", &["--disk", "id=", "twice"]),
        ("run --kernel k --disk d,size=1M,create,size=2M", &["--disk", "size=", "twice"]),
        ("run --kernel k --disk d,threads=1,threads=2", &["--disk", "threads=", "twice"]),
        ("run --kernel k --serial file:a,b", &["--serial", "'b'", "twice"]),
        ("run --kernel k --serial file:a,append,append", &["--serial", "append", "twice"]),
        ("run --kernel k --bus isa", &["--bus", "'isa'", "mmio"]),
        ("run --kernel k --bus pci --cmdline-devices", &["--cmdline-devices", "--bus pci"]),
        ("run --kernel k --prefault --prefault", &["--prefault", "twice"]),
        ("run --kernel k --timings --timings", &["--timings", "twice"]),
        ("run --kernel k --no-sandbox --no-sandbox", &["--no-sandbox", "twice"]),
        ("run --kernel k --cmdline-devices --cmdline-devices", &["--cmdline-devices", "twice"]),
        ("run --kernel k --memory 1G --memory 2G", &["--memory", "twice"]),
        ("restore d --diff --diff", &["--diff", "twice"]),
        ("restore d --verify --verify", &["--verify", "twice"]),
        ("restore d --no-working-set --no-working-set", &["--no-working-set", "twice"]),
        ("doctor --json --json", &["--json", "twice"]),
        ("ctl --socket a --socket b info", &["--socket", "twice"]),
        ("ctl --socket a --json --json info", &["--json", "twice"]),
        ("api --socket a --api-sock b", &["--api-sock and --socket cannot be combined"]),
        ("api --no-api --no-api", &["--no-api", "twice"]),
        ("api --show-level --show-level", &["--show-level", "twice"]),
        ("restore d --record 0", &["--record", "seconds"]),
        ("restore d --record -1", &["--record", "seconds"]),
    ];
    for (line, words) in cases {
        refused(&mut mote(line.split(' ')), USAGE, words);
    }
    refused(&mut mote(["merge", "no", "no", "into"]), INPUT, &["no/state: no such file"]);
}
