//! The block device's options and configuration space (virtio 1.2, 5.2.4).

use crate::rate::RateLimiter;
use crate::{Dirty, Error, MAX_QUEUE_SIZE, features};

/// Bytes in a sector, the unit of every address and length.
pub const SECTOR: u64 = 512;
/// Bytes in the identity string.
pub const ID_LEN: usize = 20;
/// Most ranges in one discard.
pub(super) const MAX_RANGES: usize = 32;
/// Most sectors in one range to discard: 2 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Ranges in one write-zeroes request, and most sectors in one: 64 MiB, which
/// a host that has to write them still does in a moment, but not 32 times.
pub(super) const MAX_ZERO_RANGES: usize = 1;
/// See [`MAX_ZERO_RANGES`].
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 17;

/// Byte offset of `writeback`, the one field a driver may write.
pub(super) const WRITEBACK_OFFSET: usize = 32;
/// Bytes up to and with `write_zeroes_may_unmap`.
const CONFIG_LEN: usize = 60;

/// What to do when the host's disk is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnNoSpace {
    /// Keep the request and ask for the VM to be paused.
    #[default]
    Pause,
    /// Answer the request with an I/O error.
    Error,
}

/// How a block device presents itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// The identity string, at most 20 bytes.
    pub id: String,
    /// Queues, one for each vCPU at best; 1 to 256.
    pub queues: u16,
    /// Greatest size of each queue, a power of two from 4 to 1024.
    pub queue_size: u16,
    /// Logical block size in bytes: 512, 1024, 2048 or 4096.
    pub logical_block: u32,
    /// Physical block size in bytes, a power of two up to 64 KiB and not less
    /// than the logical one.
    pub physical_block: u32,
    /// Offer discard and write-zeroes, if the medium can be written.
    pub discard: bool,
    /// What to do when the host's disk is full.
    pub on_no_space: OnNoSpace,
    /// Limits of bytes and requests.
    pub limiter: RateLimiter,
    /// Where to note what is written to guest memory, if anybody asks for it.
    pub dirty: Option<&'static Dirty>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: String::new(),
            queues: 1,
            queue_size: 256,
            logical_block: 512,
            physical_block: 4096,
            discard: true,
            on_no_space: OnNoSpace::Pause,
            limiter: RateLimiter::default(),
            dirty: None,
        }
    }
}

impl Options {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.id.len() > ID_LEN {
            return Err(Error::Option("id"));
        }
        if !(1..=256).contains(&self.queues) {
            return Err(Error::Option("queues"));
        }
        let sizes = 4..=MAX_QUEUE_SIZE;
        if !self.queue_size.is_power_of_two() || !sizes.contains(&self.queue_size) {
            return Err(Error::Option("queue_size"));
        }
        if !matches!(self.logical_block, 512 | 1024 | 2048 | 4096) {
            return Err(Error::Option("logical_block"));
        }
        let physical = self.logical_block..=65536;
        if !self.physical_block.is_power_of_two() || !physical.contains(&self.physical_block) {
            return Err(Error::Option("physical_block"));
        }
        Ok(())
    }

    /// The features of a device with these options.
    pub(super) fn features(&self, writable: bool) -> u64 {
        let mut offered = features::COMMON
            | features::BLK_SEG_MAX
            | features::BLK_BLK_SIZE
            | features::BLK_TOPOLOGY
            | features::BLK_FLUSH;
        if self.queues > 1 {
            offered |= features::BLK_MQ;
        }
        if !writable {
            return offered | features::BLK_RO;
        }
        if self.discard {
            offered |= features::BLK_DISCARD | features::BLK_WRITE_ZEROES;
        }
        offered | features::BLK_CONFIG_WCE
    }

    /// The configuration space, every field filled in whether its feature is
    /// negotiated or not.
    pub(super) fn config(&self, sectors: u64, writeback: bool) -> Vec<u8> {
        let mut space = Vec::with_capacity(CONFIG_LEN);
        let exponent = self.physical_block.ilog2() - self.logical_block.ilog2();
        space.extend(sectors.to_le_bytes());
        space.extend(0u32.to_le_bytes()); // size_max: not offered
        space.extend(u32::from(self.queue_size - 2).to_le_bytes()); // seg_max
        space.extend(0u32.to_le_bytes()); // geometry: not offered
        space.extend(self.logical_block.to_le_bytes());
        space.extend([u8::try_from(exponent).unwrap_or(0), 0]); // physical exponent, alignment
        space.extend(1u16.to_le_bytes()); // min_io_size
        space.extend(0u32.to_le_bytes()); // opt_io_size: none
        space.extend([u8::from(writeback), 0]);
        space.extend(self.queues.to_le_bytes());
        space.extend(MAX_DISCARD_SECTORS.to_le_bytes());
        space.extend((MAX_RANGES as u32).to_le_bytes());
        space.extend((self.physical_block / SECTOR as u32).to_le_bytes()); // discard alignment
        space.extend(MAX_ZERO_SECTORS.to_le_bytes());
        space.extend((MAX_ZERO_RANGES as u32).to_le_bytes());
        space.extend([1, 0, 0, 0]); // write_zeroes_may_unmap
        space
    }
}
