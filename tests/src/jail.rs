//! Starts jails as their users would.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::vm::{self, End, LIMIT, Vm, run};

/// The jailer's exit codes.
pub const IN_USE: i32 = 123;
/// A flag is wrong.
pub const USAGE: i32 = 124;
/// The jail cannot be made.
pub const JAIL: i32 = 125;
/// The program or a file cannot be used.
pub const INPUT: i32 = 126;

/// Who the jailed programs run as.
pub const USER: u32 = 10_001;
/// A static program that is many.
pub const BUSYBOX: &str = "/bin/busybox";

/// A program that runs until its standard input ends.
pub const WAITS: [&str; 4] = ["--", "sh", "-c", "read x"];

/// The jailer with a program and an id that no other test uses.
#[must_use]
pub fn jail(id: &str, exec: impl AsRef<Path>) -> Command {
    let mut command = Command::new(vm::jailer());
    let id = format!("t{}-{id}", std::process::id());
    command.args(["--id", &id, "--exec-file"]).arg(exec.as_ref());
    command.stdin(Stdio::null());
    command
}

/// The same as root, for another user.
#[must_use]
pub fn rooted(id: &str, exec: impl AsRef<Path>) -> Command {
    let mut command = jail(id, exec);
    command.args(["--uid", &USER.to_string(), "--gid", &USER.to_string()]);
    command
}

/// Has a command run as another user, one that is logged in: with a place for its locks.
///
/// # Panics
/// The place cannot be made.
pub fn as_user(command: &mut Command, id: u32) -> &mut Command {
    let place = runtime(id);
    fs::create_dir_all(&place).unwrap();
    chown(&place, Some(id), Some(id)).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    command.uid(id).gid(id)
}

/// Where a session manager has the directory for what a user runs.
#[must_use]
pub fn runtime(id: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{id}"))
}

/// Whether this is root; without, the caller returns.
#[must_use]
pub fn root() -> bool {
    // SAFETY: a plain system call.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        crate::vm::skip("not root");
    }
    root
}

/// Asserts one line of the jailer's with these words.
///
/// # Panics
/// It says or does something else.
#[track_caller]
pub fn refused(command: &mut Command, code: i32, words: &[&str]) -> End {
    let end = run(command);
    end.expect(code);
    assert_eq!(end.err.lines().count(), 1, "{}", end.err);
    assert!(end.err.starts_with("mote-jailer: "), "{}", end.err);
    for word in words {
        assert!(end.err.contains(word), "no {word:?} in {}", end.err);
    }
    for word in ["panicked", "Error {", "Some(", "(os error"] {
        assert!(!end.err.contains(word), "{}", end.err);
    }
    end
}

/// Starts a jail that says on standard output when it is ready, and returns
/// the host's process id of its program.
///
/// # Panics
/// It does not come to that.
pub fn start(command: &mut Command) -> (Vm, u32) {
    let jailer = Vm::start(command);
    // The program may write there first, and not whole lines.
    let pid = |text: &str| {
        let (_, after) = text.split_once("ready ")?;
        after.split_once('\n')?.0.parse().ok()
    };
    let came = |bytes: &[u8]| pid(&String::from_utf8_lossy(bytes)).is_some();
    let text = || jailer.out.text();
    assert!(jailer.out.wait(LIMIT, came), "never ready: {}", text());
    let pid = pid(&text()).unwrap();
    (jailer, pid)
}

/// The children of a process.
///
/// # Panics
/// The kernel writes no numbers.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    let pids = list.split_whitespace();
    pids.map(|pid| pid.parse().unwrap()).collect()
}

/// Whether a process exists.
#[must_use]
pub fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Kills a process of a jail of this test's.
///
/// # Panics
/// It does not exist.
pub fn kill(pid: u32) {
    // SAFETY: a plain system call.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) }, 0);
}

/// Control groups of this test process's jails.
#[must_use]
pub fn groups(parent: &str) -> Vec<PathBuf> {
    let mounts = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = mounts.map(|entry| entry.path().join(parent)).collect();
    all.push(Path::new("/sys/fs/cgroup").join(parent));
    all.retain(|path| path.exists());
    all
}

/// A limit that this host has a controller for.
#[must_use]
pub fn limit() -> &'static str {
    let v1 = Path::new("/sys/fs/cgroup/pids").exists();
    if v1 { "pids.max=64" } else { "pids.max=65" }
}
