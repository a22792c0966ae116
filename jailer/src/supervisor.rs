//! The jailer's two processes: one that the caller sees, and one that keeps
//! the jail. If either is killed, the other tidies up.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cgroup::{self, Groups};
use crate::child;
use crate::descriptors;
use crate::error::{Error, exit, jail};
use crate::lock::Lock;
use crate::messages::Caller;
use crate::namespaces;
use crate::plan::Plan;
use crate::root;
use crate::terminal::Relay;
use crate::wait::{self, Keeper, Signals};

/// Runs the program in its jail and returns the exit code to end with.
///
/// # Errors
/// The system refuses what has to be done before there is a jail.
pub fn run(plan: &Plan) -> Result<u8, Error> {
    descriptors::fill_standard();
    let signals = Signals::block().map_err(jail("signals"))?;
    let (alive, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(jail("pipe"))?;
    let (messages, to_front) = pipe_with(PipeFlags::CLOEXEC).map_err(jail("pipe"))?;
    let (relay, terminal) = Relay::open(plan)?.unzip();
    // The program is ours to wait for if the keeper is killed.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(jail("process"))?;
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(jail("fork")(io::Error::last_os_error())),
        0 => {
            drop((lifeline, messages, relay));
            let caller = Caller { alive, messages: to_front };
            let code = keep(plan, &signals, &caller, terminal).unwrap_or_else(|error| {
                caller.line(&error.to_string());
                error.exit_code()
            });
            // SAFETY: ends this process at once; the caller's buffers, of which
            // this has a copy, are not written twice.
            unsafe { libc::_exit(code.into()) }
        }
        keeper => {
            drop((alive, to_front, terminal));
            // With --daemonize the keeper ignores that `lifeline` ends with this process.
            let mut supervisor = wait::Supervisor {
                plan,
                signals: &signals,
                messages: &messages,
                relay,
                received: Vec::new(),
            };
            let code = supervisor.wait(keeper, &lifeline)?;
            drop(lifeline);
            Ok(code)
        }
    }
}

/// The keeper: makes the jail, waits for its end, and removes it.
fn keep(
    plan: &Plan,
    signals: &Signals,
    caller: &Caller,
    terminal: Option<OwnedFd>,
) -> Result<u8, Error> {
    // A session of its own costs the scheduler a group of its own (autogroup),
    // and is needed only where it outlives its caller's.
    let left = if plan.args.daemonize {
        rustix::process::setsid().map(|_| ())
    } else {
        rustix::process::setpgid(None, None)
    };
    left.map_err(jail("session"))?;
    let lock = Lock::take(plan)?;
    let made = Setup { plan, signals, caller, lock: &lock };
    let result = made.in_root(terminal);
    lock.remove(plan);
    result
}

/// What the keeper has while it makes the jail.
struct Setup<'a> {
    plan: &'a Plan,
    signals: &'a Signals,
    caller: &'a Caller,
    lock: &'a Lock,
}

impl Setup<'_> {
    fn in_root(&self, terminal: Option<OwnedFd>) -> Result<u8, Error> {
        if let Some(path) = &self.plan.args.netns {
            namespaces::join_network(path)?;
        }
        let root = root::make(self.plan)?;
        let result = match self.plan.cgroup.as_ref().map(Groups::make).transpose() {
            Ok(groups) => {
                let result = self.in_groups(root, groups.as_ref(), terminal);
                if let Some(cgroup) = &self.plan.cgroup {
                    cgroup::remove(cgroup);
                }
                result
            }
            Err(error) => Err(error),
        };
        root::remove(self.plan);
        result
    }

    fn in_groups(
        &self,
        root: Option<root::Identity>,
        groups: Option<&Groups>,
        terminal: Option<OwnedFd>,
    ) -> Result<u8, Error> {
        let plan = self.plan;
        let (ready, say_ready) = pipe_with(PipeFlags::CLOEXEC).map_err(jail("pipe"))?;
        let table = descriptors::open(&plan.table, say_ready.as_fd(), terminal.as_ref())?;
        drop((say_ready, terminal));
        let report = plan.args.ready_fd.map(|fd| descriptors::callers("--ready-fd", fd));
        let report = report.transpose()?;
        let (link, childs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(jail("socket"))?;
        let unified = plan.cgroup.as_ref().is_some_and(|cgroup| cgroup.unified);
        let group = groups.and_then(|groups| groups.directories().next());
        let group = group.filter(|_| unified);
        let Some((pid, pidfd)) = namespaces::fork(plan, group.map(AsFd::as_fd))? else {
            drop(link);
            child::run(plan, root, table, &childs)
        };
        drop((table, childs));
        let keeper =
            Keeper { plan, pid, pidfd: &pidfd, ready: &ready, groups, caller: self.caller };
        if let Err(error) = begin(&keeper, unified, &link).and_then(|()| {
            drop(link);
            self.leave_caller(&keeper, report.as_ref())
        }) {
            keeper.kill();
            return Err(error);
        }
        keeper.wait(self.signals, report)
    }

    /// Keeps nothing of the caller's but where to report, until that is done.
    fn leave_caller(&self, keeper: &Keeper<'_>, report: Option<&OwnedFd>) -> Result<(), Error> {
        let mut kept = vec![
            &self.caller.alive,
            &self.caller.messages,
            self.signals.fd(),
            keeper.pidfd,
            keeper.ready,
        ];
        kept.extend(self.lock.descriptors());
        kept.extend(report);
        kept.extend(keeper.groups.into_iter().flat_map(Groups::directories));
        descriptors::close_but(&kept).map_err(jail("descriptors"))?;
        descriptors::standard_to_null();
        std::env::set_current_dir("/").map_err(jail("/"))
    }
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
    let go = || send(link, &[child::GO], SendFlags::NOSIGNAL).map_err(jail("the jail's process"));
    // It may be gone; then the next message says so.
    let _ = go();
    let mut kind = [0];
    while recv(link, &mut kind, RecvFlags::PEEK).map_err(jail("jail"))?.0 > 0 {
        if kind == [child::FAILED] {
            return Err(failure(link));
        }
        let _ = recv(link, &mut kind, RecvFlags::empty());
        namespaces::map_ids(plan, pid)?;
        go()?;
    }
    Ok(())
}

/// What the new process says went wrong.
fn failure(link: &OwnedFd) -> Error {
    // A path may be of 4 KiB, and is not all of it. On the heap: a large stack
    // frame would cost every start page faults.
    let mut message = vec![0; 16 << 10];
    let len = recv(link, &mut message, RecvFlags::empty()).map_or(0, |(len, _)| len);
    let (code, text) = match message.get(..len) {
        Some([_, code, text @ ..]) => (*code, String::from_utf8_lossy(text).into_owned()),
        _ => (exit::JAIL, "jail: its process has ended".to_owned()),
    };
    match code {
        exit::INPUT => Error::Input(text),
        _ => Error::Jail(text),
    }
}
