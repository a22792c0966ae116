//! Token buckets: no panic, no spinning, never more than was allowed.
#![no_main]

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote_virtio::rate::{BucketConfig, RateLimiter};

fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=4)? {
        0 => u.int_in_range(0..=10)?,
        1 => u64::from(u.arbitrary::<u16>()?),
        2 => u64::from(u.arbitrary::<u32>()?),
        3 => u64::MAX - u.int_in_range(0..=2)?,
        _ => u.arbitrary()?,
    })
}

fn bucket(u: &mut Unstructured<'_>) -> Result<BucketConfig> {
    Ok(BucketConfig { size: number(u)?, one_time_burst: number(u)?, refill_time: number(u)? })
}

/// What a bucket may have given from its start until `nanos` later.
fn allowed(config: &BucketConfig, nanos: u128) -> Option<u128> {
    if config.size == 0 || config.refill_time == 0 {
        return None;
    }
    // The clock ends after 584 years; so does a refill time.
    let refill = u128::from(config.refill_time) * 1_000_000;
    let refill = refill.min(u128::from(u64::MAX));
    let gained = u128::from(config.size).checked_mul(nanos)? / refill;
    gained.checked_add(u128::from(config.size) + u128::from(config.one_time_burst))
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let (bytes, operations) = (bucket(u)?, bucket(u)?);
    let mut limiter = RateLimiter::new(Some(bytes), Some(operations));
    let start = number(u)?;
    let mut now = start;
    let (mut spent, mut count) = (0u128, 0u128);
    while !u.is_empty() {
        let wanted = number(u)?;
        match limiter.take(Duration::from_nanos(now), wanted) {
            Ok(()) => {
                let nanos = u128::from(now - start);
                // What is asked for when nothing is owed may be more than is
                // there; before it, no more than that was given.
                if let Some(most) = allowed(&bytes, nanos) {
                    assert!(spent <= most, "{spent} bytes of {most}");
                }
                if let Some(most) = allowed(&operations, nanos) {
                    assert!(count < most, "{count} operations of {most}");
                }
                spent += u128::from(wanted);
                count += 1;
            }
            Err(at) => {
                let at = u64::try_from(at.as_nanos()).unwrap();
                assert!(at > now || at == u64::MAX);
                if u.arbitrary()? {
                    now = at;
                }
            }
        }
        now = now.saturating_add(number(u)? % 1_000_000_000);
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
