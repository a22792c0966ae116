//! Media made by the tools that everyone makes them with: what was put in is
//! what the firmware finds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use mote_firmware::Error;
use mote_firmware::disk::{Cached, Disk};
use mote_firmware::fs::{FileSystem, Kind, open, probe};
use mote_firmware::hint;
use mote_firmware::volume::{Drive, Volumes};

struct Image(fs::File);

impl Disk for Image {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        assert_eq!((at % 512, into.len() % 512), (0, 0), "a drive has sectors");
        self.0.read_exact_at(into, at).map_err(|_| Error::Drive(at / 512))
    }
}

fn disk(path: &Path) -> Rc<dyn Disk> {
    // A drive's cache turns bytes into sectors.
    struct Sectors(Image);
    impl Disk for Sectors {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
            let start = at / 512 * 512;
            let end = (at + into.len() as u64).next_multiple_of(512);
            let mut whole = vec![0; (end - start) as usize];
            self.0.read(start, &mut whole)?;
            into.copy_from_slice(&whole[(at - start) as usize..][..into.len()]);
            Ok(())
        }
    }
    Rc::new(Cached::new(Sectors(Image(fs::File::open(path).unwrap()))))
}

/// A directory that is gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mote-media-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn run(command: &str, directory: &Scratch) {
    let mut shell = Command::new("sh");
    shell.arg("-ec").arg(command).current_dir(&directory.0);
    let output = shell.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {text}");
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 3 + n / 700 + seed) as u8).collect()
}

/// Files of all kinds under `tree`; the names are such that every file system
/// can hold them, and its own kind of name can hold some.
fn tree(scratch: &Scratch, unix: bool) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (name, len) in [
        ("boot/grub/grub.cfg", 1234),
        ("boot/vmlinuz-6.1.0-40-amd64-with-a-long-name", 3_000_001),
        ("boot/empty", 0),
        ("a/b/c/d/e/f/g/h/i/deep.txt", 4096),
        ("small", 1),
    ] {
        files.insert(name.to_owned(), pattern(len, name.len()));
    }
    for number in 0..300 {
        files.insert(format!("many/file-{number:03}.conf"), pattern(number, number));
    }
    for (name, content) in &files {
        let path = scratch.path("tree").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    if unix {
        let long = format!("{}small", "boot/../".repeat(12));
        for (name, target) in [
            ("link", "boot/grub"),
            ("boot/up", "../small"),
            ("boot/absolute", "/many/../small"),
            ("long", long.as_str()),
            ("chain", "boot/absolute"),
            ("loop", "loop"),
            ("nowhere", "x/y"),
        ] {
            symlink(target, scratch.path("tree").join(name)).unwrap();
        }
    }
    files
}

/// All files below a directory.
fn walk(fs: &dyn FileSystem, dir: u64, path: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    let mut entries = Vec::new();
    fs.entries(dir, &mut |name, node| {
        entries.push((name.to_owned(), node));
        false
    })
    .unwrap();
    for (name, node) in entries {
        let path = format!("{path}{name}");
        match fs.kind(node).unwrap() {
            Kind::Directory if name != "lost+found" && name != "rr_moved" => {
                walk(fs, node, &format!("{path}/"), found);
            }
            Kind::File => {
                let content = fs.open(node).unwrap().whole(1 << 30).unwrap();
                assert!(found.insert(path, content).is_none());
            }
            _ => {}
        }
    }
}

fn check(fs: &dyn FileSystem, files: &BTreeMap<String, Vec<u8>>, unix: bool) {
    let mut found = BTreeMap::new();
    walk(fs, fs.root(), "", &mut found);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert!(names(&found) == names(files), "{:?}", names(&found).get(..8));
    assert!(found == *files, "contents differ");
    let (name, content) = files.iter().next_back().unwrap();
    assert_eq!(open(fs, &format!("//many/.././{name}")).unwrap().whole(9).unwrap(), *content);
    // Any part of a file, aligned or not.
    let kernel = "boot/vmlinuz-6.1.0-40-amd64-with-a-long-name";
    let file = open(fs, kernel).unwrap();
    for (at, len) in [(0, 1), (511, 2), (512, 40_000), (2_000_001, 1_000_000), (3_000_000, 1)] {
        let mut bytes = vec![0; len];
        file.read(at as u64, &mut bytes).unwrap();
        assert!(bytes == files[kernel][at..at + len], "{at} {len}");
    }
    assert!(file.read(3_000_000, &mut [0; 2]).is_err());
    assert_eq!(open(fs, "boot/none").err(), Some(Error::Missing));
    assert!(open(fs, "small/x").is_err() && open(fs, "boot").is_err());
    if unix {
        for path in ["boot/up", "boot/absolute", "long", "chain", "link/../../small"] {
            assert_eq!(open(fs, path).unwrap().whole(9).unwrap(), files["small"], "{path}");
        }
        assert_eq!(open(fs, "link/grub.cfg").unwrap().len(), 1234);
        assert!(open(fs, "loop").is_err() && open(fs, "nowhere").is_err());
    }
}

#[test]
fn iso_9660() {
    let scratch = Scratch::new();
    let files = tree(&scratch, true);
    let make = "xorriso -as mkisofs -quiet -V 'A LABEL'";
    run(&format!("{make} -R -J -o both.iso tree"), &scratch);
    run(&format!("{make} -R -o rock.iso tree"), &scratch);
    for name in ["both.iso", "rock.iso"] {
        let fs = probe(&disk(&scratch.path(name))).unwrap();
        assert_eq!((fs.name(), fs.label(), fs.uuid().len()), ("ISO 9660", "A LABEL", 22));
        check(&*fs, &files, true);
    }
    let plain = Scratch::new();
    let files = tree(&plain, false);
    let make = "xorriso -rockridge off -outdev joliet.iso -joliet on -map tree / -commit";
    run(make, &plain);
    let fs = probe(&disk(&plain.path("joliet.iso"))).unwrap();
    assert!(fs.ignores_case());
    check(&*fs, &files, false);
}

#[test]
fn ext2_to_ext4() {
    let scratch = Scratch::new();
    let files = tree(&scratch, true);
    let uuid = "1d2c3b4a-0000-4000-8000-000000000001";
    for options in [
        "-t ext4",
        "-t ext4 -b 1024",
        "-t ext4 -O ^64bit,^metadata_csum",
        "-t ext4 -b 1024 -O ^extent,^64bit",
        "-t ext3",
        "-t ext2 -b 1024",
        "-t ext2 -b 4096 -I 128",
    ] {
        let make = format!("rm -f fs; mke2fs -q {options} -L root -U {uuid} -d tree fs 64M");
        run(&make, &scratch);
        let fs = probe(&disk(&scratch.path("fs"))).unwrap();
        assert_eq!((fs.name(), fs.label(), fs.uuid()), ("ext4", "root", uuid), "{options}");
        check(&*fs, &files, true);
    }
}

/// What is committed to the journal counts, and nothing else does.
#[test]
fn ext4_that_was_not_unmounted() {
    for options in ["", "-O ^metadata_csum", "-O ^64bit,^metadata_csum"] {
        let scratch = Scratch::new();
        tree(&scratch, false);
        fs::write(scratch.path("new"), [b'n'; 4096]).unwrap();
        // A block that starts with the journal's own magic number.
        let mut magic = vec![b'm'; 4096];
        magic[..4].copy_from_slice(&0xc03b_3998u32.to_be_bytes());
        fs::write(scratch.path("magic"), &magic).unwrap();
        let make = format!("mke2fs -q -t ext4 -b 4096 {options} -d tree fs 64M");
        run(&make, &scratch);
        let write = "b=$(debugfs -R 'blocks /a/b/c/d/e/f/g/h/i/deep.txt' fs 2>/dev/null)
            c=$(debugfs -R 'blocks /boot/grub/grub.cfg' fs 2>/dev/null)
            printf 'jo\\njw -b %s new\\njw -b %s magic\\njc\\n' $b $c | debugfs -w -f - fs";
        run(write, &scratch);
        let read = |path: &str| {
            let fs = probe(&disk(&scratch.path("fs"))).unwrap();
            open(&*fs, path).unwrap().whole(1 << 20).unwrap()
        };
        assert!(read("a/b/c/d/e/f/g/h/i/deep.txt") == [b'n'; 4096], "{options}");
        assert!(read("boot/grub/grub.cfg") == magic[..1234], "{options}");
        assert_eq!(read("many/file-299.conf"), pattern(299, 299));
    }
}

#[test]
fn fat() {
    let scratch = Scratch::new();
    let files = tree(&scratch, false);
    for (options, blocks) in [("-F 12 -s 8", 8192), ("-F 16", 32_768), ("-F 32 -s 1", 65_536)] {
        let make = format!(
            "rm -f fs; mkfs.vfat {options} -n LABEL -i 1234abcd -C fs {blocks} >/dev/null
             mcopy -s -i fs tree/* ::/"
        );
        run(&make, &scratch);
        let fs = probe(&disk(&scratch.path("fs"))).unwrap();
        let facts = (fs.name(), fs.label(), fs.uuid());
        assert_eq!(facts, ("FAT", "LABEL", "1234-ABCD"), "{options}");
        check(&*fs, &files, false);
        assert!(open(&*fs, "BOOT/Grub/GRUB.cfg").is_ok());
    }
}

/// Partitions are found with their file systems, and what is not known is
/// told.
#[test]
fn partitioned_disks() {
    let scratch = Scratch::new();
    tree(&scratch, false);
    run("mke2fs -q -t ext4 -d tree ext 20M; mkfs.vfat -C fat 4096 >/dev/null", &scratch);
    for (label, types) in [("gpt", ["U", "L", "L"]), ("dos", ["0xef", "L", "L"])] {
        let [esp, linux, other] = types;
        let make = format!(
            "rm -f disk; truncate -s 40M disk
             printf 'label: {label}\\nsize=4M, type={esp}\\nsize=20M, type={linux}\\ntype={other}\\n' |
                 sfdisk -q disk
             dd if=fat of=disk bs=1M seek=1 conv=notrunc status=none
             dd if=ext of=disk bs=1M seek=5 conv=notrunc status=none
             printf XFSB | dd of=disk bs=1M seek=25 conv=notrunc status=none"
        );
        run(&make, &scratch);
        let (mut volumes, mut notes) = (Volumes::default(), Vec::new());
        let disk = Ok(disk(&scratch.path("disk")));
        let drive = Drive { id: "disk0".into(), cdrom: false, disk };
        volumes.add(0, &drive, "hd0", &mut |note| notes.push(note));
        let devices: Vec<&str> = volumes.list.iter().map(|v| v.device.as_str()).collect();
        let table = if label == "gpt" { "gpt" } else { "msdos" };
        assert_eq!(devices, [format!("hd0,{table}1"), format!("hd0,{table}2")]);
        assert_eq!(notes, ["partition 3: XFS is not supported"]);
        assert_eq!(volumes.device("hd0,2"), Some(1));
        assert!(open(&*volumes.list[1].fs, "boot/grub/grub.cfg").is_ok());
    }
}

/// File systems in files in file systems, as deep as the firmware's stack allows.
#[test]
fn files_as_devices() {
    let scratch = Scratch::new();
    run(
        "mkdir d; echo kernel >d/k
         for n in 1 2 3 4 5 6; do
             mke2fs -q -t ext2 -d d i $((n * 2))M; rm -r d; mkdir d; mv i d/i
         done; mv d/i whole",
        &scratch,
    );
    let drive = Drive { id: "disk0".into(), cdrom: false, disk: Ok(disk(&scratch.path("whole"))) };
    let mut volumes = Volumes::default();
    volumes.add(0, &drive, "hd0", &mut |note| panic!("{note}"));
    let file = |volume, path: &str| mote_firmware::volume::Path { volume, path: path.into() };
    for depth in 0..4 {
        let added = volumes.add_file(0, &file(depth, "/i"), "loop");
        assert_eq!((added, volumes.device("loop")), (Ok(()), Some(depth + 1)));
        assert!(volumes.open(&file(depth + 1, "/i")).is_ok());
    }
    assert!(volumes.add_file(0, &file(4, "/i"), "loop").is_err());
    assert_eq!(volumes.device("loop"), Some(4));
    assert!(volumes.add_file(0, &file(0, "/none"), "loop").is_err());
    assert!(volumes.forget("loop") && volumes.device("loop").is_none());
}

/// Whatever the rules' length.
#[test]
fn archives_are_what_cpio_reads() {
    for count in 0..5 {
        let scratch = Scratch::new();
        let drives: Vec<String> = (0..count).map(|n| "a.b_c-d:é".repeat(n) + "x").collect();
        let archive = hint::archive(&drives, "x");
        assert_eq!(archive.len() % 4, 0);
        fs::write(scratch.path("archive"), archive).unwrap();
        run("mkdir etc; cpio --quiet -i <archive 2>errors; test ! -s errors", &scratch);
        let rules = scratch.path("etc/udev/rules.d/61-mote-cdrom.rules");
        let rules = fs::read_to_string(rules).unwrap();
        let lines: Vec<&str> = rules.lines().collect();
        // A drive, its medium, its partitions.
        assert_eq!(lines.len(), 3 * count);
        for (rules, serial) in lines.chunks(3).zip(&drives) {
            let wanted = format!("{{serial}}==\"{serial}\", ");
            assert!(rules.iter().all(|line| line.contains(&wanted)), "{rules:?}");
            assert_eq!(rules[0].ends_with("SYMLINK+=\"cdrom\""), serial == "x");
            assert!(rules[1..].iter().all(|line| !line.contains("SYMLINK")));
        }
    }
}
