//! Ids that are taken, and limits that hold whatever the program says.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use mote_tests::jail::{BUSYBOX, IN_USE, groups, limit, refused, root, rooted, start};
use mote_tests::{Scratch, Vm, run, wait_until};

/// A program that runs until its standard input ends.
const WAITS: [&str; 4] = ["--", "sh", "-c", "read x"];

/// Whatever else each of two jails is made of.
#[test]
fn an_id_is_used_once() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let parent = format!("mote-test-{}-once", std::process::id());
    let directory = ["--chroot-base-dir", scratch.to_str().unwrap()];
    let group = ["--cgroup", limit(), "--parent-cgroup", &parent];
    let both = [&directory[..], &group].concat();
    let ways = [
        &[][..],
        &directory,
        &group,
        &both,
        &["--netns", "/proc/self/ns/net"],
        &["--copy-exec"],
        &["--daemonize"],
    ];
    for (number, first) in ways.into_iter().enumerate() {
        // In background it has no input that could end.
        let script = if first.contains(&"--daemonize") {
            "while :; do :; done"
        } else {
            "read x"
        };
        let command = |program: &str, flags: &[&str]| {
            let mut command = rooted(&format!("once{number}"), program);
            command.args(["--ready-fd", "1"]).args(flags);
            command.args(["--", "sh", "-c", script]);
            command
        };
        let (mut jailer, pid) = start(&mut command(BUSYBOX, first));
        for second in ways {
            refused(&mut command(BUSYBOX, second), IN_USE, &["in use"]);
        }
        // Another program does not make it another jail.
        refused(&mut command("/bin/sh", &[]), IN_USE, &["in use"]);
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(jailer.take_input());
        if first.contains(&"--daemonize") {
            jailer.end().expect(0);
            // SAFETY: a plain system call; the process is one of this test's.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        } else {
            jailer.end().expect(1);
        }
        wait_until("the id is free", || {
            run(rooted(&format!("once{number}"), BUSYBOX).args(["--", "true"])).code == 0
        });
    }
    assert!(groups(&parent).is_empty());
}

/// Opens what another user of the host can, in a thread that is that user's.
fn opened_by_a_stranger(paths: Vec<PathBuf>) -> Vec<File> {
    let open = move || {
        // SAFETY: a plain system call; it is for this thread alone.
        unsafe { libc::syscall(libc::SYS_setfsuid, 65_534) };
        paths
            .iter()
            .filter_map(|path| File::open(path).ok())
            .collect()
    };
    thread::spawn(open).join().unwrap()
}

/// All files and directories at or below a path.
fn tree(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => tree(&entry.path()),
        _ => vec![entry.path()],
    });
    std::iter::once(path.to_owned()).chain(below).collect()
}

#[test]
fn no_stranger_can_hold_an_id() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let parent = format!("mote-test-{}-stranger", std::process::id());
    let id = format!("t{}-stranger", std::process::id());
    let place = scratch.join("busybox").join(&id).join("root");
    // As callers make it who put files there: it stays.
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("kernel"), "").unwrap();
    let mut command = rooted("stranger", BUSYBOX);
    command.arg("--chroot-base-dir").arg(&*scratch);
    command.args([
        "--cgroup",
        limit(),
        "--parent-cgroup",
        &parent,
        "--ready-fd",
        "1",
    ]);
    command.args(WAITS);
    let (mut jailer, _) = start(&mut command);
    let mut places = tree(&scratch);
    places.extend(groups(&parent).iter().flat_map(|group| tree(group)));
    places.extend(tree(Path::new("/run/mote-jailer")));
    let held = opened_by_a_stranger(places);
    assert!(held.len() > 3, "{held:?}");
    drop(jailer.take_input());
    jailer.end().expect(1);
    for file in &held {
        // SAFETY: a plain system call on an open file.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    }
    let (mut jailer, _) = start(&mut command);
    drop(jailer.take_input());
    jailer.end().expect(1);
}

/// The limit on the processor waits for the program's word, but not for ever.
#[test]
fn the_processor_is_limited_whatever_the_program_says() {
    let controller = Path::new("/sys/fs/cgroup/cpu");
    if !root() || !controller.exists() {
        return;
    }
    let parent = format!("mote-test-{}-late", std::process::id());
    let id = format!("t{}-late", std::process::id());
    let file = controller.join(&parent).join(&id).join("cpu.cfs_quota_us");
    let quota = || fs::read_to_string(&file).unwrap();
    for (deed, says) in [("echo >&3", true), ("exec 3>&-", false), ("", false)] {
        let silent = deed.is_empty();
        let mut command: Command = rooted("late", BUSYBOX);
        command.args([
            "--cgroup",
            "cpu.cfs_quota_us=50000",
            "--cgroup-version",
            "1",
        ]);
        command.args([
            "--parent-cgroup",
            &parent,
            "--ready-fd",
            "1",
            "--ready-by",
            "fd",
        ]);
        command.args(["--ready-within", if silent { "1" } else { "600" }]);
        let script = format!("echo up; read x; {deed}\n read x");
        let mut jailer = Vm::start(command.args(["--", "sh", "-c", &script]));
        jailer.wait_for("up\n");
        if !silent {
            assert_eq!(quota(), "-1\n", "{deed}");
        }
        jailer.send("\n");
        wait_until("the limit is set", || quota() == "50000\n");
        if says {
            jailer.wait_for("ready ");
        }
        jailer.send("\n");
        let end = jailer.end();
        end.expect(0);
        assert_eq!(end.out.contains("ready "), says, "{deed}");
    }
    assert!(groups(&parent).is_empty());
}
