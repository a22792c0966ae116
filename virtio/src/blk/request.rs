//! From a descriptor chain to a checked, neutral request (virtio 1.2, 5.2.6).

use virtio_bindings::virtio_blk as spec;

use super::config::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZERO_RANGES, MAX_ZERO_SECTORS, SECTOR};
use crate::{Chain, Error, GuestSlice, features};

/// Most data in one request. Far above what drivers send; a bound so that a
/// chain of overlapping buffers cannot keep a worker for minutes.
pub(super) const MAX_DATA: u32 = 64 << 20;

const HEADER_LEN: usize = 16;
const RANGE_LEN: usize = 16;
const UNMAP: u32 = spec::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

/// The status byte of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    pub(super) fn byte(self) -> u8 {
        let value = match self {
            Self::Ok => spec::VIRTIO_BLK_S_OK,
            Self::IoError => spec::VIRTIO_BLK_S_IOERR,
            Self::Unsupported => spec::VIRTIO_BLK_S_UNSUPP,
        };
        value as u8
    }
}

/// A checked range of the medium, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) may_unmap: bool,
}

/// What is asked, checked: ranges are inside the medium, a write is only
/// asked of a drive that can be written. Data is what is left in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Fill the chain's writable slices from this byte on.
    Read(u64),
    /// Write the chain's readable slices from this byte on.
    Write(u64),
    /// Make earlier writes durable.
    Flush,
    /// Put the identity string into the writable slices.
    Identify,
    /// Discard the collected ranges.
    Discard,
    /// Zero the collected ranges.
    WriteZeroes,
    /// Nothing but to answer this.
    Answer(Status),
}

/// A request and where its status byte goes.
#[derive(Debug)]
pub(super) struct Request<'m> {
    pub(super) operation: Operation,
    pub(super) status: GuestSlice<'m>,
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Sectors in the medium.
    pub(super) sectors: u64,
    /// The medium can be written.
    pub(super) writable: bool,
    /// Negotiated features.
    pub(super) features: u64,
}

/// Takes header and status byte off the chain and checks the request. The
/// ranges of a discard or write-zeroes are collected in `ranges`.
///
/// # Errors
/// [`Error::MissingHeader`] where not even an error can be answered.
pub(super) fn parse<'m>(
    chain: &mut Chain<'m>,
    limits: &Limits,
    ranges: &mut Vec<Range>,
) -> Result<Request<'m>, Error> {
    let mut header = [0; HEADER_LEN];
    if !chain.read(&mut header) {
        return Err(Error::MissingHeader);
    }
    let status = chain.take_last_byte().ok_or(Error::MissingHeader)?;
    let [kind @ .., _, _, _, _, _, _, _, _, _, _, _, _] = header;
    let [_, _, _, _, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let operation = match u32::from_le_bytes(kind) {
        spec::VIRTIO_BLK_T_IN => extent(sector, chain.writable_len(), limits).map(Operation::Read),
        spec::VIRTIO_BLK_T_OUT if limits.writable => {
            extent(sector, chain.readable_len(), limits).map(Operation::Write)
        }
        spec::VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
        spec::VIRTIO_BLK_T_GET_ID => Ok(Operation::Identify),
        spec::VIRTIO_BLK_T_DISCARD if limits.writable => {
            discard(chain, limits, ranges).map(|()| Operation::Discard)
        }
        spec::VIRTIO_BLK_T_WRITE_ZEROES if limits.writable => {
            write_zeroes(chain, limits, ranges).map(|()| Operation::WriteZeroes)
        }
        spec::VIRTIO_BLK_T_OUT | spec::VIRTIO_BLK_T_DISCARD | spec::VIRTIO_BLK_T_WRITE_ZEROES => {
            Err(Status::IoError)
        }
        _ => Err(Status::Unsupported),
    };
    let operation = operation.unwrap_or_else(Operation::Answer);
    Ok(Request { operation, status })
}

/// The first byte of `len` bytes at `sector`, if these are whole sectors, at
/// least one, inside the medium.
fn extent(sector: u64, len: u32, limits: &Limits) -> Result<u64, Status> {
    let bytes = u64::from(len);
    if len == 0 || len > MAX_DATA || !bytes.is_multiple_of(SECTOR) {
        return Err(Status::IoError);
    }
    place(sector, bytes / SECTOR, limits.sectors)
}

/// The first byte of `count` sectors at `sector`, if they are in the medium.
fn place(sector: u64, count: u64, sectors: u64) -> Result<u64, Status> {
    let end = sector.checked_add(count).ok_or(Status::IoError)?;
    if end > sectors {
        return Err(Status::IoError);
    }
    sector.checked_mul(SECTOR).ok_or(Status::IoError)
}

fn discard(chain: &mut Chain<'_>, limits: &Limits, ranges: &mut Vec<Range>) -> Result<(), Status> {
    if limits.features & features::BLK_DISCARD == 0 {
        return Err(Status::Unsupported);
    }
    // 5.2.6.2: a discard has no flags.
    let most = Most { ranges: MAX_RANGES, sectors: MAX_DISCARD_SECTORS, flags: 0 };
    collect(chain, limits, ranges, &most)
}

fn write_zeroes(
    chain: &mut Chain<'_>,
    limits: &Limits,
    ranges: &mut Vec<Range>,
) -> Result<(), Status> {
    if limits.features & features::BLK_WRITE_ZEROES == 0 {
        return Err(Status::Unsupported);
    }
    let most = Most { ranges: MAX_ZERO_RANGES, sectors: MAX_ZERO_SECTORS, flags: UNMAP };
    collect(chain, limits, ranges, &most)
}

/// The most ranges of a list, sectors of a range, and the flags that it may have.
struct Most {
    ranges: usize,
    sectors: u32,
    flags: u32,
}

/// Reads and checks the whole list before any of it is acted upon.
fn collect(
    chain: &mut Chain<'_>,
    limits: &Limits,
    ranges: &mut Vec<Range>,
    most: &Most,
) -> Result<(), Status> {
    ranges.clear();
    let len = chain.readable_len() as usize;
    if len == 0 || !len.is_multiple_of(RANGE_LEN) || len / RANGE_LEN > most.ranges {
        return Err(Status::IoError);
    }
    for _ in 0..len / RANGE_LEN {
        let mut raw = [0; RANGE_LEN];
        if !chain.read(&mut raw) {
            return Err(Status::IoError);
        }
        let raw = u128::from_le_bytes(raw);
        let (sector, count, flags) = (raw as u64, (raw >> 64) as u32, (raw >> 96) as u32);
        if flags & !most.flags != 0 {
            return Err(Status::Unsupported);
        }
        if count > most.sectors {
            return Err(Status::IoError);
        }
        let offset = place(sector, u64::from(count), limits.sectors)?;
        ranges.push(Range {
            offset,
            len: u64::from(count) * SECTOR,
            may_unmap: flags & UNMAP != 0,
        });
    }
    Ok(())
}
