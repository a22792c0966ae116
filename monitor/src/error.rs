//! What can go wrong, in one readable line, and the exit code that says so.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Exit codes of the `mote` process. They are part of the interface.
pub mod exit {
    /// The guest powered itself off, or the user left the console.
    pub const OK: u8 = 0;
    /// Mote itself failed in a way that is not the caller's fault.
    pub const INTERNAL: u8 = 1;
    /// A flag, a size or the config file is wrong.
    pub const USAGE: u8 = 2;
    /// A kernel, initrd or image file is missing or not what it should be.
    pub const INPUT: u8 = 3;
    /// The host lacks something: KVM, a capability, memory, permission.
    pub const HOST: u8 = 4;
    /// The guest crashed: a triple fault.
    pub const GUEST_CRASH: u8 = 5;
    /// KVM could not continue running the guest.
    pub const KVM: u8 = 6;
    /// The guest reset itself and `--on-reset exit` was given.
    pub const RESET: u8 = 7;
    /// There was no kernel, and no drive to boot from.
    pub const NOTHING_TO_BOOT: u8 = 8;
    /// `mote doctor` found something weak, or could not tell.
    pub const WEAK: u8 = 9;
    /// The guest ended before the snapshot that was asked for.
    pub const UNSAVED: u8 = 10;
    /// Added to the number of the signal that ended Mote (SIGTERM: 143).
    pub const SIGNAL: u8 = 128;
}

/// An error of the monitor: the operation, the object and the cause.
#[derive(Debug)]
pub enum Error {
    /// A flag is missing, unknown or has a value that cannot be used.
    Usage(String),
    /// Arguments do not parse; the command line's parser adds which help to read.
    Arguments(String),
    /// The config file says something that cannot be used; the second field
    /// names the key's path inside it.
    Config(PathBuf, String, String),
    /// A file that was named cannot be used; the first field says what it was
    /// meant to be.
    Input(&'static str, PathBuf, String),
    /// A VM that was asked something will not or cannot do it.
    Refused(String),
    /// The host lacks something.
    Host(String),
    /// A KVM call failed; the first field names the operation.
    Kvm(&'static str, io::Error),
    /// An operation of the operating system failed.
    System(&'static str, io::Error),
    /// A snapshot cannot be used, or does not match this VM or host.
    Snapshot(String),
    /// The guest ended before it was saved to this directory.
    Unsaved(PathBuf),
    /// The guest triple-faulted; the field is the vCPU.
    TripleFault(usize),
    /// KVM gave up running the guest.
    Stopped(String),
}

impl Error {
    /// A file that could not be opened, read or written.
    pub fn file(what: &'static str, path: &Path, cause: &io::Error) -> Self {
        Self::Input(what, path.to_path_buf(), os_message(cause))
    }

    /// The exit code that tells this error to a caller.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Arguments(_) | Self::Config(..) => exit::USAGE,
            Self::Input(..) | Self::Snapshot(_) => exit::INPUT,
            Self::Host(_) | Self::Kvm(..) => exit::HOST,
            Self::Unsaved(_) => exit::UNSAVED,
            Self::System(_, cause) if limit(cause).is_some() => exit::HOST,
            Self::System(..) | Self::Refused(_) => exit::INTERNAL,
            Self::TripleFault(_) => exit::GUEST_CRASH,
            Self::Stopped(_) => exit::KVM,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why)
            | Self::Arguments(why)
            | Self::Host(why)
            | Self::Stopped(why)
            | Self::Refused(why) => f.write_str(why),
            Self::Config(file, path, why) if path.is_empty() || path == "." => {
                write!(f, "config {}: {why}", file.display())
            }
            Self::Config(file, path, why) => write!(f, "config {}: {path}: {why}", file.display()),
            Self::Input(what, path, why) => write!(f, "{what} {}: {why}", path.display()),
            Self::Kvm(operation, cause) => write!(f, "KVM: {operation}: {}", os_message(cause)),
            Self::System(operation, cause) => write!(f, "{operation}: {}", os_message(cause)),
            Self::Snapshot(why) => write!(f, "snapshot: {why}"),
            Self::Unsaved(to) => write!(
                f,
                "snapshot {}: not taken: the guest ended before it wrote the boot marker",
                to.display()
            ),
            Self::TripleFault(cpu) => {
                write!(f, "the guest crashed: triple fault on vCPU {cpu}")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<lexopt::Error> for Error {
    fn from(error: lexopt::Error) -> Self {
        Self::Arguments(error.to_string())
    }
}

/// An `io::Error` as people write it: no "(os error 2)" behind it.
pub fn os_message(error: &io::Error) -> String {
    if let Some(limit) = limit(error) {
        return limit.to_owned();
    }
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // "No such file" mid-sentence, but keep "I/O error".
        Some(first) if letters.clone().next().is_some_and(|c| c.is_lowercase()) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// Whether a character of somebody's says nothing to a terminal: it is no control
/// character, and does not turn the direction of the text.
pub fn is_shown(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
}

/// Text of somebody else's, for a terminal or for JSON: what would not be
/// [shown](is_shown) is written as JSON writes it.
pub fn printable(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        match is_shown(c) {
            true => all.push(c),
            false => all.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    all
}

/// Which limit was met, in the place of what an inner step says of it.
fn limit(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("too many open files for RLIMIT_NOFILE"),
        libc::EFBIG => Some("larger than RLIMIT_FSIZE or the file system allows"),
        libc::ENOMEM => Some("not enough memory, or RLIMIT_AS or RLIMIT_DATA is too low"),
        _ => None,
    }
}

/// A thread that cannot be started.
pub fn no_thread(what: &'static str, cause: io::Error) -> Error {
    match cause.raw_os_error() {
        Some(libc::EAGAIN) => Error::Host(format!(
            "{what}: too many threads for RLIMIT_NPROC or pids.max, or too little memory"
        )),
        _ => Error::System(what, cause),
    }
}

/// Turns an error of kvm-ioctls into one that names the operation.
pub fn kvm(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm(operation, io::Error::from_raw_os_error(error.errno()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_plain_line() {
        let missing = io::Error::from_raw_os_error(libc::ENOENT);
        let error = Error::file("kernel", Path::new("vm"), &missing);
        assert_eq!(error.to_string(), "kernel vm: no such file or directory");
        assert_eq!(error.exit_code(), exit::INPUT);
    }
}
