//! Rate limits of devices.
//!
//! On the command line `bw=10M` is 10 MiB a second and `ops=1000` a thousand
//! requests or frames a second: buckets that hold what one second refills. In
//! a config file every number of Firecracker's buckets can be given.

use mote_virtio::rate::{BucketConfig, RateLimiter};
use serde::{Deserialize, Serialize};

use super::parse_size;

/// Milliseconds in which a bucket from the command line fills.
const REFILL: u64 = 1000;

/// `rate_limiter` and its like.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct LimitEntry {
    bandwidth: Option<BucketEntry>,
    ops: Option<BucketEntry>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct BucketEntry {
    size: u64,
    one_time_burst: Option<u64>,
    refill_time: u64,
}

impl LimitEntry {
    /// The limiter of an entry that may be missing.
    pub(super) fn limiter_of(entry: Option<&Self>) -> RateLimiter {
        entry.map(Self::limiter).unwrap_or_default()
    }

    /// The same with what another entry says: a bucket that it does not name
    /// stays.
    pub(super) fn patched(old: Option<&Self>, new: &Self) -> Self {
        let old = old.cloned().unwrap_or_default();
        let new = new.clone();
        Self { bandwidth: new.bandwidth.or(old.bandwidth), ops: new.ops.or(old.ops) }
    }

    /// As in Firecracker, a size or time of 0 is no limit.
    pub(super) fn limiter(&self) -> RateLimiter {
        let bucket = |entry: &BucketEntry| BucketConfig {
            size: entry.size,
            one_time_burst: entry.one_time_burst.unwrap_or(0),
            refill_time: entry.refill_time,
        };
        RateLimiter::new(self.bandwidth.as_ref().map(bucket), self.ops.as_ref().map(bucket))
    }
}

/// What `bw=` and `ops=` say, a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PerSecond {
    bytes: Option<u64>,
    operations: Option<u64>,
}

impl PerSecond {
    /// Takes the value of `bw`; true if there was one before.
    pub(super) fn set_bytes(&mut self, text: &str) -> Result<bool, String> {
        let bytes = parse_size(text).map_err(|why| format!("bw={why}"))?;
        if bytes == 0 {
            return Err("bw=0 blocks all traffic; omit it for no limit".to_owned());
        }
        Ok(self.bytes.replace(bytes).is_some())
    }

    /// Takes the value of `ops`; true if there was one before.
    pub(super) fn set_operations(&mut self, text: &str) -> Result<bool, String> {
        let count = text.parse().ok().filter(|count| *count > 0);
        let count = count.ok_or_else(|| format!("ops={text}: not a number from 1 up"))?;
        Ok(self.operations.replace(count).is_some())
    }

    pub(super) fn limiter(self) -> RateLimiter {
        let bucket = |size| BucketConfig { size, one_time_burst: 0, refill_time: REFILL };
        RateLimiter::new(self.bytes.map(bucket), self.operations.map(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same() {
        let text = r#"{"bandwidth":{"size":10485760,"refill_time":1000},
                       "ops":{"size":7,"one_time_burst":0,"refill_time":1000}}"#;
        let entry: LimitEntry = serde_json::from_str(text).unwrap();
        let mut flags = PerSecond::default();
        assert!(!flags.limiter().is_limiting());
        assert_eq!(flags.set_bytes("10M"), Ok(false));
        assert_eq!(flags.set_operations("7"), Ok(false));
        assert_eq!(entry.limiter(), flags.limiter());
        assert_eq!(flags.set_bytes("1"), Ok(true));
        for text in ["", "0", "x", "-1", "1.5M"] {
            assert!(flags.set_bytes(text).is_err(), "{text}");
            assert!(flags.set_operations(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zero_is_no_limit_in_a_file() {
        let text = r#"{"bandwidth":{"size":0,"refill_time":1000},"ops":null}"#;
        let entry: LimitEntry = serde_json::from_str(text).unwrap();
        assert!(!entry.limiter().is_limiting());
    }
}
