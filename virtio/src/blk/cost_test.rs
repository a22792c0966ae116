//! What the block device adds to the read itself.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::fake::{DATA, HEADER, IN, STATUS, activation};
use super::{Block, Medium, Options, ReadAt, Worker};
use crate::driver::{Driver, memory};
use crate::{Device, GuestSlice, QueueState, Step, WhenEmpty};

/// A medium that takes no time.
struct Nothing;

impl ReadAt for Nothing {
    fn size(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }

    fn read_at(&self, to: &[GuestSlice<'_>], _offset: u64) -> io::Result<usize> {
        Ok(to.iter().map(|slice| slice.len()).sum())
    }
}

/// Nanoseconds for one 4 KiB read besides the read, at depth 1 and 32. Run
/// with `cargo test --release -p mote-virtio cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const ROUNDS: u32 = 20_000;
    let mem = memory(&[(0, 0x80_0000)]);
    for depth in [1u32, 32] {
        let medium = Medium::ReadOnly(Box::new(Nothing));
        let block = Arc::new(Block::new(mem, medium, Options::default()).unwrap());
        let mut driver = Driver::new(mem, 0, 256);
        let features = block.features();
        let start = activation(&driver, features, QueueState::default());
        block.start(&start).unwrap();
        driver.put(HEADER, IN.to_le_bytes());
        driver.put(HEADER + 8, 7u64.to_le_bytes());
        let mut worker = Worker::default();
        let mut nanos = 0;
        for _ in 0..ROUNDS {
            driver.drain();
            for _ in 0..depth {
                driver.send(&[(HEADER, 16, false), (DATA, 4096, true), (STATUS, 1, true)]);
            }
            let start = Instant::now();
            let outcome = block.run(&mut worker, 0, &|| start.elapsed(), 64, WhenEmpty::Arm);
            nanos += start.elapsed().as_nanos();
            assert_eq!(outcome.step, Step::Idle);
        }
        println!("depth {depth}: {} ns", nanos / u128::from(ROUNDS * depth));
    }
}
