//! Receiving when something goes wrong at any step.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::fake::{DATA, Rig};
use super::{HEADER_LEN, Options, rx};
use crate::{Device, Step, features};

fn with_count(mut frame: Vec<u8>, buffers: u16) -> Vec<u8> {
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

/// Flaw table line 20: the header written after buffers were released, leaks
/// on the error path (QEMU CVE-2021-3748, CVE-2022-26353): a fault at each
/// step gives no buffer back half-done and keeps none.
#[test]
fn a_fault_at_any_step_leaks_no_buffer() {
    for error in [5, 14, 19, 77, 22, 105] {
        let mut rig = Rig::new();
        for i in 0..8 {
            rig.rx.send(&[(DATA + 4096 * i, 4096, true)]);
        }
        rig.wire.error.store(error, Relaxed);
        let _ = rig.run_rx();
        assert_eq!(rig.rx.drain(), []);
        // Larger than any frame may be, then too short to have a header.
        rig.wire.error.store(0, Relaxed);
        rig.arrive(70_000);
        rig.arrive(11);
        rig.arrive(0);
        let _ = rig.run_rx();
        assert_eq!(rig.rx.drain(), []);
        let frame = rig.arrive(5000);
        let _ = rig.run_rx();
        assert_eq!(rig.guest(DATA, 5000), with_count(frame, 2));
        assert_eq!(rig.rx.drain().len(), 2);
        let state = rig.net.stop().queues[0].clone().unwrap();
        assert_eq!(state.in_flight.len(), 6, "held, and handed back");
    }
}

/// Flaw table line 22: stale memory reaches the guest (QEMU CVE-2024-8612):
/// after a frame that ran over, what a small one leaves is the guest's own.
#[test]
fn what_a_frame_does_not_fill_keeps_its_bytes() {
    let mut rig = Rig::with(Options::default(), features::VERSION_1);
    rig.rx.send(&[(DATA, 2000, true)]);
    rig.arrive(60_000);
    rig.wire.incoming.lock().unwrap()[0].fill(0x5e);
    let _ = rig.run_rx();
    rig.fill(DATA, &[0xee; 4096]);
    let frame = rig.arrive(64);
    let _ = rig.run_rx();
    assert_eq!(rig.rx.drain()[0].1, 64);
    assert_eq!(rig.guest(DATA, 64), with_count(frame, 1));
    assert_eq!(rig.guest(DATA + 64, 4000), vec![0xee; 4000]);
}

/// Frames larger than any may be (a host's "BIG TCP") are dropped and counted,
/// also where the buffers would have had room for what the tap gave of them.
#[test]
fn a_frame_whose_end_may_be_missing_is_dropped() {
    for (len, delivered) in [
        (rx::MAX_FRAME - 1, true),
        (rx::MAX_FRAME, true),
        (rx::MAX_FRAME + 1, false),
        (rx::MAX_FRAME + 2048, false),
        (rx::MAX_FRAME + 2049, false),
        (200_000, false),
        (600_000, false),
    ] {
        let mut rig = Rig::new();
        for i in 0..4 {
            rig.rx.send(&[(DATA + 0x2_0000 * i, 0x2_0000, true)]);
        }
        rig.arrive(len);
        rig.arrive(100);
        assert_eq!(rig.run_rx().step, Step::Idle);
        let lens: Vec<_> = rig.rx.drain().iter().map(|(_, len)| *len).collect();
        let dropped = rig.net.counters().rx_dropped.get();
        if delivered {
            assert_eq!((lens, dropped), (vec![len as u32, 100], 0));
        } else {
            assert_eq!((lens, dropped), (vec![100], 1), "{len}");
        }
    }
}

/// A run of the device and a model of it: what arrived, what was given.
struct Model {
    rig: Rig,
    random: u64,
    /// Frames that arrived and have neither been seen nor counted as dropped.
    arrived: VecDeque<Vec<u8>>,
    /// Buffers the driver gave, by head: address and length.
    given: HashMap<u16, (u64, u32)>,
    seen: u64,
}

impl Model {
    fn new(features: u64, seed: u64) -> Self {
        Self {
            rig: Rig::with(Options::default(), features),
            random: seed,
            arrived: VecDeque::new(),
            given: HashMap::new(),
            seen: 0,
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.random >> 33) % limit
    }

    fn give(&mut self) {
        let sizes = [1, 11, 12, 64, 1526, 4096, 0x1_2000];
        let len = sizes[self.below(sizes.len() as u64) as usize];
        let slot = (0..64).find(|slot| !self.given.values().any(|(at, _)| *at == at_slot(*slot)));
        let Some(slot) = slot else { return };
        let head = self.rig.rx.send(&[(at_slot(slot), len, true)]);
        assert_eq!(self.given.insert(head, (at_slot(slot), len)), None);
    }

    fn arrive(&mut self) {
        let sizes = [0, 5, 12, 13, 60, 1514, 9000, 65_550, 65_569, 65_570, 150_000];
        let len = sizes[self.below(sizes.len() as u64) as usize];
        let frame = self.rig.arrive(len);
        self.arrived.push_back(frame);
    }

    /// What the driver sees: whole frames that arrived, in order.
    fn look(&mut self) {
        let used = self.rig.rx.drain();
        let mut used = used.into_iter();
        while let Some((head, len)) = used.next() {
            let (at, room) = self.given.remove(&head).expect("given once, used once");
            assert!(len <= room);
            if len == 0 {
                continue; // of no use, and given back
            }
            let mut bytes = self.rig.guest(at, len as usize);
            assert!(bytes.len() >= HEADER_LEN, "a header in pieces");
            let buffers = u16::from_le_bytes([bytes[10], bytes[11]]);
            for _ in 1..buffers {
                let (head, len) = used.next().expect("all of a frame's buffers or none");
                let (at, room) = self.given.remove(&head).expect("given once, used once");
                assert!(len > 0 && len <= room);
                bytes.extend(self.rig.guest(at, len as usize));
            }
            loop {
                let frame = self.arrived.pop_front().expect("a frame that arrived");
                if frame.len() == bytes.len() && with_count(frame, buffers) == bytes {
                    break;
                }
            }
            self.seen += 1;
        }
    }
}

fn at_slot(slot: u64) -> u64 {
    DATA + 0x1_4000 * slot
}

/// Flaw table line 20 as a property: faults of the tap, bad lengths, stops and
/// starts at every step, and the driver sees whole frames with whole headers,
/// every buffer at most once, and gets all of them back in the end.
#[test]
fn whatever_fails_no_buffer_is_lost_and_no_frame_is_torn() {
    let all = u64::MAX;
    for (features, seeds) in [(all, 0..16), (all & !features::NET_MRG_RXBUF, 16..24)] {
        let mut seen = 0;
        for seed in seeds {
            let mut model = Model::new(features, seed);
            let mut now = Duration::ZERO;
            for _ in 0..600 {
                match model.below(10) {
                    0..=3 => model.give(),
                    4..=5 => model.arrive(),
                    6 => {
                        let errors = [0, 0, 0, 0, 5, 14, 19, 77, 22, 105];
                        let error = errors[model.below(errors.len() as u64) as usize];
                        model.rig.wire.error.store(error, Relaxed);
                    }
                    7 if model.below(4) == 0 => {
                        let stopped = model.rig.net.stop();
                        let state = stopped.queues[0].as_ref().unwrap();
                        model.look();
                        let heads = &state.in_flight;
                        assert!(heads.iter().all(|head| model.given.contains_key(head)));
                        model.rig.start(&stopped);
                    }
                    _ => {
                        now += Duration::from_millis(7);
                        let Rig { net, rx_worker, .. } = &mut model.rig;
                        let outcome = net.run_rx(rx_worker, now, 3);
                        assert_ne!(outcome.step, Step::Broken);
                        model.look();
                    }
                }
            }
            seen += model.seen;
            // Every buffer is with the driver, with the device, or on its way.
            let state = model.rig.net.stop().queues[0].clone().unwrap();
            model.look();
            let waiting = model.rig.rx.next_available.wrapping_sub(state.next_available);
            let with_device = state.in_flight.len() + usize::from(waiting);
            assert_eq!(with_device, model.given.len(), "seed {seed}");
        }
        assert!(seen > 200, "{seen} frames are not much of a test");
    }
}
