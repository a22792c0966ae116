//! The files of a snapshot: they appear whole or not at all, and are refused by name
//! when they are not what was written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mote_tests::saved::{restore, save, text};
use mote_tests::{Scratch, Vm, have_kvm, mote, run, tiny};

/// A copy of a snapshot in which `change` has changed a file.
fn changed(from: &Path, to: &Path, file: &str, change: impl Fn(&fs::File)) {
    fs::create_dir(to).unwrap();
    for name in ["state", "memory"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    change(&OpenOptions::new().read(true).write(true).open(to.join(file)).unwrap());
}

#[test]
fn what_was_not_written_so_is_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (good, other) = (scratch.directory("good"), scratch.directory("other"));
    save(&good, &[], &[]);
    save(&other, &[], &[]);
    let length = |name: &str| fs::metadata(good.join(name)).unwrap().len();
    let flip = |at: u64| {
        move |file: &fs::File| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        }
    };
    type Change<'a> = Box<dyn Fn(&fs::File) + 'a>;
    let foreign = fs::read(other.join("memory")).unwrap();
    let cases: [(&str, Change<'_>, &[&str], &str); 11] = [
        ("state", Box::new(flip(0)), &[], "not a file of a snapshot"),
        ("state", Box::new(|f| f.write_all_at(&[0xff], 8).unwrap()), &[], "newer"),
        ("state", Box::new(|f| f.write_all_at(&[1], 8).unwrap()), &[], "older"),
        ("state", Box::new(flip(40)), &[], "checksum"),
        ("state", Box::new(flip(length("state") / 2)), &[], "checksum"),
        ("state", Box::new(flip(length("state") - 1)), &[], "checksum"),
        ("state", Box::new(|f| f.set_len(1000).unwrap()), &[], "bytes long"),
        ("state", Box::new(|f| f.set_len(5).unwrap()), &[], "not a file of a snapshot"),
        ("memory", Box::new(|f| f.set_len(64 << 20).unwrap()), &[], "bytes long instead of"),
        ("memory", Box::new(flip(12345 << 12)), &["--verify"], "checksum"),
        ("memory", Box::new(|f| f.write_all_at(&foreign, 0).unwrap()), &[], "another snapshot"),
    ];
    for (number, (file, change, args, word)) in cases.into_iter().enumerate() {
        let bad = scratch.join(number.to_string());
        changed(&good, &bad, file, change);
        let end = run(mote(["restore", text(&bad)]).args(args));
        end.expect(3).complains(&["snapshot", file, word]);
        fs::remove_dir_all(&bad).unwrap();
    }
    let end = run(&mut mote(["restore", text(&scratch)]));
    end.expect(3).complains(&["state", "no such file"]);
    // What is there is never written over.
    let end = run(&mut tiny("snapshot", ["--snapshot", text(&good)]));
    end.expect(3).complains(&["snapshot", text(&good), "exist"]);
    let end = run(mote(["restore", text(&good)]).args(["--memory", "1G"]));
    end.expect(2).complains(&["--memory"]);
}

/// `mote` saving a guest to `to`, with what strace does to its `number`th
/// system call `call`; `None` if there were fewer of them. A call that strace
/// has fail has no number, at which a filter would end the process.
fn disturbed(to: &Path, call: &str, how: &str, number: u32) -> Option<Output> {
    let filter = if how.starts_with("error") { "log" } else { "kill" };
    let args = ["--then", "exit", "--seccomp", filter, "--snapshot", text(to)];
    let mote = tiny("snapshot", args);
    let log = to.with_extension("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", text(&log), "-e", &format!("trace={call}"), "-e"]);
    strace.arg(format!("inject={call}:{how}:when={number}"));
    strace.arg(mote.get_program()).args(mote.get_args());
    let output = strace.stdin(Stdio::null()).output().unwrap();
    let trace = fs::read_to_string(&log).unwrap();
    let done = trace.lines().filter(|line| line.contains(&format!("{call}(")));
    (done.count() >= number as usize).then_some(output)
}

/// The system calls by which a snapshot gets to disk.
const WRITES: [&str; 3] = ["pwrite64", "fsync", "linkat"];

/// Whoever ends the writer, and when: there is a whole snapshot or none, and
/// the next one can be taken in the same place.
#[test]
fn a_killed_writer_leaves_a_whole_snapshot_or_none() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (mut whole, mut none) = (0, 0);
    for call in WRITES.into_iter().chain(["fchmod"]) {
        for number in 1.. {
            // The first time it makes the directory.
            let to = scratch.join("saved");
            let Some(killed) = disturbed(&to, call, "signal=KILL", number) else {
                fs::remove_dir_all(&to).unwrap();
                break;
            };
            assert_eq!(killed.status.signal(), Some(libc::SIGKILL), "{killed:?}");
            if to.join("state").exists() {
                whole += 1;
            } else {
                none += 1;
                let end = run(&mut mote(["restore", text(&to)]));
                end.expect(3).complains(&["state", "no such file"]);
                let args = ["--then", "exit", "--snapshot", text(&to)];
                run(&mut tiny("snapshot", args)).expect(0);
            }
            let mut vm = restore(&to, &["--verify"]);
            vm.wait_for("again ");
            vm.send("q");
            vm.end().expect(0);
            fs::remove_dir_all(&to).unwrap();
        }
    }
    // Both have been seen: before the last name, and behind it.
    assert!(whole > 0 && none >= 5, "{whole} whole, {none} none");
}

/// A directory is made where its parent is there, and not left behind when something is
/// refused; too little room is told before the guest runs.
#[test]
fn the_directory_is_made_and_the_room_checked() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (to, deep) = (scratch.join("saved"), scratch.join("no/saved"));
    let refused: [(&Path, &[&str], i32, &[&str]); 3] = [
        (&deep, &[], 3, &["snapshot", "no/saved", "parent"]),
        (&to, &["--disk", "none"], 3, &["none"]),
        (&to, &["--cpus", "99"], 2, &["--cpus"]),
    ];
    for (to, args, code, words) in refused {
        let end = run(tiny("snapshot", ["--snapshot", text(to)]).args(args));
        end.expect(code).complains(words);
        assert_eq!(fs::read_dir(&*scratch).unwrap().count(), 0, "{words:?}");
    }
    let save = ["--then", "exit", "--snapshot", text(&to)];
    run(&mut tiny("snapshot", save)).expect(0);
    let mode = |name: &str| fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(""), mode("state"), mode("memory")], [0o700, 0o600, 0o600]);
    let small = scratch.directory("small");
    let script = "mount -t tmpfs -o size=16M none \"$0\" && exec \"$@\"";
    let mote = tiny("snapshot", ["--memory", "64M", "--snapshot", text(&small)]);
    let mut within = Command::new("unshare");
    within.args(["-m", "sh", "-c", script, text(&small)]).arg(mote.get_program());
    let end = run(within.args(mote.get_args()));
    end.expect(3).complains(&["snapshot", text(&small), "16 MiB are free", "68 MiB"]);
}

/// A memory file without a state is removed only if a writer that was killed left it:
/// not one that another snapshot may need, nor one that is being written.
#[test]
fn memory_that_may_be_of_use_is_kept() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let to = scratch.directory("saved");
    let memory = to.join("memory");
    let save = || run(&mut tiny("snapshot", ["--then", "exit", "--snapshot", text(&to)]));
    let left = |mode| {
        fs::write(&memory, "memory").unwrap();
        fs::set_permissions(&memory, fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = || {
        save().expect(3).complains(&["snapshot", text(&to), "'memory'", "without a state"]);
        assert_eq!(fs::read(&memory).unwrap(), b"memory");
    };
    for mode in [0o600, 0o644, 0o1644, 0o2600] {
        left(mode);
        refused();
    }
    left(0o1600);
    fs::hard_link(&memory, scratch.join("other")).unwrap();
    refused();
    fs::remove_file(scratch.join("other")).unwrap();
    let writer = fs::File::open(&memory).unwrap();
    writer.lock().unwrap();
    refused();
    drop(writer);
    save().expect(0);
    let mut vm = restore(&to, &["--verify"]);
    vm.send("q");
    vm.end().expect(0);
}

/// A disk that is full or broken is named, and nothing appears.
#[test]
fn an_error_of_the_disk_leaves_no_snapshot() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for (how, word) in [("ENOSPC", "No space"), ("EIO", "Input/output")] {
        for call in WRITES {
            for number in 1.. {
                let to = scratch.directory("saved");
                let error = format!("error={how}");
                let failed = disturbed(&to, call, &error, number);
                // Its name stands for a snapshot that is whole, even if the
                // directory's own way to disk is not certain.
                let there = to.join("state").exists();
                fs::remove_dir_all(&to).unwrap();
                let Some(failed) = failed else { break };
                let said = String::from_utf8_lossy(&failed.stderr).into_owned();
                assert_eq!(failed.status.code(), Some(4), "{call} {number}: {said}");
                let named = ["state", "memory"].map(|name| to.join(name));
                let named = named.iter().any(|path| said.contains(text(path)));
                assert!(named && said.contains("snapshot") && said.contains(word), "{said}");
                assert!(!there || call == "fsync" && number >= 5, "{call} {number}");
            }
        }
    }
}

/// A guest that is to go on does, whatever becomes of its snapshot or of the note
/// of what it touched.
#[test]
fn a_guest_resumes_when_its_snapshot_cannot_be_written() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let [good, bad] = ["good", "bad"].map(|name| scratch.directory(name));
    save(&good, &[], &[]);
    let resume = ["--then", "resume", "--snapshot", text(&bad)];
    let record = ["--record", "marker"];
    for (call, args) in [("pwrite64", &resume[..]), ("linkat", &record)] {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:error=ENOSPC")]);
        let mut mote = mote(["restore", text(&good), "--seccomp", "log"]);
        mote.args(args);
        strace.arg(mote.get_program()).args(mote.get_args());
        let mut vm = Vm::start(&mut strace);
        vm.wait_for("again");
        vm.send("m");
        vm.wait_for("marked");
        vm.send("xq");
        let end = vm.end();
        // A snapshot was asked for; what the guest touched is only noted.
        end.expect(if call == "pwrite64" { 10 } else { 0 });
        let file = if call == "pwrite64" { bad.join("memory") } else { good.join("working-set") };
        let named = end.err.contains(text(&file));
        assert!(named && end.err.contains("No space left"), "{call}: {}", end.err);
    }
    assert_eq!(fs::read_dir(&bad).unwrap().count(), 0);
}

/// Blocks of a file system may be smaller than pages: what a page begins with may
/// be a hole, and the rest none.
#[test]
fn holes_smaller_than_a_page_are_passed_over() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let saved = scratch.directory("saved");
    let hash = save(&saved, &[], &[]);
    let script = "set -e; cd $1; truncate -s 256M image; mkdir at
        PATH=$PATH:/sbin:/usr/sbin; mke2fs -q -F -t ext4 -b 1024 image
        mount -o loop image at || { echo skipped; exit; }
        cp -r saved at; fallocate -d at/saved/memory
        echo q | timeout -k 1 60 $2 restore at/saved --verify";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", script, "sh", text(&scratch)]);
    let end = run(shell.arg(mote([""; 0]).get_program()));
    let out = &end.expect(0).out;
    if out.contains("skipped") {
        mote_tests::vm::skip("no loop device");
        return;
    }
    assert!(out.contains(&format!("again {hash}")), "{out}");
}
