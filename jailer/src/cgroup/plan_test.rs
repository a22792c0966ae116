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
    let want = "\
cgroup      starts inside /sys/fs/cgroup/unified/vms/all/a
cgroup      cpu.max = 50000, when ready
cgroup      memory.max = 1G
cgroup      memory.oom.group = 1
cgroup      memory.swap.max = 0
cgroup      pids.max = 256
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
    for (line, v2, words) in [
        (
            "--cgroup io.max=1",
            &["memory"][..],
            "controller io in version 1 on this host: it has cpu",
        ),
        ("--cgroup pids.max=1", &[], "controller pids in version 1"),
        ("--cgroup hugetlb.2MB.max=1 --cgroup cpu.shares=1", &["hugetlb"], "version 2 has it: use"),
        ("--cgroup-version 2 --cgroup cpu.max=1", &[], "version 1 has it: use --cgroup-version 1"),
        ("--cgroup-version 2 --cgroup rdma.max=1", &[], "in version 2 on this host: it has none"),
    ] {
        let error = plan(line, v2).unwrap_err().to_string();
        assert!(error.contains("no controller") && error.contains(words), "{line}: {error}");
    }
    for (version, words) in [(1, "version 1 is not mounted"), (2, "version 2 is not mounted")] {
        let line = format!("--id a --exec-file x --cgroup pids.max=1 --cgroup-version {version}");
        let Command::Run(args) = parse(line.split_whitespace().map(Into::into)).unwrap() else {
            panic!("{line}")
        };
        let error = Plan::new(&args, &Mounts::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_mount_may_have_blanks() {
    let mounts = Mounts::parse("cgroup2 /a\\040b\\134c cgroup2 rw 0 0\n", |_| Vec::new());
    assert_eq!(mounts.v2.unwrap().path, Path::new("/a b\\c"));
}
