//! What a file system has: nodes, and the bounds of what is looked at.

use alloc::string::String;

use crate::Error;
use crate::disk::File;

/// Bytes of a directory that are looked at.
pub(super) const MAX_DIRECTORY: u64 = 16 << 20;

/// Bytes of a symbolic link or a name.
pub(super) const MAX_NAME: usize = 4096;

/// What a node of a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// A file system. A node is known by a number, whose meaning is its own.
pub trait FileSystem {
    /// Its type, as people call it.
    fn name(&self) -> &'static str;
    /// Its label; empty if it has none.
    fn label(&self) -> &str;
    /// Its UUID, written as GRUB does; empty if it has none.
    fn uuid(&self) -> &str;
    /// Whether upper and lower case are the same in names, unless both are there.
    fn ignores_case(&self) -> bool;
    /// The root directory.
    fn root(&self) -> u64;
    /// Calls `each` with name and node of every entry of a directory but `.`
    /// and `..`, until it returns true.
    ///
    /// # Errors
    /// The directory is damaged or none.
    fn entries(&self, dir: u64, each: &mut dyn FnMut(&str, u64) -> bool) -> Result<(), Error>;
    /// What a node is.
    ///
    /// # Errors
    /// The node is damaged.
    fn kind(&self, node: u64) -> Result<Kind, Error>;
    /// The content of a file.
    ///
    /// # Errors
    /// The node is damaged.
    fn open(&self, node: u64) -> Result<File, Error>;
    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// The node is damaged or no link.
    fn link(&self, node: u64) -> Result<String, Error>;
}

/// What a Unix file mode says.
pub(super) fn kind_of_mode(mode: u16) -> Kind {
    match mode >> 12 {
        8 => Kind::File,
        4 => Kind::Directory,
        10 => Kind::Link,
        _ => Kind::Other,
    }
}
