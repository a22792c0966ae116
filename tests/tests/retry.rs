//! Refuse, correct, retry: whatever is refused leaves everything as it was, so
//! that the corrected command works in the same place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use mote_tests::files::{Scratch, fnv};
use mote_tests::{guest, have_kvm, mote, run};

/// All that is in a directory: of each file its inode, length and time of the
/// last change, and of a short one what is in it.
fn listing(directory: &Path) -> BTreeMap<String, (u64, u64, i64, u64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let data = path.symlink_metadata().unwrap();
        let changed = data.mtime() * 1_000_000_000 + data.mtime_nsec();
        let hash = match data.is_file() && data.len() < 1 << 20 {
            true => fnv(&fs::read(&path).unwrap()),
            false => 0,
        };
        if data.is_dir() {
            all.extend(listing(&path));
        }
        let name = path.to_str().unwrap().to_owned();
        all.insert(name, (data.ino(), data.len(), changed, hash));
    }
    all
}

/// A directory with what is right and what is wrong, in which `@` of an
/// argument is its path.
struct Place(Scratch);

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        let kernel = fs::read(guest("memory")).unwrap();
        scratch.file("kernel", &kernel);
        scratch.file("text", "Dear kernel,\n");
        scratch.file("cut", &kernel[..5000]);
        scratch.file("disk", [0; 4096]);
        scratch.file("odd", [0; 1000]);
        scratch.file("empty", "");
        scratch.file("broken.json", "{");
        fs::File::create(scratch.join("large")).and_then(|file| file.set_len(40 << 20)).unwrap();
        Self(scratch)
    }

    fn run(&self, line: &str) -> mote_tests::End {
        let path = self.0.to_str().unwrap();
        run(&mut mote(line.split_whitespace().map(|word| word.replace('@', path))))
    }

    /// Refuses `line` and then runs the right one.
    #[track_caller]
    fn refuses(&self, line: &str, (code, words): (i32, &[&str]), right: &str) {
        let before = listing(&self.0);
        let end = self.run(line);
        assert_eq!(end.code, code, "{line}: {}", end.err);
        end.complains(words);
        assert_eq!(listing(&self.0), before, "{line}");
        let end = self.run(right);
        assert_eq!(end.code, 0, "after {line}: {}", end.err);
    }
}

/// What is made on the host along with each VM that is refused.
const MADE: &str = "--disk @/new,size=1M,create --serial file:@/log";

#[test]
fn run_undoes_what_it_refuses() {
    if !have_kvm() {
        return;
    }
    for (flags, code, words) in [
        ("--kernel @/none", 3, &["kernel", "no such file"][..]),
        ("--kernel @", 3, &["is a directory"]),
        // These show when the sandbox is closed already.
        ("--kernel @/text", 3, &["kernel", "text file"]),
        ("--kernel @/cut", 3, &["kernel", "truncated"]),
        ("--kernel @/kernel --memory 32M --initrd @/large", 3, &["initrd", "room"]),
        ("--kernel @/kernel --initrd @/none", 3, &["initrd", "no such file"]),
        ("--kernel @/kernel --disk @/none", 3, &["disk", "no such file"]),
        ("--kernel @/kernel --disk @/odd", 3, &["disk", "whole sectors"]),
        ("--kernel @/kernel --disk @/empty", 3, &["disk", "is empty"]),
        ("--kernel @/kernel --disk @/empty,size=1M,create", 3, &["0 bytes", "1048576"]),
        ("--kernel @/kernel --disk @/disk,size=1M,create", 3, &["4096 bytes", "1048576"]),
        ("--kernel @/kernel --disk @/no/new,size=1M,create", 3, &["no such file"]),
        ("--kernel @/kernel --disk @/disk,id=x --disk @/odd,ro,id=x", 2, &["'x'"]),
        ("--kernel @/kernel --cdrom @/none", 3, &["CD-ROM", "no such file"]),
        ("--kernel @/kernel --net tap=none.there", 4, &["tap"]),
        ("--kernel @/kernel --memory 1000T", 2, &["--memory"]),
        ("--kernel @/kernel --cpus 33", 2, &["--cpus"]),
        ("--kernel @/kernel --kvm-fd 99", 2, &["--kvm-fd"]),
        ("--kernel @/kernel --require-landlock 999", 4, &["--require-landlock"]),
        ("--kernel @/kernel --snapshot @/no/dir", 3, &["snapshot", "parent directory"]),
        ("--kernel @/kernel --snapshot @/disk", 3, &["snapshot", "ot a directory"]),
        ("--config @/none", 2, &["config"]),
        ("--config @/broken.json", 2, &["config"]),
    ] {
        let place = Place::new();
        let right = format!("run --kernel @/kernel {MADE}");
        place.refuses(&format!("run {flags} {MADE}"), (code, words), &right);
        assert_eq!(place.0.join("new").metadata().unwrap().len(), 1 << 20);
        assert!(fs::read_to_string(place.0.join("log")).unwrap().contains("words"));
        // What is there by now is used, and kept by what is refused.
        place.refuses(&format!("run {flags} {MADE}"), (code, words), &right);
    }
    // The console's own file cannot be.
    let place = Place::new();
    let disk = "run --kernel @/kernel --disk @/new,size=1M,create --serial";
    for to in ["file:@/no/log", "file:@", "file:@/disk --disk @/disk", "socket:@/no/log"] {
        let right = "run --kernel @/kernel";
        place.refuses(&format!("{disk} {to}"), (3, &["serial"]), right);
    }
}

/// A file system, or a limit, takes no disk of that size.
#[test]
fn a_disk_that_is_too_large_leaves_nothing_behind() {
    if !have_kvm() {
        return;
    }
    let place = Place::new();
    let before = listing(&place.0);
    let path = place.0.to_str().unwrap();
    let new = format!("{path}/new,size=2M,create");
    let mut command = mote(["run", "--kernel", &format!("{path}/kernel"), "--disk", &new]);
    // SAFETY: both calls may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            Ok(())
        });
    }
    run(&mut command).expect(3).complains(&["new", "2097152", "smaller size="]);
    assert_eq!(listing(&place.0), before);
    place.run("run --kernel @/kernel --disk @/new,size=1M,create").expect(0);
}

#[test]
fn restore_and_merge_undo_what_they_refuse() {
    if !have_kvm() {
        return;
    }
    let place = Place::new();
    for name in ["base", "diff", "into", "bad", "full"] {
        fs::create_dir(place.0.join(name)).unwrap();
    }
    let start = "run --kernel @/kernel --memory 16M --then exit --snapshot";
    place.run(&format!("{start} @/base")).expect(0);
    place.run(&format!("{start} @/full")).expect(0);
    for (name, at) in [("state", 100), ("memory", 0)] {
        let mut bytes = fs::read(place.0.join("base").join(name)).unwrap();
        bytes[at] ^= 1;
        fs::write(place.0.join("bad").join(name), bytes).unwrap();
    }
    let right = "restore @/base --serial file:@/log";
    for (line, code, words) in [
        ("@/none", 3, &["snapshot", "o such file"][..]),
        ("@/bad", 3, &["snapshot", "bad/state"]),
        ("@/bad --verify", 3, &["snapshot"]),
        ("@/base --disk @/disk", 3, &["device"]),
        ("@/base --disk @/new,size=1M,create", 3, &["device"]),
        ("@/base --disk @/none", 3, &["disk", "no such file"]),
        ("@/base --snapshot @/full", 3, &["snapshot", "full"]),
        ("@/base --snapshot @/base", 3, &["snapshot", "base"]),
        ("@/base --uffd @/none", 3, &["none"]),
        ("@/base --memory 1G", 2, &["--memory"]),
        ("@/base --require-landlock 999", 4, &["--require-landlock"]),
    ] {
        let line = format!("restore {line} --serial file:@/log");
        place.refuses(&line, (code, words), right);
    }
    for (line, code, words) in [
        ("@/base", 2, &["merge"][..]),
        ("@/none @/base @/into", 3, &["none"]),
        ("@/base @/none @/into", 3, &["none"]),
        ("@/base @/full @/into", 3, &["full"]),
        ("@/bad @/full @/into", 3, &["bad"]),
        ("@/base @/full @/full", 3, &["full"]),
        ("@/base @/full @/no/into", 3, &["no/into"]),
    ] {
        place.refuses(&format!("merge {line}"), (code, words), right);
    }
}

/// Flaw table line 48, and a snapshot that was asked for and is not there.
#[test]
fn what_is_missing_at_the_end_or_at_a_restore_is_told() {
    if !have_kvm() {
        return;
    }
    let place = Place::new();
    for name in ["saved", "none"] {
        fs::create_dir(place.0.join(name)).unwrap();
    }
    place.0.file("hello", fs::read(guest("hello")).unwrap());
    for then in ["exit", "resume"] {
        let line = format!("run --kernel @/hello --then {then} --snapshot @/none");
        let end = place.run(&line);
        end.expect(10).complains(&["snapshot", "/none", "not taken", "boot marker"]);
    }
    assert_eq!(fs::read_dir(place.0.join("none")).unwrap().count(), 0);
    place.0.file("small", [0; 2048]);
    place.0.file("larger", [0; 8192]);
    let save = "run --kernel @/kernel --memory 16M --disk @/disk --then exit --snapshot @/saved";
    place.run(save).expect(0);
    let words: &[&str] = &["disk0", "8 sectors", "has 4"];
    place.refuses("restore @/saved --disk @/small", (3, words), "restore @/saved --disk @/disk");
    place.run("restore @/saved --disk @/larger").expect(0);
}
