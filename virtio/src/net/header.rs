//! The header before each frame (virtio 1.2, 5.1.6).
//!
//! With VERSION_1, which is mandatory here, it always has 12 bytes, whatever
//! else was negotiated.

use virtio_bindings::virtio_net as spec;

use crate::{GuestSlice, chain, features};

/// Bytes in the header.
pub const HEADER_LEN: usize = 12;
/// Where `num_buffers` is in it.
const NUM_BUFFERS: usize = 10;

const NEEDS_CSUM: u8 = spec::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const GSO_NONE: u8 = spec::VIRTIO_NET_HDR_GSO_NONE as u8;
const GSO_TCPV4: u8 = spec::VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const GSO_TCPV6: u8 = spec::VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const GSO_UDP_L4: u8 = spec::VIRTIO_NET_HDR_GSO_UDP_L4 as u8;

/// Whether a driver that negotiated `features` may send `header` before a
/// frame of `frame_len` bytes (5.1.6.2.1). The host kernel checks it again;
/// what a driver has no right to does not even get there.
pub(super) fn is_acceptable(header: &[u8; HEADER_LEN], features: u64, frame_len: usize) -> bool {
    let [flags, gso, _, _, size_low, size_high, start_low, start_high, ..] = *header;
    let [_, _, _, _, _, _, _, _, offset_low, offset_high, _, _] = *header;
    let checksum = flags & NEEDS_CSUM != 0;
    if flags & !NEEDS_CSUM != 0 || (checksum && features & features::NET_CSUM == 0) {
        return false;
    }
    if checksum {
        let start = usize::from(u16::from_le_bytes([start_low, start_high]));
        let offset = usize::from(u16::from_le_bytes([offset_low, offset_high]));
        // Both are 16-bit numbers: the sum cannot overflow.
        if start + offset + 2 > frame_len {
            return false;
        }
    }
    let negotiated = match gso {
        GSO_NONE => return true,
        GSO_TCPV4 => features::NET_HOST_TSO4,
        GSO_TCPV6 => features::NET_HOST_TSO6,
        GSO_UDP_L4 => features::NET_HOST_USO,
        _ => return false,
    };
    let size = u16::from_le_bytes([size_low, size_high]);
    features & negotiated != 0 && checksum && size != 0
}

/// Completes the header the tap has written at the front of `slices`: how
/// many buffers the frame fills, and no flags for a driver that leaves no
/// checksum to itself (5.1.6.4.1). True if the header is whole.
pub(super) fn complete(slices: &[GuestSlice<'_>], features: u64, buffers: u16) -> bool {
    if features & features::NET_GUEST_CSUM == 0 && chain::scatter(slices, &[0]) != 1 {
        return false;
    }
    let mut skip = NUM_BUFFERS;
    let mut rest: &[u8] = &buffers.to_le_bytes();
    for slice in slices {
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let Ok(tail) = slice.offset(skip) else {
            return false;
        };
        skip = 0;
        let n = rest.len().min(tail.len());
        let (now, later) = rest.split_at(n);
        tail.copy_from(now);
        rest = later;
        if rest.is_empty() {
            return true;
        }
    }
    false
}
