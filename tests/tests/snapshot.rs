//! Snapshots: a guest goes on where it was, as often as one likes, and a file
//! that is not what was written is refused by name.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mote_tests::{BUSES, Vm, have_kvm, mote, run, tiny};

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("mote-snapshot-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An empty directory in it.
    fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What stands behind `word` in a line of `out`.
fn behind(out: &str, word: &str) -> String {
    let found = out.lines().find_map(|line| line.strip_prefix(word));
    found.unwrap_or_else(|| panic!("no {word:?} in {out:?}")).to_owned()
}

/// Takes a snapshot in the middle of a line and ends; returns the hash of the
/// guest's memory. `devices` are flags for both steps: the runtime writes the
/// boot marker with its first instructions, so the VM that gets as far as the
/// guest's own is a restored one.
fn save(to: &Path, args: &[&str], devices: &[&str]) -> String {
    let start = to.with_extension("start");
    fs::create_dir(&start).unwrap();
    let then = ["--then", "exit", "--snapshot"];
    let all = [args, devices, &then, &[text(&start)]].concat();
    let end = run(&mut tiny("snapshot", all));
    assert_eq!((end.expect(0).out.as_str(), end.complaints()), ("", vec![]));
    let all = [devices, &then, &[text(to)]].concat();
    let end = run(mote(["restore", text(&start)]).args(all));
    let out = &end.expect(0).out;
    assert!(out.ends_with("half a"), "{out}");
    assert_eq!(end.complaints(), [""; 0]);
    behind(out, "hash ")
}

fn restore(from: &Path, args: &[&str]) -> Vm {
    Vm::start(mote(["restore", text(from)]).args(args))
}

/// Restores a guest, which must be as it was and must listen to its console.
fn goes_on(from: &Path, hash: &str, args: &[&str]) {
    let mut vm = restore(from, args);
    vm.wait_for(&format!("again {hash}"));
    vm.send("x");
    vm.wait_for("got 120");
    vm.send("q");
    let end = vm.end();
    let out = &end.expect(0).out;
    assert!(out.starts_with(" line\nagain "), "{out}");
    assert_eq!(end.complaints(), [""; 0]);
}

#[test]
fn memory_is_the_same_in_every_slot() {
    if !have_kvm() {
        return;
    }
    for (memory, most) in [("128M", 8 << 20), ("3584M", 80 << 20), ("5G", 120 << 20)] {
        let scratch = Scratch::new(memory);
        let to = scratch.directory("saved");
        let hash = save(&to, &["--memory", memory], &[]);
        // Untouched pages take no room.
        let file = fs::metadata(to.join("memory")).unwrap();
        assert!(file.blocks() * 512 < most, "{memory}: {} blocks", file.blocks());
        goes_on(&to, &hash, &[]);
        goes_on(&to, &hash, &["--verify"]);
    }
}

#[test]
fn the_vm_that_was_saved_goes_on_too() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("resume");
    let to = scratch.directory("saved");
    let mut vm = Vm::start(&mut tiny("snapshot", ["--cpus", "2", "--snapshot", text(&to)]));
    vm.wait_for("again ");
    vm.send("xq");
    let end = vm.end();
    let out = &end.expect(0).out;
    assert!(out.contains("half a line\n") && out.contains("got 120"), "{out}");
    // From its start once more.
    let mut vm = restore(&to, &[]);
    vm.wait_for(&format!("again {}", behind(out, "hash ")));
    vm.send("q");
    vm.end().expect(0);
}

#[test]
fn a_restored_vm_can_be_saved() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("again");
    let (first, second) = (scratch.directory("first"), scratch.directory("second"));
    let hash = save(&first, &[], &[]);
    let mut vm = restore(&first, &["--snapshot", text(&second), "--then", "exit"]);
    vm.wait_for("again ");
    vm.send("m");
    vm.end().expect(0);
    let mut vm = restore(&second, &["--verify"]);
    vm.wait_for(&format!("marked {hash}"));
    vm.send("q");
    vm.end().expect(0);
}

#[test]
fn clones_run_side_by_side_and_leave_the_files_alone() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("clones");
    let to = scratch.directory("saved");
    let hash = save(&to, &["--cpus", "2"], &[]);
    let before = fs::read(to.join("memory")).unwrap();
    let mut clones: Vec<Vm> = (0..3).map(|_| restore(&to, &[])).collect();
    for clone in &clones {
        clone.wait_for(&format!("again {hash}"));
    }
    for clone in &mut clones {
        clone.send("yq");
    }
    for clone in clones {
        assert!(clone.end().expect(0).out.contains("got 121"));
    }
    assert!(fs::read(to.join("memory")).unwrap() == before);
}

#[test]
fn hundreds_of_clones_leave_nothing() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("hundreds");
    let to = scratch.directory("saved");
    let args = ["--then", "exit", "--snapshot", text(&to)];
    run(&mut tiny("resumed", args)).expect(0);
    let files = || {
        let file = |name: &str| fs::read(to.join(name)).unwrap();
        let names = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name());
        (names.collect::<Vec<_>>(), file("state"), file("memory"))
    };
    let before = files();
    for number in 0..500 {
        let end = run(&mut mote(["restore", text(&to)]));
        assert_eq!(end.expect(0).out, "H", "clone {number}");
    }
    assert!(files() == before);
}

/// Whoever draws random numbers in a clone has been told before that it is one.
#[test]
fn a_restored_vm_has_another_generation_id() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("generation");
    let (start, to) = (scratch.directory("start"), scratch.directory("saved"));
    let then = ["--then", "exit", "--snapshot", text(&start)];
    run(&mut tiny("snapshot", then)).expect(0);
    // What it prints when it is asked, without its hash.
    let ask = |mut vm: Vm| {
        vm.wait_for("again ");
        vm.send("gq");
        let end = vm.end();
        behind(&end.expect(0).out, "generation ")
    };
    // Listens since after its own restore.
    let first = ask(restore(&start, &["--snapshot", text(&to)]));
    let clones = [(); 2].map(|()| ask(restore(&to, &[])));
    assert!(first.ends_with(" told 0"), "{first}");
    for clone in &clones {
        assert!(clone.ends_with(" told 1"), "{clone}");
    }
    let ids = [&first, &clones[0], &clones[1]].map(|said| &said[..32]);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    assert!(ids.iter().all(|id| *id != "0".repeat(32)), "{ids:?}");
}

#[test]
fn a_disk_goes_on_where_it_was() {
    if have_kvm() {
        BUSES.into_iter().for_each(disk_goes_on);
    }
}

fn disk_goes_on(bus: &str) {
    let scratch = Scratch::new("disk");
    let to = scratch.directory("saved");
    let image = scratch.path("disk.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let image = text(&image).to_owned();
    let hash = save(&to, &["--cmdline", "disk=1", "--bus", bus], &["--disk", &image]);
    let copy = scratch.path("other.img");
    fs::copy(&image, &copy).unwrap();
    for disk in [image.as_str(), text(&copy)] {
        let mut vm = restore(&to, &["--disk", disk]);
        vm.wait_for(&format!("again {hash}"));
        vm.wait_for("disk ok");
        vm.send("q");
        vm.end().expect(0);
    }
    // Other devices than it had.
    let wrong: [(&[&str], &str); 4] = [
        (&[], "1 devices were saved, 0 are here"),
        (&["--cdrom", &image], "disk0"),
        (&["--disk", &format!("{image},ro")], "disk0"),
        (&["--disk", &format!("{image},id=data")], "where data is now"),
    ];
    for (args, word) in wrong {
        let end = run(mote(["restore", text(&to)]).args(args));
        end.expect(3).complains(&["snapshot", word]);
    }
}

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
    let scratch = Scratch::new("refused");
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
        ("memory", Box::new(|f| f.set_len(64 << 20).unwrap()), &[], "memory"),
        ("memory", Box::new(flip(12345 << 12)), &["--verify"], "checksum"),
        ("memory", Box::new(|f| f.write_all_at(&foreign, 0).unwrap()), &[], "another snapshot"),
    ];
    for (number, (file, change, args, word)) in cases.into_iter().enumerate() {
        let bad = scratch.path(&number.to_string());
        changed(&good, &bad, file, change);
        let end = run(mote(["restore", text(&bad)]).args(args));
        end.expect(3).complains(&["snapshot", file, word]);
        fs::remove_dir_all(&bad).unwrap();
    }
    let end = run(&mut mote(["restore", text(&scratch.0)]));
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
    let scratch = Scratch::new("killed");
    let (mut whole, mut none) = (0, 0);
    for call in WRITES.into_iter().chain(["fchmod"]) {
        for number in 1.. {
            // The first time it makes the directory.
            let to = scratch.path("saved");
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
    let scratch = Scratch::new("made");
    let (to, deep) = (scratch.path("saved"), scratch.path("no/saved"));
    let refused: [(&Path, &[&str], i32, &[&str]); 3] = [
        (&deep, &[], 3, &["snapshot", "no/saved", "parent"]),
        (&to, &["--disk", "none"], 3, &["none"]),
        (&to, &["--cpus", "99"], 2, &["--cpus"]),
    ];
    for (to, args, code, words) in refused {
        let end = run(tiny("snapshot", ["--snapshot", text(to)]).args(args));
        end.expect(code).complains(words);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "{words:?}");
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
    let scratch = Scratch::new("kept");
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
    fs::hard_link(&memory, scratch.path("other")).unwrap();
    refused();
    fs::remove_file(scratch.path("other")).unwrap();
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
    let scratch = Scratch::new("errors");
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
                assert!(said.contains("snapshot") && said.contains(word), "{said}");
                assert!(!there || call == "fsync" && number >= 5, "{call} {number}");
            }
        }
    }
}

/// A guest that is to go on does, whatever becomes of its snapshot or of the note
/// of what it touched.
#[test]
fn a_guest_goes_on_when_nothing_can_be_written() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("goes-on");
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
        assert!(end.err.contains("No space left"), "{call}: {}", end.err);
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
    let scratch = Scratch::new("holes");
    let saved = scratch.directory("saved");
    let hash = save(&saved, &[], &[]);
    let script = "set -e; cd $1; truncate -s 256M image; mkdir at
        PATH=$PATH:/sbin:/usr/sbin; mke2fs -q -F -t ext4 -b 1024 image
        mount -o loop image at || { echo skipped; exit; }
        cp -r saved at; fallocate -d at/saved/memory
        echo q | timeout -k 1 60 $2 restore at/saved --verify";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", script, "sh", text(&scratch.0)]);
    let end = run(shell.arg(mote([""; 0]).get_program()));
    let out = &end.expect(0).out;
    if out.contains("skipped") {
        mote_tests::vm::skip("no loop device");
        return;
    }
    assert!(out.contains(&format!("again {hash}")), "{out}");
}

/// Waits until a file is there.
fn appears(path: &Path) {
    for _ in 0..1000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} does not appear", path.display());
}

#[test]
fn a_working_set_changes_nothing_but_time() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("working-set");
    let to = scratch.directory("saved");
    let hash = save(&to, &["--cpus", "2"], &[]);
    let file = to.join("working-set");
    // Until the marker, and once more for a while, and until the end.
    let mut vm = restore(&to, &["--record", "marker"]);
    vm.wait_for(&format!("again {hash}"));
    assert!(!file.exists());
    vm.send("m");
    appears(&file);
    let first = fs::read(&file).unwrap();
    vm.send("q");
    assert_eq!(vm.end().expect(0).complaints(), [""; 0]);
    goes_on(&to, &hash, &[]);
    let vm = restore(&to, &["--record", "0.2"]);
    vm.wait_for(&format!("again {hash}"));
    appears(&file);
    drop(vm);
    let mut vm = restore(&to, &["--record", "3600"]);
    vm.wait_for(&format!("again {hash}"));
    vm.send("q");
    vm.end().expect(0);
    goes_on(&to, &hash, &["--verify"]);
    // What is no working set of this snapshot is refused, or left alone.
    let mut damaged = first.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let other = scratch.directory("other");
    save(&other, &[], &[]);
    fs::write(other.join("working-set"), &first).unwrap();
    fs::write(&file, damaged).unwrap();
    for (bad, why) in [(&to, "checksum"), (&other, "another snapshot")] {
        let end = run(&mut mote(["restore", text(bad)]));
        end.expect(3).complains(&["working set", "working-set", why]);
    }
    goes_on(&to, &hash, &["--no-working-set"]);
    for args in [&["--record", "often"][..], &["--record", "marker", "--snapshot", text(&to)]] {
        let end = run(mote(["restore", text(&to)]).args(args));
        end.expect(2).complains(&["--record"]);
    }
}

#[test]
fn blocks_that_are_written_all_over_are_the_same() {
    if !have_kvm() {
        return;
    }
    for cmdline in ["only=w", ""] {
        let scratch = Scratch::new(&format!("dense{}", cmdline.len()));
        let (start, to) = (scratch.directory("start"), scratch.directory("saved"));
        let then = ["--then", "exit", "--snapshot"];
        let args = [&then[..], &[text(&start), "--cmdline", cmdline]].concat();
        run(&mut tiny("function", args)).expect(0);
        let args = [&then[..], &[text(&to)]].concat();
        run(mote(["restore", text(&start)]).args(args)).expect(0);
        let answer = |args: &[&str]| {
            let end = run(mote(["restore", text(&to)]).args(args));
            behind(&end.expect(0).out, "answer ")
        };
        let without = answer(&["--record", "marker"]);
        assert!(to.join("working-set").exists());
        assert_eq!(answer(&[]), without);
        // Its own writes are nobody else's.
        assert_eq!(answer(&["--verify"]), without);
    }
}

/// Drives of a snapshot that has a CD-ROM before a disk are refused as they are
/// numbered now, with the way out, which works.
#[test]
fn an_older_order_of_drives_is_refused_with_a_way_out() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new("order");
    let [cd, image] = ["cd", "disk"].map(|name| {
        let path = scratch.path(name);
        fs::write(&path, [0; 4096]).unwrap();
        text(&path).to_owned()
    });
    let to = scratch.directory("saved");
    let first = format!("{cd},ro,id=cdrom0");
    let second = format!("{image},id=disk1");
    let older = ["--disk", &first, "--disk", &second];
    let hash = save(&to, &[], &older);
    let end = run(mote(["restore", text(&to)]).args(["--cdrom", &cd, "--disk", &second]));
    end.expect(3).complains(&["cdrom0", "disks before CD-ROMs", "--disk PATH,ro,id=cdrom0"]);
    goes_on(&to, &hash, &older);
}
