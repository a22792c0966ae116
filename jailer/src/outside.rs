//! The jailer's two processes: one that the caller sees, and one that keeps
//! the jail. If either is killed, the other tidies up.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::descriptors;
use crate::error::{Error, exit, jail};
use crate::groups::{self, Groups};
use crate::inside;
use crate::namespaces::{self, Side};
use crate::plan::Plan;
use crate::root;
use crate::wait::{self, Keeper, Signals};

/// Runs the program in its jail and returns the exit code to end with.
///
/// # Errors
/// The system refuses what has to be done before there is a jail.
pub fn run(plan: &Plan) -> Result<u8, Error> {
    descriptors::fill_standard();
    let signals = Signals::block().map_err(jail("signals"))?;
    let (alive, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(jail("pipe"))?;
    let (started, start) = pipe_with(PipeFlags::CLOEXEC).map_err(jail("pipe"))?;
    // The program is ours to wait for if the keeper is killed.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(jail("process"))?;
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(jail("fork")(io::Error::last_os_error())),
        0 => {
            drop((lifeline, started));
            let code = keep(plan, &signals, alive, start).unwrap_or_else(|error| {
                say(&error);
                error.exit_code()
            });
            // SAFETY: ends this process at once; the caller's buffers, of which
            // this has a copy, are not written twice.
            unsafe { libc::_exit(code.into()) }
        }
        keeper => {
            drop((alive, start));
            // Where the caller's word is "in background", the end of `lifeline`
            // with this process means nothing.
            let code = wait::for_keeper(plan, &signals, keeper, &started)?;
            drop(lifeline);
            Ok(code)
        }
    }
}

/// Says an error as the program's user should see it.
pub fn say(error: &Error) {
    line(&error.to_string());
}

/// One line on standard error, which may be closed.
pub fn line(text: &str) {
    let _ = io::stderr().write_all(format!("mote-jailer: {text}\n").as_bytes());
}

/// The keeper: makes the jail, waits for its end, and removes it.
fn keep(plan: &Plan, signals: &Signals, alive: OwnedFd, start: OwnedFd) -> Result<u8, Error> {
    if plan.daemonize {
        rustix::process::setsid().map_err(jail("background"))?;
    }
    if let Some(path) = &plan.netns {
        namespaces::join_network(path)?;
    }
    let claim = root::claim(plan)?;
    let result = match plan.cgroup.as_ref().map(Groups::make).transpose() {
        Ok(groups) => {
            let result = in_groups(plan, claim.as_ref(), groups.as_ref(), |keeper| {
                keeper.wait(signals, &alive, &start)
            });
            if let Some(cgroup) = &plan.cgroup {
                groups::remove(cgroup);
            }
            result
        }
        Err(error) => Err(error),
    };
    root::remove(plan);
    result
}

fn in_groups(
    plan: &Plan,
    claim: Option<&root::Claim>,
    groups: Option<&Groups>,
    run: impl FnOnce(Keeper<'_>) -> Result<u8, Error>,
) -> Result<u8, Error> {
    let (ready, say_ready) = pipe_with(PipeFlags::CLOEXEC).map_err(jail("pipe"))?;
    let table = descriptors::open(&plan.table, say_ready.as_fd())?;
    drop(say_ready);
    let (link, childs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(jail("socket"))?;
    let unified = plan.cgroup.as_ref().is_some_and(|cgroup| cgroup.unified);
    let group = groups.and_then(Groups::first).filter(|_| unified);
    let (pid, pidfd) = match namespaces::fork(plan, group.map(AsFd::as_fd))? {
        Side::Child => {
            drop(link);
            inside::run(plan, claim, table, &childs)
        }
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop((table, childs));
    let keeper = Keeper {
        plan,
        pid,
        pidfd: &pidfd,
        ready: &ready,
        groups,
    };
    let begun = begin(&keeper, unified, &link);
    if let Err(error) = begun {
        keeper.kill();
        return Err(error);
    }
    run(keeper)
}

/// Does for the new process what it cannot do, until it is the program.
fn begin(keeper: &Keeper<'_>, unified: bool, link: &OwnedFd) -> Result<(), Error> {
    let (plan, pid) = (keeper.plan, keeper.pid);
    if let Some(groups) = keeper.groups.filter(|_| !unified) {
        groups.take(pid)?;
    }
    if !plan.privileged {
        namespaces::map_ids(plan, pid)?;
    }
    let go = || send(link, &[inside::GO], SendFlags::NOSIGNAL).map_err(jail("the jail's process"));
    // It may be gone; then the next message says so.
    let _ = go();
    loop {
        let mut message = [0; 4096];
        let (len, _) = recv(link, &mut message, RecvFlags::empty()).map_err(jail("jail"))?;
        match message.get(..len).unwrap_or_default() {
            [] => return Ok(()),
            [inside::FAILED, code, text @ ..] => {
                let text = String::from_utf8_lossy(text).into_owned();
                return Err(match *code {
                    exit::INPUT => Error::Input(text),
                    _ => Error::Jail(text),
                });
            }
            _ => {
                namespaces::map_ids(plan, pid)?;
                go()?;
            }
        }
    }
}

/// Waits until one of the descriptors has something.
///
/// # Errors
/// The system refuses.
pub fn poll_all(fds: &[(&OwnedFd, PollFlags)]) -> io::Result<Vec<PollFlags>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|(fd, flags)| PollFd::new(*fd, *flags))
        .collect();
    loop {
        match poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map(|_| ())?,
        }
    }
    Ok(polled.iter().map(PollFd::revents).collect())
}

/// Puts the standard descriptors of a daemon on /dev/null.
pub fn let_go_of_terminal() {
    if let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        for number in 0..3 {
            // SAFETY: a plain system call; nobody owns the three numbers.
            unsafe { libc::dup2(null.as_raw_fd(), number) };
        }
    }
}
