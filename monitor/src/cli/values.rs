//! What flags' values can be.

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::api::log::Level;
use crate::config::{self, BootFrom, Until};

/// The longest time for a guest to shut down, in seconds.
const MAX_SECONDS: u64 = 86_400;
/// The longest name of a boot entry, in bytes.
const MAX_ENTRY: usize = 512;
/// The longest name of a VM.
const MAX_ID: usize = 64;

pub(super) fn text(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| format!("{value:?} is not UTF-8"))
}

pub(super) fn path(value: &OsStr) -> Result<PathBuf, String> {
    config::check_path(value)
}

pub(super) fn socket(value: &OsStr) -> Result<PathBuf, String> {
    config::check_socket(value)
}

pub(super) fn number(value: &OsStr) -> Result<u64, String> {
    let text = text(value)?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let why = if digits { "too large" } else { "not a number" };
    text.parse().map_err(|_| format!("'{text}' is {why}"))
}

/// One of a few words, and what it stands for.
pub(super) fn word<T: Copy>(value: &OsStr, words: &[(&str, T)]) -> Result<T, String> {
    let text = text(value)?;
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        match names.as_slice() {
            [one, other] => format!("'{text}' is neither {one} nor {other}"),
            names => format!("'{text}' is not one of {}", names.join(", ")),
        }
    })
}

/// An open descriptor above the standard ones.
pub(super) fn descriptor(value: &OsStr) -> Result<RawFd, String> {
    let number = number(value)?;
    let fd = RawFd::try_from(number).ok().filter(|fd| *fd > 2);
    // SAFETY: a plain system call, which fails for a closed descriptor.
    fd.filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0)
        .ok_or_else(|| format!("descriptor {number} is not open, or is a standard one"))
}

pub(super) fn seconds(value: &OsStr) -> Result<Duration, String> {
    let count = number(value)?;
    let known = (1..=MAX_SECONDS).contains(&count);
    let wrong = || format!("{count}: not 1 to {MAX_SECONDS} seconds");
    known.then(|| Duration::from_secs(count)).ok_or_else(wrong)
}

pub(super) fn landlock(value: &OsStr) -> Result<u32, String> {
    let least = number(value)?;
    let known = u32::try_from(least).ok().filter(|least| *least > 0);
    known.ok_or_else(|| format!("{least}: Landlock's ABI versions start at 1"))
}

pub(super) fn boot_from(value: &OsStr) -> Result<BootFrom, String> {
    Ok(match text(value)? {
        "cdrom" => BootFrom::CdRom,
        "disk" => BootFrom::Disk,
        id => BootFrom::Drive(id.to_owned()),
    })
}

/// The name of a boot entry, which is passed on as a line of text.
pub(super) fn boot_entry(value: &OsStr) -> Result<String, String> {
    let name = text(value)?;
    if name.trim().is_empty() || name.len() > MAX_ENTRY || name.chars().any(char::is_control) {
        let shown = name.escape_default();
        return Err(format!("'{shown}' is not a number or title of at most {MAX_ENTRY} bytes"));
    }
    Ok(name.to_owned())
}

pub(super) fn until(value: &OsStr) -> Result<Until, String> {
    let text = text(value)?;
    let wrong = || format!("'{text}' is neither marker nor seconds, such as 2 or 0.5");
    if text == "marker" {
        return Ok(Until::Marker);
    }
    let seconds = text.parse::<f64>().map_err(|_| wrong())?;
    let known = seconds > 0.0 && seconds <= MAX_SECONDS as f64;
    known.then(|| Until::Passed(Duration::from_secs_f64(seconds))).ok_or_else(wrong)
}

/// The name of a VM of the API.
pub(super) fn id(value: &OsStr) -> Result<String, String> {
    let id = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match (1..=MAX_ID).contains(&id.len()) && id.chars().all(plain) {
        true => Ok(id.to_owned()),
        false => Err("1 to 64 letters, digits and '-'".to_owned()),
    }
}

/// Permissions of a socket.
pub(super) fn mode(value: &OsStr) -> Result<u32, String> {
    let text = text(value)?;
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| mode & !0o666 == 0)
        .ok_or_else(|| format!("'{text}' is not 600, 660 or 666, or less"))
}

pub(super) fn level(value: &OsStr) -> Result<String, String> {
    let name = text(value)?;
    Level::parse(name).map(|_| name.to_owned())
}
