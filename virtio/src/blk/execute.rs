//! Doing a checked request on a medium.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{ID_LEN, OnNoSpace};
use super::counters::Tally;
use super::medium::{Medium, WriteAt};
use super::request::{Operation, Range, Request, Status};
use crate::{Chain, Unpoisoned as _, chain};

/// The host's disk is full and the request is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoSpace;

/// Whether the medium can still be trusted with writes. Never heals: the
/// kernel reports a lost write once and then says that all is well.
#[derive(Debug, Default)]
pub(super) struct Health {
    failed: AtomicBool,
    /// One flush at a time: of two, the kernel would tell only one.
    flushing: Mutex<()>,
}

impl Health {
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Makes earlier writes to `medium` durable; nothing to do where nothing
    /// can be written.
    pub(super) fn sync(&self, medium: &Medium) -> io::Result<()> {
        medium.writer().map_or(Ok(()), |disk| self.flush(disk))
    }

    fn flush(&self, disk: &dyn WriteAt) -> io::Result<()> {
        let _one = self.flushing.lock().unpoisoned();
        if self.has_failed() {
            return Err(io::Error::other("the drive failed before"));
        }
        disk.flush().inspect_err(|_| self.fail())
    }
}

enum Failure {
    Status(Status),
    NoSpace,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What one `run` works with, besides the ring.
pub(super) struct Executor<'a> {
    pub(super) medium: &'a Medium,
    pub(super) health: &'a Health,
    pub(super) id: &'a [u8; ID_LEN],
    /// Bytes the medium had when it was put in.
    pub(super) size: u64,
    pub(super) write_through: bool,
    pub(super) on_no_space: OnNoSpace,
    /// The size has been looked at since this `run` began.
    pub(super) size_checked: bool,
    pub(super) tally: Tally,
}

impl<'a> Executor<'a> {
    /// Does the request and writes its status byte. Returns how many of the
    /// chain's writable bytes were certainly written.
    ///
    /// # Errors
    /// [`NoSpace`] with nothing answered: the request is to be done again.
    pub(super) fn execute(
        &mut self,
        request: &Request<'_>,
        chain: &mut Chain<'_>,
        ranges: &[Range],
    ) -> Result<u32, NoSpace> {
        self.tally.requests += 1;
        let result = match request.operation {
            Operation::Read(offset) => self.read(chain, offset),
            Operation::Write(offset) => self.write(chain, offset).map(|()| 0),
            Operation::Flush => self.flush().map(|()| 0),
            Operation::Identify => Ok(chain::scatter(chain.writable(), self.id) as u32),
            Operation::Discard => self.discard(ranges).map(|()| 0),
            Operation::WriteZeroes => self.write_zeroes(ranges).map(|()| 0),
            Operation::Answer(status) => Err(status.into()),
        };
        let (status, data) = match result {
            Ok(data) => (Status::Ok, data),
            Err(Failure::Status(status)) => {
                self.tally.errors += 1;
                (status, 0)
            }
            Err(Failure::NoSpace) if self.on_no_space == OnNoSpace::Pause => return Err(NoSpace),
            Err(Failure::NoSpace) => {
                self.tally.errors += 1;
                (Status::IoError, 0)
            }
        };
        request.status.copy_from(&[status.byte()]);
        Ok(data + 1)
    }

    fn read(&mut self, chain: &Chain<'_>, offset: u64) -> Result<u32, Failure> {
        let medium = self.medium.reader();
        let wanted = chain.writable_len();
        match medium.read_at(chain.writable(), offset) {
            Ok(n) if n == wanted as usize => {
                self.tally.reads += 1;
                self.tally.read_bytes += u64::from(wanted);
                Ok(wanted)
            }
            // Less than the medium had: it shrank. Part of the buffers may
            // have been written, with nothing but the medium's own bytes.
            Ok(_) => {
                self.health.fail();
                Err(Status::IoError.into())
            }
            Err(_) => Err(Status::IoError.into()),
        }
    }

    /// The disk to write, if it has not failed and is as large as it was: a
    /// write past the end would silently grow a file that was cut short.
    fn disk(&mut self) -> Result<&'a dyn WriteAt, Failure> {
        let disk = self.medium.writer().ok_or(Status::IoError)?;
        if self.health.has_failed() {
            return Err(Status::IoError.into());
        }
        if !self.size_checked {
            let shrunk = disk.size().map_or(true, |size| size < self.size);
            if shrunk {
                self.health.fail();
                return Err(Status::IoError.into());
            }
            self.size_checked = true;
        }
        Ok(disk)
    }

    fn write(&mut self, chain: &mut Chain<'_>, offset: u64) -> Result<(), Failure> {
        let disk = self.disk()?;
        let mut at = offset;
        while chain.readable_len() != 0 {
            match disk.write_at(chain.readable(), at) {
                Ok(0) => return Err(Status::IoError.into()),
                Ok(n) => {
                    at = at.saturating_add(n as u64);
                    if !chain.skip(n) {
                        return Err(Status::IoError.into());
                    }
                }
                Err(error) => return Err(failure(&error)),
            }
        }
        self.settle()?;
        self.tally.writes += 1;
        self.tally.written_bytes += at.saturating_sub(offset);
        Ok(())
    }

    /// In write-through mode, what was written is durable before it is
    /// answered (5.2.6.2).
    fn settle(&mut self) -> Result<(), Failure> {
        if self.write_through {
            let health = self.health;
            health.flush(self.disk()?).map_err(|_| Status::IoError)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.tally.flushes += 1;
        match self.medium {
            Medium::Disk(_) => {
                self.size_checked = false;
                let health = self.health;
                health.flush(self.disk()?).map_err(|_| Status::IoError)?;
                Ok(())
            }
            // Nothing was written, so everything written is durable.
            Medium::ReadOnly(_) => Ok(()),
        }
    }

    fn discard(&mut self, ranges: &[Range]) -> Result<(), Failure> {
        let disk = self.disk()?;
        for range in ranges.iter().filter(|range| range.len != 0) {
            disk.discard(range.offset, range.len).map_err(|error| failure(&error))?;
        }
        self.tally.discards += 1;
        self.settle()
    }

    fn write_zeroes(&mut self, ranges: &[Range]) -> Result<(), Failure> {
        let disk = self.disk()?;
        for range in ranges.iter().filter(|range| range.len != 0) {
            disk.write_zeroes(range.offset, range.len, range.may_unmap)
                .map_err(|error| failure(&error))?;
            self.tally.written_bytes += range.len;
        }
        self.tally.discards += 1;
        self.settle()
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::NoSpace,
        io::ErrorKind::Unsupported => Failure::Status(Status::Unsupported),
        _ => Failure::Status(Status::IoError),
    }
}
