//! What the network device adds to the tap itself.

use std::io;
use std::time::{Duration, Instant};

use super::fake::DATA;
use super::{Net, Offload, Options, RX_QUEUE, RxWorker, TX_QUEUE, Tap, TxWorker};
use crate::driver::{Driver, memory};
use crate::{Activation, Device, GuestSlice, QueueConfig, QueueSetup, QueueState, Step, WhenEmpty};

/// A tap that takes no time and always has a frame of this length.
struct Instantly(usize);

impl Tap for Instantly {
    fn read_frame(&self, _to: &[GuestSlice<'_>], _over: &mut [u8]) -> io::Result<Option<usize>> {
        Ok(Some(self.0))
    }

    fn write_frame(&self, start: &[u8], from: &[GuestSlice<'_>]) -> io::Result<Option<usize>> {
        let rest: usize = from.iter().map(|slice| slice.len()).sum();
        Ok(Some(start.len() + rest))
    }

    fn is_up(&self) -> bool {
        true
    }

    fn set_offload(&self, _offload: Offload) -> io::Result<()> {
        Ok(())
    }
}

/// Nanoseconds for one frame besides the tap's: received into 2 KiB buffers
/// that merge, and sent. Run with
/// `cargo test --release -p mote-virtio cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const ROUNDS: u32 = 5_000;
    const BATCH: u16 = 64;
    let mem = memory(&[(0, 0x80_0000)]);
    let mut drivers = [Driver::new(mem, 0, 256), Driver::new(mem, Driver::SPACE, 256)];
    let net = Net::new(mem, Box::new(Instantly(1526)), Options::default()).unwrap();
    let queues = drivers.iter().map(|driver| {
        let config = QueueConfig {
            size: 256,
            descriptors: driver.descriptors,
            available: driver.available,
            used: driver.used,
        };
        let state = QueueState::default();
        Some(QueueSetup { config, state })
    });
    let activation =
        Activation { features: net.features(), queues: queues.collect(), writeback: None };
    net.start(&activation).unwrap();
    let (mut rx, mut tx) = (RxWorker::default(), TxWorker::default());
    let mut nanos = [0; 2];
    while let Some(head) = drivers[RX_QUEUE].build(&[(DATA, 2048, true)]) {
        drivers[RX_QUEUE].offer(head);
    }
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let outcome = net.run_rx(&mut rx, Duration::ZERO, usize::from(BATCH));
        nanos[RX_QUEUE] += start.elapsed().as_nanos();
        assert_eq!(outcome.step, Step::More);
        assert_eq!(drivers[RX_QUEUE].drain().len(), usize::from(BATCH));
        for _ in 0..BATCH {
            drivers[RX_QUEUE].send(&[(DATA, 2048, true)]);
            drivers[TX_QUEUE].send(&[(DATA, 1526, false)]);
        }
        let start = Instant::now();
        let outcome = net.run_tx(&mut tx, Duration::ZERO, 256, WhenEmpty::Arm);
        nanos[TX_QUEUE] += start.elapsed().as_nanos();
        assert_eq!(outcome.step, Step::Idle);
        drivers[TX_QUEUE].drain();
    }
    let frames = u128::from(ROUNDS * u32::from(BATCH));
    println!("receive: {} ns", nanos[RX_QUEUE] / frames);
    println!("send: {} ns", nanos[TX_QUEUE] / frames);
}
