//! Files in directories of other users: a process that is root gives up its
//! capabilities before a guest runs, and must not find out afterwards what it needed
//! them for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use mote_tests::saved::text;
use mote_tests::{Scratch, Vm, have_kvm, mote, run, tiny, wait_until};

/// Some user that is not the tests'.
const OTHER: u32 = 1234;

/// Gives a directory to another user.
fn give(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    chown(path, Some(OTHER), Some(OTHER)).unwrap();
}

/// What every command does that writes a file by its name into a directory of another
/// user, `@/theirs`: it writes the file, or refuses the directory before the guest runs.
#[test]
fn a_directory_of_another_user_works_or_is_refused_at_once() {
    if !have_kvm() {
        return;
    }
    // Arguments; the file that is written.
    const COMMANDS: [(&str, &str); 8] = [
        ("run --kernel KERNEL --then exit --snapshot @/theirs", "state"),
        ("run --kernel KERNEL --then exit --snapshot @/theirs/made", "made/state"),
        ("restore @/saved --then exit --snapshot @/theirs", "state"),
        ("restore @/theirs --record marker", "working-set"),
        ("merge @/saved @/changed @/theirs", "state"),
        ("run --kernel KERNEL --disk @/theirs/new,size=1M,create", "new"),
        ("run --kernel KERNEL --serial file:@/theirs/log", "log"),
        ("run --kernel KERNEL --serial socket:@/theirs/socket", ""),
    ];
    for mode in [0o700, 0o750, 0o755, 0o777] {
        for (line, file) in COMMANDS {
            let scratch = Scratch::new();
            let theirs = scratch.directory("theirs");
            let snapshot = ["--then", "exit", "--snapshot"];
            if line.starts_with("restore @/theirs") {
                run(tiny("resumed", snapshot).arg(&theirs)).expect(0);
            } else {
                let saved = scratch.join("saved");
                run(tiny("snapshot", snapshot).arg(&saved)).expect(0);
                let mut diff = mote(["restore", text(&saved), "--diff"]);
                run(diff.args(snapshot).arg(scratch.join("changed"))).expect(0);
            }
            give(&theirs, mode);
            let kernel = mote_tests::guest("resumed");
            let line = line.replace('@', text(&scratch)).replace("KERNEL", text(&kernel));
            let end = run(&mut mote(line.split(' ')));
            let there = theirs.join(file).exists();
            assert_eq!(end.code == 0, there, "{mode:o} {line}: {} {}", end.code, end.err);
            if !there {
                end.expect(3).complains(&[text(&theirs), "capabilities"]);
                assert_eq!(end.out, "", "{line}");
            }
            // Everybody may write there.
            assert!(there || mode != 0o777, "{line}: {}", end.err);
        }
    }
}

/// The directory that a snapshot makes may be exchanged for a link by another user, who
/// may write beside it: what the link leads to is left alone.
#[test]
fn a_link_in_the_place_of_a_new_directory_is_not_followed() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let (to, other) = (scratch.join("saved"), scratch.directory("other"));
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    let mote = tiny("snapshot", ["--then", "exit", "--snapshot", &format!("{}/", text(&to))]);
    let mut strace = std::process::Command::new("strace");
    // Time to exchange it.
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=mkdirat,mkdir"]);
    strace.args(["-e", "inject=mkdirat,mkdir:delay_exit=3000000"]);
    let vm = Vm::start(strace.arg(mote.get_program()).args(mote.get_args()));
    wait_until("a directory", || to.exists());
    fs::remove_dir(&to).unwrap();
    std::os::unix::fs::symlink(&other, &to).unwrap();
    vm.end().expect(3).complains(&["snapshot", text(&to)]);
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
}
