//! What a driver may not do to a queue.

use crate::driver::{Driver, INDIRECT, NEXT, WRITE, memory};
use crate::queue_test::{DATA, RAM, config, pair, ram, take_error};
use crate::{Chain, Error, Queue, QueueConfig, QueueState, RingPart, features};

/// Flaw table line 13: duplicate heads (Cloud Hypervisor CVE-2026-45782).
#[test]
fn one_head_twice_in_flight_is_refused() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    let head = driver.send(&[(DATA, 16, true)]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(take_error(&mut driver, &mut queue, head), Error::DuplicateHead(head));
    // Given back, it may come again.
    let (mut driver, mut queue) = pair(8, 0);
    let head = driver.send(&[(DATA, 16, true)]);
    driver.offer(head);
    assert!(queue.take(&mut chain).unwrap());
    queue.complete(head, 0).unwrap();
    assert!(queue.take(&mut chain).unwrap());
    queue.complete(head, 0).unwrap();
    assert_eq!(queue.complete(head, 0), Err(Error::UsedUnclaimed(head)));
}

/// Flaw table line 17: a queue size of 0, odd, or too large (vm-virtio #173).
#[test]
fn sizes_and_addresses_are_checked_against_memory() {
    let mem = memory(&[(0, 0x10_0000), (0x20_0000, 0x1000)]);
    let good = config(&Driver::new(mem, 0, 16));
    let try_config = |change: &dyn Fn(&mut QueueConfig)| {
        let mut bad = good;
        change(&mut bad);
        Queue::new(mem, 256, 0, &bad, &QueueState::default()).map(|_| ())
    };
    for size in [0, 3, 15, 17, 255, 257, 512, 0x1_0000, 0x1_0010, u32::MAX] {
        let got = try_config(&|c| c.size = size);
        assert_eq!(got, Err(Error::QueueSize(size)));
    }
    for size in [1, 2, 4, 256] {
        assert_eq!(try_config(&|c| c.size = size), Ok(()));
    }
    let descriptors = |addr| {
        assert_eq!(
            try_config(&|c| c.descriptors = addr),
            Err(Error::RingAddress(RingPart::Descriptors, addr))
        );
    };
    for addr in [1, 8, 0xf_ff10, 0x10_0000, 0x1f_fff0, 0x20_0f10, u64::MAX - 15, u64::MAX] {
        descriptors(addr);
    }
    assert_eq!(try_config(&|c| c.descriptors = 0xf_ff00), Ok(()));
    for addr in [1, 0xf_ffdc, 0x10_0000, u64::MAX - 1] {
        assert_eq!(
            try_config(&|c| c.available = addr),
            Err(Error::RingAddress(RingPart::Available, addr))
        );
    }
    assert_eq!(try_config(&|c| c.available = 0xf_ffda), Ok(()));
    for addr in [1, 2, 0xf_ff7c, 0x10_0000, u64::MAX - 3] {
        assert_eq!(try_config(&|c| c.used = addr), Err(Error::RingAddress(RingPart::Used, addr)));
    }
    assert_eq!(try_config(&|c| c.used = 0xf_ff78), Ok(()));
}

/// Flaw table line 17: zero-length descriptors (QEMU CVE-2016-6490).
#[test]
fn a_descriptor_of_no_bytes_is_refused() {
    for buffers in [
        &[(DATA, 0, true)][..],
        &[(DATA, 16, false), (DATA, 0, true)],
        &[(DATA, 0, false), (DATA, 1, true)],
    ] {
        let (mut driver, mut queue) = pair(8, 0);
        let head = driver.build(buffers).unwrap();
        assert_eq!(take_error(&mut driver, &mut queue, head), Error::ZeroLength);
    }
}

/// Flaw table line 17: self-loops (QEMU CVE-2017-17381).
#[test]
fn a_loop_ends_after_as_many_descriptors_as_the_queue_has() {
    for (size, links) in [(8, &[0][..]), (8, &[1, 0]), (256, &[1, 2, 0])] {
        let (mut driver, mut queue) = pair(size, 0);
        for (i, next) in links.iter().enumerate() {
            driver.descriptor(i as u16, (DATA, 1, NEXT | WRITE, *next));
        }
        assert_eq!(take_error(&mut driver, &mut queue, 0), Error::ChainTooLong);
    }
    // In an indirect table, which has as many entries as the queue at most.
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (DATA, 32, INDIRECT, 0));
    driver.descriptor_at(DATA, 0, (DATA, 1, NEXT | WRITE, 1));
    driver.descriptor_at(DATA, 1, (DATA, 1, NEXT | WRITE, 0));
    assert_eq!(take_error(&mut driver, &mut queue, 0), Error::ChainTooLong);
}

#[test]
fn the_longest_chain_is_as_long_as_the_queue() {
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    let mut chain = Chain::new();
    driver.send(&[(DATA, 1, true); 8]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(chain.writable().len(), 8);
    queue.complete(chain.head(), 0).unwrap();
    driver.drain();
    // Direct and indirect descriptors count together.
    let buffers = [(DATA, 1, true); 8];
    let head = driver.build_indirect(DATA + 0x1000, &buffers).unwrap();
    driver.offer(head);
    assert!(queue.take(&mut chain).unwrap());
    queue.complete(chain.head(), 0).unwrap();
    driver.drain();
    let first = driver.build(&[(DATA, 1, true), (DATA, 1, true)]).unwrap();
    let second = driver.get_u16(driver.descriptors + 16 * u64::from(first) + 14);
    driver.descriptor(second, (DATA + 0x1000, 16 * 8, INDIRECT, 0));
    assert_eq!(take_error(&mut driver, &mut queue, first), Error::ChainTooLong);
}

/// Flaw table line 17: nested and oversized indirect tables (QEMU
/// CVE-2011-2212).
#[test]
fn indirect_tables_are_bounded_and_not_nested() {
    let table = DATA + 0x1000;
    // 9 entries: more than the queue.
    for len in [0, 1, 15, 17, 16 * 9, 0xffff_fff0, u32::MAX] {
        let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
        driver.descriptor(0, (table, len, INDIRECT, 0));
        assert_eq!(take_error(&mut driver, &mut queue, 0), Error::IndirectTable(len));
    }
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (table, 16, INDIRECT, 0));
    driver.descriptor_at(table, 0, (table, 16, INDIRECT, 0));
    assert_eq!(take_error(&mut driver, &mut queue, 0), Error::IndirectTable(16));
    // Followed by another descriptor.
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (table, 16, INDIRECT | NEXT, 1));
    assert_eq!(take_error(&mut driver, &mut queue, 0), Error::IndirectTable(16));
    // Not negotiated.
    let (mut driver, mut queue) = pair(8, 0);
    driver.descriptor(0, (table, 16, INDIRECT, 0));
    assert_eq!(take_error(&mut driver, &mut queue, 0), Error::IndirectTable(16));
    // Outside RAM.
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (RAM as u64 - 8, 16, INDIRECT, 0));
    assert_eq!(take_error(&mut driver, &mut queue, 0), Error::BufferAddress(RAM as u64 - 8));
}

#[test]
fn links_past_the_table_are_refused() {
    let (mut driver, mut queue) = pair(8, 0);
    driver.descriptor(0, (DATA, 1, NEXT, 8));
    let error = take_error(&mut driver, &mut queue, 0);
    assert_eq!(error, Error::DescriptorIndex(8));
    let (mut driver, mut queue) = pair(8, 0);
    let error = take_error(&mut driver, &mut queue, 8);
    assert_eq!(error, Error::DescriptorIndex(8));
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (DATA, 32, INDIRECT, 0));
    driver.descriptor_at(DATA, 0, (DATA, 1, NEXT, 2));
    let error = take_error(&mut driver, &mut queue, 0);
    assert_eq!(error, Error::DescriptorIndex(2));
}

/// Flaw table line 3: a sum of lengths that overflows (CVE-2019-18960).
#[test]
fn buffers_lie_in_ram_and_their_sum_fits() {
    for (addr, len) in [
        (RAM as u64, 1),
        (RAM as u64 - 1, 2),
        (0, RAM as u32 + 1),
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (u64::MAX - 10, 11),
        (0, u32::MAX),
    ] {
        let (mut driver, mut queue) = pair(8, 0);
        let head = driver.build(&[(addr, len, true)]).unwrap();
        let error = take_error(&mut driver, &mut queue, head);
        assert_eq!(error, Error::BufferAddress(addr), "{addr:#x}+{len:#x}");
    }
    // 256 overlapping descriptors of 16 MiB are 2^32 bytes: one too many.
    let (mut driver, mut queue) = pair(256, 0);
    let mut chain = Chain::new();
    driver.send(&[(0, RAM as u32, true); 255]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(chain.writable_len(), 255 << 24);
    let (mut driver, mut queue) = pair(256, 0);
    let head = driver.build(&[(0, RAM as u32, true); 256]).unwrap();
    assert_eq!(take_error(&mut driver, &mut queue, head), Error::ChainTooLarge);
}

#[test]
fn readable_after_writable_is_refused() {
    let (mut driver, mut queue) = pair(8, 0);
    let head = driver.build(&[(DATA, 1, true), (DATA, 1, false)]).unwrap();
    let error = take_error(&mut driver, &mut queue, head);
    assert_eq!(error, Error::ReadableAfterWritable);
}

#[test]
fn the_drivers_index_stays_within_reach() {
    for jump in [9, 0x100, 0x8000, 0xffff] {
        let (driver, mut queue) = pair(8, 0);
        driver.set_available_index(jump);
        let error = queue.take(&mut Chain::new()).unwrap_err();
        assert_eq!(error, Error::AvailableIndex(jump));
        assert!(queue.pending() <= 8);
        assert_eq!(queue.arm(), Err(Error::AvailableIndex(jump)));
    }
    // What is in flight counts.
    let (mut driver, mut queue) = pair(8, 0);
    driver.send(&[(DATA, 1, true)]);
    assert!(queue.take(&mut Chain::new()).unwrap());
    driver.set_available_index(9);
    let error = queue.take(&mut Chain::new()).unwrap_err();
    assert_eq!(error, Error::AvailableIndex(9));
}

/// Flaw table line 19: requests in flight without bound (QEMU CVE-2016-5403).
#[test]
fn in_flight_never_exceeds_the_queue() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    for i in 0..8 {
        driver.send(&[(DATA, 1, true)]);
        assert!(queue.take(&mut chain).unwrap());
        assert_eq!(queue.in_flight(), i + 1);
    }
    driver.offer(0);
    assert!(queue.take(&mut chain).is_err());
    assert_eq!(queue.in_flight(), 8);
}

/// Flaw table line 15: restored indices that cannot be (QEMU CVE-2013-4151).
#[test]
fn a_state_is_checked_before_it_is_taken_over() {
    let mem = ram();
    let driver = Driver::new(mem, 0, 8);
    let start = |next_available, next_used, in_flight: &[u16]| {
        let state = QueueState { next_available, next_used, in_flight: in_flight.to_vec() };
        Queue::new(mem, 8, 0, &config(&driver), &state).map(Queue::into_state)
    };
    for good in [&[][..], &[3], &[0, 7], &[0, 1, 2, 3, 4, 5, 6, 7]] {
        let base = 0xfffe_u16;
        let state = start(base.wrapping_add(good.len() as u16), base, good).unwrap();
        assert_eq!(state.in_flight, good);
        assert_eq!(state.next_used, base);
    }
    let bad = [
        (1, 0, &[][..]),
        (0, 1, &[]),
        (0, 1, &[1]),
        (2, 0, &[1]),
        (1, 0, &[8]),
        (1, 0, &[0xffff]),
        (2, 0, &[1, 1]),
        (9, 0, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ];
    for (next_available, next_used, in_flight) in bad {
        let error = start(next_available, next_used, in_flight).unwrap_err();
        assert!(matches!(error, Error::State(_)), "{in_flight:?}");
    }
}
