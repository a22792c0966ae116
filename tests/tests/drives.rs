//! Disks and CD-ROMs as a guest finds them on the real KVM, and as their
//! files look afterwards.

use std::fs;
use std::path::Path;

use mote_tests::{BUSES, Scratch, Vm, have_kvm, mote, run, tiny, wait_until};

const INPUT: i32 = 3;
const USAGE: i32 = 2;

fn disk(scratch: &Scratch, name: &str, sectors: usize) -> String {
    let path = scratch.file(name, vec![0; sectors * 512]);
    path.to_str().unwrap().to_owned()
}

/// Runs the guest `disk` with a task on a fresh disk, and a CD beside it, on either bus.
fn task(what: &str) -> [(Vec<u8>, String); 2] {
    BUSES.map(|bus| task_on(bus, what))
}

fn task_on(bus: &str, what: &str) -> (Vec<u8>, String) {
    let scratch = Scratch::new();
    let image = disk(&scratch, "disk", 2048);
    let cd = scratch.file("cd", [b'c'; 4096]);
    let line = format!("do={what}");
    let cd_path = cd.to_str().unwrap();
    let flags = ["--bus", bus, "--disk", &image, "--cdrom", cd_path, "--cmdline", &line];
    let end = run(&mut tiny("disk", flags));
    end.expect(0);
    assert!(end.out.contains(&format!("{what} ok")), "{}", end.out);
    assert_eq!(fs::read(&cd).unwrap(), [b'c'; 4096], "the CD was written");
    (fs::read(image).unwrap(), end.out)
}

/// What the guest wrote is in the file, at its place, and nothing else.
#[test]
fn a_disk_keeps_what_it_is_given() {
    if !have_kvm() {
        return;
    }
    for (bytes, out) in task("check") {
        assert!(out.contains("2048 sectors"), "{out}");
        for (sector, bytes) in bytes.chunks(512).enumerate() {
            let start = [0, 8, 1024, 2040].into_iter().find(|s| (*s..s + 8).contains(&sector));
            let expected = start.map_or(0, |start| (start * 7 + 1) as u8);
            assert!(bytes.iter().all(|b| *b == expected), "sector {sector}");
        }
    }
}

/// What is discarded is zeroes, and nothing else is.
#[test]
fn discarded_pieces_are_zeroes() {
    if !have_kvm() {
        return;
    }
    for (bytes, _) in task("discard") {
        for (sector, bytes) in bytes.chunks(512).take(64).enumerate() {
            let gone = (16..32).contains(&sector) || (40..56).contains(&sector);
            let expected = if gone { 0 } else { 0xa5 };
            assert!(bytes.iter().all(|byte| *byte == expected), "sector {sector}");
        }
    }
}

/// Flaw table lines 23 and 24, a read-only drive: flush succeeds, writes and
/// discards fail, and the next read is served (Kata CVE-2020-2025, Cloud
/// Hypervisor #7698).
#[test]
fn a_cdrom_only_reads() {
    if have_kvm() {
        task("readonly");
    }
}

/// Flaw table lines 14 and 1: every offset and width of the register window
/// (kvmtool CVE-2021-45464), and registers written after activation (Firecracker CVE-2026-5747).
#[test]
fn any_register_access_is_harmless() {
    if have_kvm() {
        task("registers");
    }
}

/// Flaw table line 17, chains that no driver may build: the device asks for a reset and works
/// after it (QEMU CVE-2016-6490 and its kin).
#[test]
fn bad_chains_end_in_needs_reset() {
    if have_kvm() {
        for how in ["loop", "head", "address", "order"] {
            task(how);
        }
    }
}

/// Flaw table line 12: headers of other formats that a guest plants are data
/// (QEMU CVE-2008-2004, Cloud Hypervisor CVE-2026-27211):
/// the disk stays raw, whatever its first bytes say.
#[test]
fn a_disk_is_raw_whatever_is_in_it() {
    if !have_kvm() {
        return;
    }
    for magic in [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"vhdxfile", b"LUKS\xba\xbe"] {
        let scratch = Scratch::new();
        let mut bytes = vec![0; 1 << 20];
        bytes[..magic.len()].copy_from_slice(magic);
        let image = scratch.file("disk", &bytes);
        let end = run(&mut tiny("disk", ["--disk", image.to_str().unwrap()]));
        end.expect(0);
        assert!(end.out.contains("2048 sectors"), "{}", end.out);
    }
}

#[test]
fn a_new_disk_is_made_and_an_old_one_kept() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.join("new");
    let flag = format!("{},size=8G,create", path.display());
    for _ in 0..2 {
        let end = run(&mut tiny("disk", ["--disk", &flag]));
        end.expect(0);
        assert!(end.out.contains("16777216 sectors"), "{}", end.out);
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 8 << 30);
}

/// A machine that restarts in place has its devices at power-on again.
#[test]
fn a_reset_resets_the_devices() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = disk(&scratch, "disk", 2048);
    for threads in ["1", "4"] {
        let flag = format!("{image},threads={threads}");
        let mut vm = Vm::start(&mut tiny("reset", ["--disk", &flag, "--cmdline", "by=acpi"]));
        for start in 1..=3 {
            vm.wait_for_times("boot\n", start);
            vm.send("r");
        }
        vm.wait_for_times("boot\n", 4);
        vm.send("q");
        let end = vm.end();
        end.expect(0);
        assert!(!end.out.contains("FAIL"), "{}", end.out);
    }
}

/// A disk has one writer, or readers.
#[test]
fn drives_are_locked() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = disk(&scratch, "disk", 2048);
    let read_only = format!("{image},ro");
    let running = |flag: &str, name: &str| {
        let mut vm = Vm::start(&mut tiny("spin", [flag, name]));
        let pid = vm.pid();
        wait_until("the drive is open", || {
            assert!(!vm.has_ended());
            let open = mote_tests::proc::descriptors(pid);
            open.iter().any(|file| Path::new(file) == Path::new(&image))
        });
        vm
    };
    let refused = |flag: &str, name: &str| {
        let end = run(&mut tiny("hello", [flag, name]));
        end.expect(INPUT).complains(&[&image, "another VM"]);
    };
    let writer = running("--disk", &image);
    refused("--disk", &image);
    refused("--disk", &read_only);
    refused("--cdrom", &image);
    writer.signal(libc::SIGTERM);
    writer.end().expect(143);
    let reader = running("--disk", &read_only);
    run(&mut tiny("hello", ["--cdrom", &image])).expect(0);
    refused("--disk", &image);
    reader.signal(libc::SIGTERM);
    reader.end().expect(143);
}

#[test]
fn bad_drives_are_refused_by_name() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let odd = scratch.file("odd", [0; 1000]);
    let empty = scratch.file("empty", b"");
    let missing = scratch.join("missing");
    let directory = scratch.join("directory");
    fs::create_dir(&directory).unwrap();
    for (flag, path, words) in [
        ("--disk", &odd, "whole sectors"),
        ("--disk", &empty, "is empty"),
        ("--disk", &missing, "no such file"),
        ("--disk", &directory, "is a directory"),
        ("--cdrom", &empty, "not even one sector"),
        ("--cdrom", &missing, "no such file"),
        ("--cdrom", &directory, "neither a regular file nor a block device"),
    ] {
        let name = path.to_str().unwrap();
        let end = run(&mut tiny("hello", [flag, name]));
        end.expect(INPUT).complains(&[name, words]);
        assert_eq!(end.err.lines().count(), 1, "{}", end.err);
    }
    // What can only be read may end in the middle of a sector.
    let name = format!("{},ro", odd.display());
    run(&mut tiny("hello", ["--disk", &name])).expect(0);
    let good = disk(&scratch, "good", 8);
    let twice = ["run", "--kernel", "k", "--disk", &good, "--disk", &good, "--disk"];
    let same = format!("{good},id=disk0");
    run(mote(twice).arg(&same)).expect(USAGE).complains(&["disk0"]);
}

/// One file in two drives of a VM of which one can write: that is said, and not
/// that another VM has it; drives that only read share it.
#[test]
fn one_file_twice_in_a_vm_is_called_that() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = disk(&scratch, "disk", 2048);
    let [link, hard] = ["link", "hard"].map(|name| scratch.join(name));
    std::os::unix::fs::symlink(&image, &link).unwrap();
    fs::hard_link(&image, &hard).unwrap();
    let ro = |name: &str| format!("{name},ro");
    let [link, hard] = [&link, &hard].map(|path| path.to_str().unwrap());
    for (flags, shared) in [
        (["--disk", &image, "--disk", &image], false),
        (["--disk", &image, "--disk", &ro(link)], false),
        (["--disk", &ro(&image), "--disk", hard], false),
        (["--cdrom", &image, "--disk", hard], false),
        (["--cdrom", link, "--disk", &ro(&image)], true),
        (["--cdrom", &image, "--cdrom", &image], true),
    ] {
        let end = run(&mut tiny("hello", flags));
        match shared {
            true => assert_eq!(end.expect(0).complaints(), [""; 0]),
            false => {
                end.expect(INPUT).complains(&["drive disk0 of this VM"]);
            }
        }
    }
}

/// Whatever order drives are given in, a guest finds disks before CD-ROMs, and an
/// id does not change with the drives of the other kind.
#[test]
fn disks_come_before_cdroms() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = disk(&scratch, "disk", 2048);
    let cd = scratch.file("cd", [0; 4096]);
    let cd = cd.to_str().unwrap();
    let config = scratch.file(
        "config",
        format!(
            r#"{{"boot-source": {{"kernel_image_path": "k"}}, "drives": [
                {{"drive_id": "cd", "path_on_host": "{cd}", "media": "cdrom",
                 "is_root_device": false, "is_read_only": true}}]}}"#
        ),
    );
    let config = config.to_str().unwrap();
    for flags in [
        &["--disk", &image][..],
        &["--cdrom", cd, "--disk", &image],
        &["--disk", &image, "--cdrom", cd],
        &["--cdrom", cd, "--cdrom", cd, "--disk", &image],
        &["--config", config, "--disk", &image],
    ] {
        // What is in the first window can be written, and is as long as the disk.
        let end = run(&mut tiny("disk", flags));
        assert!(end.expect(0).out.contains("2048 sectors"), "{}", end.out);
        // Its thread has the drive's id.
        let mut spin = Vm::start(&mut tiny("spin", flags));
        spin.wait_for("spin");
        let threads = mote_tests::proc::threads(spin.pid());
        assert!(threads.iter().any(|name| name == "disk0"), "{threads:?}");
        assert!(!spin.has_ended());
    }
}

/// A comma in a path is written twice where options may follow, and is itself
/// where none can.
#[test]
fn a_path_may_have_commas() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    for name in ["a,b", ",a", "a,,b,ro", "a,ro"] {
        let image = disk(&scratch, name, 2048);
        let end = run(&mut tiny("disk", ["--disk", &image.replace(',', ",,")]));
        assert!(end.expect(0).out.contains("check ok"), "{}", end.out);
        run(&mut tiny("hello", ["--cdrom", &image])).expect(0);
    }
}

/// BARs moved over everything, stores everywhere in every width, interrupts masked and
/// unmasked under load: the function works afterwards, and memory is as it was.
#[test]
fn a_pci_function_withstands_its_guest() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.file("disk", [0x5a; 8192]);
    let flags = ["--bus", "pci", "--disk", image.to_str().unwrap()];
    let end = run(&mut tiny("pci", flags));
    assert!(end.expect(0).out.ends_with("ok\n"), "{}", end.out);
    assert_eq!(fs::read(&image).unwrap(), [0x5a; 8192]);
}
