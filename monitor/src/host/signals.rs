//! Signals that end the VM, and the one that says a mapped file has shrunk.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

use super::console;
use crate::error::{Error, exit};

/// The signal that asked for the end; 0 while there was none.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// The main thread's wake-up descriptor.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// The exit code with which another thread gave up; 0 while none did.
static GIVEN_UP: AtomicI32 = AtomicI32::new(0);
/// Handle of the main thread.
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// A stop was requested, and the process continued after one.
static STOP: AtomicBool = AtomicBool::new(false);
/// Number of this process, which is not asked for any more when it is confined.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// See [`STOP`].
static CONTINUED: AtomicBool = AtomicBool::new(false);

extern "C" fn asked(signal: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    ASKED.store(signal, Ordering::Release);
    wake();
}

extern "C" fn moved(signal: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let what = match signal {
        libc::SIGTSTP => &STOP,
        _ => &CONTINUED,
    };
    what.store(true, Ordering::Release);
    wake();
}

/// A fault of ours: the terminal is given back at least.
extern "C" fn failed(signal: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Signals have numbers up to 64.
    give_up(exit::SIGNAL + signal as u8);
}

/// Wakes the main thread; may be called in a signal handler.
fn wake() {
    let (fd, one): (RawFd, u64) = (WAKE.load(Ordering::Acquire), 1);
    // SAFETY: write(2) may be called in a signal handler; the bytes are those
    // of a live local, and an eventfd takes eight of them. `errno` is put back.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(fd, (&raw const one).cast(), 8);
        *libc::__errno_location() = errno;
    }
}

/// A load from a mapped file behind its new end. Only guest memory is mapped
/// from files, so this is a guest's buffer in a kernel or initrd that was
/// truncated on the host.
extern "C" fn shrunk(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    console::say("mote: guest memory is gone: was the kernel or initrd file cut short?\n");
    give_up(exit::KVM);
}

/// Ends the process with `code` and the terminal as it was, from any thread at
/// any point, also from a signal's handler. Only the main thread may do that:
/// others tell it to, and see to it that the process ends if it cannot.
pub fn give_up(code: u8) -> ! {
    /// How long the main thread may take.
    const TIMEOUT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
    // SAFETY: asks for the calling thread's handle.
    let own = unsafe { libc::pthread_self() };
    if MAIN.load(Ordering::Acquire) != own as usize {
        let _ = GIVEN_UP.compare_exchange(0, code.into(), Ordering::AcqRel, Ordering::Acquire);
        wake();
        let _ = poll(&mut [], Some(&TIMEOUT));
    }
    console::restore();
    // SAFETY: ends the process at once. A confined thread that is not the main
    // one is killed for it, with the rest of the process.
    unsafe { libc::_exit(code.into()) }
}

/// Ends the process if another thread has [given up](give_up).
pub fn follow() {
    if let Ok(code @ 1..) = u8::try_from(GIVEN_UP.load(Ordering::Acquire)) {
        give_up(code);
    }
}

/// Keeps all signals but those of faults, and `but`, from the calling thread:
/// the main thread handles them, and has what their handlers need.
pub fn leave_to_main(but: Option<c_int>) {
    let faults = [
        libc::SIGBUS,
        libc::SIGSEGV,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGSYS,
        libc::SIGTRAP,
        libc::SIGABRT,
    ];
    // SAFETY: the set is a live local, filled before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for signal in faults.into_iter().chain(but) {
            libc::sigdelset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Says that the calling thread is the main one.
pub fn this_is_main() {
    // SAFETY: asks for the calling thread's handle.
    let own = unsafe { libc::pthread_self() };
    MAIN.store(own as usize, Ordering::Release);
}

/// Catches SIGTERM, SIGINT and SIGHUP, which from now on wake the main thread,
/// and SIGBUS, which ends the process with a word. What the caller had ignored
/// (`nohup`) stays so.
///
/// # Errors
/// The system refuses.
pub fn catch(wake: &EventFd) -> Result<(), Error> {
    WAKE.store(wake.as_raw_fd(), Ordering::Release);
    handle(libc::SIGTERM, asked)?;
    for signal in [libc::SIGINT, libc::SIGHUP] {
        if disposition(signal) != libc::SIG_IGN {
            handle(signal, asked)?;
        }
    }
    handle(libc::SIGBUS, shrunk)
}

/// Catches all others that end or stop a process and can be caught, where there is
/// a terminal to give back before.
///
/// # Errors
/// The system refuses.
pub fn catch_on_terminal() -> Result<(), Error> {
    const FAULTS: [c_int; 6] =
        [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];
    const ENDS: [c_int; 10] = [
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGXCPU,
    ];
    PROCESS.store(rustix::process::getpid().as_raw_nonzero().get(), Ordering::Release);
    let ends = ENDS.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    for signal in ends.chain(FAULTS) {
        // Neither ignored signals nor the one that kicks vCPUs.
        if disposition(signal) == libc::SIG_DFL {
            let fault = FAULTS.contains(&signal);
            handle(signal, if fault { failed } else { asked })?;
        }
    }
    handle(libc::SIGTSTP, moved)?;
    handle(libc::SIGCONT, moved)
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(signal: c_int, handler: Handler) -> Result<(), Error> {
    register_signal_handler(signal, handler)
        .map_err(|e| Error::System("signal handler", io::Error::from_raw_os_error(e.errno())))
}

/// What happens at a signal now.
fn disposition(signal: c_int) -> libc::sighandler_t {
    // SAFETY: plain data, for which zeroes are a value.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks, and fills a live local.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) };
    now.sa_sigaction
}

/// Whether a stop was asked for since this was last called.
pub fn take_stop() -> bool {
    STOP.swap(false, Ordering::AcqRel)
}

/// Whether the process was continued since this was last called.
pub fn take_continued() -> bool {
    CONTINUED.swap(false, Ordering::AcqRel)
}

/// Stops the process as SIGTSTP would if it were not caught: a job that no shell
/// could continue keeps running. The kernel's word for that is any of these signals.
pub fn stop() {
    let own = PROCESS.load(Ordering::Acquire);
    // SAFETY: a plain system call; this is the main thread, whose number is the
    // process's.
    unsafe { libc::syscall(libc::SYS_tgkill, own, own, libc::SIGTTIN) };
    CONTINUED.store(true, Ordering::Release);
}

/// Whether a signal asked for the end and was not [taken](take) yet.
pub fn received() -> bool {
    ASKED.load(Ordering::Acquire) > 0
}

/// Calls `wait`, with how long it may take, until it returns true; false once it is
/// `until`, or when a signal asks for the end.
pub fn wait_until(until: Instant, mut wait: impl FnMut(Duration) -> bool) -> bool {
    /// How often it looks for a signal.
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if wait(left.min(LOOK)) {
            return true;
        }
        if left.is_zero() || received() {
            return false;
        }
    }
}

/// The signal that asked for the end, if one did since this was last called.
pub fn take() -> Option<u8> {
    u8::try_from(ASKED.swap(0, Ordering::AcqRel)).ok().filter(|signal| *signal > 0)
}
