//! What a block device stores on: traits the monitor implements.

use std::io;

use crate::GuestSlice;

/// Storage that can be read. It has no method to write, so that a read-only
/// drive cannot be written by any mistake.
pub trait ReadAt: Send + Sync {
    /// Bytes in the medium now.
    ///
    /// # Errors
    /// What the host says.
    fn size(&self) -> io::Result<u64>;

    /// Fills the slices, in order, from byte `offset` on; returns how many
    /// bytes were read, fewer than asked only at the end of the medium.
    ///
    /// # Errors
    /// What the host says; `Interrupted` is retried by the implementation.
    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize>;
}

/// Storage that can be written too. Methods may be called from several
/// workers at once; `flush` is called by one at a time.
pub trait WriteAt: ReadAt {
    /// Writes the slices, in order, from byte `offset` on; returns how many
    /// bytes were written, at least one.
    ///
    /// # Errors
    /// `StorageFull` or `QuotaExceeded` if the host has no room, else what it
    /// says.
    fn write_at(&self, from: &[GuestSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes every write that returned before durable (`fdatasync`).
    ///
    /// # Errors
    /// What the host says. The device believes it: after one error it
    /// neither writes nor flushes any more.
    fn flush(&self) -> io::Result<()>;

    /// Gives `len` bytes from `offset` back to the host. What is read there
    /// afterwards is old data or zeroes.
    ///
    /// # Errors
    /// `Unsupported` where the host cannot, else what it says.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Zeroes `len` bytes from `offset` on, whichever way the host can;
    /// the space may be given back if `may_unmap`.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()>;
}

/// What is in the drive.
pub enum Medium {
    /// A disk.
    Disk(Box<dyn WriteAt>),
    /// A disk or CD that is only read.
    ReadOnly(Box<dyn ReadAt>),
}

impl Medium {
    /// The medium as something to read.
    pub(super) fn reader(&self) -> &dyn ReadAt {
        match self {
            Self::Disk(disk) => &**disk,
            Self::ReadOnly(disk) => &**disk,
        }
    }

    /// The medium as something to write, if it is that.
    pub(super) fn writer(&self) -> Option<&dyn WriteAt> {
        match self {
            Self::Disk(disk) => Some(&**disk),
            Self::ReadOnly(_) => None,
        }
    }
}
