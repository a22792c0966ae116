//! What the device promises about data.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier};

use vm_memory::MmapRegion;

use super::fake::{
    DATA, DISCARD, Disk, Event, FLUSH, IN, IOERR, NONE, OK, OUT, Rig, WRITE_ZEROES, activation,
    read_only, stopped, writable,
};
use super::{Block, OnNoSpace, Options};
use crate::driver::memory;
use crate::transport::{PAGE_SIZE, Window};
use crate::{Device, Endpoint, Error, QueueState, Step, features};

/// Flaw table lines 23 and 24: read-only by the guest's good will (Kata
/// CVE-2020-2025); a read-only disk that refused flush, or whose worker died
/// of a write (Cloud Hypervisor #7698).
#[test]
fn a_read_only_drive_refuses_writes_and_keeps_serving() {
    let mut rig = Rig::with(read_only, Options::default(), u64::MAX);
    let before = rig.disk.at(0, 64 * 512);
    rig.fill(DATA, 4096, 0x99);
    for i in 0..1000 {
        assert_eq!(rig.write(i % 64, 512), IOERR);
        assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), IOERR);
        assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 1, 0)]), IOERR);
        assert_eq!(rig.flush(), OK);
        assert_eq!(rig.read(i % 64, 512), OK);
    }
    assert_eq!(rig.disk.events(), []);
    assert_eq!(rig.disk.at(0, 64 * 512), before);
}

/// Another medium in a CD-ROM drive, or none: capacity 0, every access an I/O error. The
/// driver is told, and nothing is ever written.
#[test]
fn a_medium_is_exchanged_and_the_driver_is_told() {
    let mut rig = Rig::with(read_only, Options::default(), u64::MAX);
    let window = Window::new(Arc::new(MmapRegion::new(PAGE_SIZE).unwrap()), 0).unwrap();
    let other = stopped(read_only, Options { logical_block: 2048, ..Options::default() });
    let mut endpoint = Endpoint::new(window, other.block.clone()).unwrap();
    for (at, value) in [(0x70u64, 3u32), (0x24, 1), (0x20, 1), (0x70, 0xf)] {
        let _ = endpoint.write(at, &value.to_le_bytes());
    }
    assert!(!endpoint.refresh(), "nothing new");
    let change = |rig: &Rig, sectors: usize| {
        let resize = || {
            rig.disk.bytes.lock().unwrap().resize(sectors * 512, 7);
            Ok(())
        };
        rig.block.exchange(resize).unwrap();
        assert_eq!(rig.block.config()[..8], (sectors as u64).to_le_bytes());
    };
    for sectors in [0, 1, 100] {
        change(&other, sectors);
        assert!(endpoint.refresh());
        change(&rig, sectors);
        assert_eq!(rig.read(0, 512), if sectors == 0 { IOERR } else { OK });
        assert_eq!(rig.read(sectors as u64, 512), IOERR);
        assert_eq!((rig.write(0, 512), rig.flush()), (IOERR, OK));
    }
    assert_eq!(rig.disk.events(), []);
    // What cannot be exchanged leaves the old one in.
    let fails = || Err(std::io::Error::other("no medium"));
    assert!(rig.block.exchange(fails).is_err());
    assert_eq!(rig.read(99, 512), OK);
}

#[test]
fn a_failed_flush_stays_failed() {
    let mut rig = Rig::new();
    assert_eq!(rig.write(0, 512), OK);
    rig.disk.flush_fails.store(true, Relaxed);
    assert_eq!(rig.flush(), IOERR);
    // The host says all is well now; the drive knows better.
    rig.disk.events();
    assert_eq!(rig.flush(), IOERR);
    assert_eq!(rig.write(0, 512), IOERR);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 1, 0)]), IOERR);
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), IOERR);
    assert_eq!(rig.disk.events(), []);
    assert!(rig.block.sync().is_err());
    assert_eq!(rig.read(0, 512), OK, "what is there can be read");
    // A reset by the guest does not heal it.
    let _ = rig.block.stop();
    rig.block.reset();
    assert!(rig.block.has_failed());
}

/// Two workers flush at once and the kernel tells only one of the loss: the
/// other one must not say that all is well.
#[test]
fn a_failed_flush_is_told_to_every_waiting_one() {
    for _ in 0..50 {
        let options = Options { queues: 2, ..Options::default() };
        let rig = Rig::with(writable, options, u64::MAX);
        rig.disk.flush_fails.store(true, Relaxed);
        let start = Arc::new(Barrier::new(2));
        let threads = [(); 2].map(|()| {
            let (block, start) = (rig.block.clone(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                block.sync().is_err()
            })
        });
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    }
}

#[test]
fn neither_flush_nor_switch_negotiated_is_write_through() {
    let without = !(features::BLK_FLUSH | features::BLK_CONFIG_WCE);
    let mut rig = Rig::with(writable, Options::default(), without);
    assert_eq!(rig.write(0, 512), OK);
    assert_eq!(rig.disk.events(), [Event::Write(0, 512), Event::Flush]);
    assert_eq!(rig.read(0, 512), OK);
    assert_eq!(rig.disk.events(), [], "a read needs no flush");
    rig.disk.flush_fails.store(true, Relaxed);
    assert_eq!(rig.write(0, 512), IOERR, "not durable, not done");
    assert!(rig.block.has_failed());
    // Whatever a saved state says of the switch.
    let mut rig = stopped(writable, Options::default());
    let features = rig.block.features() & without;
    let mut start = activation(&rig.driver, features, QueueState::default());
    start.writeback = Some(true);
    rig.block.start(&start).unwrap();
    assert_eq!(rig.write(0, 512), OK);
    assert_eq!(rig.disk.events(), [Event::Write(0, 512), Event::Flush]);
}

#[test]
fn the_driver_switches_between_write_back_and_write_through() {
    let mut rig = Rig::new();
    let features = rig.block.features();
    assert_eq!(rig.write(0, 512), OK);
    assert_eq!(rig.disk.events(), [Event::Write(0, 512)]);
    assert!(rig.block.write_config(features, 32, &[0]));
    assert!(!rig.block.write_config(features, 32, &[0]), "no change");
    assert_eq!(rig.block.config()[32], 0);
    assert_eq!(rig.write(0, 512), OK);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(1, 1, 0)]), OK);
    let expected = [Event::Write(0, 512), Event::Flush, Event::Zero(512, 512, false), Event::Flush];
    assert_eq!(rig.disk.events(), expected);
    // It survives a stop and a start, not a reset.
    assert!(!rig.block.stop().writeback);
    rig.block.reset();
    assert_eq!(rig.block.config()[32], 1);
}

#[test]
fn the_switch_has_to_be_negotiated_and_is_one_byte() {
    let rig = Rig::new();
    let features = rig.block.features();
    assert!(!rig.block.write_config(0, 32, &[0]));
    let without = features & !features::BLK_CONFIG_WCE;
    assert!(!rig.block.write_config(without, 32, &[0]));
    for (offset, data) in [
        (31, &[0][..]),
        (33, &[0]),
        (32, &[2]),
        (32, &[0, 0]),
        (32, &[]),
        (0, &[0; 8]),
        (usize::MAX, &[0]),
    ] {
        assert!(!rig.block.write_config(features, offset, data));
    }
    assert_eq!(rig.block.config()[32], 1);
    // Without FLUSH the device starts in write-through (5.2.5.2).
    let without_flush = Rig::with(writable, Options::default(), !features::BLK_FLUSH);
    assert_eq!(without_flush.block.config()[32], 0);
}

#[test]
fn a_full_disk_pauses_and_the_request_is_done_later() {
    for kind in [OUT, WRITE_ZEROES] {
        let mut rig = Rig::new();
        rig.disk.no_space.store(true, Relaxed);
        rig.driver.put(DATA, 0u64.to_le_bytes());
        rig.driver.put(DATA + 8, 1u64.to_le_bytes());
        let len = if kind == OUT { 512 } else { 16 };
        let status = rig.offer(kind, 0, &[(DATA, len, false)]);
        let later = rig.offer(IN, 0, &[(DATA + 4096, 512, true)]);
        for _ in 0..3 {
            assert_eq!(rig.run().step, Step::Paused);
            assert_eq!(rig.driver.drain(), []);
            assert_eq!(rig.driver.get(status), [NONE]);
        }
        rig.disk.no_space.store(false, Relaxed);
        assert_eq!(rig.run().step, Step::Idle);
        assert_eq!(rig.driver.drain().len(), 2);
        assert_eq!(rig.driver.get(status), [OK]);
        assert_eq!(rig.driver.get(later), [OK]);
        assert_eq!(rig.disk.events().len(), 1, "done once");
        assert_eq!(rig.block.counters().no_space.get(), 3);
        assert!(!rig.block.has_failed());
    }
}

#[test]
fn a_request_kept_for_want_of_space_survives_a_restart() {
    let mut rig = Rig::new();
    rig.disk.no_space.store(true, Relaxed);
    let status = rig.offer(OUT, 0, &[(DATA, 512, false)]);
    assert_eq!(rig.run().step, Step::Paused);
    let state = rig.block.stop().queues[0].clone().unwrap();
    assert_eq!(state.in_flight.len(), 1);
    rig.disk.no_space.store(false, Relaxed);
    rig.start(rig.block.features(), state);
    assert_eq!(rig.run().step, Step::Idle);
    assert_eq!(rig.driver.get(status), [OK]);
}

#[test]
fn a_full_disk_is_an_error_where_that_is_asked_for() {
    let options = Options { on_no_space: OnNoSpace::Error, ..Options::default() };
    let mut rig = Rig::with(writable, options, u64::MAX);
    rig.disk.no_space.store(true, Relaxed);
    assert_eq!(rig.write(0, 512), IOERR);
    rig.disk.no_space.store(false, Relaxed);
    assert_eq!(rig.write(0, 512), OK);
}

#[test]
fn a_write_in_pieces_is_finished() {
    let mut rig = Rig::new();
    rig.disk.short_write.store(700, Relaxed);
    rig.fill(DATA, 4096, 0x5a);
    let pieces = [(DATA, 1000, false), (DATA + 1000, 1048, false)];
    assert_eq!(rig.request(OUT, 2, &pieces), (OK, 1));
    assert_eq!(rig.disk.at(1024, 2048), vec![0x5a; 2048]);
    let expected = [(1024, 700), (1724, 700), (2424, 648)];
    let expected = expected.map(|(offset, len)| Event::Write(offset, len));
    assert_eq!(rig.disk.events(), expected);
}

#[test]
fn a_short_read_is_an_error() {
    let mut rig = Rig::new();
    rig.disk.bytes.lock().unwrap().truncate(10 * 512 + 100);
    assert_eq!(rig.request(IN, 10, &[(DATA, 512, true)]), (IOERR, 1));
    assert_eq!(rig.request(IN, 20, &[(DATA, 512, true)]), (IOERR, 1));
    assert_eq!(rig.read(0, 512), OK);
}

/// An image that was cut short fails the drive; it is not grown again.
#[test]
fn a_shrunk_image_fails_the_drive() {
    let mut rig = Rig::new();
    rig.disk.bytes.lock().unwrap().truncate(20 * 512);
    assert_eq!(rig.write(63, 512), IOERR);
    assert_eq!(rig.disk.bytes.lock().unwrap().len(), 20 * 512);
    assert!(rig.block.has_failed());
    assert_eq!(rig.write(0, 512), IOERR);
    assert_eq!(rig.flush(), IOERR);
    // Also found by a flush and by a read.
    let mut rig = Rig::new();
    assert_eq!(rig.write(0, 512), OK);
    rig.disk.bytes.lock().unwrap().truncate(20 * 512);
    assert_eq!(rig.flush(), IOERR);
    let mut rig = Rig::new();
    rig.disk.bytes.lock().unwrap().truncate(20 * 512);
    assert_eq!(rig.read(63, 512), IOERR);
    assert_eq!(rig.write(0, 512), IOERR);
    // A flush looks again, also in the run of the write before it.
    let mut rig = Rig::new();
    rig.disk.shrinks.store(true, Relaxed);
    let write = rig.offer(OUT, 0, &[(DATA, 512, false)]);
    let flush = rig.offer(FLUSH, 0, &[]);
    let _ = rig.run();
    assert_eq!(rig.driver.get(write), [OK]);
    assert_eq!(rig.driver.get(flush), [IOERR]);
}

#[test]
fn an_odd_image_is_refused_for_writing_only() {
    let mem = memory(&[(0, 0x1000)]);
    for size in [1usize, 511, 513, 1000] {
        let disk = Disk::new(size);
        let error = Block::new(mem, writable(disk.clone()), Options::default()).err();
        assert_eq!(error, Some(Error::OddSize(size as u64)));
        let block = Block::new(mem, read_only(disk), Options::default()).unwrap();
        assert_eq!(block.config()[..8], (size as u64 / 512).to_le_bytes());
    }
    let block = Block::new(mem, writable(Disk::new(0)), Options::default());
    assert!(block.is_ok());
}

#[test]
fn a_backend_error_is_one_requests_error() {
    let mut rig = Rig::new();
    rig.disk.io_fails.store(true, Relaxed);
    assert_eq!(rig.read(0, 512), IOERR);
    assert_eq!(rig.write(0, 512), IOERR);
    rig.disk.io_fails.store(false, Relaxed);
    assert_eq!(rig.read(0, 512), OK);
    assert_eq!(rig.write(0, 512), OK);
}
