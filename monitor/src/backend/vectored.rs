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
/// came after a part that was moved.
///
/// # Errors
/// What the system says, if nothing was moved.
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
                // Steps over what was moved; mostly that is all of the batch.
                let mut left = skip + moved;
                while let Some(slice) = slices.get(index).filter(|slice| slice.len() <= left) {
                    left -= slice.len();
                    index += 1;
                }
                skip = left;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
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
    let empty = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut pieces = [empty; BATCH];
    let mut count = 0;
    for (piece, slice) in pieces.iter_mut().zip(slices) {
        let skip = if count == 0 { skip.min(slice.len()) } else { 0 };
        let start = slice.ptr_guard_mut().as_ptr();
        *piece = libc::iovec {
            iov_base: start.wrapping_add(skip).cast(),
            iov_len: slice.len() - skip,
        };
        count += 1;
    }
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (fd, pieces) = (file.as_raw_fd(), pieces.as_ptr());
    let moved = match way {
        // SAFETY: the first `count` pieces lie in guest memory, which stays
        // mapped until the process ends and which nobody holds references
        // into; the kernel may write there as the guest itself may.
        Way::Read => unsafe { libc::preadv(fd, pieces, count, offset) },
        // SAFETY: as above, for reading.
        Way::Write => unsafe { libc::pwritev(fd, pieces, count, offset) },
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
