//! What the new process does, step by step, until it is the program.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, SealFlags, fstat, openat};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::thread::UnshareFlags;

use crate::credentials;
use crate::descriptors;
use crate::error::{Error, input, jail};
use crate::namespaces;
use crate::plan::{Plan, Slot};
use crate::root::{self, Identity};

/// Says that the user namespace wants its user and group.
pub const MAP: u8 = b'm';
/// Says that the jail cannot be made; exit code and text follow.
pub const FAILED: u8 = b'e';
/// The jailer's permission to continue.
pub const GO: u8 = b'g';

/// Becomes the program; on the way, what went wrong goes to the jailer through
/// `link`. The descriptors are the program's table.
pub fn run(plan: &Plan, made: Option<Identity>, table: Vec<OwnedFd>, link: &OwnedFd) -> ! {
    let error = match prepare(plan, made, table, link) {
        Ok((program, link)) => {
            let error = Error::Input(execute(plan, program));
            // SAFETY: `prepare` has put it there, open until execution.
            report(unsafe { BorrowedFd::borrow_raw(link) }, &error);
            error
        }
        Err(error) => {
            report(link.as_fd(), &error);
            error
        }
    };
    // SAFETY: ends this process at once, as there is nothing here to tidy up.
    unsafe { libc::_exit(error.exit_code().into()) }
}

fn report(link: BorrowedFd<'_>, error: &Error) {
    let mut message = vec![FAILED, error.exit_code()];
    message.extend(error.to_string().bytes());
    // Fails only if the jailer has ended.
    let _ = send(link, &message, SendFlags::NOSIGNAL);
}

/// All steps but the last; returns the program's and the link's descriptors.
fn prepare(
    plan: &Plan,
    made: Option<Identity>,
    table: Vec<OwnedFd>,
    link: &OwnedFd,
) -> Result<(RawFd, RawFd), Error> {
    // For files made here; a caller's narrower mask is restored at the end.
    let mask = rustix::process::umask(Mode::from_raw_mode(0o022));
    let terminal = plan.table.iter().position(|slot| *slot == Slot::Terminal);
    credentials::leave_session(terminal.and_then(|at| table.get(at)))?;
    wait(link)?;
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = "/proc/sys/user";
    let sysctl = openat(CWD, name, path, Mode::empty())
        .map_err(|error| jail(namespaces::no_proc(name, &error.into()))(error))?;
    namespaces::leave(UnshareFlags::NEWCGROUP)?;
    rustix::system::sethostname(b"mote").map_err(jail("host name"))?;
    let program = program(plan)?;
    root::enter(plan, made)?;
    credentials::limit(plan)?;
    if plan.privileged {
        credentials::forget_groups()?;
        namespaces::leave(UnshareFlags::NEWUSER)?;
        send(link, &[MAP], SendFlags::NOSIGNAL).map_err(jail("jailer"))?;
        wait(link)?;
    }
    namespaces::shut_nested(&sysctl)?;
    drop(sysctl);
    credentials::drop_privileges(plan)?;
    credentials::die_with_jailer()?;
    let mut gone = [PollFd::new(link, PollFlags::empty())];
    poll(&mut gone, Some(&Timespec::default())).map_err(jail("jailer"))?;
    if gone.iter().any(|link| !link.revents().is_empty()) {
        return Err(Error::Jail("the jailer is gone".to_owned()));
    }
    rustix::process::umask(mask | Mode::from_raw_mode(0o022));
    let placed = descriptors::place(table, program, link)?;
    credentials::limit_descriptors(plan)?;
    Ok(placed)
}

/// Waits for the jailer's permission.
fn wait(link: &OwnedFd) -> Result<(), Error> {
    let mut word = [0; 1];
    match recv(link, &mut word, RecvFlags::empty()) {
        Ok((1, _)) if word == [GO] => Ok(()),
        _ => Err(Error::Jail("the jailer is gone".to_owned())),
    }
}

/// Opens the program, or makes a sealed copy of it.
fn program(plan: &Plan) -> Result<OwnedFd, Error> {
    let what = || format!("--exec-file {}", plan.args.exec.display());
    let flags = if plan.args.copy { OFlags::RDONLY | OFlags::NONBLOCK } else { OFlags::PATH };
    let file = openat(CWD, &plan.args.exec, flags | OFlags::CLOEXEC, Mode::empty());
    let file = file.map_err(input(what()))?;
    let stat = fstat(&file).map_err(input(what()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::Input(format!("{}: not a regular file", what())));
    }
    if !plan.args.copy {
        return Ok(file);
    }
    let copy = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("program", flags)?;
        let mut target = File::from(memory);
        io::copy(&mut File::from(file), &mut target)?;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(0o555))?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&target, seals)?;
        Ok::<_, io::Error>(target.into())
    };
    copy().map_err(input(what()))
}

/// Executes the program; returns why that was not possible.
fn execute(plan: &Plan, program: RawFd) -> String {
    let word = |word: &OsStr| CString::new(word.as_bytes()).unwrap_or_default();
    let words: Vec<CString> = plan.argv.iter().map(|arg| word(arg)).collect();
    let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    credentials::reset_process();
    // SAFETY: C strings, and arrays of C strings that end in a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            argv.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    let error = io::Error::last_os_error();
    let why = match error.raw_os_error() {
        Some(libc::ENOENT) => "not a static program: what runs it is not in the jail".to_owned(),
        Some(libc::EACCES) => format!(
            "user {} may not execute it: look at its mode, and for noexec where it is mounted",
            plan.uid
        ),
        Some(libc::ENOEXEC) => "not a program of this machine".to_owned(),
        _ => crate::error::message(&error),
    };
    format!("--exec-file {}: {why}", plan.args.exec.display())
}
