use super::*;
use crate::args::{Command, parse};

const MOUNTS: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
";

fn plan(line: &str, v2: &[&str]) -> Result<Option<Plan>, Error> {
    let line = format!("--id a --exec-file /bin/mote {line}");
    let Command::Run(args) = parse(line.split_whitespace().map(Into::into))? else {
        panic!("{line}")
    };
    let list = v2.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    Plan::new(&args, &Mounts::parse(MOUNTS, |_| list.clone()))
}

#[test]
fn nothing_asked_for_is_nothing_planned() {
    assert_eq!(plan("", &["memory"]).unwrap(), None);
}

#[test]
fn version_two_has_one_leaf_and_arms_the_processor_late() {
    let line = "--cgroup cpu.max=50000 --cgroup memory.max=1G --parent-cgroup vms/all";
    let plan = plan(line, &["cpu", "memory", "pids", "io"]).unwrap().unwrap();
    assert!(plan.unified);
    assert_eq!(plan.controllers, ["memory", "pids", "cpu"]);
    let want = "\
cgroup      starts inside /sys/fs/cgroup/unified/vms/all/a
cgroup      memory.max = 1G
cgroup      memory.oom.group = 1
cgroup      memory.swap.max = 0
cgroup      pids.max = 256
cgroup      cpu.max = 50000, when ready
";
    assert_eq!(plan.to_string(), want);
}

#[test]
fn what_is_given_replaces_a_default() {
    let line = "--cgroup pids.max=9 --cgroup memory.swap.max=5";
    let text = plan(line, &["memory", "pids"]).unwrap().unwrap().to_string();
    assert!(text.contains("pids.max = 9") && !text.contains("pids.max = 256"), "{text}");
    assert!(!text.contains("memory.swap.max = 0"), "{text}");
}

#[test]
fn version_one_has_a_leaf_for_each_controller() {
    let line = "--cgroup cpu.shares=5 --cgroup cpu.cfs_quota_us=9 --cgroup memory.limit_in_bytes=1";
    let plan = plan(line, &[]).unwrap().unwrap();
    let want = "\
cgroup      is moved into /sys/fs/cgroup/cpu/mote/a
cgroup      cpu.shares = 5
cgroup      cpu.cfs_quota_us = 9, when ready
cgroup      is moved into /sys/fs/cgroup/memory/mote/a
cgroup      memory.limit_in_bytes = 1
";
    assert_eq!(plan.to_string(), want);
}

#[test]
fn a_missing_controller_is_named() {
    for (line, v2) in [
        ("--cgroup io.max=1", &["memory"][..]),
        ("--cgroup pids.max=1", &[]),
        ("--cgroup pids.max=1", &["hugetlb"]),
        ("--cgroup-version 2 --cgroup cpu.max=1", &[]),
    ] {
        let error = plan(line, v2).unwrap_err();
        assert!(error.to_string().contains("no controller"), "{line}: {error}");
    }
}
