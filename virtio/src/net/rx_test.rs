//! Receiving, with buffers of every kind.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::fake::{DATA, Rig};
use super::{HEADER_LEN, Net, Offload, Options};
use crate::driver::{Driver, INDIRECT, WRITE, memory};
use crate::rate::{BucketConfig, RateLimiter};
use crate::{Device, Error, Step, features};

const MERGE: u64 = features::NET_MRG_RXBUF;

fn with_count(mut frame: Vec<u8>, buffers: u16) -> Vec<u8> {
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

#[test]
fn a_frame_fills_as_many_buffers_as_it_needs() {
    for (len, buffers) in [(60, 1), (4096, 1), (4097, 2), (12, 1), (65550, 17)] {
        let mut rig = Rig::new();
        for i in 0..20 {
            rig.rx.send(&[(DATA + 4096 * i, 4096, true)]);
        }
        let frame = rig.arrive(len);
        let outcome = rig.run_rx();
        assert_eq!((outcome.step, outcome.signal), (Step::Idle, true));
        let used = rig.rx.drain();
        assert_eq!(used.len(), buffers, "{len}");
        let total: u32 = used.iter().map(|(_, len)| len).sum();
        assert_eq!(total as usize, len);
        assert!(used[..buffers - 1].iter().all(|(_, len)| *len == 4096));
        assert_eq!(rig.guest(DATA, len), with_count(frame, buffers as u16));
        assert_eq!(rig.net.counters().rx_frames.get(), 1);
        assert_eq!(rig.net.counters().rx_bytes.get(), len as u64);
    }
}

#[test]
fn frames_follow_each_other_in_the_buffers_that_are_left() {
    let mut rig = Rig::new();
    for i in 0..60 {
        rig.rx.send(&[(DATA + 2048 * i, 2048, true)]);
    }
    let mut at = DATA;
    for len in [100, 3000, 2048, 14, 6000, 12] {
        let frame = rig.arrive(len);
        assert_eq!(rig.run_rx().step, Step::Idle);
        let used = rig.rx.drain();
        let buffers = len.div_ceil(2048);
        assert_eq!(used.len(), buffers);
        assert_eq!(rig.guest(at, len), with_count(frame, buffers as u16));
        at += 2048 * buffers as u64;
    }
}

/// A driver that takes segments fills its ring again and again: a frame for
/// which it lacks room at this moment waits for the next buffers.
#[test]
fn a_large_frame_waits_for_buffers_that_are_on_their_way() {
    let mut rig = Rig::new();
    let frame = rig.arrive(20_000);
    let next = rig.arrive(100);
    for i in 0..5 {
        assert_eq!(rig.rx.drain(), []);
        rig.rx.send(&[(DATA + 4096 * i, 4096, true)]);
        if i < 4 {
            let until = Duration::from_millis(20);
            assert_eq!(rig.run_rx().step, Step::NoBuffersUntil(until));
        }
    }
    rig.rx.send(&[(DATA + 4096 * 5, 4096, true)]);
    assert_eq!(rig.run_rx().step, Step::NoBuffers);
    let used: Vec<_> = rig.rx.drain().iter().map(|(_, len)| *len).collect();
    assert_eq!(used, [4096, 4096, 4096, 4096, 20_000 - 4 * 4096, 100]);
    assert_eq!(rig.guest(DATA, 20_000), with_count(frame, 5));
    assert_eq!(rig.guest(DATA + 5 * 4096, 100), with_count(next, 1));
    assert_eq!(rig.net.counters().rx_dropped.get(), 0);
}

/// A driver that only gives more buffers when it has received something does
/// not stop receiving for good: the frame goes, the next one comes.
#[test]
fn a_large_frame_does_not_wait_for_ever() {
    let mut rig = Rig::new();
    for i in 0..40 {
        rig.rx.send(&[(DATA + 64 * i, 64, true)]);
    }
    rig.arrive(20_000);
    let small = rig.arrive(60);
    let Step::NoBuffersUntil(until) = rig.run_rx().step else {
        panic!("not kept");
    };
    assert_eq!(rig.net.counters().rx_dropped.get(), 0);
    let early = until - Duration::from_nanos(1);
    let outcome = rig.net.run_rx(&mut rig.rx_worker, early, 64);
    assert_eq!(outcome.step, Step::NoBuffersUntil(until));
    let outcome = rig.net.run_rx(&mut rig.rx_worker, until, 64);
    assert_eq!((outcome.step, outcome.signal), (Step::Idle, true));
    assert_eq!(rig.net.counters().rx_dropped.get(), 1);
    assert_eq!(rig.rx.drain().len(), 1);
    assert_eq!(rig.guest(DATA, 60), with_count(small, 1));
}

/// Where the whole ring lacks room, nothing is on its way: dropped, counted.
#[test]
fn a_frame_larger_than_the_whole_ring_is_dropped() {
    let mut rig = Rig::new();
    for i in 0..64 {
        rig.rx.send(&[(DATA + 64 * i, 64, true)]);
    }
    rig.arrive(20_000);
    let frame = rig.arrive(100);
    assert_eq!(rig.run_rx().step, Step::Idle);
    assert_eq!(rig.net.counters().rx_dropped.get(), 1);
    assert_eq!(rig.rx.drain().len(), 2);
    assert_eq!(rig.guest(DATA, 100), with_count(frame, 2));
}

/// Flaw table line 21: the header's size depends on features (QEMU
/// CVE-2023-6693): every subset of them, the header split over 1 to 12
/// descriptors, with and without merged buffers.
#[test]
fn the_header_is_the_same_whatever_is_negotiated() {
    let optional = [
        features::NET_MRG_RXBUF,
        features::NET_CSUM,
        features::NET_GUEST_CSUM,
        features::NET_HOST_TSO4 | features::NET_HOST_TSO6,
        features::NET_GUEST_TSO4 | features::NET_GUEST_TSO6,
        features::EVENT_IDX,
        features::INDIRECT_DESC,
    ];
    for subset in 0..1u64 << optional.len() {
        let chosen = (0..optional.len()).filter(|i| subset & 1 << i != 0);
        let wanted = chosen.fold(features::VERSION_1, |all, i| all | optional[i]);
        for pieces in 1..=12u32 {
            let mut rig = Rig::with(Options::default(), wanted);
            let mut buffers: Vec<_> =
                (0..pieces - 1).map(|i| (DATA + u64::from(i), 1, true)).collect();
            let rest = DATA + u64::from(pieces) - 1;
            buffers.push((rest, 2000, true));
            rig.rx.send(&buffers);
            let mut frame = rig.arrive(200);
            frame[0] = 3; // flags
            *rig.wire.incoming.lock().unwrap().back_mut().unwrap() = frame.clone();
            assert_eq!(rig.run_rx().step, Step::NoBuffers);
            assert_eq!(rig.rx.drain()[0].1, 200);
            if wanted & features::NET_GUEST_CSUM == 0 {
                frame[0] = 0;
            }
            assert_eq!(rig.guest(DATA, 200), with_count(frame, 1), "{wanted:#x}");
        }
    }
}

/// Flaw table line 4: an ingress flood froze the NIC for good
/// (CVE-2020-16843, QEMU CVE-2015-7295): with no, few and small buffers.
#[test]
fn a_flood_is_dropped_and_counted_and_the_nic_recovers() {
    for merge in [0, MERGE] {
        let wanted = features::VERSION_1 | merge;
        // No buffers: what comes stays with the tap, which is left alone.
        let mut rig = Rig::with(Options::default(), wanted);
        for _ in 0..1000 {
            rig.arrive(1514);
        }
        assert_eq!(rig.run_rx().step, Step::NoBuffers);
        assert_eq!(rig.wire.incoming.lock().unwrap().len(), 1000);
        // Small ones: frames are dropped, and counted.
        rig.rx.send(&[(DATA, 60, true)]);
        let mut runs = 0;
        while rig.run_rx().step == Step::More {
            runs += 1;
            assert!(runs < 100, "bounded work");
        }
        let dropped = rig.net.counters().rx_dropped.get();
        assert!(dropped > 0, "{dropped}");
        rig.rx.drain();
        // Good ones: it receives again.
        rig.wire.incoming.lock().unwrap().clear();
        for i in 0..4 {
            rig.rx.send(&[(DATA + 4096 + 2048 * i, 2048, true)]);
        }
        rig.arrive(1514);
        let _ = rig.run_rx();
        let used: u32 = rig.rx.drain().iter().map(|(_, len)| len).sum();
        assert_eq!(used, 1514, "merge {merge:#x}");
        assert_eq!(rig.net.counters().rx_frames.get(), 1);
    }
}

#[test]
fn buffers_too_small_for_a_header_go_back_unused() {
    for merge in [0, MERGE] {
        let mut rig = Rig::with(Options::default(), features::VERSION_1 | merge);
        let small = rig.rx.send(&[(DATA, 11, true)]);
        let none = rig.rx.send(&[(DATA, 100, false)]);
        rig.rx.send(&[(DATA + 4096, 2048, true)]);
        rig.arrive(100);
        let _ = rig.run_rx();
        let used = rig.rx.drain();
        assert_eq!(used[..2], [(small, 0), (none, 0)]);
        assert_eq!(used[2].1, 100);
        assert_eq!(rig.net.counters().rx_useless.get(), 2);
    }
}

/// A driver that puts useless buffers back as fast as they come does not
/// keep the worker: a run ends by its budget.
#[test]
fn useless_buffers_cost_budget() {
    let mut rig = Rig::new();
    for _ in 0..64 {
        rig.rx.send(&[(DATA, 1, true)]);
    }
    let outcome = rig.net.run_rx(&mut rig.rx_worker, Duration::ZERO, 10);
    assert_eq!(outcome.step, Step::More);
    assert!(rig.rx.drain().len() <= 64);
    assert_eq!(rig.run_rx().step, Step::NoBuffers);
    assert_eq!(rig.net.counters().rx_useless.get(), 64);
}

/// A frame too large for one buffer is dropped where buffers do not merge;
/// the buffer waits for the next frame.
#[test]
fn without_merging_a_frame_fills_one_buffer() {
    let mut rig = Rig::with(Options::default(), features::VERSION_1);
    rig.rx.send(&[(DATA, 1526, true)]);
    rig.rx.send(&[(DATA + 4096, 1526, true)]);
    rig.arrive(1527);
    let fits = rig.arrive(1526);
    assert_eq!(rig.run_rx().step, Step::Idle);
    assert_eq!(rig.rx.drain().len(), 1);
    assert_eq!(rig.guest(DATA, 1526), with_count(fits, 1));
    assert_eq!(rig.net.counters().rx_dropped.get(), 1);
    assert_eq!(rig.wire.last_read.lock().unwrap().len(), 1);
}

/// Flaw table line 29: held buffers at a stop come back at the start, in the
/// same device or another, and each is used once.
#[test]
fn a_stop_hands_held_buffers_back() {
    let mut rig = Rig::new();
    for i in 0..20 {
        rig.rx.send(&[(DATA + 4096 * i, 4096, true)]);
    }
    rig.arrive(100);
    assert_eq!(rig.run_rx().step, Step::Idle);
    let stopped = rig.net.stop();
    assert_eq!(rig.run_rx().step, Step::Stopped);
    assert_eq!(stopped.queues[0].as_ref().unwrap().in_flight.len(), 17);
    rig.start(&stopped);
    for _ in 0..19 {
        rig.arrive(200);
    }
    let _ = rig.run_rx();
    let mut heads: Vec<u16> = rig.rx.drain().iter().map(|(head, _)| *head).collect();
    assert_eq!(heads.len(), 20);
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads.len(), 20, "each once");
    // A reset forgets them.
    let _ = rig.net.stop();
    rig.rx = Driver::new(rig.rx.mem, 0, 64);
    rig.tx = Driver::new(rig.rx.mem, Driver::SPACE, 64);
    rig.start(&crate::Stopped::default());
    rig.rx.send(&[(DATA, 4096, true)]);
    rig.arrive(100);
    let _ = rig.run_rx();
    assert_eq!(rig.rx.drain().len(), 1);
}

/// Flaw table line 13: duplicate heads, held at the same time.
#[test]
fn a_bad_chain_breaks_the_device_and_it_stays_idle() {
    let mut rig = Rig::new();
    let head = rig.rx.send(&[(DATA, 4096, true)]);
    rig.rx.offer(head);
    rig.arrive(100);
    let outcome = rig.run_rx();
    assert_eq!((outcome.step, outcome.refresh), (Step::Broken, true));
    assert!(rig.net.is_broken());
    assert_eq!(rig.run_tx().step, Step::Broken);
    assert_eq!(rig.wire.incoming.lock().unwrap().len(), 1);
    assert_eq!(rig.net.counters().broken.get(), 1);
    let _ = rig.net.stop();
    assert!(!rig.net.is_broken());
}

#[test]
fn buffers_may_be_indirect() {
    let mut rig = Rig::new();
    rig.rx.descriptor(9, (DATA, 32, INDIRECT, 0));
    rig.rx.descriptor_at(DATA, 0, (DATA + 4096, 12, WRITE | 1, 1));
    rig.rx.descriptor_at(DATA, 1, (DATA + 8192, 2000, WRITE, 0));
    rig.rx.offer(9);
    let frame = rig.arrive(100);
    let _ = rig.run_rx();
    assert_eq!(rig.rx.drain(), [(9, 100)]);
    assert_eq!(rig.guest(DATA + 8192, 88), frame[12..]);
}

/// Many tiny descriptors stay within what the kernel takes at once.
#[test]
fn a_read_is_bounded_in_pieces() {
    let mut rig = Rig::new();
    let table = |i: u64| DATA + 0x10_0000 + 1024 * i;
    for i in 0..64 {
        let pieces: Vec<_> = (0..64).map(|j| (DATA + 64 * i + j, 1, true)).collect();
        let head = rig.rx.build_indirect(table(i), &pieces).unwrap();
        rig.rx.offer(head);
    }
    let frame = rig.arrive(900);
    assert_eq!(rig.run_rx().step, Step::Idle);
    let pieces = rig.wire.last_read.lock().unwrap().len();
    assert!((900..=1000).contains(&pieces), "{pieces}");
    assert_eq!(rig.rx.drain().len(), 15);
    assert_eq!(rig.guest(DATA, 900), with_count(frame, 15));
}

#[test]
fn a_budget_is_kept() {
    let mut rig = Rig::new();
    for i in 0..40 {
        rig.rx.send(&[(DATA + 4096 * i, 4096, true)]);
        rig.arrive(100);
    }
    let outcome = rig.net.run_rx(&mut rig.rx_worker, Duration::ZERO, 7);
    assert_eq!(outcome.step, Step::More);
    assert_eq!(rig.rx.drain().len(), 7);
    assert_eq!(rig.run_rx().step, Step::NoBuffers);
}

#[test]
fn a_tap_that_is_down_takes_the_link_down_until_it_is_up() {
    let mut rig = Rig::new();
    rig.rx.send(&[(DATA, 4096, true)]);
    rig.rx.send(&[(DATA + 4096, 4096, true)]);
    rig.wire.error.store(77, Relaxed);
    let outcome = rig.run_rx();
    assert_eq!(outcome.step, Step::WaitUntil(Duration::from_secs(1)));
    assert!(outcome.refresh);
    assert_eq!(rig.net.config()[6..8], [0, 0]);
    assert!(!rig.run_rx().refresh, "told once");
    // An interface that is down has nothing to read either.
    rig.wire.error.store(0, Relaxed);
    rig.wire.down.store(true, Relaxed);
    assert_eq!(rig.run_rx().step, Step::WaitUntil(Duration::from_secs(1)));
    rig.wire.down.store(false, Relaxed);
    let outcome = rig.run_rx();
    assert_eq!((outcome.step, outcome.refresh), (Step::Idle, true));
    assert_eq!(rig.net.config()[6..8], [1, 0]);
    rig.arrive(100);
    assert!(rig.run_rx().signal);
}

/// Without buffers there is nothing to read into, and still the link is.
#[test]
fn a_link_comes_back_also_without_buffers() {
    let mut rig = Rig::new();
    assert_eq!(rig.run_rx().step, Step::NoBuffers);
    rig.net.set_link(false);
    rig.wire.down.store(true, Relaxed);
    let probe = Step::WaitUntil(Duration::from_secs(1));
    assert_eq!(rig.run_rx().step, probe);
    assert!(!rig.net.link_is_up());
    rig.wire.down.store(false, Relaxed);
    let outcome = rig.run_rx();
    assert!(outcome.refresh && rig.net.link_is_up());
    assert_eq!(rig.run_rx().step, Step::NoBuffers);
}

#[test]
fn a_rate_limit_waits_and_owes() {
    let bucket = BucketConfig { size: 1000, one_time_burst: 0, refill_time: 1000 };
    let options =
        Options { rx_limiter: RateLimiter::new(Some(bucket), None), ..Options::default() };
    let mut rig = Rig::with(options, u64::MAX);
    for i in 0..3 {
        rig.rx.send(&[(DATA + 4096 * i, 4096, true)]);
        // The header does not count, as it does not in the other direction.
        rig.arrive(HEADER_LEN + 1500);
    }
    let outcome = rig.run_rx();
    assert_eq!(outcome.step, Step::WaitUntil(Duration::from_millis(501)));
    assert_eq!(rig.rx.drain().len(), 1);
    let now = Duration::from_millis(501);
    let outcome = rig.net.run_rx(&mut rig.rx_worker, now, 64);
    assert!(matches!(outcome.step, Step::WaitUntil(at) if at > now));
    assert_eq!(rig.rx.drain().len(), 1);
    assert_eq!(rig.net.counters().rx_throttled.get(), 2);
}

#[test]
fn the_tap_is_told_what_was_negotiated_once_per_start() {
    let all = Offload { checksum: true, tso4: true, tso6: true, uso4: true, uso6: true };
    let options = || Options { udp_offload: true, ..Options::default() };
    for (features, expected) in [
        (u64::MAX, all),
        (features::VERSION_1, Offload::default()),
        (!features::NET_GUEST_CSUM, Offload::default()),
        (!features::NET_GUEST_TSO6, Offload { tso6: false, ..all }),
    ] {
        let mut rig = Rig::with(options(), features);
        let _ = rig.run_rx();
        let _ = rig.run_rx();
        assert_eq!(*rig.wire.offload.lock().unwrap(), [expected]);
        let stopped = rig.net.stop();
        rig.start(&stopped);
        let _ = rig.run_rx();
        assert_eq!(rig.wire.offload.lock().unwrap().len(), 2);
    }
}

/// Without large segments, no more buffers are held than the MTU needs.
#[test]
fn the_mtu_bounds_what_is_held() {
    let options = Options { mtu: Some(1500), ..Options::default() };
    let mut rig = Rig::with(options, features::VERSION_1 | MERGE);
    for i in 0..20 {
        rig.rx.send(&[(DATA + 512 * i, 512, true)]);
    }
    assert_eq!(rig.run_rx().step, Step::Idle);
    assert_eq!(rig.wire.last_read.lock().unwrap().len(), 3);
}

#[test]
fn features_config_and_options() {
    let options = || Options {
        mac: [2, 3, 4, 5, 6, 7],
        mtu: Some(1400),
        udp_offload: true,
        ..Options::default()
    };
    let rig = Rig::with(options(), u64::MAX);
    assert_eq!(rig.net.device_id(), 1);
    for bit in [0, 1, 3, 5, 7, 8, 11, 12, 15, 16, 28, 29, 32, 54, 55, 56] {
        assert_ne!(rig.features & 1 << bit, 0, "bit {bit}");
    }
    for bit in [10, 14, 17, 22] {
        assert_eq!(rig.features & 1 << bit, 0, "bit {bit}");
    }
    let config = [2, 3, 4, 5, 6, 7, 1, 0, 1, 0, 0x78, 0x05];
    assert_eq!(rig.net.config(), config);
    assert!(!rig.net.write_config(u64::MAX, 0, &[9]));
    assert_eq!(rig.net.config(), config);
    let mem = memory(&[(0, 0x1000)]);
    let refused = |name, change: &dyn Fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        let wire = std::sync::Arc::new(super::fake::Wire::default());
        let error = Net::new(mem, Box::new(wire), options).err();
        assert_eq!(error, Some(Error::Option(name)));
    };
    refused("mac", &|o| o.mac = [0xff; 6]);
    refused("mtu", &|o| o.mtu = Some(67));
    refused("mtu", &|o| o.mtu = Some(65522));
    refused("queue_size", &|o| o.queue_size = 1024);
    refused("queue_size", &|o| o.queue_size = 3);
}
