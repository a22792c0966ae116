//! Waiting for the end, and saying what it was.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::sleep;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, pidfd_send_signal, waitpid};

use crate::error::{Error, exit, jail};
use crate::groups::{self, Groups};
use crate::outside::{let_go_of_terminal, line, poll_all};
use crate::plan::Plan;
use crate::root;
use crate::syscalls;

/// Signals that are for the program, not for the jailer.
const FORWARDED: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
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
        // SAFETY: the set is filled in before it is used; the descriptor that
        // is made is nobody else's.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in FORWARDED {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// The next one that was sent by somebody. What a terminal sends goes to
    /// the program without our help.
    fn next(&self) -> Option<libc::c_int> {
        loop {
            let mut info = [0; size_of::<libc::signalfd_siginfo>()];
            let len = rustix::io::read(&self.0, &mut info).ok()?;
            let number = |at: usize| {
                let bytes = info.get(at..at + 4)?;
                bytes.try_into().ok().map(i32::from_ne_bytes)
            };
            // ssi_signo, and ssi_code, which is positive if the kernel sent it.
            if len == info.len() && number(8)? <= 0 {
                return number(0);
            }
        }
    }
}

/// A process that keeps a jail.
#[derive(Debug)]
pub struct Keeper<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// The program's process.
    pub pid: i32,
    /// The same, for signals and for its end.
    pub pidfd: &'a OwnedFd,
    /// Where it says that it is ready.
    pub ready: &'a OwnedFd,
    /// Its control groups.
    pub groups: Option<&'a Groups>,
}

impl Keeper<'_> {
    /// Ends the program at once.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd, Signal::KILL);
        let _ = reap(self.pid);
    }

    /// Waits for the program to be ready, and for its end.
    ///
    /// # Errors
    /// It cannot be waited for, or a limit cannot be set when it is ready.
    pub fn wait(&self, signals: &Signals, alive: &OwnedFd, start: &OwnedFd) -> Result<u8, Error> {
        let mut ready = false;
        if !self.plan.ready_by_fd() {
            self.now_ready(start)?;
            ready = true;
        }
        loop {
            let readable = |wanted: bool| {
                if wanted {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                }
            };
            // A closed pipe would wake us for ever.
            let told = if ready { self.pidfd } else { self.ready };
            let life = if self.plan.daemonize {
                self.pidfd
            } else {
                alive
            };
            let fds = [
                (self.pidfd, readable(true)),
                (&signals.0, readable(true)),
                (life, readable(true)),
                (told, readable(true)),
            ];
            let events = poll_all(&fds).map_err(jail("wait"))?;
            let [ended, signalled, orphaned, spoken] = events[..] else {
                continue;
            };
            if !spoken.is_empty() && !ready {
                ready = true;
                // It may have closed the pipe without a word.
                if rustix::io::read(self.ready, &mut [0; 64]).is_ok_and(|len| len > 0) {
                    self.now_ready(start)?;
                }
            }
            if !ended.is_empty() {
                return self.end();
            }
            if !signalled.is_empty() {
                while let Some(signal) = signals.next() {
                    forward(self.pidfd, signal);
                }
            }
            if !orphaned.is_empty() {
                self.kill();
                return Ok(exit::JAIL);
            }
        }
    }

    /// Arms the late limits and tells the caller.
    fn now_ready(&self, start: &OwnedFd) -> Result<(), Error> {
        if let Some(Err(error)) = self.groups.map(Groups::arm) {
            self.kill();
            return Err(error);
        }
        if let Some(fd) = self.plan.ready_fd {
            let text = format!("ready {}\n", self.pid);
            // SAFETY: a plain system call on a number that is the caller's and
            // a live buffer; the caller may have closed the other end.
            unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
        }
        if self.plan.daemonize {
            let _ = rustix::io::write(start, b"r");
            let_go_of_terminal();
        }
        Ok(())
    }

    /// The program's exit code; if it was killed, says by what.
    fn end(&self) -> Result<u8, Error> {
        let status = reap(self.pid).map_err(jail("wait"))?;
        let Some(signal) = status.terminating_signal() else {
            return Ok(status.exit_status().map_or(exit::JAIL, |code| code as u8));
        };
        let why = match signal {
            libc::SIGSYS => refused_call(self.pid),
            libc::SIGKILL if self.groups.is_some_and(Groups::out_of_memory) => {
                Some("its memory limit was reached".to_owned())
            }
            _ => None,
        };
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        line(&format!(
            "{}: killed by {}{why}",
            self.plan.id,
            signal_name(signal)
        ));
        Ok(exit::SIGNAL.wrapping_add(signal as u8))
    }
}

/// The process that the caller sees: passes signals on, and waits.
///
/// # Errors
/// The keeper cannot be waited for.
pub fn for_keeper(
    plan: &Plan,
    signals: &Signals,
    keeper: i32,
    started: &OwnedFd,
) -> Result<u8, Error> {
    let pid = Pid::from_raw(keeper).ok_or_else(|| Error::Jail("fork".to_owned()))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let pidfd = pidfd.map_err(jail("wait"))?;
    loop {
        let start = if plan.daemonize { started } else { &pidfd };
        let fds = [
            (&pidfd, PollFlags::IN),
            (&signals.0, PollFlags::IN),
            (start, PollFlags::IN),
        ];
        let events = poll_all(&fds).map_err(jail("wait"))?;
        let [ended, signalled, ready] = events[..] else {
            continue;
        };
        if plan.daemonize && ready.contains(PollFlags::IN) {
            return Ok(0);
        }
        if !ended.is_empty() {
            break;
        }
        if !signalled.is_empty() {
            while let Some(signal) = signals.next() {
                forward(&pidfd, signal);
            }
        }
    }
    let status = reap(keeper).map_err(jail("wait"))?;
    if let Some(signal) = status.terminating_signal() {
        // The program has been killed with it, and is our child now.
        while reap(-1).is_ok() {}
        if root::claim(plan).is_ok() {
            if let Some(cgroup) = &plan.cgroup {
                groups::remove(cgroup);
            }
            root::remove(plan);
        }
        let text = format!(
            "{}: the jailer was killed by {}",
            plan.id,
            signal_name(signal)
        );
        return Err(Error::Jail(text));
    }
    Ok(status.exit_status().map_or(exit::JAIL, |code| code as u8))
}

fn forward(pidfd: &OwnedFd, signal: libc::c_int) {
    // SAFETY: a plain system call on an open descriptor; whoever it is for may
    // have ended.
    unsafe {
        let none = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        );
    }
}

fn reap(pid: i32) -> io::Result<WaitStatus> {
    loop {
        // Any child, if the number is none.
        let pid = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw);
        match waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn signal_name(signal: libc::c_int) -> String {
    let names = [
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGXFSZ, "SIGXFSZ"),
    ];
    let found = names.iter().find(|(number, _)| *number == signal);
    found.map_or_else(
        || format!("signal {signal}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Which thread made which system call, if the kernel's log may be read. The
/// record comes there a moment after the end.
fn refused_call(pid: i32) -> Option<String> {
    for _ in 0..50 {
        if let Some(found) = kernel_log()?
            .lines()
            .rev()
            .find_map(|line| refusal(line, pid))
        {
            return Some(found);
        }
        sleep(Duration::from_millis(4));
    }
    None
}

fn kernel_log() -> Option<String> {
    let mut options = std::fs::OpenOptions::new();
    let mut log: File = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .ok()?;
    let mut text = String::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(len) => text += &String::from_utf8_lossy(record.get(..len).unwrap_or_default()),
            // Overwritten meanwhile: go on with the next.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    Some(text)
}

/// Reads an audit record of seccomp (type 1326).
fn refusal(line: &str, pid: i32) -> Option<String> {
    if !line.contains("type=1326 ") {
        return None;
    }
    let value = |key: &str| {
        let mut words = line.split([' ', ';']);
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    if value("pid")?.parse() != Ok(pid) {
        return None;
    }
    let call = value("syscall")?.parse().ok()?;
    let thread = value("comm")?.trim_matches('"');
    Some(format!(
        "thread {thread}, system call {}",
        syscalls::name(call)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_read_from_the_log() {
        let line = "5,12,345,-;audit: type=1326 audit(1.2:3): auid=1 uid=9 gid=9 ses=1 pid=77 \
                    comm=\"vcpu0\" exe=\"/mote\" sig=31 arch=c000003e syscall=41 compat=0 ip=0x1 \
                    code=0x80000000";
        let want = "thread vcpu0, system call socket";
        assert_eq!(refusal(line, 77).as_deref(), Some(want));
        assert_eq!(refusal(line, 7), None);
        assert_eq!(refusal("type=1327 pid=77", 77), None);
    }
}
