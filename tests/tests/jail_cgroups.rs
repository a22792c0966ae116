//! What the jailer says where control groups or mounts are not as it needs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_tests::jail::{BUSYBOX, IN_USE, JAIL, as_user, groups, jail, refused, root, rooted};
use mote_tests::run;

/// Another user of the host's.
const OTHER: u32 = 65_533;

/// A command after a shell's words, in a mount namespace of its own.
fn after(setup: &str, command: &Command) -> Command {
    let mut shell = Command::new("unshare");
    // What it mounts over /sys or /proc is gone with it.
    shell.args(["-m", "sh", "-c", &format!("set -e; {setup}; exec $0 \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// The same as another user.
fn as_other(setup: &str, command: &Command) -> Command {
    as_user(&mut Command::new("true"), OTHER);
    let other = format!("setpriv --reuid {OTHER} --regid {OTHER} --clear-groups");
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", &format!("set -e; {setup}; exec {other} $0 \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// Where version 2 is mounted, and a limit that it has a controller for.
fn unified() -> Option<(PathBuf, [&'static str; 3])> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    let mount = PathBuf::from(line.split(' ').nth(1)?);
    let has = fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
    let limits = [
        ["pids", "pids.max", "99"],
        ["memory", "memory.max", "1G"],
        ["hugetlb", "hugetlb.2MB.max", "1G"],
    ];
    let limit = limits.into_iter().find(|limit| has.split_whitespace().any(|c| c == limit[0]))?;
    Some((mount, limit))
}

/// Removes groups from below.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// Set-up, parent, limit, exit code and words.
type Row<'a> = (&'a str, &'a str, Option<&'a String>, i32, &'a [&'a str]);

/// In every state that a parent can be in, the error names the group, the controller or the
/// file of version 2, and what to do.
#[test]
fn version_two_names_what_is_wrong() {
    let Some((mount, [controller, file, value])) = unified().filter(|_| root()) else {
        mote_tests::vm::skip("no control groups of version 2 with a controller");
        return;
    };
    let parent = format!("mote-test-{}-two", std::process::id());
    let group = mount.join(&parent);
    let (good, bad) = (format!("{file}={value}"), format!("{file}=x"));
    let (missing, nested) = (format!("{controller}.none=1"), format!("{parent}/t"));
    let down = format!("cannot hand controller {controller} down");
    let (path, limit) = (group.to_str().unwrap(), Some(&good));
    let id = format!("t{}-two", std::process::id());
    let held = format!("mkdir -p $G/{id}/below");
    let delegated = format!("mkdir $G; chown -R {OTHER} $G");
    let table: [Row<'_>; 10] = [
        ("true", &parent, Some(&bad), JAIL, &[&bad, "does not take this value"]),
        ("true", &parent, Some(&missing), JAIL, &[&missing, "has no such file in version 2"]),
        ("mkdir $G; echo $$ >$G/cgroup.procs", &parent, limit, JAIL, &[path, &down, "it holds"]),
        (
            "mkdir -p $G/t; echo threaded >$G/t/cgroup.type",
            &nested,
            None,
            JAIL,
            &[&nested, "is threaded", "--parent-cgroup"],
        ),
        (
            "mkdir $G; echo 0 >$G/cgroup.max.descendants",
            &parent,
            limit,
            JAIL,
            &[path, "cgroup.max.descendants", "raise it"],
        ),
        (
            "mkdir $G; echo 0 >$G/cgroup.max.depth",
            &parent,
            limit,
            JAIL,
            &[path, "cgroup.max.depth", "raise it"],
        ),
        (&held, &parent, limit, IN_USE, &[&id, path]),
        ("mount -o remount,bind,ro $M", &parent, None, JAIL, &[path, "mounted read-only"]),
        ("umount -l $M", &parent, None, JAIL, &["version 2 is not mounted", "mount -t cgroup2"]),
        ("true", &parent, Some(&"no.max=1".to_owned()), JAIL, &["no controller no in version 2"]),
    ];
    let setup = |words: &str| format!("M={} G={path}; {words}", mount.display());
    for (words, parent, limit, code, says) in table {
        let mut command = rooted("two", BUSYBOX);
        command.args(["--cgroup-version", "2", "--parent-cgroup", parent]);
        command.args(limit.into_iter().flat_map(|limit| ["--cgroup", limit]));
        refused(&mut after(&setup(words), command.args(["--", "true"])), code, says);
        remove(&group);
    }
    let mut command = rooted("two", BUSYBOX);
    command.args(["--cgroup-version", "2", "--parent-cgroup", &parent, "--cgroup", &good]);
    run(after("true", command.args(["--", "true"])).stdin(std::process::Stdio::null())).expect(0);
    // Without root: a group that is not delegated, and one that the jailer is not in.
    let mut command = jail("two", BUSYBOX);
    command.args(["--kvm", "none", "--cgroup-version", "2", "--parent-cgroup", &parent]);
    command.args(["--", "true"]);
    refused(&mut as_other("true", &command), JAIL, &[path, "delegated to you", "root"]);
    let mut moved = as_other(&setup(&delegated), &command);
    refused(&mut moved, JAIL, &[path, "from the jailer's own group", "Delegate=yes"]);
    remove(&group);
    assert!(groups(&parent).is_empty());
}

#[test]
fn version_one_names_what_is_wrong() {
    let pids = Path::new("/sys/fs/cgroup/pids");
    if !root() || !pids.join("cgroup.procs").exists() {
        mote_tests::vm::skip("no control groups of version 1");
        return;
    }
    let parent = format!("mote-test-{}-one", std::process::id());
    let path = pids.join(&parent);
    let path = path.to_str().unwrap();
    let wrong = |setup: &str, limit: &str, words: &[&str]| {
        let mut command = rooted("one", BUSYBOX);
        command.args(["--cgroup-version", "1", "--parent-cgroup", &parent, "--cgroup", limit]);
        refused(&mut after(setup, command.args(["--", "true"])), JAIL, words);
        assert!(groups(&parent).is_empty());
    };
    wrong("mount -o remount,bind,ro /sys/fs/cgroup/pids", "pids.max=9", &[path, "read-only"]);
    let bare = ["--cgroup pids.max", "no controller pids in version 1", "on this host: it has"];
    wrong("umount -l /sys/fs/cgroup/pids", "pids.max=9", &bare);
    wrong("umount -l -R /sys/fs/cgroup", "pids.max=9", &["version 1 is not mounted", "mount -t"]);
    wrong("true", "cpu.max=1", &["cpu.max=1", "has no such file in version 1"]);
    wrong("true", "pids.max=x", &["pids.max=x", "version 1 of controller pids"]);
    let mut command = jail("one", BUSYBOX);
    command.args(["--kvm", "none", "--cgroup-version", "1", "--cgroup", "pids.max=9"]);
    command.args(["--parent-cgroup", &parent, "--", "true"]);
    refused(&mut as_other("true", &command), JAIL, &[path, "delegated to you", "root"]);
}

/// Every option of /proc, and where the program and the jail's directory lie.
#[test]
fn mount_options_are_met_or_named() {
    if !root() {
        return;
    }
    let procfs = "umount -l /proc; mount -t proc -o";
    let with = |options: &str| format!("{procfs} {options} proc /proc");
    let table: [(String, i32, &[&str]); 8] = [
        (with("hidepid=invisible"), 0, &[]),
        (with("hidepid=ptraceable"), 0, &[]),
        (with("nosuid,nodev,noexec"), 0, &[]),
        (with("subset=pid"), JAIL, &["/proc/sys/user", "subset=pid"]),
        (with("ro"), JAIL, &["/proc/", "mounted read-write"]),
        ("umount -l /proc".to_owned(), JAIL, &["/proc/", "needs all of /proc"]),
        (
            "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys".to_owned(),
            JAIL,
            &["/proc/sys/user/max_user_namespaces", "mounted read-write"],
        ),
        (
            "mount -t tmpfs -o ro,mode=755 tmpfs /run".to_owned(),
            JAIL,
            &["/run/mote-jailer: read-only"],
        ),
    ];
    for (setup, code, words) in table {
        let command = |mut command: Command| {
            command.args(["--kvm", "none", "--", "true"]);
            command
        };
        let tried = |mut command: Command| match code {
            0 => drop(run(&mut command).expect(0)),
            code => drop(refused(&mut command, code, words)),
        };
        tried(after(&setup, &command(rooted("mounts", BUSYBOX))));
        if !setup.contains("/run") {
            tried(as_other(&setup, &command(jail("mounts", BUSYBOX))));
        }
    }
    let tmpfs =
        |options: &str, rest: &str| format!("mount -t tmpfs -o {options} tmpfs /mnt; {rest}");
    let there = "mkdir -m 777 /mnt/jail; cp /bin/busybox /mnt/";
    for (options, program, flags, code, words) in [
        ("noexec", "/mnt/busybox", &[][..], 126, &["/mnt/busybox", "noexec"][..]),
        ("nosuid,nodev", "/mnt/busybox", &["--chroot-base-dir", "/mnt/jail"], 0, &[]),
        ("noexec", BUSYBOX, &["--chroot-base-dir", "/mnt/jail"], 0, &[]),
        ("noexec,nosuid,nodev", BUSYBOX, &["--file", "/mnt/busybox"], 0, &[]),
    ] {
        let mut command = rooted("there", program);
        let mut shell = after(
            &tmpfs(&format!("{options},mode=755"), there),
            command.args(flags).args(["--", "true"]),
        );
        match code {
            0 => drop(run(&mut shell).expect(0)),
            code => drop(refused(&mut shell, code, words)),
        }
    }
    let mut command = rooted("there", BUSYBOX);
    command.args(["--chroot-base-dir", "/mnt", "--", "true"]);
    refused(&mut after(&tmpfs("ro", "true"), &command), JAIL, &["/mnt/busybox: read-only"]);
}
