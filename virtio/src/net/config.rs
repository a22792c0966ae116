//! The network device's options and configuration space (virtio 1.2, 5.1.4).

use virtio_bindings::virtio_net::VIRTIO_NET_S_LINK_UP;

use crate::rate::RateLimiter;
use crate::{Dirty, Error, MAX_QUEUE_SIZE, features};

/// The number of the receive queue.
pub const RX_QUEUE: usize = 0;
/// The number of the transmit queue.
pub const TX_QUEUE: usize = 1;

/// How a network device presents itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// The MAC address; a multicast one is refused.
    pub mac: [u8; 6],
    /// The MTU in bytes to tell the driver, 68 to 65,521; `None` for none.
    pub mtu: Option<u16>,
    /// Offer checksum and TCP segmentation offloads.
    pub offload: bool,
    /// Offer UDP segmentation too; the tap has to know it (Linux 6.2).
    pub udp_offload: bool,
    /// Greatest size of both queues, a power of two from 4 to 512.
    pub queue_size: u16,
    /// Limits of what the guest receives.
    pub rx_limiter: RateLimiter,
    /// Limits of what the guest sends.
    pub tx_limiter: RateLimiter,
    /// Where to note what is written to guest memory, if anybody asks for it.
    pub dirty: Option<&'static Dirty>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mac: [0x02, 0, 0, 0, 0, 1],
            mtu: None,
            offload: true,
            udp_offload: false,
            queue_size: 256,
            rx_limiter: RateLimiter::default(),
            tx_limiter: RateLimiter::default(),
            dirty: None,
        }
    }
}

impl Options {
    pub(super) fn check(&self) -> Result<(), Error> {
        let [first, ..] = self.mac;
        if first & 1 != 0 {
            return Err(Error::Option("mac"));
        }
        // 5.1.4.1: from the least an IPv4 host has to take.
        if self.mtu.is_some_and(|mtu| !(68..=65521).contains(&mtu)) {
            return Err(Error::Option("mtu"));
        }
        // One receive fills buffers of half a vector at most; see `rx`.
        let sizes = 4..=MAX_QUEUE_SIZE / 2;
        if !self.queue_size.is_power_of_two() || !sizes.contains(&self.queue_size) {
            return Err(Error::Option("queue_size"));
        }
        Ok(())
    }

    pub(super) fn features(&self) -> u64 {
        let mut offered =
            features::COMMON | features::NET_MAC | features::NET_STATUS | features::NET_MRG_RXBUF;
        if self.mtu.is_some() {
            offered |= features::NET_MTU;
        }
        if self.offload {
            offered |= features::NET_CSUM
                | features::NET_GUEST_CSUM
                | features::NET_HOST_TSO4
                | features::NET_HOST_TSO6
                | features::NET_GUEST_TSO4
                | features::NET_GUEST_TSO6;
        }
        if self.offload && self.udp_offload {
            offered |= features::NET_HOST_USO | features::NET_GUEST_USO4 | features::NET_GUEST_USO6;
        }
        offered
    }

    pub(super) fn config(&self, link_up: bool) -> Vec<u8> {
        let mut space = self.mac.to_vec();
        let status = if link_up { VIRTIO_NET_S_LINK_UP } else { 0 };
        space.extend((status as u16).to_le_bytes());
        space.extend(1u16.to_le_bytes()); // max_virtqueue_pairs
        space.extend(self.mtu.unwrap_or(0).to_le_bytes());
        space
    }
}
