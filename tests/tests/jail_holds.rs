//! What a jailed program has, and what it cannot reach.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use mote_tests::jail::{BUSYBOX, INPUT, JAIL, USER, WAITS, alive, refused, root, rooted, start};
use mote_tests::{End, Scratch, guest, have_kvm, proc, run, vm, wait_until};

#[test]
fn the_program_has_nothing() {
    if !root() {
        return;
    }
    let (jailer, pid) = start(rooted("empty", BUSYBOX).args(["--ready-fd", "1"]).args(WAITS));
    let own = |path: &str| PathBuf::from(format!("/proc/{pid}/{path}"));
    let status = fs::read_to_string(own("status")).unwrap();
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Groups:\t \n",
        &format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"),
        &format!("Gid:\t{USER}\t{USER}\t{USER}\t{USER}"),
    ] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    assert_eq!(fs::read(own("environ")).unwrap(), b"");
    assert_eq!(proc::descriptors(pid).len(), 3);
    for space in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
        let [theirs, ours] = [pid, std::process::id()]
            .map(|pid| fs::metadata(format!("/proc/{pid}/ns/{space}")).unwrap().ino());
        assert_ne!(theirs, ours, "{space}");
    }
    let mounts = fs::read_to_string(own("mounts")).unwrap();
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|m| m.split(' ').collect()).collect();
    let [jail_root, dev] = &mounts[..] else { panic!("{mounts:?}") };
    assert!(
        jail_root[1] == "/" && jail_root[3].starts_with("ro,nosuid,nodev,noexec"),
        "{mounts:?}"
    );
    assert!(dev[1] == "/dev" && dev[3].starts_with("ro,nosuid,noexec"), "{mounts:?}");
    let list = |path: &str| -> Vec<_> {
        let entries = fs::read_dir(own(path)).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(list("root"), ["dev"]);
    assert_eq!(list("root/dev"), ["kvm"]);
    let mut inside = Command::new("nsenter");
    inside.args([
        "-t",
        &pid.to_string(),
        "-U",
        "--preserve-credentials",
        "cat",
        "/proc/sys/user/max_user_namespaces",
    ]);
    assert_eq!(run(&mut inside).expect(0).out, "0\n");
    drop(jailer);
    wait_until("the program ends with its jailer", || !alive(pid));
}

#[test]
fn descriptors_have_the_numbers_of_the_plan() {
    if !root() {
        return;
    }
    let args = ["--ready-fd", "1", "--ready-by", "fd", "--kvm", "fd", "--pass-fd", "9", "--"];
    let mut command = rooted("table", BUSYBOX);
    command.args(args).args(["sh", "-c", "echo >&3; read x"]);
    let scratch = Scratch::new();
    let file = fs::File::open(scratch.file("passed", "")).unwrap();
    let mut outer = Command::new(BUSYBOX);
    // A shell opens the descriptor that the jailer has to be given.
    outer.args(["sh", "-c", "exec 9<\"$0\"; exec \"$@\""]).arg(scratch.join("passed"));
    outer.arg(command.get_program()).args(command.get_args());
    drop(file);
    let (jailer, pid) = start(&mut outer);
    let link = |fd: u32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
    assert!(link(3).to_string_lossy().starts_with("pipe:"));
    assert_eq!(link(4), scratch.join("passed"));
    assert_eq!(link(5), Path::new("/dev/kvm"));
    // While it redirects, the shell keeps a copy of what it will restore.
    vm::wait_until("nothing else is open", || proc::descriptors(pid).len() == 6);
    assert!(!Path::new(&format!("/proc/{pid}/root/dev")).exists());
    drop(jailer);
    refused(
        rooted("tap", BUSYBOX).args(["--tap", "no-such-tap"]).args(WAITS),
        INPUT,
        &["no-such-tap", "no such interface"],
    );
}

/// A monitor that its guest has taken over, in a jail.
fn compromised(id: &str, calls: &str, more: &[&str]) -> End {
    let hello = format!("{},as=kernel", guest("hello").display());
    let mut command = rooted(id, vm::breakout());
    command.args(["--file", &hello, "--", "run", "--kernel", "/kernel"]);
    let calls = format!("MOTE_BREAKOUT={calls}");
    run(command.args(["--cmdline", &calls]).args(more))
}

/// The kernel leaves out records when there are many: then another attempt.
#[test]
fn a_refused_system_call_is_named() {
    if !have_kvm() || !root() {
        return;
    }
    let logged = fs::read_to_string("/proc/sys/kernel/seccomp/actions_logged");
    let logged = logged.is_ok_and(|actions| actions.contains("kill"));
    let calls = format!("FirstVcpu:{},-100,\"/kernel,0", libc::SYS_openat);
    let named = (0..20).any(|attempt| {
        if attempt > 0 {
            thread::sleep(Duration::from_secs(2));
        }
        let end = compromised("sys", &calls, &[]);
        end.expect(128 + libc::SIGSYS);
        assert!(end.err.contains("killed by SIGSYS"), "{}", end.err);
        !logged || end.err.contains("thread vcpu0, system call openat")
    });
    assert!(named);
}

/// What the jail refuses where the filter would let it through.
#[test]
fn a_jail_holds_without_a_filter() {
    use libc::{EACCES, EINVAL, ENOENT, ENOSPC, EPERM, EROFS, ESRCH};
    if !have_kvm() || !root() {
        return;
    }
    let own = std::process::id();
    let attempts = [
        (
            "a file of the host",
            libc::SYS_openat,
            "-100,\"/etc/passwd,0".to_owned(),
            &[EACCES, ENOENT][..],
        ),
        ("a device", libc::SYS_openat, "-100,\"/dev/null,0".to_owned(), &[EACCES, ENOENT]),
        ("a new file", libc::SYS_openat, "-100,\"/new,65,420".to_owned(), &[EACCES, EROFS]),
        ("a process of the host", libc::SYS_kill, format!("{own},0"), &[ESRCH]),
        ("all processes", libc::SYS_kill, "-1,9".to_owned(), &[ESRCH, EPERM]),
        ("a user namespace", libc::SYS_clone, "268435473,0,0,0,0".to_owned(), &[ENOSPC, EPERM]),
        ("a mount namespace", libc::SYS_unshare, "131072".to_owned(), &[EPERM]),
        ("a mount", libc::SYS_mount, "\"none,\"/,\"tmpfs,0,0".to_owned(), &[EPERM]),
        ("a host name", libc::SYS_sethostname, "\"x,1".to_owned(), &[EPERM]),
        (
            "a higher limit",
            libc::SYS_setrlimit,
            "7,~ffffff0000000000ffffff0000000000".to_owned(),
            &[EPERM],
        ),
        ("another user", libc::SYS_setuid, "0".to_owned(), &[EPERM, EINVAL]),
        ("a program", libc::SYS_execve, "\"/kernel,0,0".to_owned(), &[EACCES]),
    ];
    for (what, call, arguments, errors) in attempts {
        let end = compromised("hold", &format!("Main:{call},{arguments}"), &["--seccomp", "log"]);
        end.expect(0);
        let said = end.err.lines().find(|line| line.starts_with("breakout: "));
        let result = said.and_then(|line| line.rsplit(" = ").next()?.parse::<i32>().ok());
        assert!(errors.iter().any(|error| result == Some(-error)), "{what}: {}", end.err);
    }
}

/// No device node is in the jail, and the jailer learns when the guest runs.
#[test]
fn kvm_and_readiness_pass_as_descriptors() {
    if !have_kvm() || !root() {
        return;
    }
    let idle = format!("{},as=kernel", guest("idle").display());
    let mut command = rooted("fds", vm::binary());
    command.args(["--file", &idle, "--kvm", "fd", "--ready-by", "fd", "--ready-fd", "1"]);
    command.args(["--", "run", "--kernel", "/kernel", "--serial", "none"]);
    let (vm, pid) = start(command.args(["--ready-fd", "3", "--kvm-fd", "4"]));
    let open = proc::descriptors(pid);
    assert!(open.iter().any(|to| to.contains("kvm-vcpu")), "{open:?}");
    assert!(!open.iter().any(|to| to.contains("/dev/")), "{open:?}");
    vm.signal(libc::SIGTERM);
    vm.end().expect(128 + libc::SIGTERM);
    // What is no /dev/kvm is refused by its flag.
    let mut command = rooted("nokvm", vm::binary());
    command.args(["--file", &idle, "--kvm", "none", "--ready-by", "fd"]);
    let end = run(command.args(["--", "run", "--kernel", "/kernel", "--kvm-fd", "3"]));
    end.expect(2).complains(&["--kvm-fd: 3 is not /dev/kvm"]);
}

#[test]
fn what_is_planted_is_not_followed() {
    if !root() {
        return;
    }
    let id = format!("t{}-plant", std::process::id());
    let below = [vec!["busybox"], vec!["busybox", &id], vec!["busybox", &id, "root"]];
    let dev = vec!["busybox", &id, "root", "dev"];
    for place in below.iter().chain([&dev]) {
        for kind in ["symlink", "dangling", "hard link", "fifo", "file"] {
            let scratch = Scratch::new();
            let base = scratch.join("base");
            let path = place.iter().fold(base.clone(), |path, part| path.join(part));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let victim = scratch.join("victim");
            fs::create_dir(&victim).unwrap();
            let secret = scratch.file("secret", "secret");
            match kind {
                "symlink" => symlink(&victim, &path).unwrap(),
                "dangling" => symlink(scratch.join("none"), &path).unwrap(),
                "hard link" => fs::hard_link(&secret, &path).unwrap(),
                "fifo" => assert_eq!(run(Command::new("mkfifo").arg(&path)).code, 0),
                _ => fs::write(&path, "").unwrap(),
            }
            let mut command = rooted("plant", BUSYBOX);
            command.arg("--chroot-base-dir").arg(&base).args(["--", "sh", "-c", "echo ran"]);
            let end = refused(&mut command, JAIL, &[]);
            assert_eq!(end.out, "", "{kind} at {}", path.display());
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
            assert_eq!(fs::metadata(&victim).unwrap().uid(), 0);
            assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
            assert_eq!(fs::read(&secret).unwrap(), b"secret");
            assert!(fs::symlink_metadata(&path).is_ok(), "{kind} at {}", path.display());
            assert!(!scratch.join("none").exists());
        }
    }
    // Directories: those that others may change are refused, too.
    for place in &below[..2] {
        let scratch = Scratch::new();
        let path = place.iter().fold(scratch.to_path_buf(), |path, part| path.join(part));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = rooted("plant", BUSYBOX);
        command.arg("--chroot-base-dir").arg(&*scratch).args(WAITS);
        refused(&mut command, JAIL, &["changed by other users"]);
    }
}
