//! Rate limits: token buckets for bytes and operations.
//!
//! The names and meanings are Firecracker's: a bucket of `size` tokens that
//! fills at `size` per `refill_time`, plus a burst that is spent first and
//! never refilled. The clock is passed in: any monotonic time since any
//! origin. Nothing here sleeps; a refusal says when to come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::Unpoisoned as _;

/// A bucket as configured. A `size` or `refill_time` of 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketConfig {
    /// Tokens (bytes or operations) it holds; it starts full.
    pub size: u64,
    /// Tokens that can be spent once on top of that.
    pub one_time_burst: u64,
    /// Milliseconds in which an empty bucket fills.
    pub refill_time: u64,
}

/// What is in a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelV1 {
    /// What is left of the burst.
    pub burst: u64,
    /// Tokens.
    pub tokens: u64,
    /// Tokens spent that it never had.
    pub debt: u64,
}

/// A bucket with its fill level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    size: u64,
    refill_nanos: u64,
    burst: u64,
    tokens: u64,
    /// Tokens spent that the bucket never had: refilled first.
    debt: u64,
    /// Refilled up to here; `None` before the first use.
    filled: Option<u64>,
}

impl Bucket {
    fn new(config: &BucketConfig) -> Option<Self> {
        (config.size > 0 && config.refill_time > 0).then(|| Self {
            size: config.size,
            refill_nanos: config.refill_time.saturating_mul(1_000_000),
            burst: config.one_time_burst,
            tokens: config.size,
            debt: 0,
            filled: None,
        })
    }

    /// Never more than it was configured with: elsewhere it was another one.
    fn set(&mut self, level: &LevelV1) {
        self.burst = level.burst.min(self.burst);
        self.tokens = level.tokens.min(self.size);
        self.debt = level.debt;
    }

    /// `a * b / c` for numbers whose product does not fit 64 bits.
    fn scale(a: u64, b: u64, c: u64) -> u128 {
        (u128::from(a) * u128::from(b)).checked_div(u128::from(c)).unwrap_or(0)
    }

    /// Nanoseconds in which `tokens` are refilled, rounded up.
    fn nanos_for(&self, tokens: u64) -> u64 {
        let product = u128::from(tokens) * u128::from(self.refill_nanos);
        u64::try_from(product.div_ceil(u128::from(self.size.max(1)))).unwrap_or(u64::MAX)
    }

    fn refill(&mut self, now: u64) {
        let filled = *self.filled.get_or_insert(now);
        let elapsed = now.saturating_sub(filled);
        let gained = Self::scale(elapsed, self.size, self.refill_nanos);
        let missing = u128::from(self.debt) + u128::from(self.size - self.tokens);
        if gained >= missing {
            self.debt = 0;
            self.tokens = self.size;
            self.filled = Some(filled.max(now));
            return;
        }
        // Less than what is missing, which is less than two words full.
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        let repaid = gained.min(self.debt);
        self.debt -= repaid;
        self.tokens += gained - repaid;
        // Time that made no whole token yet stays to be counted.
        self.filled = Some(filled.saturating_add(self.nanos_for(gained)));
    }

    /// Whether `tokens` can be spent now; if not, the time when they can.
    /// More than the bucket can hold passes as soon as nothing is owed.
    fn check(&self, tokens: u64) -> Result<(), u64> {
        let wanted = tokens.saturating_sub(self.burst);
        let missing = if self.debt > 0 {
            self.debt.saturating_add(1)
        } else if wanted <= self.tokens || wanted > self.size {
            return Ok(());
        } else {
            wanted - self.tokens
        };
        let filled = self.filled.unwrap_or(0);
        Err(filled.saturating_add(self.nanos_for(missing).max(1)))
    }

    fn spend(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        let rest = tokens - from_burst;
        let from_bucket = rest.min(self.tokens);
        self.tokens -= from_bucket;
        self.debt = self.debt.saturating_add(rest - from_bucket);
    }
}

/// The limits of one direction of one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl RateLimiter {
    /// A limiter with full buckets; a bucket that is `None` or has a zero in
    /// it does not limit.
    #[must_use]
    pub fn new(bytes: Option<BucketConfig>, operations: Option<BucketConfig>) -> Self {
        Self {
            bytes: bytes.as_ref().and_then(Bucket::new),
            operations: operations.as_ref().and_then(Bucket::new),
        }
    }

    /// True if there is a limit at all.
    #[must_use]
    pub fn is_limiting(&self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }

    /// What is in the buckets of bytes and of operations, `None` where there
    /// is none.
    pub fn levels(&mut self, now: Duration) -> [Option<LevelV1>; 2] {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        [&mut self.bytes, &mut self.operations].map(|bucket| {
            let bucket = bucket.as_mut()?;
            bucket.refill(nanos);
            let Bucket { burst, tokens, debt, .. } = *bucket;
            Some(LevelV1 { burst, tokens, debt })
        })
    }

    /// Sets what is in the buckets of a fresh limiter, as far as they hold it;
    /// `None` leaves one full.
    pub fn set_levels(&mut self, levels: &[Option<LevelV1>]) {
        let buckets = [&mut self.bytes, &mut self.operations];
        for (bucket, level) in buckets.into_iter().zip(levels) {
            if let (Some(bucket), Some(level)) = (bucket, level) {
                bucket.set(level);
            }
        }
    }

    /// Spends one operation and `bytes` bytes, both or neither.
    ///
    /// # Errors
    /// The time at which to try again, later than `now`.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Result<(), Duration> {
        self.ready(now, bytes)?;
        self.charge(bytes);
        Ok(())
    }

    /// Whether one operation of `bytes` bytes could be taken now. For sizes
    /// known only afterwards: ask for 1 byte, then [`charge`](Self::charge).
    ///
    /// # Errors
    /// The time at which to try again, later than `now`.
    pub fn ready(&mut self, now: Duration, bytes: u64) -> Result<(), Duration> {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut retry = None;
        for (bucket, tokens) in [(&mut self.bytes, bytes), (&mut self.operations, 1)] {
            let Some(bucket) = bucket else { continue };
            bucket.refill(nanos);
            if let Err(at) = bucket.check(tokens) {
                retry = retry.max(Some(at.max(nanos.saturating_add(1))));
            }
        }
        retry.map_or(Ok(()), |at| Err(Duration::from_nanos(at)))
    }

    /// Spends one operation and `bytes` bytes whether they are there or not;
    /// what was not there is owed and delays the next.
    pub fn charge(&mut self, bytes: u64) {
        self.owe(bytes);
        if let Some(bucket) = &mut self.operations {
            bucket.spend(1);
        }
    }

    /// Spends bytes of an operation that was taken before.
    pub fn owe(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.spend(bytes);
        }
    }
}

/// A device's rate limit, which costs nothing where there is none.
pub(crate) struct Limiter {
    limiting: AtomicBool,
    limit: Mutex<RateLimiter>,
}

impl Limiter {
    pub(crate) fn new(limit: RateLimiter) -> Self {
        Self { limiting: AtomicBool::new(limit.is_limiting()), limit: Mutex::new(limit) }
    }

    pub(crate) fn set(&self, limit: RateLimiter) {
        *self.lock() = limit;
        self.limiting.store(limit.is_limiting(), Ordering::Relaxed);
    }

    /// Also of one that limits nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, RateLimiter> {
        self.limit.lock().unpoisoned()
    }

    /// The limit, if there is one.
    pub(crate) fn get(&self) -> Option<MutexGuard<'_, RateLimiter>> {
        self.limiting.load(Ordering::Relaxed).then(|| self.lock())
    }
}

#[cfg(test)]
#[path = "rate_test.rs"]
mod rate_test;
