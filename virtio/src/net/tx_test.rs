//! Sending, with chains of every kind.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::fake::{DATA, Rig};
use super::{HEADER_LEN, Options};
use crate::rate::{BucketConfig, RateLimiter};
use crate::{Device, Step, WhenEmpty, features};

const HEADER: u64 = DATA - 4096;
const PLAIN: [u8; HEADER_LEN] = [0; HEADER_LEN];

fn send(rig: &mut Rig, header: &[u8; HEADER_LEN], len: u32) {
    rig.fill(HEADER, header);
    rig.tx.send(&[(HEADER, 12, false), (DATA, len, false)]);
}

/// Sends one frame to its end; true if it reached the tap.
fn reaches_tap(rig: &mut Rig, header: &[u8; HEADER_LEN], len: u32) -> bool {
    send(rig, header, len);
    assert_eq!(rig.run_tx().step, Step::Idle);
    assert_eq!(rig.tx.drain().len(), 1);
    let sent = rig.wire.sent.lock().unwrap().drain(..).count();
    let counters = rig.net.counters();
    assert_eq!(sent == 0, counters.tx_dropped.get() == 1);
    sent == 1
}

#[test]
fn a_frame_goes_out_as_it_is() {
    let mut rig = Rig::new();
    rig.fill(DATA, &(0..=255).collect::<Vec<u8>>());
    rig.fill(HEADER, &PLAIN);
    rig.tx.send(&[(HEADER, 12, false), (DATA, 100, false), (DATA + 100, 50, false)]);
    let outcome = rig.run_tx();
    assert_eq!((outcome.step, outcome.signal), (Step::Idle, true));
    assert_eq!(rig.tx.drain()[0].1, 0, "nothing is written");
    let expected: Vec<u8> = (0..150).collect();
    assert_eq!(*rig.wire.sent.lock().unwrap(), [(PLAIN.to_vec(), expected)]);
    assert_eq!(rig.net.counters().tx_frames.get(), 1);
    assert_eq!(rig.net.counters().tx_bytes.get(), 150);
}

/// Flaw table line 21: the header split over any number of descriptors, in
/// one with the frame, and for every subset of features of the same size.
#[test]
fn the_header_may_be_split_anywhere() {
    for wanted in [features::VERSION_1, u64::MAX] {
        for cut in 1..=12u32 {
            let mut rig = Rig::with(Options::default(), wanted);
            let bytes: Vec<u8> = std::iter::repeat_n(0, 12).chain(0..80).collect();
            rig.fill(DATA, &bytes);
            let buffers = (0..cut - 1).map(|i| (DATA + u64::from(i), 1, false));
            let mut buffers: Vec<_> = buffers.collect();
            buffers.push((DATA + u64::from(cut) - 1, 92 - (cut - 1), false));
            rig.tx.send(&buffers);
            let _ = rig.run_tx();
            let expected: Vec<u8> = (0..80).collect();
            assert_eq!(*rig.wire.sent.lock().unwrap(), [(PLAIN.to_vec(), expected)]);
        }
    }
}

#[test]
fn lengths_no_frame_can_have_are_dropped_and_counted() {
    let mut rig = Rig::new();
    let lengths = [(14, true), (1514, true), (65_550, true), (65_600, true)];
    for (len, _) in lengths {
        send(&mut rig, &PLAIN, len);
    }
    assert_eq!(rig.run_tx().step, Step::Idle);
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 4);
    rig.tx.drain();
    for len in [1, 13, 65_601, 100_000, 0x40_0000] {
        send(&mut rig, &PLAIN, len);
    }
    // Shorter than a header, nothing to read at all, nothing but a header.
    rig.tx.send(&[(HEADER, 11, false)]);
    rig.tx.send(&[(HEADER, 2000, true)]);
    rig.tx.send(&[(HEADER, 12, false)]);
    assert_eq!(rig.run_tx().step, Step::Idle);
    assert!(rig.tx.drain().iter().all(|(_, len)| *len == 0));
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 4);
    assert_eq!(rig.net.counters().tx_dropped.get(), 8);
    assert!(!rig.net.is_broken());
}

/// Flaw table line 17: a chain that is itself not valid breaks the device.
#[test]
fn a_descriptor_of_no_bytes_breaks_the_device() {
    let mut rig = Rig::new();
    rig.tx.send(&[(HEADER, 12, false), (DATA, 0, false)]);
    let outcome = rig.run_tx();
    assert_eq!((outcome.step, outcome.refresh), (Step::Broken, true));
    assert_eq!(rig.run_rx().step, Step::Broken);
}

#[test]
fn offloads_have_to_be_negotiated_and_make_sense() {
    // flags, gso type, header length, gso size, checksum start and offset.
    let header = |flags: u8, gso: u8, size: u16, start: u16, offset: u16| {
        let [[s0, s1], [c0, c1], [o0, o1]] = [size, start, offset].map(u16::to_le_bytes);
        [flags, gso, 54, 0, s0, s1, c0, c1, o0, o1, 0, 0]
    };
    let csum = features::VERSION_1 | features::NET_CSUM;
    let tso4 = csum | features::NET_HOST_TSO4;
    let tso6 = csum | features::NET_HOST_TSO6;
    let uso = csum | features::NET_HOST_USO;
    let cases = [
        (csum, header(1, 0, 0, 34, 16), true),
        (features::VERSION_1, header(1, 0, 0, 34, 16), false),
        (csum, header(1, 0, 0, 1000, 998), true),
        (csum, header(1, 0, 0, 1000, 999), false),
        (csum, header(1, 0, 0, u16::MAX, u16::MAX), false),
        (csum, header(2, 0, 0, 0, 0), false),
        (csum, header(4, 0, 0, 0, 0), false),
        (csum, header(0, 0, 7, 9, 9), true),
        (tso4, header(1, 1, 1448, 34, 16), true),
        (tso6, header(1, 1, 1448, 34, 16), false),
        (csum, header(1, 1, 1448, 34, 16), false),
        (tso4, header(0, 1, 1448, 34, 16), false),
        (tso4, header(1, 1, 0, 34, 16), false),
        (tso4, header(1, 0x81, 1448, 34, 16), false),
        (tso6, header(1, 4, 1448, 34, 16), true),
        (uso, header(1, 5, 1448, 34, 6), true),
        (csum, header(1, 5, 1448, 34, 6), false),
        (u64::MAX, header(1, 3, 1448, 34, 6), false),
        (u64::MAX, header(1, 2, 1448, 34, 6), false),
    ];
    for (wanted, header, expected) in cases {
        let options = Options { udp_offload: true, ..Options::default() };
        let mut rig = Rig::with(options, wanted);
        assert_eq!(reaches_tap(&mut rig, &header, 2000), expected, "{wanted:#x} {header:?}");
    }
}

#[test]
fn a_lost_tap_takes_the_link_down_and_the_vm_lives() {
    let mut rig = Rig::new();
    rig.wire.error.store(5, Relaxed);
    send(&mut rig, &PLAIN, 100);
    let outcome = rig.run_tx();
    assert_eq!((outcome.step, outcome.refresh), (Step::Idle, true));
    assert_eq!(rig.tx.drain().len(), 1);
    assert!(!rig.net.link_is_up());
    assert_eq!(rig.net.counters().tap_errors.get(), 1);
    // One bad frame is no lost tap.
    let mut rig = Rig::new();
    rig.wire.error.store(22, Relaxed);
    send(&mut rig, &PLAIN, 100);
    assert!(!rig.run_tx().refresh);
    assert!(rig.net.link_is_up());
    assert_eq!(rig.net.counters().tx_dropped.get(), 1);
}

#[test]
fn a_full_tap_is_tried_again_without_spinning() {
    let mut rig = Rig::new();
    rig.wire.busy.store(true, Relaxed);
    send(&mut rig, &PLAIN, 100);
    assert_eq!(rig.run_tx().step, Step::WaitUntil(Duration::from_millis(1)));
    assert_eq!(rig.tx.drain(), []);
    rig.wire.busy.store(false, Relaxed);
    assert_eq!(rig.run_tx().step, Step::Idle);
    assert_eq!(rig.tx.drain().len(), 1);
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 1);
}

#[test]
fn a_rate_limit_keeps_the_order() {
    let bucket = BucketConfig { size: 1, one_time_burst: 0, refill_time: 10 };
    let options =
        Options { tx_limiter: RateLimiter::new(None, Some(bucket)), ..Options::default() };
    let mut rig = Rig::with(options, u64::MAX);
    for i in 0..5u8 {
        let at = DATA + 256 * u64::from(i);
        rig.fill(at, &[i; 64]);
        rig.fill(HEADER, &PLAIN);
        rig.tx.send(&[(HEADER, 12, false), (at, 64, false)]);
    }
    let mut now = Duration::ZERO;
    loop {
        let arm = WhenEmpty::Arm;
        match rig.net.run_tx(&mut rig.tx_worker, now, 64, arm).step {
            Step::WaitUntil(at) => {
                assert!(at > now);
                now = at;
            }
            step => {
                assert_eq!(step, Step::Idle);
                break;
            }
        }
    }
    assert_eq!(now, Duration::from_millis(40));
    let order: Vec<u8> = rig.wire.sent.lock().unwrap().iter().map(|(_, f)| f[0]).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

/// A frame that the tap has no room for is tried again and costs once.
#[test]
fn a_busy_tap_costs_no_tokens() {
    let bucket = BucketConfig { size: 2, one_time_burst: 0, refill_time: 1_000_000 };
    let options =
        Options { tx_limiter: RateLimiter::new(None, Some(bucket)), ..Options::default() };
    let mut rig = Rig::with(options, u64::MAX);
    for _ in 0..3 {
        send(&mut rig, &PLAIN, 64);
    }
    rig.wire.busy.store(true, Relaxed);
    for _ in 0..5 {
        assert_eq!(rig.run_tx().step, Step::WaitUntil(Duration::from_millis(1)));
    }
    rig.wire.busy.store(false, Relaxed);
    let limited = rig.run_tx().step;
    assert!(matches!(limited, Step::WaitUntil(at) if at > Duration::from_secs(1)));
    assert_eq!(rig.wire.sent.lock().unwrap().len(), 2);
}

/// Flaw table line 7: a long queue stalled the event loop (Firecracker
/// #5794): work is bounded, and the doorbell is left alone while polling.
#[test]
fn a_budget_is_kept() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        send(&mut rig, &PLAIN, 64);
    }
    let now = Duration::ZERO;
    let outcome = rig.net.run_tx(&mut rig.tx_worker, now, 7, WhenEmpty::Poll);
    assert_eq!(outcome.step, Step::More);
    assert_eq!(rig.tx.drain().len(), 7);
    let outcome = rig.net.run_tx(&mut rig.tx_worker, now, 64, WhenEmpty::Poll);
    assert_eq!(outcome.step, Step::Empty);
    assert_eq!(rig.tx.available_event(), 0);
    assert_eq!(rig.run_tx().step, Step::Idle);
    assert_eq!(rig.tx.available_event(), 20);
}
