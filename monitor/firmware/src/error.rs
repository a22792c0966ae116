//! Why something on a medium cannot be used.

use core::fmt;

/// Why something on a medium cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The drive does not give the sector with this number.
    Drive(u64),
    /// A structure contradicts itself; the text names it.
    Damaged(&'static str),
    /// Something is used that the firmware does not know.
    Unsupported(&'static str),
    /// There is no file system that the firmware knows.
    NoFileSystem,
    /// There is no such file or directory.
    Missing,
    /// Something is larger than the firmware takes; the text names it.
    TooLarge(&'static str),
    /// There is not so much room for it in memory, in bytes.
    NoRoom(&'static str, u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drive(sector) => write!(f, "sector {sector} cannot be read"),
            Self::Damaged(what) => write!(f, "the {what} is damaged"),
            Self::Unsupported(what) => write!(f, "{what} is not supported"),
            Self::NoFileSystem => f.write_str("no known file system"),
            Self::Missing => f.write_str("no such file"),
            Self::TooLarge(what) => write!(f, "the {what} is too large"),
            Self::NoRoom(what, bytes) => {
                write!(f, "the {what} needs {} MiB of memory", bytes.div_ceil(1 << 20))
            }
        }
    }
}
