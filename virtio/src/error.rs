//! The crate's one error type.

use std::fmt;

/// The part of a virtqueue an error is about (virtio 1.2, 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingPart {
    /// The descriptor table.
    Descriptors,
    /// The available (driver) ring.
    Available,
    /// The used (device) ring.
    Used,
}

/// What went wrong, with the object it went wrong on.
///
/// Variants up to [`Error::UsedUnclaimed`] are the guest's doing and end in
/// NEEDS_RESET; the others are refusals to the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A queue size that is 0, odd, or above the maximum.
    QueueSize(u32),
    /// A ring that is misaligned or not whole in one range of RAM.
    RingAddress(RingPart, u64),
    /// The driver's index is further ahead than the queue is long.
    AvailableIndex(u16),
    /// A chain's head, or a link in it, points past its table.
    DescriptorIndex(u16),
    /// A head that the device has not given back yet.
    DuplicateHead(u16),
    /// More descriptors than the queue has, as in a loop.
    ChainTooLong,
    /// More than 4 GiB in one chain.
    ChainTooLarge,
    /// A descriptor of no bytes.
    ZeroLength,
    /// A device-readable descriptor after a device-writable one.
    ReadableAfterWritable,
    /// An indirect table that was not negotiated, lies inside another one, is
    /// followed by a descriptor, or has an impossible length.
    IndirectTable(u32),
    /// A buffer that is not RAM.
    BufferAddress(u64),
    /// A request without room for its header or status.
    MissingHeader,
    /// A head that was not taken is given back.
    UsedUnclaimed(u16),
    /// A register window that is not a page inside its region.
    Window(usize),
    /// A configuration space or queue list larger than the transport carries.
    DeviceShape,
    /// State from outside that no running device could have had.
    State(&'static str),
    /// A block device whose backend cannot say its size, with the cause.
    MediumSize(String),
    /// A writable disk whose size is not a multiple of 512 bytes.
    OddSize(u64),
    /// An option out of its range, by name.
    Option(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueSize(size) => write!(f, "queue size {size} is not a power of two in range"),
            Self::RingAddress(part, addr) => {
                write!(f, "{part:?} ring at {addr:#x} is misaligned or outside RAM")
            }
            Self::AvailableIndex(idx) => write!(f, "available index {idx} is out of reach"),
            Self::DescriptorIndex(idx) => write!(f, "descriptor {idx} is past its table"),
            Self::DuplicateHead(head) => write!(f, "chain {head} is already with the device"),
            Self::ChainTooLong => f.write_str("a chain has more descriptors than its queue"),
            Self::ChainTooLarge => f.write_str("a chain has more than 4 GiB"),
            Self::ZeroLength => f.write_str("a descriptor has no bytes"),
            Self::ReadableAfterWritable => {
                f.write_str("a readable descriptor follows a writable one")
            }
            Self::IndirectTable(len) => write!(f, "an indirect table of {len} bytes is not valid"),
            Self::BufferAddress(addr) => write!(f, "the buffer at {addr:#x} is not RAM"),
            Self::MissingHeader => f.write_str("a request has no room for its header or status"),
            Self::UsedUnclaimed(head) => write!(f, "chain {head} was given back but never taken"),
            Self::Window(at) => write!(f, "the register window at {at:#x} is not a whole page"),
            Self::DeviceShape => f.write_str("the device does not fit the transport"),
            Self::State(what) => write!(f, "the saved virtio state is not valid: {what}"),
            Self::MediumSize(cause) => write!(f, "cannot get the size of the medium: {cause}"),
            Self::OddSize(size) => write!(
                f,
                "the disk has {size} bytes, which is not a multiple of 512: use it read-only"
            ),
            Self::Option(name) => write!(f, "the option {name} is out of its range"),
        }
    }
}

impl std::error::Error for Error {}
