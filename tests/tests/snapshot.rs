//! Snapshots: a guest resumes where it was saved, any number of times.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mote_tests::saved::{behind, goes_on, restore, save, text};
use mote_tests::{BUSES, Scratch, Vm, have_kvm, mote, run, tiny};

#[test]
fn memory_is_the_same_in_every_slot() {
    if !have_kvm() {
        return;
    }
    for (memory, most) in [("128M", 8 << 20), ("3584M", 80 << 20), ("5G", 120 << 20)] {
        let scratch = Scratch::new();
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
fn the_saved_vm_keeps_running() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
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
    let scratch = Scratch::new();
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
    let scratch = Scratch::new();
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
    let scratch = Scratch::new();
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
    let scratch = Scratch::new();
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
fn a_restored_disk_resumes() {
    if have_kvm() {
        BUSES.into_iter().for_each(disk_resumes);
    }
}

fn disk_resumes(bus: &str) {
    let scratch = Scratch::new();
    let to = scratch.directory("saved");
    let image = scratch.join("disk.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let image = text(&image).to_owned();
    let hash = save(&to, &["--cmdline", "disk=1", "--bus", bus], &["--disk", &image]);
    let copy = scratch.join("other.img");
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
        (&[], "1 devices were saved, this VM has 0"),
        (&["--cdrom", &image], "disk0"),
        (&["--disk", &format!("{image},ro")], "disk0"),
        (&["--disk", &format!("{image},id=data")], "where data is now"),
    ];
    for (args, word) in wrong {
        let end = run(mote(["restore", text(&to)]).args(args));
        end.expect(3).complains(&["snapshot", word]);
    }
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
    let scratch = Scratch::new();
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
        let scratch = Scratch::new();
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
    let scratch = Scratch::new();
    let [cd, image] = ["cd", "disk"].map(|name| {
        let path = scratch.join(name);
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
