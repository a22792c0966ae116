//! What a block device counts.

use crate::Counter;

/// Counts since the device was made; read them at any time.
#[derive(Debug, Default)]
pub struct BlockCounters {
    /// Requests answered.
    pub requests: Counter,
    /// Read requests done.
    pub reads: Counter,
    /// Write requests done.
    pub writes: Counter,
    /// Bytes read from the medium.
    pub read_bytes: Counter,
    /// Bytes written to the medium.
    pub written_bytes: Counter,
    /// Flush requests.
    pub flushes: Counter,
    /// Discard and write-zeroes requests done.
    pub discards: Counter,
    /// Requests answered with an error.
    pub errors: Counter,
    /// Times a request had to wait for a rate limit.
    pub throttled: Counter,
    /// Times a request was kept because the host's disk was full.
    pub no_space: Counter,
    /// Times the driver broke a queue.
    pub broken: Counter,
}

/// What one `run` did, added to the counters at its end in one go.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) flushes: u64,
    pub(super) discards: u64,
    pub(super) errors: u64,
}

impl BlockCounters {
    pub(super) fn add(&self, tally: &Tally) {
        self.requests.add(tally.requests);
        self.reads.add(tally.reads);
        self.writes.add(tally.writes);
        self.read_bytes.add(tally.read_bytes);
        self.written_bytes.add(tally.written_bytes);
        self.flushes.add(tally.flushes);
        self.discards.add(tally.discards);
        self.errors.add(tally.errors);
    }
}
