//! A process in separate namespaces.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{Error, jail};
use crate::plan::Plan;

/// Linux 5.7; too wide for the type that the C library's others have.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Joins a network namespace.
///
/// # Errors
/// The path is not a network namespace, or the caller may not join it.
pub fn join_network(path: &Path) -> Result<(), Error> {
    let what = || format!("--netns {}", path.display());
    // Without waiting for the writer of a named pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(jail(what()))?;
    let joined = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
    joined.map_err(|error| match error {
        Errno::INVAL => Error::Jail(format!("{}: not a network namespace", what())),
        other => jail(what())(other),
    })
}

/// Makes the process, in all namespaces that need no more than that, and in
/// its control group from its first instruction on. Returns its process id and a
/// descriptor for it; none in the new process.
///
/// # Errors
/// The system refuses; without root it may have no user namespaces for users.
pub fn fork(plan: &Plan, group: Option<BorrowedFd<'_>>) -> Result<Option<(i32, OwnedFd)>, Error> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if plan.args.netns.is_none() {
        flags |= libc::CLONE_NEWNET;
    }
    if plan.time_namespace {
        flags |= libc::CLONE_NEWTIME;
    }
    if !plan.privileged {
        flags |= libc::CLONE_NEWUSER;
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: plain integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    if let Some(group) = group {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    // SAFETY: as fork: no memory is shared, this process has one thread, and
    // the structure is alive and of the size given.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        0 => Ok(None),
        // SAFETY: the kernel has just made this descriptor for us.
        1.. => Ok(Some((pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))),
        _ => Err(no_process(plan, &io::Error::last_os_error())),
    }
}

/// Why there is no process, by the limit that was reached.
fn no_process(plan: &Plan, error: &io::Error) -> Error {
    let why = match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "no more processes: pids.max of the control group, or the limit \
                               nproc of your user, is reached"
        }
        Some(libc::ENOSPC) => "a limit in /proc/sys/user is reached: raise it",
        Some(libc::EPERM) if !plan.privileged => {
            "this host allows only root to make user namespaces: start the jailer as root"
        }
        Some(code @ (libc::EOPNOTSUPP | libc::EACCES)) => {
            return Error::Jail(not_in_group(plan, code == libc::EACCES));
        }
        _ => return Error::Jail(format!("namespaces: {}", crate::error::message(error))),
    };
    Error::Jail(format!("namespaces: {why}"))
}

/// Why no process can start in the jail's control group.
fn not_in_group(plan: &Plan, denied: bool) -> String {
    let groups = plan.cgroup.iter();
    let path = groups.flat_map(|plan| plan.leaves.first().map(|leaf| plan.path(leaf))).next();
    let why = if denied {
        "you may not move a process there from the jailer's own group: start the jailer in the \
         subtree that is delegated to you (systemd-run --user --scope -p Delegate=yes), or as root"
    } else {
        "its parent is threaded (cgroup.type): use another --parent-cgroup"
    };
    format!("cgroup {}: {why}", path.unwrap_or_default().display())
}

/// Gives a process's user namespace its one user and one group.
///
/// # Errors
/// The system refuses.
pub fn map_ids(plan: &Plan, pid: i32) -> Result<(), Error> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(|error| jail(no_proc(&path, &error))(error))
    };
    if !plan.privileged {
        write("setgroups", "deny".to_owned())?;
    }
    write("uid_map", format!("{0} {0} 1", plan.uid))?;
    write("gid_map", format!("{0} {0} 1", plan.gid))
}

/// Leaves the host's control group and user namespaces; the latter only if
/// that has not been done already.
///
/// # Errors
/// The system refuses.
pub fn leave(flags: UnshareFlags) -> Result<(), Error> {
    // SAFETY: none of these flags is about memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(jail("namespaces"))
}

/// Forbids user namespaces below this one. `sysctl` is /proc/sys/user.
///
/// # Errors
/// The system refuses.
pub fn shut_nested(sysctl: &OwnedFd) -> Result<(), Error> {
    let name = "max_user_namespaces";
    let file = openat(sysctl, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let done = file.and_then(|file| rustix::io::write(file, b"0")).map_err(io::Error::from);
    let path = format!("/proc/sys/user/{name}");
    done.map(|_| ()).map_err(|error| jail(no_proc(&path, &error))(error))
}

/// Names a file of /proc that cannot be used, and the mount option that may be why.
pub fn no_proc(path: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EROFS) => format!("{path}: the jailer needs /proc mounted read-write"),
        Some(libc::ENOENT) => format!("{path}: the jailer needs all of /proc (no subset=pid)"),
        _ => path.to_owned(),
    }
}
