//! Disks on block devices of the host, and direct I/O: a guest sees the same disk
//! whatever is below.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use mote_tests::files::noise;
use mote_tests::medium::{self, shell};
use mote_tests::{Loop, Scratch, Vm, guest, have_kvm, mote, run, tiny};

const INPUT: i32 = 3;

/// What the guest `disk` with `do=odd` leaves in each sector of an image.
fn odd(sector: u64, sectors: u64, before: &[u8], after: &[u8]) -> bool {
    let places = [(1, 1), (3, 2), (7, 2), (21, 5), (sectors - 1, 1)];
    let written =
        places.into_iter().find(|(first, count)| (*first..first + count).contains(&sector));
    let zeroes = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match (written, sector) {
        (Some((first, _)), _) => after.iter().all(|b| *b == (first * 7 + 1) as u8),
        (None, 33..47 | 50..53) => zeroes(after),
        // What is discarded may stay.
        (None, 65..95 | 97..99) => zeroes(after) || after == before,
        _ => after == before,
    }
}

/// Files and devices with blocks of 512 and 4096 bytes, buffered and direct, one
/// worker and several: the guest has blocks of 512, of which it uses any.
#[test]
fn a_guest_sees_the_same_disk_whatever_is_below() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let before = noise(1 << 20);
    for block in [None, Some(512), Some(4096)] {
        for options in ["", ",direct", ",direct,threads=4"] {
            let file = scratch.file("disk", &before);
            let device = match block {
                None => None,
                Some(block) => match Loop::new(&file, block, false) {
                    None => return,
                    device => device,
                },
            };
            let path = device.as_ref().map_or(file.to_str().unwrap(), Loop::name);
            let flag = format!("{path}{options}");
            let end = run(&mut tiny("disk", ["--disk", &flag, "--cmdline", "do=odd"]));
            let out = &end.expect(0).out;
            assert!(out.contains("2048 sectors of 512"), "{flag}: {out}");
            drop(device);
            let after = fs::read(&file).unwrap();
            assert_eq!(after.len(), before.len(), "{flag}");
            for (sector, (old, new)) in before.chunks(512).zip(after.chunks(512)).enumerate() {
                let sector = sector as u64;
                assert!(odd(sector, 2048, old, new), "{block:?}{options}: sector {sector}");
            }
        }
    }
}

/// An installed system's partition table counts blocks of 512 bytes; it boots from
/// a device whose blocks are larger, and from one given as it is.
#[test]
fn a_partition_table_of_512_boots_from_blocks_of_4096() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let extlinux = "label l0\n linux /system\n append do=run\n initrd /system\n";
    let system = fs::read(guest("system")).unwrap();
    let files: &[(&str, &[u8])] =
        &[("extlinux/extlinux.conf", extlinux.as_bytes()), ("system", &system)];
    let image = medium::disk(&scratch, "gpt", false, files);
    let Some(device) = Loop::new(image.as_ref(), 4096, false) else {
        return;
    };
    for options in ["", ",ro", ",direct", ",ro,direct"] {
        let flag = format!("{}{options}", device.name());
        let end = run(&mut mote(["run", "--disk", &flag]));
        let out = &end.expect(0).out;
        assert!(out.ends_with("This is the installed system.\n"), "{out}");
    }
    // Stated, blocks are what is stated.
    let stated = format!("{},block-size=4096", device.name());
    let end = run(&mut tiny("disk", ["--disk", &stated, "--cmdline", "do=odd"]));
    assert!(end.expect(0).out.contains("sectors of 4096"), "{}", end.out);
}

/// A device that is mounted, being written by another VM, or not to be written, is
/// refused by name, whichever node it is opened by.
#[test]
fn a_device_that_is_in_use_is_refused() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.file("disk", vec![0; 16 << 20]);
    let Some(device) = Loop::new(&file, 512, false) else {
        return;
    };
    let name = device.name();
    let ro = format!("{name},ro");
    // Another name of the same device.
    let node = scratch.join("node");
    let c_node = CString::new(node.to_str().unwrap()).unwrap();
    let number = fs::metadata(name).unwrap().rdev();
    // SAFETY: a C string.
    let made = unsafe { libc::mknod(c_node.as_ptr(), libc::S_IFBLK | 0o600, number) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    let node = node.to_str().unwrap();
    // A VM that writes.
    let mut writer = Vm::start(&mut tiny("spin", ["--disk", name]));
    writer.wait_for("spin");
    for path in [name, node] {
        let end = run(&mut tiny("hello", ["--disk", path]));
        end.expect(INPUT).complains(&[path, "in use by another VM"]);
    }
    let end = run(&mut tiny("hello", ["--disk", &ro]));
    end.expect(INPUT).complains(&[name, "another VM"]);
    assert!(!writer.has_ended());
    drop(writer);
    for flags in [["--disk", name, "--disk", node], ["--disk", name, "--disk", name]] {
        let end = run(&mut tiny("hello", flags));
        end.expect(INPUT).complains(&["drive disk0 of this VM"]);
    }
    // Readers share it.
    let reader = Vm::start(&mut tiny("spin", ["--disk", &ro]));
    reader.wait_for("spin");
    run(&mut tiny("hello", ["--cdrom", name])).expect(0);
    let end = run(&mut tiny("hello", ["--disk", name]));
    end.expect(INPUT).complains(&[name, "another VM"]);
    drop(reader);
    // The host has it.
    let at = scratch.join("mounted");
    fs::create_dir(&at).unwrap();
    shell(&scratch, &format!("mke2fs -q -t ext4 {name} && mount {name} mounted"));
    let end = run(&mut tiny("hello", ["--disk", node]));
    shell(&scratch, "umount mounted");
    end.expect(INPUT).complains(&[node, "is mounted"]);
    run(&mut tiny("hello", ["--disk", name])).expect(0);
}

#[test]
fn a_read_only_device_is_only_read() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.file("disk", vec![b'c'; 1 << 20]);
    let Some(device) = Loop::new(&file, 512, true) else {
        return;
    };
    let name = device.name();
    let end = run(&mut tiny("hello", ["--disk", name]));
    end.expect(INPUT).complains(&[name, "read-only device", "add ro"]);
    let other = scratch.file("other", vec![0; 1 << 20]);
    let first = other.to_str().unwrap();
    let flags = ["--disk", first, "--cdrom", name, "--cmdline", "do=readonly"];
    let end = run(&mut tiny("disk", flags));
    assert!(end.expect(0).out.contains("readonly ok"), "{}", end.out);
    let second = format!("{name},ro");
    let flags = ["--disk", first, "--disk", &second, "--cmdline", "do=readonly"];
    let end = run(&mut tiny("disk", flags));
    assert!(end.expect(0).out.contains("readonly ok"), "{}", end.out);
}

/// Doctor looks at a device as at an image.
#[test]
fn doctor_knows_devices() {
    let scratch = Scratch::new();
    let file = scratch.file("disk", vec![0; 16 << 20]);
    let Some(device) = Loop::new(&file, 4096, false) else {
        return;
    };
    let name = device.name();
    let point = |point: &str| {
        let end = run(&mut mote(["doctor", "--json", name]));
        let value: serde_json::Value = serde_json::from_str(&end.out).unwrap();
        let findings = value["findings"].as_array().unwrap().clone();
        let is = |f: &&serde_json::Value| f["about"] == name && f["point"] == point;
        let found = findings.iter().find(is).cloned();
        found.map(|f| format!("{} {}", f["level"].as_str().unwrap(), f["found"]))
    };
    assert_eq!(point("size").unwrap(), "fine \"16.0 MiB\"");
    assert_eq!(point("space"), None, "a device does not grow");
    assert_eq!(point("lock").unwrap(), "fine \"not in use\"");
    fs::create_dir(scratch.join("mounted")).unwrap();
    shell(&scratch, &format!("mke2fs -q -t ext4 {name} && mount {name} mounted"));
    let mounted = point("lock");
    shell(&scratch, "umount mounted");
    let mounted = mounted.unwrap();
    assert!(mounted.starts_with("in use") && mounted.contains("mounted"), "{mounted}");
    // A device that is not there any more can still be named.
    assert!(Command::new("losetup").arg("-d").arg(name).status().unwrap().success());
    assert!(point("size").unwrap().starts_with("missing"));
}
