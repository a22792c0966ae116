//! Whatever parses a file that may come from a stranger is confined before it
//! reads the first byte, as every system call shows.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_tests::vm::binary;
use mote_tests::{Scratch, guest, have_kvm, mote, run, tiny};

/// Files of strangers, and the command that reads them.
struct Case {
    arguments: Vec<PathBuf>,
    strangers: Vec<PathBuf>,
}

impl Case {
    fn new(arguments: &[&dyn AsRef<Path>], strangers: &[PathBuf]) -> Self {
        let arguments = arguments.iter().map(|word| word.as_ref().to_owned());
        Self { arguments: arguments.collect(), strangers: strangers.to_vec() }
    }

    /// What is done with the files before there is a sandbox, and which are read at
    /// all.
    fn trace(&self, scratch: &Scratch) -> (Vec<String>, BTreeSet<PathBuf>) {
        let trace = scratch.join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-y", "-s", "0", "-o"]).arg(&trace);
        strace.arg(binary()).args(&self.arguments);
        run(strace.stdin(keys(scratch)));
        let trace = fs::read_to_string(trace).unwrap();
        let (mut process, mut threads) = (BTreeSet::new(), BTreeSet::new());
        let (mut early, mut read) = (Vec::new(), BTreeSet::new());
        for line in trace.lines() {
            let (thread, call) = line.split_once(' ').unwrap();
            let call = call.trim_start();
            let name = call.split('(').next().unwrap();
            if ["capset", "landlock_restrict_self"].contains(&name) && call.ends_with(" = 0") {
                process.insert(name);
            }
            if name == "seccomp" && call.contains("SECCOMP_SET_MODE_FILTER") {
                threads.insert(thread);
            }
            let reads = ["read", "readv", "pread64", "preadv", "preadv2", "mmap"];
            let of = |file: &&PathBuf| call.contains(&format!("<{}>", file.display()));
            let Some(file) = self.strangers.iter().find(of).filter(|_| reads.contains(&name))
            else {
                continue;
            };
            read.insert(file.clone());
            if process.len() < 2 || !threads.contains(thread) {
                early.push(call.to_owned());
            }
        }
        (early, read)
    }
}

/// Saves a VM, and what a VM that was restored from that has changed.
fn snapshots(scratch: &Scratch) -> [PathBuf; 3] {
    let all = ["start", "base", "changed"].map(|name| scratch.join(name));
    let [start, base, changed] = &all;
    for directory in &all {
        fs::create_dir(directory).unwrap();
    }
    let exit = ["--then", "exit", "--snapshot"];
    run(tiny("snapshot", exit).arg(start)).expect(0);
    run(mote(["restore"]).arg(start).args(exit).arg(base)).expect(0);
    let mut restore = mote(["restore", "--diff"]);
    run(restore.arg(start).args(exit).arg(changed)).expect(0);
    let mut record = mote(["restore", "--record", "marker"]);
    run(record.arg(start).stdin(keys(scratch))).expect(0);
    all
}

/// What makes the guest of a snapshot write its marker, and end.
fn keys(scratch: &Scratch) -> File {
    File::open(scratch.file("keys", "mq")).unwrap()
}

fn files(directory: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| directory.join(name)).collect()
}

#[test]
fn strangers_files_are_read_confined() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let [start, _, changed] = snapshots(&scratch);
    let merged = scratch.join("merged");
    fs::create_dir(&merged).unwrap();
    let image = scratch.file("image", [7; 40 << 10]);
    let kernel = scratch.join("kernel");
    fs::copy(guest("memory"), &kernel).unwrap();
    let whole = ["state", "memory"];
    let merge = [files(&start, &whole), files(&changed, &whole)].concat();
    let restored = files(&start, &["state", "memory", "working-set"]);
    let cases = [
        Case::new(&[&"merge", &start, &changed, &merged], &merge),
        Case::new(&[&"doctor", &image], std::slice::from_ref(&image)),
        Case::new(
            &[&"run", &"--kernel", &kernel, &"--initrd", &image],
            &[kernel.clone(), image.clone()],
        ),
        Case::new(&[&"restore", &start], &restored),
        Case::new(&[&"restore", &"--verify", &start], &restored),
    ];
    for case in cases {
        let (mut early, read) = case.trace(&scratch);
        // The header's numbers of fixed length say how large a machine is to be made; a
        // working set is bytes until it is decoded.
        early.retain(|call| {
            let head = call.contains("/state>") && call.contains(", 32, 0) = 32");
            !head && !call.contains("/working-set>")
        });
        assert_eq!(early, [""; 0], "{:?}", case.arguments);
        assert_eq!(read, case.strangers.into_iter().collect(), "nothing was traced");
    }
    assert!(merged.join("state").exists());
}
