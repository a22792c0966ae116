//! What a network device sends and receives through: a trait the monitor
//! implements.

use std::io;

use crate::{GuestSlice, features};

/// What a tap may leave to the guest, from the negotiated features
/// (TUNSETOFFLOAD).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Checksums.
    pub checksum: bool,
    /// Large TCP/IPv4 segments.
    pub tso4: bool,
    /// Large TCP/IPv6 segments.
    pub tso6: bool,
    /// Large UDP/IPv4 segments.
    pub uso4: bool,
    /// Large UDP/IPv6 segments.
    pub uso6: bool,
}

impl Offload {
    /// What the driver agreed to take. Segments need checksums.
    #[must_use]
    pub fn from_features(features: u64) -> Self {
        let has = |bit: u64| features & bit != 0;
        let checksum = has(features::NET_GUEST_CSUM);
        Self {
            checksum,
            tso4: checksum && has(features::NET_GUEST_TSO4),
            tso6: checksum && has(features::NET_GUEST_TSO6),
            uso4: checksum && has(features::NET_GUEST_USO4),
            uso6: checksum && has(features::NET_GUEST_USO6),
        }
    }

    /// True if frames may be larger than the MTU.
    pub(super) fn has_segments(self) -> bool {
        self.tso4 || self.tso6 || self.uso4 || self.uso6
    }
}

/// A tap in non-blocking mode with a 12-byte virtio header before each frame
/// (IFF_VNET_HDR, TUNSETVNETHDRSZ 12, little-endian).
pub trait Tap: Send + Sync {
    /// Reads one frame with its header: first into the slices, in order, then
    /// what is left into `overflow`. Returns the bytes read, header included;
    /// `None` if no frame waits.
    ///
    /// # Errors
    /// What the host says; `Interrupted` is retried by the implementation.
    fn read_frame(&self, to: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends one frame: `start`, which begins with its header and may be all
    /// of it, then the slices in order. `None` if there is no room now.
    ///
    /// # Errors
    /// What the host says; `Interrupted` is retried by the implementation.
    fn write_frame(&self, start: &[u8], from: &[GuestSlice<'_>]) -> io::Result<Option<usize>>;

    /// Whether the interface exists and is up. Asked at most once a second,
    /// while the link is down: a poll for writing tells.
    fn is_up(&self) -> bool;

    /// Sets what received frames may leave to the guest. Called by the
    /// receiving worker, once after each start.
    ///
    /// # Errors
    /// What the host says.
    fn set_offload(&self, offload: Offload) -> io::Result<()>;
}

/// Linux error numbers that say the tap is gone or down, not the frame bad:
/// EIO, ENXIO, EFAULT (a read while the interface is down), ENODEV, EBADFD.
const DOWN: [i32; 5] = [5, 6, 14, 19, 77];

/// True if `error` means that the tap itself is not usable now.
pub(super) fn is_down(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| DOWN.contains(&number))
}
