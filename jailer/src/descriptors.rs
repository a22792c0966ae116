//! The fixed table of descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::args::PassedFd;
use crate::error::{Error, input, jail};
use crate::plan::Slot;

/// Opens what the table wants, in its order. `ready` is the writing end of the
/// pipe to say ready on, `terminal` the jail's own.
///
/// # Errors
/// A tap or a device cannot be opened, or a descriptor was not passed in.
pub fn open(
    table: &[Slot],
    ready: BorrowedFd<'_>,
    terminal: Option<&OwnedFd>,
) -> Result<Vec<OwnedFd>, Error> {
    let mut all = Vec::with_capacity(table.len());
    for (number, slot) in table.iter().enumerate() {
        let fd = match slot {
            Slot::Standard => duplicate(number as RawFd).or_else(|_| device("/dev/null"))?,
            Slot::Terminal => {
                let own = terminal.ok_or(rustix::io::Errno::NOTTY);
                own.map_err(io::Error::from)
                    .and_then(OwnedFd::try_clone)
                    .map_err(jail("terminal"))?
            }
            Slot::Null => device("/dev/null")?,
            Slot::Ready => ready.try_clone_to_owned().map_err(jail("descriptors"))?,
            Slot::Passed(PassedFd::Tap(name)) => tap(name)?,
            Slot::Passed(PassedFd::Inherited(fd)) => callers("--pass-fd", *fd)?,
            Slot::Kvm => device("/dev/kvm")?,
        };
        all.push(fd);
    }
    Ok(all)
}

/// Gives the descriptors the numbers from 0 up, the program and the pipe for
/// errors the next two, and closes all others. The two are closed by execution.
///
/// # Errors
/// There are more than may be open.
pub fn place(
    all: Vec<OwnedFd>,
    program: OwnedFd,
    errors: &OwnedFd,
) -> Result<(RawFd, RawFd), Error> {
    let count = all.len() as RawFd;
    let mut sources: Vec<(RawFd, bool)> = Vec::with_capacity(all.len() + 2);
    // Out of the way of the numbers that will be written over. Nothing here is
    // closed by its owner any more, but by number at the end.
    let ending = [(program.as_fd(), true), (errors.as_fd(), true)];
    let kept = all.iter().map(|fd| (fd.as_fd(), false));
    for (fd, close) in kept.chain(ending) {
        let away = rustix::io::fcntl_dupfd_cloexec(fd, count + 2).map_err(jail("descriptors"))?;
        sources.push((std::os::fd::IntoRawFd::into_raw_fd(away), close));
    }
    all.into_iter().for_each(std::mem::forget);
    std::mem::forget(program);
    for (target, (source, close)) in sources.into_iter().enumerate() {
        let flags = if close { libc::O_CLOEXEC } else { 0 };
        // SAFETY: plain system calls on numbers that this function alone knows,
        // all sources being above all targets.
        if unsafe { libc::dup3(source, target as RawFd, flags) } < 0 {
            return Err(jail("descriptors")(io::Error::last_os_error()));
        }
    }
    // Nothing but execution follows.
    close_range((count + 2).cast_unsigned(), u32::MAX).map_err(jail("descriptors"))?;
    Ok((count, count + 1))
}

/// Opens /dev/null as each standard descriptor of the jailer that is closed, so
/// that no other file gets its number.
pub fn fill_standard() {
    while let Ok(fd) = device("/dev/null") {
        if fd.as_raw_fd() > 2 {
            break;
        }
        std::mem::forget(fd);
    }
}

/// Closes every descriptor above standard error but these: the others are the
/// caller's. No descriptor but `kept` may be used afterwards.
///
/// # Errors
/// The system refuses.
pub fn close_but(kept: &[&OwnedFd]) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.push(u32::MAX);
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if first < number {
            close_range(first, number - 1)?;
        }
        first = number.saturating_add(1);
    }
    Ok(())
}

/// Puts this process's standard descriptors on /dev/null.
pub fn standard_to_null() {
    if let Ok(null) = device("/dev/null") {
        let _ = (dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null));
    }
}

/// Closes descriptors by number; none may have an owner that is used again.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: as the callers promise.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A copy of one of the caller's descriptors, which a flag names.
///
/// # Errors
/// It is not open.
pub fn callers(flag: &str, number: RawFd) -> Result<OwnedFd, Error> {
    duplicate(number).map_err(|error| match error.raw_os_error() {
        Some(libc::EBADF) => Error::Input(format!("{flag} {number}: not an open descriptor")),
        _ => input(format!("{flag} {number}"))(error),
    })
}

fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call, which fails if the number is not open.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and owned here alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn device(path: &str) -> Result<OwnedFd, Error> {
    openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(input(path))
}

/// Attaches to a tap that exists.
fn tap(name: &str) -> Result<OwnedFd, Error> {
    let what = || format!("tap {name}");
    // SAFETY: plain integers and an array, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // The kernel would make a missing one, for as long as it is open.
    // SAFETY: the name ends in a zero, as it was checked to be shorter.
    if unsafe { libc::if_nametoindex(request.ifr_name.as_ptr()) } == 0 {
        return Err(Error::Input(format!("tap {name}: no such interface: create it first")));
    }
    let tun = device("/dev/net/tun")?;
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: an open descriptor and a live structure of the kind it wants.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EINVAL) => Error::Input(format!("{}: not a tap", what())),
            Some(libc::EBUSY) => Error::Input(format!("{}: another program has it", what())),
            _ => input(what())(error),
        });
    }
    Ok(tun)
}
