//! How the end of a jail is told, and that nothing is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use mote_tests::jail::{
    BUSYBOX, INPUT, JAIL, WAITS, alive, children, groups, kill, limit, refused, root, rooted, start,
};
use mote_tests::{Scratch, Vm, guest, have_kvm, mote, run, vm, wait_until};

#[test]
fn how_it_ended_is_told() {
    if !root() {
        return;
    }
    run(rooted("code", BUSYBOX).args(["--", "sh", "-c", "exit 42"])).expect(42);
    let (jailer, pid) = start(rooted("kill", BUSYBOX).args(["--ready-fd", "1"]).args(WAITS));
    kill(pid);
    let end = jailer.end();
    end.expect(137);
    assert!(end.err.contains("killed by SIGKILL"), "{}", end.err);
    let script = "trap 'exit 5' TERM; echo up; while :; do :; done";
    let jailer = Vm::start(rooted("term", BUSYBOX).args(["--", "sh", "-c", script]));
    jailer.wait_for("up");
    jailer.signal(libc::SIGTERM);
    jailer.end().expect(5);
    for (exec, word) in [("/bin/none", "no such file"), ("/bin", "not a regular file")] {
        refused(&mut rooted("exec", exec), INPUT, &[exec, word]);
    }
    let scratch = Scratch::new();
    let script = scratch.file("script", "#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    refused(&mut rooted("script", &script), INPUT, &["not a static program"]);
}

#[test]
fn a_killed_process_of_a_jail_leaves_nothing() {
    if !root() {
        return;
    }
    for victim in ["program", "keeper", "jailer"] {
        let scratch = Scratch::new();
        let parent = format!("mote-test-{}-{victim}", std::process::id());
        let mut command = rooted(victim, BUSYBOX);
        command.arg("--chroot-base-dir").arg(&*scratch);
        command.args(["--cgroup", limit(), "--parent-cgroup", &parent, "--ready-fd", "1"]);
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
        wait_until("directories are gone", || fs::read_dir(&*scratch).unwrap().count() == 0);
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
fn in_background_it_returns_when_ready() {
    if !root() {
        return;
    }
    let mut command = rooted("daemon", BUSYBOX);
    let script = "echo >&3; while :; do :; done";
    command.args(["--daemonize", "--ready-by", "fd", "--ready-fd", "1"]);
    let end = run(command.args(["--", "sh", "-c", script]));
    end.expect(0);
    let pid = end.out.trim().strip_prefix("ready ").unwrap().parse().unwrap();
    assert!(alive(pid));
    kill(pid);
    wait_until("it is gone", || !alive(pid));
    refused(rooted("daemon", "/bin/none").arg("--daemonize"), INPUT, &["no such file"]);
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
    let all: Vec<_> = (0..at_once).map(|n| start(&mut command(n, "read x; exit 4"))).collect();
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

/// `cargo nextest run -p mote-tests --test jail_ends --run-ignored all hundreds`
#[test]
#[ignore = "takes long"]
fn hundreds_of_jails_leave_nothing() {
    if root() {
        many(200, 50);
    }
}
