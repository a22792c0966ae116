//! Ids that are taken, and limits that hold whatever the program says.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use mote_tests::jail::{
    BUSYBOX, IN_USE, INPUT, JAIL, USAGE, WAITS, alive, as_user, groups, jail, limit, refused, root,
    rooted, start,
};
use mote_tests::{Scratch, Vm, guest, have_kvm, run, vm, wait_until};

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
        let script = if first.contains(&"--daemonize") { "while :; do :; done" } else { "read x" };
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
        assert!(alive(pid));
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
        paths.iter().filter_map(|path| File::open(path).ok()).collect()
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
    command.args(["--cgroup", limit(), "--parent-cgroup", &parent, "--ready-fd", "1"]);
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
        command.args(["--cgroup", "cpu.cfs_quota_us=50000", "--cgroup-version", "1"]);
        command.args(["--parent-cgroup", &parent, "--ready-fd", "1", "--ready-by", "fd"]);
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

/// A loop device over a file, gone with the test.
struct Loop(String);

impl Loop {
    /// `None` where the host has none to give.
    fn over(image: &Path) -> Option<Self> {
        let made = run(Command::new("losetup").args(["-f", "--show"]).arg(image));
        if made.code != 0 {
            println!("skipped: no loop device: {}", made.err);
        }
        (made.code == 0).then(|| Self(made.out.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A block device is a file like any other in a jail: for its user, and to be
/// written to only if that was asked for.
#[test]
fn a_block_device_is_shown_as_asked() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.file("image", vec![b'a'; 1 << 20]);
    let Some(device) = Loop::over(&image) else {
        return;
    };
    let script = "exec 2>&1; head -c 1 /disk; (echo b >/disk) && echo wrote
                  chmod 600 /disk && echo changed; rm -f /disk; ls -l /disk";
    for (flags, wrote, mode) in [(",rw", true, "brw-------"), ("", false, "br--------")] {
        let mut command = rooted("block", BUSYBOX);
        command.args(["--file", &format!("{}{flags},as=disk", device.0)]);
        let end = run(command.args(["--", "sh", "-c", script]));
        end.expect(0);
        assert_eq!(end.out.contains("wrote"), wrote, "{}", end.out);
        assert!(end.out.contains(mode), "{}", end.out);
        assert!(!end.out.contains("changed"), "{}", end.out);
        if have_kvm() {
            let mut command = rooted("block", vm::binary());
            command.args(["--file", &format!("{}{flags},as=disk", device.0)]);
            let kernel = format!("{},as=kernel", guest("hello").display());
            command.args(["--file", &kernel, "--", "run", "--kernel", "/kernel"]);
            let ro = if wrote { "" } else { ",ro" };
            run(command.args(["--disk", &format!("/disk{ro}")])).expect(0);
        }
    }
    // Where the caller cannot make a node, but may write.
    let mut command = jail("block", BUSYBOX);
    command.args(["--kvm", "none", "--file", &format!("{},as=disk", device.0)]);
    fs::set_permissions(&device.0, fs::Permissions::from_mode(0o666)).unwrap();
    as_user(&mut command, 65_534);
    let end = run(command.args(["--", "sh", "-c", script]));
    fs::set_permissions(&device.0, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!end.out.contains("wrote"), "{}", end.out);
    if !end.err.contains("namespaces: ") {
        end.expect(INPUT);
        assert!(end.err.contains("cannot be made read-only"), "{}", end.err);
    }
}

/// Each error names the limit, the file or the controller, and what is wrong.
#[test]
fn errors_name_what_was_asked_for() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let long = "d".repeat(5000);
    let far = format!("{long},as=x");
    let name = format!("/etc/passwd,as={}", "n".repeat(300));
    let closed = scratch.file("closed", "");
    let plain = scratch.join("busybox");
    fs::copy(BUSYBOX, &plain).unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o700)).unwrap();
    let (closed, plain) = (closed.to_str().unwrap(), plain.to_str().unwrap());
    let v1 = Path::new("/sys/fs/cgroup/pids").exists();
    let mut table = vec![
        (BUSYBOX, "--netns", closed, JAIL, "not a network namespace"),
        (BUSYBOX, "--netns", "/none", JAIL, "no such file"),
        (BUSYBOX, "--chroot-base-dir", closed, JAIL, "not a directory"),
        (BUSYBOX, "--chroot-base-dir", &long, JAIL, "file name too long"),
        (BUSYBOX, "--file", &name, USAGE, "/etc/passwd"),
        (BUSYBOX, "--file", &far, INPUT, "file name too long"),
        (BUSYBOX, "--file", "/etc", INPUT, "/etc: neither"),
        (BUSYBOX, "--pass-fd", "77", INPUT, "77: not an open descriptor"),
        (BUSYBOX, "--ready-fd", "77", INPUT, "77: not an open descriptor"),
        (BUSYBOX, "--tap", "lo", INPUT, "tap lo: not a tap"),
        (BUSYBOX, "--tap", "none", INPUT, "tap none: no such"),
        (BUSYBOX, "--resource-limit", "no-file=2000000000", JAIL, "no-file=2000000000: above"),
        (BUSYBOX, "--resource-limit", "fsize=x", USAGE, "'x' is not a number"),
        (BUSYBOX, "--resource-limit", "core=0", USAGE, "'core' is not one of"),
        (BUSYBOX, "--cgroup", "nope.max=1", JAIL, "no controller nope"),
        (plain, "--kvm", "none", INPUT, "user 10001 may not execute it"),
    ];
    if v1 {
        for (limit, why) in [
            ("pids.max=x", "pids.max=x: version 1 of controller pids does not take"),
            ("pids.none=1", "controller pids has no such file in version 1"),
            ("memory.max=1", "controller memory has no such file in version 1"),
            (
                "memory.limit_in_bytes=x",
                "memory.limit_in_bytes=x: version 1 of controller memory does not",
            ),
            ("cpu.cfs_quota_us=1", "cpu.cfs_quota_us=1: version 1 of controller cpu does not"),
            ("cpu.cfs_period_us=x", "cpu.cfs_period_us=x: version 1 of controller cpu does not"),
            ("cpuset.cpus=4095", "cpuset.cpus=4095: version 1 of controller cpuset does not"),
            ("cpuset.mems=x", "cpuset.mems=x: version 1 of controller cpuset does not"),
        ] {
            table.push((BUSYBOX, "--cgroup", limit, JAIL, why));
        }
    }
    for (program, flag, value, code, word) in table {
        let mut command = rooted("wrong", program);
        refused(command.args([flag, value, "--", "true"]), code, &[word]);
    }
    // What the caller has put where the jail needs a directory is not followed, but named.
    let place = scratch.join("busybox").join(format!("t{}-dev", std::process::id())).join("root");
    fs::remove_file(scratch.join("busybox")).unwrap();
    fs::create_dir_all(&place).unwrap();
    std::os::unix::fs::symlink("/etc", place.join("dev")).unwrap();
    let mut command = rooted("dev", BUSYBOX);
    command.arg("--chroot-base-dir").arg(&*scratch).args(["--", "true"]);
    refused(&mut command, JAIL, &["/dev in the jail's root: not a directory"]);
    // A limit on descriptors is the program's, not the jailer's.
    for limit in ["no-file=0", "no-file=3", "no-file=64"] {
        let mut command = rooted("few", BUSYBOX);
        run(command.args(["--resource-limit", limit, "--", "true"])).expect(0);
    }
    let end = run(rooted("as", BUSYBOX).args(["--resource-limit", "as=1000", "--", "true"]));
    assert!(end.err.contains("--resource-limit as=1000"), "{}", end.err);
}

/// What nobody asked for gives way to the limits that the caller has.
#[test]
fn a_callers_lower_limit_on_descriptors_is_kept() {
    if !root() {
        return;
    }
    let mut command = rooted("low", BUSYBOX);
    // SAFETY: one system call between fork and exec, with a live local.
    unsafe {
        command.pre_exec(|| {
            let low = libc::rlimit { rlim_cur: 64, rlim_max: 1024 };
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const low);
            Ok(())
        })
    };
    let end = run(command.args(["--", "sh", "-c", "ulimit -n"]));
    assert_eq!(end.expect(0).out, "1024\n");
}
