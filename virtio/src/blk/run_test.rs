//! How long a run goes on: budget, time and rate limits.

use std::cell::Cell;
use std::time::Duration;

use super::Options;
use super::fake::{DATA, DISCARD, IN, OK, Rig, WRITE_ZEROES, writable};
use crate::rate::{BucketConfig, RateLimiter};
use crate::{Step, WhenEmpty};

#[test]
fn a_budget_is_kept_and_polling_leaves_the_doorbell() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.offer(IN, 0, &[(DATA, 512, true)]);
    }
    assert_eq!(rig.block.pending(0), 5);
    let now = Duration::ZERO;
    let outcome = rig.block.run(&mut rig.worker, 0, &|| now, 2, WhenEmpty::Arm);
    assert_eq!(outcome.step, Step::More);
    assert_eq!(rig.driver.drain().len(), 2);
    assert_eq!(rig.block.pending(0), 3);
    let outcome = rig.block.run(&mut rig.worker, 0, &|| now, 64, WhenEmpty::Poll);
    assert_eq!(outcome.step, Step::Empty);
    assert_eq!(rig.driver.available_event(), 0, "not armed");
    let outcome = rig.block.run(&mut rig.worker, 0, &|| now, 64, WhenEmpty::Arm);
    assert_eq!(outcome.step, Step::Idle);
    assert_eq!(rig.driver.available_event(), 5);
    let outcome = rig.block.run(&mut rig.worker, 1, &|| now, 64, WhenEmpty::Arm);
    assert_eq!(outcome.step, Step::Stopped, "no such queue");
}

#[test]
fn a_rate_limit_says_when_to_come_back() {
    let bucket = BucketConfig { size: 1024, one_time_burst: 0, refill_time: 1000 };
    let options = Options { limiter: RateLimiter::new(Some(bucket), None), ..Options::default() };
    let mut rig = Rig::with(writable, options, u64::MAX);
    for _ in 0..4 {
        rig.offer(IN, 0, &[(DATA, 512, true)]);
    }
    let mut now = Duration::from_secs(5);
    let mut done = 0;
    for _ in 0..10 {
        let outcome = rig.block.run(&mut rig.worker, 0, &|| now, 64, WhenEmpty::Arm);
        done += rig.driver.drain().len();
        match outcome.step {
            Step::WaitUntil(at) => {
                assert!(at > now, "no spinning");
                now = at;
            }
            step => {
                assert_eq!(step, Step::Idle);
                break;
            }
        }
    }
    assert_eq!(done, 4);
    assert_eq!(now, Duration::from_secs(6));
    assert_eq!(rig.block.counters().throttled.get(), 2);
}

/// A drive with a bucket of so many bytes a second.
fn limited(size: u64) -> Rig {
    let bucket = BucketConfig { size, one_time_burst: 0, refill_time: 1000 };
    let options = Options { limiter: RateLimiter::new(Some(bucket), None), ..Options::default() };
    Rig::with(writable, options, u64::MAX)
}

/// A few bytes of request that make the host write many count as many.
#[test]
fn zeroes_are_charged_as_what_they_write() {
    for (kind, owed) in [(WRITE_ZEROES, 60 * 512), (DISCARD, 4096)] {
        let mut rig = limited(1024);
        assert_eq!(rig.ranges(kind, &[(0, 60, 0)]), OK);
        rig.offer(IN, 0, &[(DATA, 512, true)]);
        // The list itself is 16 bytes, and the bucket was full.
        let wait = Duration::from_nanos((16 + owed - 1024 + 1) * 1_000_000_000 / 1024);
        let Step::WaitUntil(at) = rig.run().step else {
            panic!("nothing is owed");
        };
        assert!(at.abs_diff(wait) < Duration::from_micros(1), "{at:?}");
    }
}

/// Of a request that waits for room, only the one that is done is charged.
#[test]
fn zeroes_that_found_no_room_are_not_charged() {
    let mut rig = limited(1 << 20);
    rig.disk.no_space.store(true, std::sync::atomic::Ordering::Relaxed);
    rig.driver.put(DATA, 0u64.to_le_bytes());
    rig.driver.put(DATA + 8, 60u64.to_le_bytes());
    rig.offer(WRITE_ZEROES, 0, &[(DATA, 16, false)]);
    for _ in 0..1000 {
        assert_eq!(rig.run().step, Step::Paused);
    }
    rig.disk.no_space.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(rig.run().step, Step::Idle);
}

/// On a slow disk what is done is told before all of it is done.
#[test]
fn a_slow_request_ends_the_run() {
    let mut rig = Rig::new();
    for _ in 0..10 {
        rig.offer(IN, 0, &[(DATA, 512, true)]);
    }
    // A clock that every look at it moves on.
    let now = Cell::new(Duration::ZERO);
    let mut run = |each: u64| {
        let clock = || {
            now.set(now.get() + Duration::from_micros(each));
            now.get()
        };
        let Rig { block, worker, .. } = &mut rig;
        let outcome = block.run(worker, 0, &clock, 64, WhenEmpty::Arm);
        (outcome.step, outcome.signal, rig.driver.drain().len())
    };
    assert_eq!(run(20_000), (Step::More, true, 1));
    let (step, signal, done) = run(400);
    assert_eq!((step, done), (Step::More, 3));
    assert!(!signal, "the driver's event index asked for the first");
    let (step, _, done) = run(10);
    assert_eq!((step, done), (Step::Idle, 6));
}
