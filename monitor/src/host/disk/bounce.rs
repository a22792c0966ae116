//! Requests that direct I/O does not take: of pieces of a block, or with memory
//! that is not aligned. They go through a buffer, so that `direct` changes
//! nothing that a guest sees.

use std::fs::File;
use std::io;
use std::sync::{RwLock, RwLockReadGuard};

use mote_virtio::{GuestSlice, Unpoisoned as _};

use super::vectored::{Way, read, write};

/// Bytes that are moved in one go, aligned as any disk takes them: small, as a
/// worker's stack is.
#[repr(align(4096))]
pub(super) struct Pages(pub(super) [u8; 16 << 10]);

impl Pages {
    pub(super) const ZERO: Self = Self([0; 16 << 10]);
}

/// The buffer of a disk with direct I/O; none until it is needed.
pub(super) struct Bounce {
    /// Bytes of a block of the disk below, 512 to 4096.
    block: u64,
    /// Who writes pieces of blocks has it alone: another write between reading
    /// a block and writing it back would be lost.
    pages: RwLock<Option<Box<Pages>>>,
}

impl std::fmt::Debug for Bounce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bounce({})", self.block)
    }
}

impl Bounce {
    pub(super) fn new(block: u32) -> Self {
        Self { block: block.into(), pages: RwLock::default() }
    }

    /// Held while whole blocks are changed.
    pub(super) fn whole(&self) -> RwLockReadGuard<'_, impl Sized> {
        self.pages.read().unpoisoned()
    }

    /// Moves the slices to or from byte `offset` on, as
    /// [`transfer`](super::vectored::transfer) does.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn transfer(
        &self,
        file: &File,
        way: Way,
        slices: &[GuestSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let mut pages = self.pages.write().unpoisoned();
        let Pages(buffer) = &mut **pages.get_or_insert_with(|| Box::new(Pages::ZERO));
        let total: usize = slices.iter().map(GuestSlice::len).sum();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            // Where it lies in its first block; less than 4096.
            let lead = (at % self.block) as usize;
            let count = (buffer.len() - lead).min(total - done);
            let span = (lead + count).next_multiple_of(self.block as usize);
            let (blocks, start) = (buffer.get_mut(..span).unwrap_or_default(), at - lead as u64);
            // A write needs what it leaves as it is.
            let have = match way {
                Way::Write if lead == 0 && span == count => span,
                _ => read_all(file, blocks, start)?,
            };
            if way == Way::Write && have < span {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let moved = have.saturating_sub(lead).min(count);
            let part = blocks.get_mut(lead..lead + moved).unwrap_or_default();
            copy(way, slices, done, part);
            if way == Way::Write {
                write_all(file, blocks, start)?;
            }
            done += moved;
            if moved < count {
                break;
            }
        }
        Ok(done)
    }
}

/// Copies between `part` and what lies `skip` bytes behind the slices' start.
fn copy(way: Way, slices: &[GuestSlice<'_>], mut skip: usize, mut part: &mut [u8]) {
    for slice in slices {
        let Ok(rest) = slice.offset(skip.min(slice.len())) else {
            return;
        };
        skip = skip.saturating_sub(slice.len());
        let (now, later) = part.split_at_mut(rest.len().min(part.len()));
        match way {
            Way::Read => rest.copy_from(now),
            Way::Write => {
                rest.copy_to(now);
            }
        }
        part = later;
    }
}

fn read_all(file: &File, to: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn write_all(file: &File, from: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = from.get(done..).filter(|rest| !rest.is_empty()) {
        match write(file, rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::disk::vectored::tests::tempfile;

    /// Workers that write sectors of the same blocks lose none of each other's.
    #[test]
    fn sectors_of_one_block_are_written_by_several() {
        const SECTORS: usize = 64;
        let (file, bounce) = (tempfile(), Bounce::new(4096));
        file.set_len(512 * SECTORS as u64).unwrap();
        std::thread::scope(|scope| {
            for own in 0..4 {
                let (file, bounce) = (&file, &bounce);
                scope.spawn(move || {
                    for round in 0..200u64 {
                        for sector in (own..SECTORS).step_by(4) {
                            let mut bytes = [sector as u8 ^ round as u8; 512];
                            let slice = [GuestSlice::from(&mut bytes[..])];
                            let at = 512 * sector as u64;
                            let done = bounce.transfer(file, Way::Write, &slice, at);
                            assert_eq!(done.unwrap(), 512);
                        }
                    }
                });
            }
        });
        let mut all = vec![0; 512 * SECTORS];
        let (first, second) = all.split_at_mut(700);
        let slices = [first, second].map(GuestSlice::from);
        let done = bounce.transfer(&file, Way::Read, &slices, 0).unwrap();
        assert_eq!(done, 512 * SECTORS);
        for (sector, bytes) in all.chunks(512).enumerate() {
            assert!(bytes.iter().all(|b| *b == sector as u8 ^ 199), "{sector}");
        }
    }

    /// Every place and length, in pieces, beside what a file of the same bytes has.
    #[test]
    fn pieces_arrive_where_they_belong() {
        let (file, bounce) = (tempfile(), Bounce::new(4096));
        let len = 160 << 10;
        let mut model: Vec<u8> = (0..len).map(|n: usize| (n / 7) as u8).collect();
        write_all(&file, &model, 0).unwrap();
        for (n, at) in (0..len).step_by(4608).enumerate() {
            for count in [512, 4096, 5120, 70_144] {
                let count = count.min(len - at);
                let mut bytes = vec![n as u8; count];
                let (a, b) = bytes.split_at_mut(count / 3);
                let slices = [a, b].map(GuestSlice::from);
                let done = bounce.transfer(&file, Way::Write, &slices, at as u64);
                assert_eq!(done.unwrap(), count);
                model[at..at + count].fill(n as u8);
                let mut bytes = vec![0; count + 512];
                let slices = [GuestSlice::from(&mut bytes[..])];
                let from = at as u64 - (at as u64).min(512);
                let done = bounce.transfer(&file, Way::Read, &slices, from).unwrap();
                assert!(bytes[..done] == model[from as usize..][..done]);
            }
        }
        let mut all = vec![0; len];
        assert_eq!(read_all(&file, &mut all, 0).unwrap(), len);
        assert!(all == model);
    }
}
