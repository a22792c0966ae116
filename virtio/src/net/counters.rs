//! What a network device counts.

use crate::Counter;

/// Counts since the device was made; read them at any time.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Frames the guest received.
    pub rx_frames: Counter,
    /// Bytes of these, headers included.
    pub rx_bytes: Counter,
    /// Frames thrown away because the guest's buffers were too small or few.
    pub rx_dropped: Counter,
    /// Receive buffers given back unused because no header fits in them.
    pub rx_useless: Counter,
    /// Times receiving had to wait for a rate limit.
    pub rx_throttled: Counter,
    /// Frames the guest sent.
    pub tx_frames: Counter,
    /// Bytes of these, without headers.
    pub tx_bytes: Counter,
    /// Frames thrown away: malformed, or refused by the tap.
    pub tx_dropped: Counter,
    /// Times sending had to wait for a rate limit or for the tap.
    pub tx_throttled: Counter,
    /// Errors from the tap.
    pub tap_errors: Counter,
    /// Times the driver broke a queue.
    pub broken: Counter,
}

/// What one `run` did, added to the counters at its end in one go.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
    /// Steps taken, whether they moved a frame or not: what a budget bounds.
    pub(super) steps: usize,
}
