//! Token buckets over every size of number.

use std::time::Duration;

use super::{BucketConfig, RateLimiter};

fn bucket(size: u64, one_time_burst: u64, refill_time: u64) -> Option<BucketConfig> {
    Some(BucketConfig { size, one_time_burst, refill_time })
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_zero_anywhere_means_no_limit() {
    for config in [None, bucket(0, 5, 100), bucket(100, 5, 0)] {
        let mut limiter = RateLimiter::new(config, config);
        assert!(!limiter.is_limiting());
        for _ in 0..100 {
            assert_eq!(limiter.take(ms(0), u64::MAX), Ok(()));
        }
    }
}

#[test]
fn a_bucket_starts_full_and_fills_at_its_rate() {
    let mut limiter = RateLimiter::new(bucket(1000, 0, 100), None);
    let start = ms(7000);
    assert_eq!(limiter.take(start, 1000), Ok(()));
    assert_eq!(limiter.take(start, 1), Err(start + Duration::from_micros(100)));
    assert_eq!(limiter.take(start, 500), Err(start + ms(50)));
    assert_eq!(limiter.take(start + ms(49), 500), Err(start + ms(50)));
    assert_eq!(limiter.take(start + ms(50), 500), Ok(()));
    // It never holds more than its size.
    assert_eq!(limiter.take(start + ms(10_000), 1000), Ok(()));
    assert!(limiter.take(start + ms(10_000), 1).is_err());
}

#[test]
fn the_burst_is_spent_first_and_never_refilled() {
    let mut limiter = RateLimiter::new(bucket(100, 50, 100), None);
    assert_eq!(limiter.take(ms(0), 50), Ok(()));
    assert_eq!(limiter.take(ms(0), 100), Ok(()));
    assert!(limiter.take(ms(0), 1).is_err());
    assert_eq!(limiter.take(ms(1000), 100), Ok(()));
    assert!(limiter.take(ms(1000), 1).is_err());
    // One request may use both.
    let mut limiter = RateLimiter::new(bucket(100, 50, 100), None);
    assert_eq!(limiter.take(ms(0), 150), Ok(()));
    assert!(limiter.take(ms(0), 1).is_err());
}

#[test]
fn more_than_the_bucket_holds_passes_and_is_paid_for() {
    let mut limiter = RateLimiter::new(bucket(100, 0, 100), None);
    assert_eq!(limiter.take(ms(0), 1000), Ok(()));
    let at = limiter.take(ms(0), 1).unwrap_err();
    assert_eq!(at, ms(901));
    assert!(limiter.take(ms(900), 1).is_err());
    assert_eq!(limiter.take(at, 1), Ok(()));
}

#[test]
fn both_buckets_or_neither() {
    let mut limiter = RateLimiter::new(bucket(100, 0, 100), bucket(2, 0, 1000));
    assert_eq!(limiter.take(ms(0), 60), Ok(()));
    assert_eq!(limiter.take(ms(0), 60), Err(ms(20)));
    assert_eq!(limiter.take(ms(0), 40), Ok(()), "nothing was spent in vain");
    // Bytes are there at 40 ms, the operation only at 500.
    assert_eq!(limiter.take(ms(0), 40), Err(ms(500)));
    assert_eq!(limiter.take(ms(500), 40), Ok(()));
}

#[test]
fn what_is_charged_afterwards_is_owed() {
    let mut limiter = RateLimiter::new(bucket(100, 0, 100), None);
    assert_eq!(limiter.ready(ms(0), 1), Ok(()));
    limiter.charge(150);
    assert_eq!(limiter.ready(ms(0), 1), Err(ms(51)));
    assert_eq!(limiter.ready(ms(51), 1), Ok(()));
}

#[test]
fn a_clock_that_goes_back_gives_nothing() {
    let mut limiter = RateLimiter::new(bucket(100, 0, 100), None);
    assert_eq!(limiter.take(ms(1000), 100), Ok(()));
    let at = limiter.take(ms(0), 10).unwrap_err();
    assert_eq!(at, ms(1010));
    assert!(limiter.take(ms(1000), 10).is_err());
    assert_eq!(limiter.take(ms(1010), 10), Ok(()));
}

/// Flaw table line 3: sums that overflow.
#[test]
fn no_number_is_too_large() {
    let values = [1, 2, 999, 1 << 32, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for size in values {
        for refill in values {
            for burst in [0, 1, u64::MAX] {
                for bytes in [0, 1, u64::MAX] {
                    let mut limiter = RateLimiter::new(bucket(size, burst, refill), None);
                    let mut now = Duration::ZERO;
                    for _ in 0..8 {
                        match limiter.take(now, bytes) {
                            Ok(()) => now += ms(1),
                            Err(at) => {
                                // 584 years is where the clock ends.
                                assert!(at > now || at.as_nanos() == u128::from(u64::MAX));
                                now = at;
                            }
                        }
                    }
                    limiter.charge(u64::MAX);
                    limiter.charge(u64::MAX);
                    let _ = limiter.take(Duration::MAX, 1);
                }
            }
        }
    }
}

/// Over a long time, whatever the request sizes, the rate is what was asked
/// for: at most size + burst + rate × time, and at least 99 % of it when
/// requests always wait.
#[test]
fn the_rate_holds_over_time() {
    let mut seed = 3u64;
    for (size, burst, refill) in [(1000, 0, 10), (7, 3, 1), (4096, 100_000, 33), (1 << 20, 0, 1000)]
    {
        let mut limiter = RateLimiter::new(bucket(size, burst, refill), None);
        let mut now = Duration::ZERO;
        let mut spent = 0u128;
        let mut last = 0;
        while now < Duration::from_secs(20) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = 1 + (seed >> 33) % (2 * size);
            loop {
                match limiter.take(now, bytes) {
                    Ok(()) => break,
                    Err(at) => {
                        assert!(at > now);
                        now = at;
                    }
                }
            }
            spent += u128::from(bytes);
            last = bytes;
        }
        let allowed = u128::from(size) * now.as_nanos() / (u128::from(refill) * 1_000_000)
            + u128::from(size + burst);
        // The last request may be owed.
        assert!(spent <= allowed + u128::from(last), "{spent} > {allowed}");
        assert!(spent * 100 >= allowed * 99 - u128::from(2 * size) * 100, "{spent} < {allowed}");
    }
}

/// A limiter that goes on elsewhere has what it had: neither a new burst nor
/// more than it holds there.
#[test]
fn a_saved_level_is_kept() {
    let mut limiter = RateLimiter::new(bucket(1000, 50, 100), bucket(10, 0, 100));
    assert_eq!(limiter.take(ms(5), 850), Ok(()));
    let levels = limiter.levels(ms(15));
    // 800 of 1000 spent, 100 came back.
    let left = levels.map(|level| level.map_or((0, 0), |level| (level.burst, level.tokens)));
    assert_eq!(left, [(0, 300), (0, 10)]);
    let mut other = RateLimiter::new(bucket(1000, 50, 100), None);
    other.set_levels(&levels);
    assert_eq!(other.take(ms(9000), 300), Ok(()));
    assert_eq!(other.take(ms(9000), 100), Err(ms(9010)));
    let mut smaller = RateLimiter::new(bucket(100, 0, 100), None);
    smaller.set_levels(&levels);
    assert_eq!(smaller.take(ms(0), 100), Ok(()));
    assert!(smaller.take(ms(0), 1).is_err());
}
