//! Resource limits, user and privileges.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_thread_res_gid, set_thread_res_uid,
};

use crate::args::Limit;
use crate::error::{Error, jail};
use crate::plan::Plan;

/// Sets the resource limits, soft and hard. One on descriptors that this process
/// may set at any time is left to [`limit_descriptors`], as steps need some.
///
/// # Errors
/// One is above what the caller may have.
pub fn limit(plan: &Plan) -> Result<(), Error> {
    for limit in &plan.limits {
        if limit.resource != Resource::Nofile || limit.value > hard(Resource::Nofile) {
            set(limit)?;
        }
    }
    Ok(())
}

/// The same for descriptors, when all are open.
///
/// # Errors
/// The system refuses.
pub fn limit_descriptors(plan: &Plan) -> Result<(), Error> {
    let mut limits = plan.limits.iter();
    limits.find(|limit| limit.resource == Resource::Nofile).map_or(Ok(()), set)
}

/// The highest value without a privilege.
fn hard(resource: Resource) -> u64 {
    let limit = rustix::process::getrlimit(resource);
    limit.maximum.unwrap_or(u64::MAX)
}

fn set(&Limit { name, resource, value, asked }: &Limit) -> Result<(), Error> {
    let most = hard(resource);
    // A default yields to the caller's lower limit.
    let value = if asked { value } else { most.min(value) };
    let both = Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(resource, both).map_err(|error| match error {
        Errno::PERM => Error::Jail(format!(
            "--resource-limit {name}={value}: above the hard limit of {most}: \
             ask for less, or start the jailer with a higher one"
        )),
        other => jail(format!("--resource-limit {name}={value}"))(other),
    })
}

/// Leaves what the caller's processes share: session, process group, terminal,
/// keys; and what protects them from the kernel's killer when memory is short.
///
/// # Errors
/// The system refuses.
pub fn leave_session(terminal: Option<&OwnedFd>) -> Result<(), Error> {
    rustix::process::setsid().map_err(jail("session"))?;
    if let Some(terminal) = terminal {
        rustix::process::ioctl_tiocsctty(terminal).map_err(jail("terminal for the jail"))?;
    }
    // SAFETY: a plain system call; the null pointer stands for a keyring
    // without a name.
    let keyring = unsafe {
        let name = std::ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name)
    };
    let error = io::Error::last_os_error();
    // A kernel without keys has none to share.
    if keyring < 0 && error.raw_os_error() != Some(libc::ENOSYS) {
        return Err(jail("session keyring")(error));
    }
    let score = "/proc/self/oom_score_adj";
    let protected = fs::read_to_string(score).is_ok_and(|text| text.starts_with('-'));
    if protected {
        fs::write(score, "0").map_err(jail(score))?;
    }
    Ok(())
}

/// Default signals and personality: what execution would leave as it is.
pub fn reset_process() {
    // SAFETY: plain system calls; zeroes are the kernel's structure for the
    // default action, and its set of no signals. The library's own function
    // keeps two signals to itself. Those that cannot be changed fail.
    unsafe {
        let none = [0u64; 4];
        let old = std::ptr::null_mut::<u64>();
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, none.as_ptr(), old, 8);
        }
        let how = libc::SIG_SETMASK;
        libc::syscall(libc::SYS_rt_sigprocmask, how, none.as_ptr(), old, 8);
        libc::personality(0);
    }
}

/// Leaves the caller's supplementary groups.
///
/// # Errors
/// The system refuses.
pub fn forget_groups() -> Result<(), Error> {
    rustix::thread::set_thread_groups(&[]).map_err(jail("groups"))
}

/// Becomes the program's user and gives up every privilege for good.
///
/// # Errors
/// The system refuses.
pub fn drop_privileges(plan: &Plan) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    // The process has one thread.
    set_thread_res_gid(gid, gid, gid)
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .map_err(jail("user and group"))?;
    // Until the first number that is no capability of this kernel.
    let mut all = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    all.all(|capability| remove_capability_from_bounding_set(capability).is_ok());
    if capability_is_in_bounding_set(CapabilitySet::CHOWN) != Ok(false) {
        return Err(Error::Jail("the bounding set cannot be emptied".to_owned()));
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::clear_ambient_capability_set().map_err(jail("capabilities"))?;
    rustix::thread::set_capabilities(None, none).map_err(jail("capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(jail("no new privileges"))
}

/// Ends with the jailer, however that ends. A change of user undoes this.
///
/// # Errors
/// The system refuses.
pub fn die_with_jailer() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(jail("death signal"))
}
