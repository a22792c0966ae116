//! Where a test hangs: it says so when a wait is in vain, and when the test
//! runner ends it (SIGTERM).

use std::ffi::c_int;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::IntoRawFd as _;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// Writing end of the pipe that wakes the thread which tells.
static TELL: AtomicI32 = AtomicI32::new(-1);

/// From now on the runner's SIGTERM makes this process say where its threads
/// and its children are.
///
/// # Panics
/// There are no descriptors left.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (mut told, tell) = io::pipe().unwrap();
        TELL.store(tell.into_raw_fd(), Ordering::Release);
        for (signal, handler) in
            [(libc::SIGTERM, end as extern "C" fn(c_int)), (libc::SIGUSR2, trace)]
        {
            // SAFETY: one handler only writes to a pipe; the other runs when
            // the process ends anyway.
            unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
        }
        thread::spawn(move || {
            let _ = told.read(&mut [0]);
            eprintln!("ended from outside; where it was:\n{}", state());
            trace_all();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(128 + libc::SIGTERM) }
        });
    });
}

extern "C" fn end(_: c_int) {
    // SAFETY: write(2) may be called in a signal handler, with a live byte.
    unsafe { libc::write(TELL.load(Ordering::Acquire), [0u8].as_ptr().cast(), 1) };
}

extern "C" fn trace(_: c_int) {
    let name = thread::current().name().unwrap_or("?").to_owned();
    let trace = std::backtrace::Backtrace::force_capture();
    eprintln!("thread {name}:\n{trace}");
}

/// Has each thread print how it got to where it is.
fn trace_all() {
    let own = own_thread();
    for task in tasks(std::process::id()) {
        if task != own {
            // SAFETY: a plain system call; the handler is in place.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), task, libc::SIGUSR2) };
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn own_thread() -> u32 {
    // SAFETY: asks for the number of the calling thread.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// What the children of this process are at, and theirs: each thread with its
/// name, state, system call and the kernel's functions that it waits in.
#[must_use]
pub fn state() -> String {
    let mut text = String::new();
    let mut left = vec![std::process::id()];
    while let Some(pid) = left.pop() {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let _ = writeln!(text, "{pid}: {command}");
        for task in tasks(pid) {
            let folder = format!("/proc/{pid}/task/{task}");
            let file = |name| fs::read_to_string(Path::new(&folder).join(name)).unwrap_or_default();
            let state = file("status");
            let state = state.lines().find(|line| line.starts_with("State:"));
            let stack = file("stack");
            let stack = stack.lines().filter_map(|line| line.split(' ').nth(1));
            let stack: Vec<&str> = stack.take(4).collect();
            let call = file("syscall");
            let call = call.split(' ').next().unwrap_or_default().trim();
            let (name, state) = (file("comm"), state.unwrap_or_default());
            let _ = writeln!(text, "  {} {state} call {call} in {}", name.trim(), stack.join(" "));
            let children = file("children");
            left.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    text
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.collect()
}
