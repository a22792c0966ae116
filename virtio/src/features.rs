//! Feature bits as masks (virtio 1.2, 5.1.3, 5.2.3 and 6).

use virtio_bindings::{virtio_blk, virtio_config, virtio_net, virtio_ring};

/// Modern device: mandatory here, legacy drivers are refused.
pub const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;
/// A descriptor may point to a table of descriptors.
pub const INDIRECT_DESC: u64 = 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
/// Both sides say at which index they want to hear from the other.
pub const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
/// What every device here offers.
pub const COMMON: u64 = VERSION_1 | INDIRECT_DESC | EVENT_IDX;

/// Block: most segments in a request.
pub const BLK_SEG_MAX: u64 = 1 << virtio_blk::VIRTIO_BLK_F_SEG_MAX;
/// Block: the device cannot be written.
pub const BLK_RO: u64 = 1 << virtio_blk::VIRTIO_BLK_F_RO;
/// Block: logical block size.
pub const BLK_BLK_SIZE: u64 = 1 << virtio_blk::VIRTIO_BLK_F_BLK_SIZE;
/// Block: flush requests.
pub const BLK_FLUSH: u64 = 1 << virtio_blk::VIRTIO_BLK_F_FLUSH;
/// Block: physical block size and alignment hints.
pub const BLK_TOPOLOGY: u64 = 1 << virtio_blk::VIRTIO_BLK_F_TOPOLOGY;
/// Block: the driver may switch between write-back and write-through.
pub const BLK_CONFIG_WCE: u64 = 1 << virtio_blk::VIRTIO_BLK_F_CONFIG_WCE;
/// Block: several queues.
pub const BLK_MQ: u64 = 1 << virtio_blk::VIRTIO_BLK_F_MQ;
/// Block: discard requests.
pub const BLK_DISCARD: u64 = 1 << virtio_blk::VIRTIO_BLK_F_DISCARD;
/// Block: write-zeroes requests.
pub const BLK_WRITE_ZEROES: u64 = 1 << virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES;

/// Net: the driver may leave checksums to the device.
pub const NET_CSUM: u64 = 1 << virtio_net::VIRTIO_NET_F_CSUM;
/// Net: the device may leave checksums to the driver.
pub const NET_GUEST_CSUM: u64 = 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM;
/// Net: the device says its MTU.
pub const NET_MTU: u64 = 1 << virtio_net::VIRTIO_NET_F_MTU;
/// Net: the device says its MAC address.
pub const NET_MAC: u64 = 1 << virtio_net::VIRTIO_NET_F_MAC;
/// Net: the driver takes large TCP/IPv4 segments.
pub const NET_GUEST_TSO4: u64 = 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO4;
/// Net: the driver takes large TCP/IPv6 segments.
pub const NET_GUEST_TSO6: u64 = 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO6;
/// Net: the device takes large TCP/IPv4 segments.
pub const NET_HOST_TSO4: u64 = 1 << virtio_net::VIRTIO_NET_F_HOST_TSO4;
/// Net: the device takes large TCP/IPv6 segments.
pub const NET_HOST_TSO6: u64 = 1 << virtio_net::VIRTIO_NET_F_HOST_TSO6;
/// Net: one received frame may fill several buffers.
pub const NET_MRG_RXBUF: u64 = 1 << virtio_net::VIRTIO_NET_F_MRG_RXBUF;
/// Net: the device says whether the link is up.
pub const NET_STATUS: u64 = 1 << virtio_net::VIRTIO_NET_F_STATUS;
/// Net: the driver takes large UDP/IPv4 segments.
pub const NET_GUEST_USO4: u64 = 1 << virtio_net::VIRTIO_NET_F_GUEST_USO4;
/// Net: the driver takes large UDP/IPv6 segments.
pub const NET_GUEST_USO6: u64 = 1 << virtio_net::VIRTIO_NET_F_GUEST_USO6;
/// Net: the device takes large UDP segments.
pub const NET_HOST_USO: u64 = 1 << virtio_net::VIRTIO_NET_F_HOST_USO;
