//! Requests: their layout, their checks, their answers.

use super::fake::{
    DATA, DISCARD, Disk, Event, FLUSH, GET_ID, HEADER, IN, IOERR, NONE, OK, OUT, Rig, STATUS,
    UNSUPP, WRITE_ZEROES, read_only, stopped, writable,
};
use super::{Block, Options};
use crate::driver::{Driver, memory};
use crate::rate::{BucketConfig, RateLimiter};
use crate::{Device, Error, QueueState, Step, features};

#[test]
fn reads_and_writes_move_the_right_bytes() {
    let mut rig = Rig::new();
    assert_eq!(rig.request(IN, 3, &[(DATA, 1024, true)]), (OK, 1025));
    assert_eq!(rig.guest(DATA, 1024), rig.disk.at(3 * 512, 1024));
    rig.fill(DATA, 512, 0x77);
    assert_eq!(rig.request(OUT, 63, &[(DATA, 512, false)]), (OK, 1));
    assert_eq!(rig.disk.at(63 * 512, 512), vec![0x77; 512]);
    let outcome = rig.last.unwrap();
    assert_eq!((outcome.step, outcome.refresh), (Step::Idle, false));
    let counters = rig.block.counters();
    assert_eq!(counters.requests.get(), 2);
    assert_eq!((counters.reads.get(), counters.writes.get()), (1, 1));
    assert_eq!(counters.read_bytes.get(), 1024);
    assert_eq!(counters.written_bytes.get(), 512);
}

#[test]
fn the_identity_is_cut_to_what_fits() {
    let options = Options { id: "serial-0123456789abc".into(), ..Options::default() };
    let mut rig = Rig::with(writable, options, u64::MAX);
    for (len, expected) in [(20, 21), (8, 9), (64, 21)] {
        rig.fill(DATA, 64, 0xee);
        assert_eq!(rig.request(GET_ID, 0, &[(DATA, len, true)]), (OK, expected));
        let n = len.min(20) as usize;
        assert_eq!(&rig.guest(DATA, n), &b"serial-0123456789abc"[..n]);
        assert_eq!(rig.guest(DATA + n as u64, 64 - n), vec![0xee; 64 - n]);
    }
    assert_eq!(rig.request(GET_ID, 0, &[]), (OK, 1));
}

/// Flaw table line 21, for block: header, data and status split over any
/// number of descriptors, as VERSION_1 allows.
#[test]
fn any_layout_of_header_and_status_is_understood() {
    for header_cut in 0..=16u32 {
        for status_with_data in [false, true] {
            let mut rig = Rig::new();
            rig.driver.put(HEADER, IN.to_le_bytes());
            rig.driver.put(HEADER + 8, 5u64.to_le_bytes());
            let mut buffers = vec![
                (HEADER, header_cut, false),
                (HEADER + u64::from(header_cut), 16 - header_cut, false),
                (DATA, 100, true),
                (DATA + 100, 412, true),
                (DATA + 512, 1, true),
            ];
            if status_with_data {
                buffers.pop();
                buffers[3].1 = 413;
            }
            buffers.retain(|(_, len, _)| *len != 0);
            rig.driver.put(DATA + 512, [NONE]);
            rig.driver.send(&buffers);
            let _ = rig.run();
            assert_eq!(rig.driver.drain()[0].1, 513);
            assert_eq!(rig.guest(DATA, 512), rig.disk.at(5 * 512, 512));
            assert_eq!(rig.guest(DATA + 512, 1), [OK]);
        }
    }
    // A write whose header and data share a descriptor.
    let mut rig = Rig::new();
    rig.fill(HEADER, 16 + 512, 0x42);
    rig.driver.put(HEADER, OUT.to_le_bytes());
    rig.driver.put(HEADER + 8, 1u64.to_le_bytes());
    rig.driver.send(&[(HEADER, 16 + 512, false), (STATUS, 1, true)]);
    let _ = rig.run();
    assert_eq!(rig.guest(STATUS, 1), [OK]);
    assert_eq!(rig.disk.at(512, 512), vec![0x42; 512]);
}

/// Flaw table line 18: lengths that are not whole sectors (QEMU
/// CVE-2011-1750).
#[test]
fn lengths_that_are_not_whole_sectors_are_errors() {
    for len in [1, 511, 513, 1023, 4095] {
        let mut rig = Rig::new();
        assert_eq!(rig.request(IN, 0, &[(DATA, len, true)]), (IOERR, 1));
        assert_eq!(rig.request(OUT, 0, &[(DATA, len, false)]), (IOERR, 1));
        assert_eq!(rig.read(0, 512), OK, "still serving");
        assert_eq!(rig.disk.events(), []);
    }
    let mut rig = Rig::new();
    assert_eq!(rig.request(IN, 0, &[]), (IOERR, 1));
    assert_eq!(rig.request(OUT, 0, &[]), (IOERR, 1));
    assert_eq!(rig.block.counters().errors.get(), 2);
}

/// Flaw table line 3: sums that overflow in a bounds check (CVE-2019-18960).
#[test]
fn ranges_end_inside_the_medium() {
    let past = [
        (64, 512),
        (63, 1024),
        (65, 512),
        (u64::MAX, 512),
        (u64::MAX - 1, 1024),
        (u64::MAX / 512, 512),
        (1 << 55, 512),
        (u64::MAX / 512 + 1, 512),
    ];
    let mut rig = Rig::new();
    for (sector, len) in past {
        assert_eq!(rig.read(sector, len), IOERR, "{sector}");
        assert_eq!(rig.write(sector, len), IOERR, "{sector}");
    }
    assert_eq!(rig.disk.events(), []);
    assert_eq!(rig.read(63, 512), OK);
    assert_eq!(rig.read(0, 64 * 512), OK);
}

/// Flaw table lines 6 and 7: overlapping descriptors and requests so long
/// that they stall the worker (Firecracker #5762, #5794).
#[test]
fn a_request_is_bounded_whatever_the_chain_says() {
    let mut rig = Rig::with(
        |disk| {
            disk.claimed_size.store(1 << 40, std::sync::atomic::Ordering::Relaxed);
            writable(disk)
        },
        Options::default(),
        u64::MAX,
    );
    let overlapping = [(DATA, 0x20_0000, true); 40];
    assert_eq!(rig.request(IN, 0, &overlapping), (IOERR, 1));
    assert_eq!(rig.disk.reads.load(std::sync::atomic::Ordering::Relaxed), 0);
    // A run ends after its budget of bytes, too.
    for _ in 0..9 {
        rig.offer(OUT, 0, &[(DATA, 0x20_0000, false), (DATA, 0x20_0000, false)]);
    }
    assert_eq!(rig.run().step, Step::More);
    assert_eq!(rig.driver.drain().len(), 4);
}

#[test]
fn a_chain_without_header_or_status_breaks_the_device() {
    let bad: [&[(u64, u32, bool)]; 5] = [
        &[(HEADER, 15, false), (STATUS, 1, true)],
        &[(HEADER, 16, false)],
        &[(HEADER, 16, false), (DATA, 512, false)],
        &[(STATUS, 1, true)],
        &[(DATA, 512, true), (STATUS, 1, true)],
    ];
    for buffers in bad {
        let mut rig = Rig::new();
        rig.driver.send(buffers);
        let outcome = rig.run();
        assert_eq!((outcome.step, outcome.refresh), (Step::Broken, true));
        assert!(rig.block.is_broken());
        assert_eq!(rig.driver.drain(), []);
        // Idle after: nothing is looked at until the stop.
        rig.offer(IN, 0, &[(DATA, 512, true)]);
        let again = rig.run();
        assert_eq!((again.step, again.signal), (Step::Broken, false));
        assert_eq!(rig.block.counters().broken.get(), 1);
        let _ = rig.block.stop();
        assert!(!rig.block.is_broken());
        assert_eq!(rig.run().step, Step::Stopped);
    }
}

/// Flaw table line 27: no SCSI commands (Linux CVE-2011-4127), nor anything
/// else but what is listed.
#[test]
fn unknown_requests_are_unsupported() {
    let mut rig = Rig::new();
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, 16, 0x8000_0000, u32::MAX] {
        assert_eq!(rig.request(kind, 0, &[]), (UNSUPP, 1), "{kind}");
    }
    assert_eq!(rig.read(0, 512), OK);
}

#[test]
fn discard_and_write_zeroes_do_what_they_say() {
    let mut rig = Rig::new();
    assert_eq!(rig.ranges(DISCARD, &[(0, 2, 0), (10, 1, 0)]), OK);
    assert_eq!(rig.disk.events(), [Event::Discard(0, 1024), Event::Discard(5120, 512)]);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(4, 2, 0)]), OK);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(8, 1, 1)]), OK);
    // The host may have to write them, so one request has one range.
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(4, 1, 0), (8, 1, 0)]), IOERR);
    assert_eq!(rig.disk.events(), [Event::Zero(2048, 1024, false), Event::Zero(4096, 512, true)]);
    assert_eq!(rig.disk.at(2048, 1024), vec![0; 1024]);
    // An empty range is nothing to do.
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(4, 0, 0)]), OK);
    assert_eq!(rig.disk.events(), []);
}

/// The whole list is checked before the medium is touched.
#[test]
fn one_bad_range_spoils_the_list() {
    let bad = [
        ((63, 2, 0), IOERR),
        ((u64::MAX, 1, 0), IOERR),
        ((0, u32::MAX, 0), IOERR),
        ((0, 1, 2), UNSUPP),
        ((0, 1, 0x8000_0000), UNSUPP),
    ];
    for (range, expected) in bad {
        let mut rig = Rig::new();
        assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0), range]), expected);
        assert_eq!(rig.ranges(WRITE_ZEROES, &[range]), expected);
        assert_eq!(rig.disk.events(), []);
    }
    let mut rig = Rig::new();
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 1)]), UNSUPP, "unmap is not for it");
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0); 32]), OK);
    rig.disk.events();
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0); 33]), IOERR);
    assert_eq!(rig.request(DISCARD, 0, &[]).0, IOERR);
    for len in [1, 15, 17, 31] {
        assert_eq!(rig.request(DISCARD, 0, &[(DATA, len, false)]).0, IOERR);
    }
    assert_eq!(rig.disk.events(), []);
}

#[test]
fn a_range_may_be_split_over_descriptors() {
    let mut rig = Rig::new();
    rig.driver.put(DATA, 7u64.to_le_bytes());
    rig.driver.put(DATA + 8, 1u32.to_le_bytes());
    rig.driver.put(DATA + 12, 0u32.to_le_bytes());
    let pieces = [(DATA, 3, false), (DATA + 3, 8, false), (DATA + 11, 5, false)];
    assert_eq!(rig.request(DISCARD, 0, &pieces), (OK, 1));
    assert_eq!(rig.disk.events(), [Event::Discard(7 * 512, 512)]);
}

#[test]
fn discard_has_to_be_negotiated_and_supported() {
    let without = !(features::BLK_DISCARD | features::BLK_WRITE_ZEROES);
    let mut rig = Rig::with(writable, Options::default(), without);
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 1, 0)]), UNSUPP);
    let mut rig = Rig::new();
    rig.disk.discard_unsupported.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(rig.read(0, 512), OK);
}

/// Flaw table line 22: used.len larger than what was written, stale memory
/// (QEMU CVE-2024-8612). Whatever the outcome, bytes outside the buffers
/// keep their poison and the length is what was written.
#[test]
fn nothing_is_written_beyond_the_buffers() {
    let mut rig = Rig::new();
    rig.fill(DATA - 512, 4096, 0xee);
    assert_eq!(rig.request(IN, 0, &[(DATA, 1024, true)]), (OK, 1025));
    assert_eq!(rig.guest(DATA - 512, 512), vec![0xee; 512]);
    assert_eq!(rig.guest(DATA + 1024, 512), vec![0xee; 512]);
    rig.disk.io_fails.store(true, std::sync::atomic::Ordering::Relaxed);
    rig.fill(DATA, 1024, 0xee);
    assert_eq!(rig.request(IN, 0, &[(DATA, 1024, true)]), (IOERR, 1));
    assert_eq!(rig.guest(DATA, 1024), vec![0xee; 1024]);
    // A request with writable room it has no use for.
    assert_eq!(rig.request(FLUSH, 0, &[(DATA, 64, true)]), (OK, 1));
    assert_eq!(rig.guest(DATA, 64), vec![0xee; 64]);
}

#[test]
fn a_batch_is_answered_with_one_interrupt() {
    let mut rig = Rig::new();
    let statuses = [(); 16].map(|()| rig.offer(IN, 0, &[(DATA, 512, true)]));
    let outcome = rig.run();
    assert_eq!((outcome.step, outcome.signal), (Step::Idle, true));
    assert_eq!(rig.driver.drain().len(), 16);
    for status in statuses {
        assert_eq!(rig.driver.get(status), [OK]);
    }
    assert!(!rig.run().signal);
}

#[test]
fn a_stopped_device_hands_back_what_is_not_done() {
    let bucket = BucketConfig { size: 1, one_time_burst: 0, refill_time: 1000 };
    let options = Options { limiter: RateLimiter::new(None, Some(bucket)), ..Options::default() };
    let mut rig = Rig::with(writable, options, u64::MAX);
    let first = rig.offer(IN, 0, &[(DATA, 512, true)]);
    let second = rig.offer(IN, 1, &[(DATA + 512, 512, true)]);
    assert!(matches!(rig.run().step, Step::WaitUntil(_)));
    let stopped = rig.block.stop();
    let state = stopped.queues[0].clone().unwrap();
    assert_eq!(state.in_flight.len(), 1);
    assert_eq!(rig.driver.get(first), [OK]);
    assert_eq!(rig.driver.get(second), [NONE]);
    rig.block.set_limiter(RateLimiter::default());
    rig.start(rig.block.features(), state);
    assert_eq!(rig.run().step, Step::Idle);
    assert_eq!(rig.driver.get(second), [OK]);
    assert_eq!(rig.driver.drain().len(), 2, "each exactly once");
}

#[test]
fn a_running_device_is_not_started_again() {
    let rig = Rig::new();
    let again = super::fake::activation(&rig.driver, features::VERSION_1, QueueState::default());
    assert!(matches!(rig.block.start(&again), Err(Error::State(_))));
}

#[test]
fn features_and_config_say_what_the_device_is() {
    let options = || Options {
        queues: 4,
        queue_size: 128,
        logical_block: 2048,
        physical_block: 4096,
        ..Options::default()
    };
    let disk = stopped(writable, options());
    assert_eq!(disk.block.device_id(), 2);
    assert_eq!(disk.block.queue_sizes(), [128; 4]);
    let offered = disk.block.features();
    assert_eq!(offered & features::BLK_RO, 0);
    for bit in [2, 6, 9, 10, 11, 12, 13, 14, 28, 29, 32] {
        assert_ne!(offered & 1 << bit, 0, "bit {bit}");
    }
    let config = disk.block.config();
    assert_eq!(config.len(), 60);
    assert_eq!(config[..8], 64u64.to_le_bytes());
    assert_eq!(config[12..16], 126u32.to_le_bytes());
    assert_eq!(config[20..24], 2048u32.to_le_bytes());
    assert_eq!(config[24], 1);
    assert_eq!(config[32], 1);
    assert_eq!(config[34..36], 4u16.to_le_bytes());
    assert_eq!(config[36..40], (1u32 << 22).to_le_bytes());
    assert_eq!(config[40..44], 32u32.to_le_bytes());
    assert_eq!(config[44..48], 8u32.to_le_bytes());
    assert_eq!(config[56], 1);
    let cd = stopped(read_only, options());
    let offered = cd.block.features();
    assert_ne!(offered & 1 << 5, 0);
    assert_ne!(offered & 1 << 9, 0);
    assert_eq!(offered & (1 << 11 | 1 << 13 | 1 << 14), 0);
}

type Change<'a> = &'a dyn Fn(&mut Options);

#[test]
fn options_out_of_range_are_refused() {
    let mem = memory(&[(0, 0x1000)]);
    let bad: [(&str, Change); 12] = [
        ("id", &|o| o.id = "x".repeat(21)),
        ("queues", &|o| o.queues = 0),
        ("queues", &|o| o.queues = 257),
        ("queue_size", &|o| o.queue_size = 0),
        ("queue_size", &|o| o.queue_size = 2),
        ("queue_size", &|o| o.queue_size = 100),
        ("queue_size", &|o| o.queue_size = 2048),
        ("logical_block", &|o| o.logical_block = 513),
        ("logical_block", &|o| o.logical_block = 0),
        ("physical_block", &|o| o.physical_block = 256),
        ("physical_block", &|o| o.physical_block = 5000),
        ("physical_block", &|o| o.physical_block = 1 << 20),
    ];
    for (name, change) in bad {
        let mut options = Options::default();
        change(&mut options);
        let error = Block::new(mem, writable(Disk::new(512)), options).err();
        assert_eq!(error, Some(Error::Option(name)));
    }
}

#[test]
fn a_bad_queue_is_refused_at_the_start() {
    let rig = stopped(writable, Options::default());
    let mut driver = Driver::new(rig.driver.mem, 0, 64);
    driver.used = 0x80_0000;
    let bad = super::fake::activation(&driver, features::VERSION_1, QueueState::default());
    assert!(matches!(rig.block.start(&bad), Err(Error::RingAddress(_, _))));
    assert_eq!(rig.block.stop().queues, []);
}
