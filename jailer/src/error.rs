//! What can go wrong, in one readable line, and the exit code that says so.

use std::fmt;
use std::io;

/// Exit codes of the jailer's own. They are part of the interface, and none
/// that a monitor ends with: those are passed through.
pub mod exit {
    /// A flag is wrong.
    pub const USAGE: u8 = 124;
    /// The jail could not be made; nothing was run.
    pub const JAIL: u8 = 125;
    /// The program or a file that it was to get cannot be used.
    pub const INPUT: u8 = 126;
    /// The id is taken by a jail that is still there.
    pub const IN_USE: u8 = 123;
    /// Added to the number of the signal that killed the program.
    pub const SIGNAL: u8 = 128;
}

/// An error of the jailer: the operation, the object and the cause.
#[derive(Debug)]
pub enum Error {
    /// A flag is missing, unknown or has a value that cannot be used.
    Usage(String),
    /// A file cannot be used.
    Input(String),
    /// Another jail has this id.
    InUse(String),
    /// A step of making the jail failed.
    Jail(String),
}

impl Error {
    /// The exit code that tells this error to a caller.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Input(_) => exit::INPUT,
            Self::InUse(_) => exit::IN_USE,
            Self::Jail(_) => exit::JAIL,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(why) | Self::Input(why) | Self::InUse(why) | Self::Jail(why)) = self;
        // One line, whatever the names in it hold.
        why.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => write!(f, "{c}"),
        })
    }
}

impl std::error::Error for Error {}

/// Turns a failed operation of the system into an error that names it.
pub fn jail<E: Into<io::Error>>(what: impl fmt::Display) -> impl FnOnce(E) -> Error {
    move |cause| Error::Jail(format!("{what}: {}", message(&cause.into())))
}

/// The same for a file that the caller named.
pub fn input<E: Into<io::Error>>(what: impl fmt::Display) -> impl FnOnce(E) -> Error {
    move |cause| Error::Input(format!("{what}: {}", message(&cause.into())))
}

/// An `io::Error` as people write it: no "(os error 2)" behind it.
pub fn message(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // "No such file" mid-sentence, but keep "I/O error".
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}
