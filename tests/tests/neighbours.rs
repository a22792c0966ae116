//! Two jails of one user beside each other.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use mote_tests::jail::{BUSYBOX, root, rooted, start};

fn namespaces(pid: u32) -> Vec<u64> {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];
    let inode = |kind| {
        let path = format!("/proc/{pid}/ns/{kind}");
        fs::metadata(path).unwrap().ino()
    };
    kinds.map(inode).to_vec()
}

#[test]
fn two_jails_neither_see_nor_signal_nor_open_each_other() {
    if !root() {
        return;
    }
    // The same user in both: only the jails are between them.
    let start = |id: &str, script: &str| {
        let mut command = rooted(id, BUSYBOX);
        start(command.args(["--ready-fd", "1", "--", "sh", "-c", script]))
    };
    let (one, first) = start("one", "read x; echo untouched");
    // Number 1 is the jail's own first process.
    let script = format!(
        "read x
         kill -9 {first} && echo signalled
         for pid in $(seq 2 300); do [ $pid = $$ ] || kill -0 $pid && echo sees $pid; done
         kill -9 -1
         for path in / /.. /../.. /proc /proc/{first}/root /dev /srv /run /tmp; do
             cd $path && echo \"in $path: $(echo *)\"
         done
         echo >/file && echo wrote
         echo done"
    );
    let (mut two, second) = start("two", &script);
    for (ours, theirs) in namespaces(first).iter().zip(namespaces(second)) {
        assert_ne!(*ours, theirs);
    }
    let root = |pid| fs::metadata(format!("/proc/{pid}/root/.")).unwrap();
    assert_ne!((root(first).dev(), root(first).ino()), (root(second).dev(), root(second).ino()));
    two.send("\n");
    two.wait_for("done");
    let said = two.out.text();
    for word in ["signalled", "sees", "wrote", "untouched"] {
        assert!(!said.contains(word), "{said}");
    }
    // What there is to be seen is the jail's own root, with nothing in it.
    for line in said.lines().filter(|line| line.starts_with("in ")) {
        let names = line.split_once(": ").unwrap().1;
        assert!(["dev", "kvm", "*"].contains(&names), "{said}");
    }
    let mut one = one;
    one.send("\n");
    let end = one.end();
    assert!(end.out.ends_with("untouched\n"), "{}", end.out);
    end.expect(0);
}
