//! Signals that end the VM, and the one that says a mapped file has shrunk.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::raw::c_int;
use std::sync::atomic::{AtomicI32, Ordering};

use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::register_signal_handler;

use crate::console;
use crate::error::{Error, exit};

/// The signal that asked for the end; 0 while there was none.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// The main thread's wake-up descriptor.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn asked(signal: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    ASKED.store(signal, Ordering::Release);
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
/// from files, so this is a guest's buffer in a kernel or initrd that somebody
/// has cut short on the host.
extern "C" fn shrunk(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    const TEXT: &[u8] = b"mote: guest memory is gone: was the kernel or initrd file cut short?\n";
    console::restore();
    let mut stderr = libc::pollfd {
        fd: 2,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: poll, write and _exit may be called in a signal handler; the
    // pointers are to live data. A full stderr must not hang us, hence poll.
    unsafe {
        if libc::poll(&raw mut stderr, 1, 0) == 1 {
            libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
        }
        libc::_exit(c_int::from(exit::KVM))
    }
}

/// Catches SIGTERM, SIGINT and SIGHUP, which from now on wake the main thread,
/// and SIGBUS, which ends the process with a word.
///
/// # Errors
/// The system refuses.
pub fn catch(wake: &EventFd) -> Result<(), Error> {
    WAKE.store(wake.as_raw_fd(), Ordering::Release);
    let failed = |e: vmm_sys_util::errno::Error| {
        Error::System("signal handler", io::Error::from_raw_os_error(e.errno()))
    };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        register_signal_handler(signal, asked).map_err(failed)?;
    }
    register_signal_handler(libc::SIGBUS, shrunk).map_err(failed)
}

/// The signal that asked for the end, if one did.
pub fn received() -> Option<u8> {
    u8::try_from(ASKED.load(Ordering::Acquire))
        .ok()
        .filter(|signal| *signal > 0)
}
