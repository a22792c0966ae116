//! Runs a program and takes the time from its exec to its first byte on stdout
//! and to its end.

use std::ffi::{CString, OsString, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

/// How long a program may be silent before it counts as hanging, in ms.
const TIMEOUT: c_int = 30_000;

/// Microseconds from exec.
#[derive(Clone, Copy)]
pub struct Times {
    /// To the first byte on stdout.
    pub first_byte: f64,
    /// To the end of the process, its resources given back.
    pub exit: f64,
}

/// A started program.
pub struct Program {
    pub pid: libc::pid_t,
    start: libc::timespec,
    output: OwnedFd,
}

/// What the child needs; it shares the parent's memory until it calls exec.
struct Child {
    arguments: Vec<*const libc::c_char>,
    input: c_int,
    output: c_int,
    start: libc::timespec,
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// Starts a program with nothing on stdin.
pub fn spawn(command: &[OsString]) -> io::Result<Program> {
    let strings = command
        .iter()
        .map(|argument| CString::new(argument.clone().into_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut arguments: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
    arguments.push(ptr::null());
    let input = File::open("/dev/null")?;
    let (output, write_end) = pipe()?;
    let mut child = Child {
        arguments,
        input: input.as_raw_fd(),
        output: write_end.as_raw_fd(),
        // SAFETY: an integer pair; all bits zero is a valid value.
        start: unsafe { std::mem::zeroed() },
    };
    let mut stack = vec![0u64; 8192];
    let top = stack.as_mut_ptr_range().end;
    // As vfork: the child runs on its own stack in this memory, and this thread
    // sleeps until it has called exec. So nothing is copied, and the start can
    // be taken immediately before exec.
    // SAFETY: `run` and what it uses outlive the sleep; the stack is aligned
    // (the allocator gives 16 bytes) and large enough for a few system calls.
    let pid = unsafe {
        libc::clone(
            run,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut child).cast(),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // The child wrote it behind the compiler's back.
    // SAFETY: a valid place that the child has stopped using.
    let start = unsafe { (&raw const child.start).read_volatile() };
    Ok(Program { pid, start, output })
}

extern "C" fn run(child: *mut c_void) -> c_int {
    let child: *mut Child = child.cast();
    // SAFETY: `spawn` passes its own Child and sleeps meanwhile; these are
    // system calls that touch nothing of the shared memory but `start`.
    unsafe {
        libc::dup2((*child).input, 0);
        libc::dup2((*child).output, 1);
        let arguments = (*child).arguments.as_ptr();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut (*child).start);
        libc::execve(*arguments, arguments, environ);
        libc::_exit(127)
    }
}

impl Program {
    /// Waits for some output; `None` at its end.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let mut ready =
            libc::pollfd { fd: self.output.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&raw mut ready, 1, TIMEOUT) } {
            0 => return Err(io::ErrorKind::TimedOut.into()),
            n if n < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
        let mut bytes = vec![0; 4096];
        // SAFETY: the buffer has that many bytes.
        let len = unsafe { libc::read(ready.fd, bytes.as_mut_ptr().cast(), bytes.len()) };
        match usize::try_from(len) {
            Err(_) => Err(io::Error::last_os_error()),
            Ok(0) => Ok(None),
            Ok(len) => {
                bytes.truncate(len);
                Ok(Some(bytes))
            }
        }
    }

    /// Ends the program.
    pub fn stop(self) -> io::Result<()> {
        // SAFETY: a child of this process that has not been waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        self.wait().map(|_| ())
    }

    /// Waits for the end; returns the status as of wait(2).
    fn wait(&self) -> io::Result<c_int> {
        let mut status = 0;
        // SAFETY: a child of this process, and a place for its status.
        match unsafe { libc::waitpid(self.pid, &raw mut status, 0) } {
            pid if pid < 0 => Err(io::Error::last_os_error()),
            _ => Ok(status),
        }
    }

    /// Microseconds from exec.
    pub fn since_start(&self) -> f64 {
        // SAFETY: an integer pair; all bits zero is a valid value.
        let mut now: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: a place for the time.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        (now.tv_sec - self.start.tv_sec) as f64 * 1e6
            + (now.tv_nsec - self.start.tv_nsec) as f64 / 1e3
    }

    fn times(&self) -> io::Result<Times> {
        if self.read()?.is_none() {
            return Err(io::Error::other("it printed nothing"));
        }
        let first_byte = self.since_start();
        while self.read()?.is_some() {}
        let status = self.wait()?;
        let exit = self.since_start();
        if status != 0 {
            return Err(io::Error::other(format!("it ended with status {status:#x}")));
        }
        Ok(Times { first_byte, exit })
    }
}

/// Runs a program to its end. It has to print something and end with code 0.
pub fn run_timed(command: &[OsString]) -> io::Result<Times> {
    let program = spawn(command)?;
    program.times().inspect_err(|error| {
        if error.kind() == io::ErrorKind::TimedOut {
            // SAFETY: a child of this process that has not been waited for.
            unsafe { libc::kill(program.pid, libc::SIGKILL) };
        }
    })
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: a place for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let read = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let write = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    Ok((read, write))
}
