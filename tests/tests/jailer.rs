//! The jailer: what a jailed program has and has not, how its end is told, and
//! that nothing is left of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use mote_tests::jail::{
    BUSYBOX, INPUT, JAIL, USAGE, USER, groups, jail, limit, refused, root, rooted, start,
};
use mote_tests::{End, Scratch, Vm, guest, have_kvm, mote, proc, run, vm, wait_until};

/// A program that runs until its standard input ends.
const WAITS: [&str; 4] = ["--", "sh", "-c", "read x"];

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    list.unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn kill(pid: u32) {
    // SAFETY: a plain system call; the process is one of this test's own jail.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) }, 0);
}

#[test]
fn bad_input_is_one_line_and_a_code() {
    for (args, word) in [
        (&["--exec-file", "/bin/true"][..], "--id"),
        (&["--id", "a"], "--exec-file"),
        (&["--id", "../a", "--exec-file", "/bin/true"], "--id"),
        (
            &["--id", "a", "--exec-file", "/bin/true", "--cgroup", "x"],
            "--cgroup",
        ),
        (&["--fly"], "--fly"),
    ] {
        refused(Command::new(vm::jailer()).args(args), USAGE, &[word]);
    }
    let help = run(Command::new(vm::jailer()).arg("--help"));
    help.expect(0);
    assert!(help.out.contains("--chroot-base-dir"), "{}", help.out);
}

#[test]
fn plans_are_printed_for_everybody_and_change_nothing() {
    let scratch = Scratch::new();
    let mut command = jail("plan", BUSYBOX);
    command.args(["--plan", "--chroot-base-dir"]).arg(&*scratch);
    if root() {
        command.uid(65_534).gid(65_534);
    }
    let end = run(&mut command);
    end.expect(0);
    assert!(
        end.out.contains("namespaces  user mount pid network"),
        "{}",
        end.out
    );
    assert_eq!(fs::read_dir(&*scratch).unwrap().count(), 0);
}

#[test]
fn the_program_has_nothing() {
    if !root() {
        return;
    }
    let (jailer, pid) = start(
        rooted("empty", BUSYBOX)
            .args(["--ready-fd", "1"])
            .args(WAITS),
    );
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
        let [theirs, ours] = [pid, std::process::id()].map(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/{space}"))
                .unwrap()
                .ino()
        });
        assert_ne!(theirs, ours, "{space}");
    }
    let mounts = fs::read_to_string(own("mounts")).unwrap();
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|m| m.split(' ').collect()).collect();
    let [jail_root, dev] = &mounts[..] else {
        panic!("{mounts:?}")
    };
    assert!(
        jail_root[1] == "/" && jail_root[3].starts_with("ro,nosuid,nodev,noexec"),
        "{mounts:?}"
    );
    assert!(
        dev[1] == "/dev" && dev[3].starts_with("ro,nosuid,noexec"),
        "{mounts:?}"
    );
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
    let args = [
        "--ready-fd",
        "1",
        "--ready-by",
        "fd",
        "--kvm",
        "fd",
        "--pass-fd",
        "9",
        "--",
    ];
    let mut command = rooted("table", BUSYBOX);
    command.args(args).args(["sh", "-c", "echo >&3; read x"]);
    let scratch = Scratch::new();
    let file = fs::File::open(scratch.file("passed", "")).unwrap();
    let mut outer = Command::new(BUSYBOX);
    // A shell opens the descriptor that the jailer has to be given.
    outer
        .args(["sh", "-c", "exec 9<\"$0\"; exec \"$@\""])
        .arg(scratch.join("passed"));
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
        rooted("tap", BUSYBOX)
            .args(["--tap", "no-such-tap"])
            .args(WAITS),
        INPUT,
        &["no-such-tap", "no such interface"],
    );
}

#[test]
fn a_virtual_machine_boots_in_a_jail() {
    if !have_kvm() || !root() {
        return;
    }
    let hello = format!("{},as=kernel", guest("hello").display());
    for extra in [&[][..], &["--copy-exec"]] {
        let mut command = rooted("boot", vm::binary());
        command.args(["--file", &hello]).args(extra);
        let end = run(command.args(["--", "run", "--kernel", "/kernel"]));
        end.expect(0);
        assert_eq!(end.err, "");
        assert!(end.out.starts_with('H'), "{}", end.out);
    }
    let scratch = Scratch::new();
    let place = scratch
        .join("mote")
        .join(format!("t{}-base", std::process::id()))
        .join("root");
    fs::create_dir_all(&place).unwrap();
    fs::copy(guest("hello"), place.join("kernel")).unwrap();
    let mut command = rooted("base", vm::binary());
    command.arg("--chroot-base-dir").arg(&*scratch);
    run(command.args(["--", "run", "--kernel", "/kernel"])).expect(0);
    let left: Vec<_> = fs::read_dir(&place)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(
        left,
        ["kernel"],
        "what the caller put there stays, and nothing else"
    );
}

#[test]
fn without_root_there_is_a_jail_too() {
    let mut command = jail("rootless", BUSYBOX);
    if root() {
        command.uid(65_534).gid(65_534);
    }
    let end = run(command.args(["--kvm", "none", "--", "sh", "-c", "echo /*; exit 9"]));
    if end.code == JAIL && end.err.contains("namespaces: ") {
        println!(
            "skipped: this host has no user namespaces for users: {}",
            end.err
        );
        return;
    }
    end.expect(9);
    assert_eq!(end.out, "/*\n");
}

#[test]
fn how_it_ended_is_told() {
    if !root() {
        return;
    }
    run(rooted("code", BUSYBOX).args(["--", "sh", "-c", "exit 42"])).expect(42);
    let (jailer, pid) = start(
        rooted("kill", BUSYBOX)
            .args(["--ready-fd", "1"])
            .args(WAITS),
    );
    kill(pid);
    let end = jailer.end();
    end.expect(137);
    assert!(end.err.contains("killed by SIGKILL"), "{}", end.err);
    let script = "trap 'exit 5' TERM; echo up; while :; do :; done";
    let jailer = Vm::start(rooted("term", BUSYBOX).args(["--", "sh", "-c", script]));
    jailer.wait_for("up");
    jailer.signal(libc::SIGTERM);
    jailer.end().expect(5);
    for (exec, word) in [
        ("/bin/none", "no such file"),
        ("/bin", "not a regular file"),
    ] {
        refused(&mut rooted("exec", exec), INPUT, &[exec, word]);
    }
    let scratch = Scratch::new();
    let script = scratch.file("script", "#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    refused(
        &mut rooted("script", &script),
        INPUT,
        &["not a static program"],
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
        (
            "a device",
            libc::SYS_openat,
            "-100,\"/dev/null,0".to_owned(),
            &[EACCES, ENOENT],
        ),
        (
            "a new file",
            libc::SYS_openat,
            "-100,\"/new,65,420".to_owned(),
            &[EACCES, EROFS],
        ),
        (
            "a process of the host",
            libc::SYS_kill,
            format!("{own},0"),
            &[ESRCH],
        ),
        (
            "all processes",
            libc::SYS_kill,
            "-1,9".to_owned(),
            &[ESRCH, EPERM],
        ),
        (
            "a user namespace",
            libc::SYS_clone,
            "268435473,0,0,0,0".to_owned(),
            &[ENOSPC, EPERM],
        ),
        (
            "a mount namespace",
            libc::SYS_unshare,
            "131072".to_owned(),
            &[EPERM],
        ),
        (
            "a mount",
            libc::SYS_mount,
            "\"none,\"/,\"tmpfs,0,0".to_owned(),
            &[EPERM],
        ),
        (
            "a host name",
            libc::SYS_sethostname,
            "\"x,1".to_owned(),
            &[EPERM],
        ),
        (
            "a higher limit",
            libc::SYS_setrlimit,
            "7,~ffffff0000000000ffffff0000000000".to_owned(),
            &[EPERM],
        ),
        (
            "another user",
            libc::SYS_setuid,
            "0".to_owned(),
            &[EPERM, EINVAL],
        ),
        (
            "a program",
            libc::SYS_execve,
            "\"/kernel,0,0".to_owned(),
            &[EACCES],
        ),
    ];
    for (what, call, arguments, errors) in attempts {
        let end = compromised(
            "hold",
            &format!("Main:{call},{arguments}"),
            &["--seccomp", "log"],
        );
        end.expect(0);
        let said = end.err.lines().find(|line| line.starts_with("breakout: "));
        let result = said.and_then(|line| line.rsplit(" = ").next()?.parse::<i32>().ok());
        assert!(
            errors.iter().any(|error| result == Some(-error)),
            "{what}: {}",
            end.err
        );
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
    command.args([
        "--file",
        &idle,
        "--kvm",
        "fd",
        "--ready-by",
        "fd",
        "--ready-fd",
        "1",
    ]);
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
fn whoever_is_killed_nothing_is_left() {
    if !root() {
        return;
    }
    for victim in ["program", "keeper", "jailer"] {
        let scratch = Scratch::new();
        let parent = format!("mote-test-{}-{victim}", std::process::id());
        let mut command = rooted(victim, BUSYBOX);
        command.arg("--chroot-base-dir").arg(&*scratch);
        command.args([
            "--cgroup",
            limit(),
            "--parent-cgroup",
            &parent,
            "--ready-fd",
            "1",
        ]);
        let (jailer, pid) = start(command.args(WAITS));
        assert_eq!(groups(&parent).len(), 1);
        assert_eq!(fs::read_dir(&*scratch).unwrap().count(), 1);
        match victim {
            "program" => kill(pid),
            "keeper" => kill(children(jailer.pid())[0]),
            _ => jailer.signal(libc::SIGKILL),
        }
        jailer.end().expect(match victim {
            "program" => 137,
            "keeper" => JAIL,
            _ => -libc::SIGKILL,
        });
        wait_until("the program is gone", || !alive(pid));
        wait_until("the groups are gone", || groups(&parent).is_empty());
        wait_until("directories are gone", || {
            fs::read_dir(&*scratch).unwrap().count() == 0
        });
    }
}

/// Runs in the jail, as its only program, which will not end with the keeper.
#[test]
#[ignore = "for a jail"]
fn outlives() {
    if std::process::id() != 1 {
        return;
    }
    // SAFETY: plain system calls.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
    }
    println!("outlives");
    let _ = std::io::stdin().lines().next();
}

#[test]
fn no_program_outlives_its_jail() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(&*scratch, fs::Permissions::from_mode(0o755)).unwrap();
    let program = scratch.join("outlives");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for keeper in [true, false] {
        let mut command = rooted("outlives", &program);
        command.args(["--kvm", "none", "--ready-fd", "1", "--"]);
        command.args(["--exact", "outlives", "--ignored", "--nocapture"]);
        let (jailer, pid) = start(&mut command);
        jailer.wait_for("outlives\n");
        if keeper {
            kill(children(jailer.pid())[0]);
            jailer.end().expect(JAIL);
            // Not before: the id is free now.
            assert!(!alive(pid));
        } else {
            jailer.signal(libc::SIGKILL);
            jailer.end().expect(-libc::SIGKILL);
            wait_until("the program is gone", || !alive(pid));
        }
    }
}

#[test]
fn what_is_planted_is_not_followed() {
    if !root() {
        return;
    }
    let id = format!("t{}-plant", std::process::id());
    let below = [
        vec!["busybox"],
        vec!["busybox", &id],
        vec!["busybox", &id, "root"],
    ];
    let dev = vec!["busybox", &id, "root", "dev"];
    for place in below.iter().chain([&dev]) {
        for kind in ["symlink", "dangling", "hard link", "fifo", "file"] {
            let scratch = Scratch::new();
            let base = scratch.join("base");
            let path = place
                .iter()
                .fold(base.clone(), |path, part| path.join(part));
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
            command
                .arg("--chroot-base-dir")
                .arg(&base)
                .args(["--", "sh", "-c", "echo ran"]);
            let end = refused(&mut command, JAIL, &[]);
            assert_eq!(end.out, "", "{kind} at {}", path.display());
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
            assert_eq!(fs::metadata(&victim).unwrap().uid(), 0);
            assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
            assert_eq!(fs::read(&secret).unwrap(), b"secret");
            assert!(
                fs::symlink_metadata(&path).is_ok(),
                "{kind} at {}",
                path.display()
            );
            assert!(!scratch.join("none").exists());
        }
    }
    // Directories: those that others may change are refused, too.
    for place in &below[..2] {
        let scratch = Scratch::new();
        let path = place
            .iter()
            .fold(scratch.to_path_buf(), |path, part| path.join(part));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = rooted("plant", BUSYBOX);
        command.arg("--chroot-base-dir").arg(&*scratch).args(WAITS);
        refused(&mut command, JAIL, &["changed by other users"]);
    }
}

#[test]
fn in_background_it_returns_when_ready() {
    if !root() {
        return;
    }
    let mut command = rooted("daemon", BUSYBOX);
    let script = "echo >&3; while :; do :; done";
    command.args(["--daemonize", "--ready-by", "fd", "--ready-fd", "1"]);
    let end = run(command.args(["--", "sh", "-c", script]));
    end.expect(0);
    let pid = end
        .out
        .trim()
        .strip_prefix("ready ")
        .unwrap()
        .parse()
        .unwrap();
    assert!(alive(pid));
    kill(pid);
    wait_until("it is gone", || !alive(pid));
    refused(
        rooted("daemon", "/bin/none").arg("--daemonize"),
        INPUT,
        &["no such file"],
    );
}

/// Runs jails, `one_by_one` and then `at_once`, and asserts that nothing is left.
fn many(one_by_one: usize, at_once: usize) {
    let scratch = Scratch::new();
    let parent = format!("mote-test-{}-many{at_once}", std::process::id());
    let mounts = || fs::read_to_string("/proc/mounts").unwrap();
    let before = mounts();
    let hello = scratch.join("busybox-of-many");
    fs::copy(BUSYBOX, &hello).unwrap();
    let command = |number: usize, script: &str| {
        let mut command = rooted(&format!("many-{number}"), &hello);
        command.arg("--chroot-base-dir").arg(scratch.join("base"));
        command.args(["--cgroup", limit(), "--parent-cgroup", &parent]);
        // The name of the program is no applet's: the arguments name one.
        command.args(["--ready-fd", "1", "--", "sh", "-c", script]);
        command
    };
    fs::create_dir(scratch.join("base")).unwrap();
    for number in 0..one_by_one {
        run(&mut command(number, "exit 3")).expect(3);
    }
    let all: Vec<_> = (0..at_once)
        .map(|n| start(&mut command(n, "read x; exit 4")))
        .collect();
    let pids: Vec<u32> = all.iter().map(|(_, pid)| *pid).collect();
    for (number, (mut jailer, pid)) in all.into_iter().enumerate() {
        // Every second one is killed.
        if number % 2 == 0 {
            kill(pid);
            jailer.end().expect(137);
        } else {
            drop(jailer.take_input());
            jailer.end().expect(4);
        }
    }
    assert!(!pids.into_iter().any(alive));
    assert_eq!(groups(&parent), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(scratch.join("base")).unwrap().count(), 0);
    assert_eq!(mounts(), before);
}

#[test]
fn many_jails_leave_nothing() {
    if root() {
        many(10, 6);
    }
}

/// One snapshot, a jail of its own for each of its clones.
#[test]
fn clones_in_jails_leave_nothing() {
    if !have_kvm() || !root() {
        return;
    }
    let scratch = Scratch::new();
    let saved = scratch.join("saved");
    fs::create_dir(&saved).unwrap();
    let mut command = mote(["run", "--then", "exit", "--kernel"]);
    command.arg(guest("resumed")).arg("--snapshot").arg(&saved);
    run(&mut command).expect(0);
    for file in ["state", "memory"] {
        // It is another user who reads it.
        let mode = fs::Permissions::from_mode(0o444);
        fs::set_permissions(saved.join(file), mode).unwrap();
    }
    let mounts = || fs::read_to_string("/proc/mounts").unwrap();
    let before = mounts();
    let parent = format!("mote-test-{}-clones", std::process::id());
    for number in 0..50 {
        let mut command = rooted(&format!("clone-{number}"), vm::binary());
        command.args(["--cgroup", limit(), "--parent-cgroup", &parent]);
        for file in ["state", "memory"] {
            let path = saved.join(file);
            command.args(["--file", &format!("{},as={file}", path.display())]);
        }
        let end = run(command.args(["--", "restore", "/"]));
        assert_eq!(end.expect(0).out, "H", "clone {number}");
    }
    assert_eq!(groups(&parent), Vec::<PathBuf>::new());
    assert_eq!(mounts(), before);
}

/// `cargo nextest run -p mote-tests --test jailer --run-ignored all hundreds`
#[test]
#[ignore = "takes long"]
fn hundreds_of_jails_leave_nothing() {
    if root() {
        many(200, 50);
    }
}
