//! What flags' values can be, for all commands.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::ValueExt as _;

use crate::config::{self, Mode, OnReset, Policy};
use crate::error::Error;

/// What a command's arguments ask for.
pub enum Asked<T> {
    /// A text: help, or the version.
    Text(&'static str),
    /// What the command does.
    For(T),
}

/// The longest time for a guest to shut down, in seconds.
pub(crate) const MAX_GRACE: u64 = 86_400;

pub(crate) fn policy(
    off: bool,
    seccomp: Option<Mode>,
    landlock: Option<u32>,
) -> Result<Policy, Error> {
    let mode = match (off, seccomp) {
        (false, mode) => mode.unwrap_or_default(),
        (true, None) if landlock.is_none() => Mode::Off,
        (true, _) => {
            let why = "--no-sandbox cannot be combined with --seccomp or --require-landlock";
            return Err(Error::Usage(why.to_owned()));
        }
    };
    Ok(Policy { mode, landlock, opens: false })
}

pub(crate) fn seccomp(text: &str) -> Result<Mode, String> {
    match text {
        "kill" => Ok(Mode::Kill),
        "log" => Ok(Mode::Log),
        _ => Err(format!("'{text}' is neither kill nor log")),
    }
}

/// An open descriptor above the standard ones.
pub(crate) fn descriptor(number: u64) -> Result<RawFd, String> {
    let fd = RawFd::try_from(number).ok().filter(|fd| *fd > 2);
    // SAFETY: a plain system call, which fails for what is not open.
    fd.filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0)
        .ok_or_else(|| format!("descriptor {number} is not open, or is a standard one"))
}

pub(crate) fn seconds(count: u64) -> Result<Duration, String> {
    let known = (1..=MAX_GRACE).contains(&count);
    let wrong = || format!("{count}: not 1 to {MAX_GRACE} seconds");
    known.then(|| Duration::from_secs(count)).ok_or_else(wrong)
}

pub(crate) fn landlock(least: u64) -> Result<u32, String> {
    let known = u32::try_from(least).ok().filter(|least| *least > 0);
    known.ok_or_else(|| format!("{least}: Landlock's ABI versions start at 1"))
}

pub(crate) fn on_reset(text: &str) -> Result<OnReset, String> {
    match text {
        "restart" => Ok(OnReset::Restart),
        "exit" => Ok(OnReset::Exit),
        _ => Err(format!("'{text}' is neither restart nor exit")),
    }
}

pub(crate) fn number(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let why = if digits { "too large" } else { "not a number" };
    text.parse().map_err(|_| format!("'{text}' is {why}"))
}

pub(crate) fn path(flag: &str, parser: &mut lexopt::Parser) -> Result<PathBuf, Error> {
    named(flag, config::check_path(parser.value()?))
}

/// A path that is no flag's value.
pub(crate) fn argument(path: std::ffi::OsString) -> Result<PathBuf, Error> {
    config::check_path(path).map_err(Error::Arguments)
}

pub(crate) fn text(parser: &mut lexopt::Parser) -> Result<String, Error> {
    Ok(parser.value()?.string()?)
}

/// Puts the flag's name before what is wrong with its value.
pub(crate) fn named<T>(flag: &str, value: Result<T, String>) -> Result<T, Error> {
    value.map_err(|why| Error::Usage(format!("--{flag}: {why}")))
}

/// Refuses an option that was given before and can be given once.
pub(crate) fn once(seen: &mut Vec<String>, flag: &str) -> Result<(), Error> {
    if seen.iter().any(|earlier| earlier == flag) {
        return Err(Error::Usage(format!("--{flag} is given twice")));
    }
    seen.push(flag.to_owned());
    Ok(())
}

/// `mote --version`.
pub const VERSION: &str = concat!("mote ", env!("CARGO_PKG_VERSION"), "\n");
