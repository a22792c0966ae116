//! Waiting for the end, and saying what it was.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFlags, Timespec};
use rustix::process::{Pid, Resource, Signal, WaitOptions, WaitStatus, pidfd_send_signal, waitpid};

use crate::cgroup::{self, Groups};
use crate::descriptors;
use crate::error::{Error, exit, jail};
use crate::lock::Lock;
use crate::messages::{Caller, READY, poll_all, say};
use crate::plan::Plan;
use crate::root;
use crate::syscalls;
use crate::terminal::Relay;

/// Signals that are for the program, and the last for its terminal. The first
/// four do nothing where the caller ignores them, as `nohup` and shells do.
const FORWARDED: [libc::c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// The forwarded signals, to be read.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks them, for this process and its children.
    ///
    /// # Errors
    /// The system refuses.
    pub fn block() -> io::Result<Self> {
        // SAFETY: the sets and the action are filled in before they are used;
        // the descriptor is new and owned here alone.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for (at, signal) in FORWARDED.into_iter().enumerate() {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut action);
                if at >= 4 || action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&raw mut set, signal);
                }
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // In the background a terminal may be written to and given back.
            libc::sigaddset(&raw mut set, libc::SIGTTOU);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            // Where a caller ignores this, its children cannot be waited for.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// What they are read from.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// The next one.
    fn next(&self) -> Option<libc::c_int> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let len = rustix::io::read(&self.0, &mut info).ok()?;
        // ssi_signo
        let number = info.get(..4).filter(|_| len == info.len())?;
        number.try_into().ok().map(i32::from_ne_bytes)
    }
}

/// A process that keeps a jail.
#[derive(Debug)]
pub struct Keeper<'a> {
    /// The plan of the jail.
    pub plan: &'a Plan,
    /// The program's process.
    pub pid: i32,
    /// The same, for signals and for its end.
    pub pidfd: &'a OwnedFd,
    /// Where it says that it is ready.
    pub ready: &'a OwnedFd,
    /// Its control groups.
    pub groups: Option<&'a Groups>,
    /// The supervisor: the process that the caller sees.
    pub caller: &'a Caller,
}

impl Keeper<'_> {
    /// Ends the program at once.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd, Signal::KILL);
        let _ = reap(self.pid);
    }

    /// Waits for the program to be ready, reports that on `report`, and waits for its
    /// end. The late limits do not wait for its word for ever.
    ///
    /// # Errors
    /// It cannot be waited for, or a limit cannot be set.
    pub fn wait(&self, signals: &Signals, report: Option<OwnedFd>) -> Result<u8, Error> {
        let mut report = Some(report);
        let mut deadline = None;
        if self.plan.ready_by_fd() {
            let time = Duration::from_secs(self.plan.args.ready_within.unwrap_or(10).into());
            deadline = Instant::now().checked_add(time);
        } else {
            self.arm()?;
            self.now_ready(report.take().flatten());
        }
        loop {
            // In background there is no caller; a pipe that was closed would
            // wake us for ever.
            let life = if self.plan.args.daemonize { self.pidfd } else { &self.caller.alive };
            let ready = if report.is_some() { self.ready } else { self.pidfd };
            let fds = [self.pidfd, signals.fd(), life, ready].map(|fd| (fd.as_fd(), PollFlags::IN));
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let events = poll_all(&fds, left.as_ref()).map_err(jail("wait"))?;
            let [ended, signalled, orphaned, spoken] = events[..] else {
                continue;
            };
            if !ended.is_empty() {
                return self.end();
            }
            let over = deadline.is_some_and(|end| end <= Instant::now());
            if !spoken.is_empty() || over {
                if deadline.take().is_some() {
                    self.arm()?;
                }
                // Closed without a word, it will never be ready.
                if !spoken.is_empty()
                    && let Some(report) = report.take()
                    && rustix::io::read(self.ready, &mut [0; 64]).is_ok_and(|len| len > 0)
                {
                    self.now_ready(report);
                }
            }
            if !signalled.is_empty() {
                while let Some(signal) = signals.next() {
                    // Without a handler, the first process of a PID namespace
                    // does not heed the other.
                    let stop = signal == libc::SIGTSTP;
                    forward(self.pidfd, if stop { libc::SIGSTOP } else { signal });
                }
            }
            if !orphaned.is_empty() {
                self.kill();
                return Ok(exit::JAIL);
            }
        }
    }

    /// Sets the late limits.
    fn arm(&self) -> Result<(), Error> {
        let armed = self.groups.map_or(Ok(()), Groups::arm);
        armed.inspect_err(|_| self.kill())
    }

    /// Tells the caller.
    fn now_ready(&self, report: Option<OwnedFd>) {
        if let Some(report) = report {
            // The caller may have closed the other end.
            let _ = rustix::io::write(report, format!("ready {}\n", self.pid).as_bytes());
        }
        self.caller.ready();
    }

    /// The program's exit code; if it was killed, says by what.
    fn end(&self) -> Result<u8, Error> {
        let status = reap(self.pid).map_err(jail("wait"))?;
        let Some(signal) = status.terminating_signal() else {
            return Ok(status.exit_status().map_or(exit::JAIL, |code| code as u8));
        };
        let why = match signal {
            libc::SIGSYS => syscalls::refused(self.pid),
            libc::SIGKILL if self.groups.is_some_and(Groups::out_of_memory) => {
                Some("its memory limit was reached".to_owned())
            }
            // The kernel's word for a program that its address space cannot hold.
            libc::SIGSEGV | libc::SIGKILL => {
                let mut limits = self.plan.limits.iter();
                let space = limits.find(|limit| limit.resource == Resource::As);
                space.map(|limit| format!("is --resource-limit as={} too low?", limit.value))
            }
            _ => None,
        };
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let name = signal_name(signal);
        let text = format!("{}: killed by {name}{why}", self.plan.args.id);
        self.caller.line(&text);
        Ok(exit::SIGNAL.wrapping_add(signal as u8))
    }
}

/// The supervisor: the process that the caller sees.
#[derive(Debug)]
pub struct Supervisor<'a> {
    /// The plan of the jail.
    pub plan: &'a Plan,
    /// Signals to forward.
    pub signals: &'a Signals,
    /// Messages of the keeper.
    pub messages: &'a OwnedFd,
    /// Between the caller's terminal and the jail's.
    pub relay: Option<Relay>,
    /// Messages that were read.
    pub received: Vec<u8>,
}

impl Supervisor<'_> {
    /// Passes signals, keys and output on, and waits for the keeper.
    ///
    /// # Errors
    /// The keeper cannot be waited for.
    pub fn wait(&mut self, keeper: i32, lifeline: &OwnedFd) -> Result<u8, Error> {
        let pid = Pid::from_raw(keeper).ok_or_else(|| Error::Jail("fork".to_owned()))?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let pidfd = pidfd.map_err(jail("wait"))?;
        let mut kept = vec![&pidfd, self.signals.fd(), self.messages, lifeline];
        kept.extend(self.relay.iter().flat_map(Relay::descriptors));
        descriptors::close_but(&kept).map_err(jail("descriptors"))?;
        if let Some(relay) = &mut self.relay {
            relay.take_keyboard();
        }
        if self.serve(&pidfd)? {
            return Ok(0);
        }
        if let Some(relay) = self.relay.take() {
            relay.finish();
        }
        while self.listen() > 0 {}
        let text = String::from_utf8_lossy(&self.received);
        let lines = text.trim_start_matches(char::from(READY)).lines();
        lines.for_each(|line| say(&line));
        let status = reap(keeper).map_err(jail("wait"))?;
        match status.terminating_signal() {
            Some(signal) => Err(self.tidy_up(signal)),
            None => Ok(status.exit_status().map_or(exit::JAIL, |code| code as u8)),
        }
    }

    /// Reads what the keeper says; how much, 0 if it has ended.
    fn listen(&mut self) -> usize {
        let mut words = [0; 512];
        let len = rustix::io::read(self.messages, &mut words).unwrap_or(0);
        self.received.extend(words.iter().take(len));
        len
    }

    /// Until the keeper has ended, or says that the program is ready, and that
    /// is what the caller waits for.
    fn serve(&mut self, pidfd: &OwnedFd) -> Result<bool, Error> {
        loop {
            let message = if self.plan.args.daemonize && self.received.is_empty() {
                self.messages
            } else {
                pidfd
            };
            let mut fds: Vec<_> =
                [pidfd, self.signals.fd(), message].map(|fd| (fd.as_fd(), PollFlags::IN)).into();
            let mut limit = None;
            if let Some(relay) = &self.relay {
                // One that is not waited for is the keeper's, too.
                let none = (pidfd.as_fd(), PollFlags::empty());
                fds.extend(relay.events().map(|event| event.unwrap_or(none)));
                limit = relay.timeout();
            }
            let events = poll_all(&fds, limit.as_ref()).map_err(jail("wait"))?;
            let [ended, signalled, ready, relayed @ ..] = &events[..] else {
                continue;
            };
            if self.plan.args.daemonize && ready.contains(PollFlags::IN) && ended.is_empty() {
                self.listen();
                if self.received.starts_with(&[READY]) {
                    return Ok(true);
                }
            }
            if !ended.is_empty() {
                return Ok(false);
            }
            if let (Some(relay), [keys, screen, jail]) = (&mut self.relay, relayed) {
                relay.relay([*keys, *screen, *jail]);
            }
            if !signalled.is_empty() {
                self.pass_signals(pidfd);
            }
        }
    }

    fn pass_signals(&mut self, pidfd: &OwnedFd) {
        while let Some(signal) = self.signals.next() {
            match (signal, &mut self.relay) {
                (libc::SIGWINCH, None) => {}
                (libc::SIGWINCH, Some(relay)) => relay.resize(),
                (libc::SIGTSTP, relay) => {
                    forward(pidfd, signal);
                    if let Some(relay) = relay {
                        relay.give_back();
                    }
                    // SAFETY: a plain system call; this process stops here, as
                    // its caller expects.
                    unsafe { libc::raise(libc::SIGSTOP) };
                }
                _ => forward(pidfd, signal),
            }
        }
        if let Some(relay) = &mut self.relay {
            relay.take_keyboard();
        }
    }

    /// The keeper was killed: removes what it would have removed.
    fn tidy_up(&self, signal: libc::c_int) -> Error {
        // The program has been killed with it, unless it has asked not to be, and
        // is our child now.
        let orphans = std::fs::read_to_string("/proc/thread-self/children");
        for pid in orphans.iter().flat_map(|pids| pids.split_whitespace()) {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        while reap(-1).is_ok() {}
        if let Ok(lock) = Lock::take(self.plan) {
            if let Some(cgroup) = &self.plan.cgroup {
                cgroup::remove(cgroup);
            }
            root::remove(self.plan);
            lock.remove(self.plan);
        }
        let name = signal_name(signal);
        Error::Jail(format!("{}: the jailer was killed by {name}", self.plan.args.id))
    }
}

/// Sends a signal to a process that may have ended.
fn forward(pidfd: &OwnedFd, signal: libc::c_int) {
    let _ = Signal::from_named_raw(signal).map(|signal| pidfd_send_signal(pidfd, signal));
}

fn reap(pid: i32) -> io::Result<WaitStatus> {
    loop {
        let ended = match Pid::from_raw(pid.max(0)) {
            Some(pid) => waitpid(Some(pid), WaitOptions::empty()),
            // Any child, of whichever process group.
            None => rustix::process::wait(WaitOptions::empty()),
        };
        match ended {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As the library shows it: "signal: 9 (SIGKILL)".
fn signal_name(signal: libc::c_int) -> String {
    let text = ExitStatus::from_raw(signal).to_string();
    let name = text.split(['(', ')']).nth(1).map(str::to_owned);
    name.unwrap_or_else(|| format!("signal {signal}"))
}
