//! Counters that a worker bumps and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows. Relaxed: it is a statistic, nothing waits for it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds `n`; nothing is done for 0, which saves the locked instruction.
    pub(crate) fn add(&self, n: u64) {
        if n != 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }
}
