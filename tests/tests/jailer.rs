//! The jailer: its flags and plans, and programs that run in its jails.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use mote_tests::jail::{BUSYBOX, JAIL, USAGE, as_user, jail, refused, root, rooted, runtime};
use mote_tests::{Scratch, guest, have_kvm, run, vm};

#[test]
fn bad_input_is_one_line_and_a_code() {
    for (args, word) in [
        (&["--exec-file", "/bin/true"][..], "--id"),
        (&["--id", "a"], "--exec-file"),
        (&["--id", "../a", "--exec-file", "/bin/true"], "--id"),
        (&["--id", "a", "--exec-file", "/bin/true", "--cgroup", "x"], "--cgroup"),
        (&["--fly"], "--fly"),
    ] {
        refused(Command::new(vm::jailer()).args(args), USAGE, &[word]);
    }
    for flag in ["--netns", "--chroot-base-dir", "--file", "--parent-cgroup"] {
        let mut command = Command::new(vm::jailer());
        command.args(["--id", "a", "--exec-file", "/bin/true", flag, ""]);
        refused(&mut command, USAGE, &[flag, "empty"]);
    }
    let help = run(Command::new(vm::jailer()).arg("--help"));
    help.expect(0);
    assert!(help.out.contains("--chroot-base-dir"), "{}", help.out);
    assert!(help.out.lines().all(|line| line.chars().count() <= 80));
}

/// Also where opening it would wait for a writer.
#[test]
fn what_is_no_network_namespace_is_refused() {
    if !root() {
        return;
    }
    let scratch = Scratch::new();
    let pipe = scratch.join("a\nb");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let ids = ["--id", "pipe", "--uid", "10071", "--gid", "10071"];
    let mut command = Command::new(vm::jailer());
    command.args(ids).args(["--exec-file", BUSYBOX, "--netns"]);
    refused(command.arg(&pipe), JAIL, &["--netns", "a\\nb", "not a network"]);
}

#[test]
fn plans_are_printed_for_everybody_and_change_nothing() {
    let scratch = Scratch::new();
    let mut command = jail("plan", BUSYBOX);
    command.args(["--plan", "--chroot-base-dir"]).arg(&*scratch);
    if root() {
        as_user(&mut command, 65_534);
    }
    let end = run(&mut command);
    end.expect(0);
    assert!(end.out.contains("namespaces  user mount pid network"), "{}", end.out);
    assert_eq!(fs::read_dir(&*scratch).unwrap().count(), 0);
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
    let place = scratch.join("mote").join(format!("t{}-base", std::process::id())).join("root");
    fs::create_dir_all(&place).unwrap();
    fs::copy(guest("hello"), place.join("kernel")).unwrap();
    let mut command = rooted("base", vm::binary());
    command.arg("--chroot-base-dir").arg(&*scratch);
    run(command.args(["--", "run", "--kernel", "/kernel"])).expect(0);
    let left: Vec<_> = fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["kernel"], "what the caller put there stays, and nothing else");
}

/// Another user of the host can make a directory in /tmp, or in what is open to them.
#[test]
fn a_lock_lies_where_no_other_user_can_be_first() {
    if !root() {
        return;
    }
    const OWN: u32 = 65_530;
    let place = runtime(OWN);
    let _ = fs::remove_dir_all(&place);
    let tmp = std::env::temp_dir().join(format!("mote-jailer-{OWN}"));
    let _ = fs::remove_dir_all(&tmp);
    let jail = || {
        let mut command = jail("first", BUSYBOX);
        command.args(["--kvm", "none", "--", "true"]);
        command
    };
    let name = place.to_str().unwrap();
    refused(jail().uid(OWN).gid(OWN), JAIL, &[name, "missing", "loginctl enable-linger 65530"]);
    assert!(!tmp.exists());
    for (owner, mode, word) in
        [(0, 0o777, "belongs to user 0"), (OWN, 0o777, "open to other users")]
    {
        as_user(&mut jail(), OWN);
        chown(&place, Some(owner), None).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        refused(jail().uid(OWN).gid(OWN), JAIL, &[name, word]);
    }
    as_user(&mut jail(), OWN);
    let planted = place.join("mote-jailer");
    fs::create_dir(&planted).unwrap();
    refused(jail().uid(OWN).gid(OWN), JAIL, &[name, "belongs to user 0", "remove it"]);
    fs::remove_dir(&planted).unwrap();
    let mut corrected = jail();
    let end = run(as_user(&mut corrected, OWN));
    assert!(end.code == 0 || end.err.contains("namespaces: "), "{}", end.err);
    fs::remove_dir_all(&place).unwrap();
}

#[test]
fn without_root_there_is_a_jail_too() {
    let mut command = jail("rootless", BUSYBOX);
    if root() {
        as_user(&mut command, 65_534);
    }
    let end = run(command.args(["--kvm", "none", "--", "sh", "-c", "echo /*; exit 9"]));
    if end.code == JAIL && end.err.contains("namespaces: ") {
        println!("skipped: this host has no user namespaces for users: {}", end.err);
        return;
    }
    end.expect(9);
    assert_eq!(end.out, "/*\n");
}
