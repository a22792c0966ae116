//! Positioned reads and writes between a file and pieces of guest memory,
//! without a copy in between.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use mote_virtio::GuestSlice;

/// Pieces that are moved in one system call.
const BATCH: usize = 64;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the file to the guest.
    Read,
    /// From the guest to the file.
    Write,
}

/// Moves the slices, in order, to or from byte `offset` on; returns how many
/// bytes were moved, fewer than asked at the end of the file, or when an error
/// came after a part that was written.
///
/// # Errors
/// What the system says, of a write only if nothing was written: the next one
/// will say it again. A read that stopped short would look as if the file had.
pub(super) fn transfer(
    file: &File,
    way: Way,
    slices: &[GuestSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    let (mut index, mut skip) = (0, 0);
    while let Some(rest) = slices.get(index..).filter(|rest| !rest.is_empty()) {
        match batch(file, way, rest, skip, offset + done as u64) {
            Ok(0) => break,
            Ok(moved) => {
                done += moved;
                // Skips the transferred bytes, usually the whole batch.
                let mut left = skip + moved;
                while let Some(slice) = slices.get(index).filter(|slice| slice.len() <= left) {
                    left -= slice.len();
                    index += 1;
                }
                skip = left;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 && way == Way::Write => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// One system call for the first [`BATCH`] slices, without the first `skip`
/// bytes of the first.
fn batch(
    file: &File,
    way: Way,
    slices: &[GuestSlice<'_>],
    skip: usize,
    offset: u64,
) -> io::Result<usize> {
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut pieces = [empty; BATCH];
    let mut count = 0;
    for (piece, slice) in pieces.iter_mut().zip(slices) {
        let skip = if count == 0 { skip.min(slice.len()) } else { 0 };
        let start = slice.ptr_guard_mut().as_ptr();
        *piece =
            libc::iovec { iov_base: start.wrapping_add(skip).cast(), iov_len: slice.len() - skip };
        count += 1;
    }
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (fd, pieces) = (file.as_raw_fd(), pieces.as_ptr());
    let moved = match way {
        // SAFETY: the first `count` pieces lie in guest memory, which stays
        // mapped until the process ends and to which no code holds references;
        // the kernel may write there as the guest itself may.
        Way::Read => unsafe { libc::preadv(fd, pieces, count, offset) },
        // SAFETY: as above, for reading.
        Way::Write => unsafe { libc::pwritev(fd, pieces, count, offset) },
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Writes bytes of our own; the same call as for the guest's, so that a worker
/// needs no other.
pub(super) fn write(file: &File, from: &[u8], offset: u64) -> io::Result<usize> {
    let piece = io::IoSlice::new(from);
    Ok(rustix::io::pwritev(file, &[piece], offset)?)
}

/// Reads bytes of our own, as [`write`] writes them.
pub(super) fn read(file: &File, to: &mut [u8], offset: u64) -> io::Result<usize> {
    let piece = io::IoSliceMut::new(to);
    Ok(rustix::io::preadv(file, &mut [piece], offset)?)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use vm_memory::VolatileSlice;

    use super::*;

    /// More pieces than one call takes, the last of them not writable.
    #[test]
    fn an_error_behind_the_first_batch_is_an_error() {
        let mut file = tempfile();
        file.write_all(&[7; 4096]).unwrap();
        let mut good = [0u8; 16 * BATCH];
        // SAFETY: a new mapping of one page that nothing may touch.
        let bad = unsafe {
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, kind, -1, 0)
        };
        assert_ne!(bad, libc::MAP_FAILED);
        let mut slices: Vec<GuestSlice<'_>> =
            good.chunks_mut(16).map(VolatileSlice::from).collect();
        // SAFETY: only the kernel will access it, which may not.
        slices.push(unsafe { VolatileSlice::new(bad.cast(), 16) });
        let error = transfer(&file, Way::Read, &slices, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        let written = transfer(&file, Way::Write, &slices, 0).unwrap();
        assert_eq!(written, 16 * BATCH);
        slices.pop();
        assert_eq!(transfer(&file, Way::Read, &slices, 4000).unwrap(), 96);
    }

    pub fn tempfile() -> File {
        // SAFETY: a string that ends in a zero.
        let fd = unsafe { libc::memfd_create(c"image".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: a fresh descriptor that nothing else owns.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
    }
}
