//! What a driver may do and may not do to a queue.

use std::time::Instant;

use crate::driver::{Driver, INDIRECT, NEXT, WRITE, memory};
use crate::{Chain, Error, Memory, Queue, QueueConfig, QueueState, RingPart, features};

const RAM: usize = 0x100_0000;
const DATA: u64 = 0x2_0000;

fn ram() -> &'static Memory {
    memory(&[(0, RAM)])
}

fn config(driver: &Driver<'_>) -> QueueConfig {
    QueueConfig {
        size: u32::from(driver.size),
        descriptors: driver.descriptors,
        available: driver.available,
        used: driver.used,
    }
}

fn pair(size: u16, features: u64) -> (Driver<'static>, Queue<'static>) {
    let mem = ram();
    let driver = Driver::new(mem, 0, size);
    let state = QueueState::default();
    let queue = Queue::new(mem, 1024, features, &config(&driver), &state).unwrap();
    (driver, queue)
}

fn take_error(driver: &mut Driver<'static>, queue: &mut Queue<'static>, head: u16) -> Error {
    driver.offer(head);
    queue.take(&mut Chain::new()).unwrap_err()
}

#[test]
fn a_chain_comes_out_as_it_was_built() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    assert!(!queue.take(&mut chain).unwrap());
    let head = driver.send(&[
        (DATA, 16, false),
        (DATA + 100, 512, true),
        (DATA + 1000, 1, true),
    ]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(chain.head(), head);
    assert_eq!((chain.readable_len(), chain.writable_len()), (16, 513));
    let lens = |s: &[crate::GuestSlice<'_>]| s.iter().map(|s| s.len()).collect::<Vec<_>>();
    assert_eq!(lens(chain.readable()), [16]);
    assert_eq!(lens(chain.writable()), [512, 1]);
    assert_eq!(queue.in_flight(), 1);
    queue.complete(head, 513).unwrap();
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(driver.drain(), [(head, 513)]);
}

#[test]
fn indices_wrap_around() {
    let (mut driver, mut queue) = pair(4, features::EVENT_IDX);
    let mut chain = Chain::new();
    for i in 0..200_000u32 {
        driver.send(&[(DATA + u64::from(i % 64), 1, true)]);
        assert!(queue.take(&mut chain).unwrap());
        queue.complete(chain.head(), i % 7).unwrap();
        assert_eq!(driver.drain(), [(chain.head(), i % 7)]);
    }
}

#[test]
fn an_indirect_table_is_followed_alone_and_at_the_end_of_a_chain() {
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    let mut chain = Chain::new();
    let table = DATA + 0x1_0001; // needs no alignment
    let head = driver
        .build_indirect(table, &[(DATA, 16, false), (DATA + 64, 3, true)])
        .unwrap();
    driver.offer(head);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!((chain.readable_len(), chain.writable_len()), (16, 3));
    // One plain descriptor, then a table of one.
    driver.descriptor(6, (DATA, 5, NEXT, 7));
    driver.descriptor(7, (table, 16, INDIRECT, 0));
    driver.descriptor_at(table, 0, (DATA, 7, WRITE, 0));
    driver.offer(6);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!((chain.readable_len(), chain.writable_len()), (5, 7));
}

/// Flaw table line 13: duplicate heads (Cloud Hypervisor CVE-2026-45782).
#[test]
fn one_head_twice_in_flight_is_refused() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    let head = driver.send(&[(DATA, 16, true)]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(
        take_error(&mut driver, &mut queue, head),
        Error::DuplicateHead(head)
    );
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
    for addr in [
        1,
        8,
        0xf_ff10,
        0x10_0000,
        0x1f_fff0,
        0x20_0f10,
        u64::MAX - 15,
        u64::MAX,
    ] {
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
        assert_eq!(
            try_config(&|c| c.used = addr),
            Err(Error::RingAddress(RingPart::Used, addr))
        );
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
    assert_eq!(
        take_error(&mut driver, &mut queue, first),
        Error::ChainTooLong
    );
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
        assert_eq!(
            take_error(&mut driver, &mut queue, 0),
            Error::IndirectTable(len)
        );
    }
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (table, 16, INDIRECT, 0));
    driver.descriptor_at(table, 0, (table, 16, INDIRECT, 0));
    assert_eq!(
        take_error(&mut driver, &mut queue, 0),
        Error::IndirectTable(16)
    );
    // Followed by another descriptor.
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (table, 16, INDIRECT | NEXT, 1));
    assert_eq!(
        take_error(&mut driver, &mut queue, 0),
        Error::IndirectTable(16)
    );
    // Not negotiated.
    let (mut driver, mut queue) = pair(8, 0);
    driver.descriptor(0, (table, 16, INDIRECT, 0));
    assert_eq!(
        take_error(&mut driver, &mut queue, 0),
        Error::IndirectTable(16)
    );
    // Outside RAM.
    let (mut driver, mut queue) = pair(8, features::INDIRECT_DESC);
    driver.descriptor(0, (RAM as u64 - 8, 16, INDIRECT, 0));
    assert_eq!(
        take_error(&mut driver, &mut queue, 0),
        Error::BufferAddress(RAM as u64 - 8)
    );
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
    assert_eq!(
        take_error(&mut driver, &mut queue, head),
        Error::ChainTooLarge
    );
}

#[test]
fn a_buffer_may_run_over_regions_that_touch() {
    let mem = memory(&[(0, 0x2_0000), (0x2_0000, 0x1000), (0x3_0000, 0x1000)]);
    let mut driver = Driver::new(mem, 0, 8);
    let state = QueueState::default();
    let mut queue = Queue::new(mem, 8, 0, &config(&driver), &state).unwrap();
    let mut chain = Chain::new();
    driver.send(&[(0x1_fff0, 0x20, false), (0x2_0ff0, 0x10, true)]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(chain.readable().len(), 2);
    assert_eq!(chain.readable_len(), 0x20);
    let head = driver.build(&[(0x2_0ff0, 0x11, true)]).unwrap();
    let error = take_error(&mut driver, &mut queue, head);
    assert_eq!(error, Error::BufferAddress(0x2_0ff0));
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
        let state = QueueState {
            next_available,
            next_used,
            in_flight: in_flight.to_vec(),
        };
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

#[test]
fn what_was_in_flight_at_a_stop_comes_out_first_after_a_start() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    let heads: Vec<u16> = (0..4).map(|_| driver.send(&[(DATA, 1, true)])).collect();
    for _ in 0..3 {
        assert!(queue.take(&mut chain).unwrap());
    }
    queue.complete(heads[1], 0).unwrap();
    let state = queue.into_state();
    assert_eq!(state.in_flight.len(), 2);
    let mut queue = Queue::new(ram_of(&driver), 8, 0, &config(&driver), &state).unwrap();
    assert_eq!(queue.pending(), 3);
    let mut seen = Vec::new();
    while queue.take(&mut chain).unwrap() {
        seen.push(chain.head());
        queue.complete(chain.head(), 0).unwrap();
    }
    seen.push(heads[1]);
    seen.sort_unstable();
    let mut heads = heads;
    heads.sort_unstable();
    assert_eq!(seen, heads, "each exactly once");
}

fn ram_of(driver: &Driver<'static>) -> &'static Memory {
    driver.mem
}

#[test]
fn a_parked_chain_comes_out_again() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    let first = driver.send(&[(DATA, 1, true)]);
    driver.send(&[(DATA, 2, true)]);
    assert!(queue.take(&mut chain).unwrap());
    queue.park(first);
    queue.park(first);
    queue.park(5);
    assert!(!queue.arm().unwrap());
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(chain.head(), first);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(chain.writable_len(), 2);
    assert!(!queue.take(&mut chain).unwrap());
}

#[test]
fn the_doorbell_is_armed_by_event_index() {
    let (mut driver, mut queue) = pair(8, features::EVENT_IDX);
    let mut chain = Chain::new();
    assert!(queue.arm().unwrap());
    driver.send(&[(DATA, 1, true)]);
    assert!(!queue.arm().unwrap(), "there is something to take");
    assert!(queue.take(&mut chain).unwrap());
    assert!(queue.arm().unwrap());
    assert_eq!(driver.available_event(), 1);
    assert_eq!(driver.used_flags(), 0);
}

#[test]
fn the_doorbell_is_armed_by_flag() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    driver.send(&[(DATA, 1, true)]);
    driver.send(&[(DATA, 1, true)]);
    assert!(queue.take(&mut chain).unwrap());
    assert_eq!(driver.used_flags(), 1, "no doorbell while at work");
    assert!(!queue.arm().unwrap());
    assert!(queue.take(&mut chain).unwrap());
    assert!(queue.arm().unwrap());
    assert_eq!(driver.used_flags(), 0);
}

#[test]
fn the_interrupt_follows_the_drivers_event_index() {
    let (mut driver, mut queue) = pair(8, features::EVENT_IDX);
    let mut chain = Chain::new();
    let mut one = |driver: &mut Driver<'static>, queue: &mut Queue<'static>| {
        driver.send(&[(DATA, 1, true)]);
        assert!(queue.take(&mut chain).unwrap());
        queue.complete(chain.head(), 0).unwrap();
        driver.drain();
    };
    assert!(!queue.needs_signal().unwrap(), "nothing done");
    one(&mut driver, &mut queue);
    assert!(queue.needs_signal().unwrap());
    // 2.7.7.2: when the entry with this index is used, that is the third.
    driver.set_used_event(2);
    one(&mut driver, &mut queue);
    assert!(!queue.needs_signal().unwrap());
    one(&mut driver, &mut queue);
    assert!(queue.needs_signal().unwrap());
    assert!(!queue.needs_signal().unwrap(), "asked twice, told once");
    // Several at once, the wanted one in the middle.
    driver.set_used_event(4);
    for _ in 0..4 {
        one(&mut driver, &mut queue);
    }
    assert!(queue.needs_signal().unwrap());
}

#[test]
fn the_interrupt_follows_the_drivers_flag() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    for (no_interrupt, expected) in [(false, true), (true, false), (false, true)] {
        driver.set_no_interrupt(no_interrupt);
        driver.send(&[(DATA, 1, true)]);
        assert!(queue.take(&mut chain).unwrap());
        queue.complete(chain.head(), 0).unwrap();
        assert_eq!(queue.needs_signal().unwrap(), expected);
    }
}

/// Staged entries are not visible before they are published.
#[test]
fn publishing_comes_last() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    let heads = [(); 3].map(|()| driver.send(&[(DATA, 8, true)]));
    while queue.take(&mut chain).unwrap() {}
    for head in heads {
        queue.stage(head, 8).unwrap();
    }
    assert_eq!(driver.drain(), []);
    queue.publish();
    assert_eq!(driver.drain(), heads.map(|head| (head, 8)));
}

/// The same random traffic through rust-vmm's queue gives the same used ring.
#[test]
fn agrees_with_virtio_queue() {
    use virtio_queue::{QueueOwnedT, QueueT};
    let features = features::EVENT_IDX | features::INDIRECT_DESC;
    let (mut ours, mut queue) = pair(16, features);
    let mem = ram();
    let mut theirs = Driver::new(mem, 0, 16);
    let mut other = virtio_queue::Queue::new(16).unwrap();
    other.set_desc_table_address(Some(theirs.descriptors as u32), None);
    other.set_avail_ring_address(Some(theirs.available as u32), None);
    other.set_used_ring_address(Some(theirs.used as u32), None);
    other.set_event_idx(true);
    other.set_ready(true);
    let mut chain = Chain::new();
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u32
    };
    for _ in 0..5000 {
        for _ in 0..random() % 4 {
            let len = 1 + random() % 4096;
            let buffers = [(DATA, 16, false), (DATA, len, true), (DATA, 1, true)];
            for driver in [&mut ours, &mut theirs] {
                if let Some(head) = driver.build(&buffers) {
                    driver.offer(head);
                }
            }
        }
        let event = ours.next_used.wrapping_add((random() % 4) as u16);
        ours.set_used_event(event);
        theirs.set_used_event(event);
        while queue.take(&mut chain).unwrap() {
            queue.complete(chain.head(), chain.writable_len()).unwrap();
        }
        while let Some(chain) = other.iter(mem).unwrap().next() {
            let head = chain.head_index();
            let written = chain.writable().map(|d| d.len()).sum();
            other.add_used(mem, head, written).unwrap();
        }
        let ours_wanted = queue.needs_signal().unwrap();
        let theirs_wanted = other.needs_notification(mem).unwrap();
        if ours.next_used != 0 {
            assert_eq!(ours_wanted, theirs_wanted);
        }
        assert!(queue.arm().unwrap());
        assert!(!other.enable_notification(mem).unwrap());
        assert_eq!(ours.available_event(), theirs.available_event());
        assert_eq!(ours.drain(), theirs.drain());
    }
}

/// Nanoseconds for one block-like chain (header, 4 KiB, status): taking it
/// as slices, giving it back and asking for the interrupt. Run with
/// `cargo test --release -p mote-virtio cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost() {
    use virtio_queue::{QueueOwnedT, QueueT};
    use vm_memory::{GuestMemory, Permissions};
    const ROUNDS: u32 = 20_000;
    const BATCH: u16 = 32;
    let mem = ram();
    let buffers = [
        (DATA, 16, false),
        (DATA + 4096, 4096, true),
        (DATA + 64, 1, true),
    ];
    let offer = |driver: &mut Driver<'static>| {
        driver.drain();
        for _ in 0..BATCH {
            driver.send(&buffers);
        }
    };
    let (mut driver, mut queue) = pair(256, features::EVENT_IDX);
    let mut chain = Chain::new();
    let mut nanos = 0;
    for _ in 0..ROUNDS {
        offer(&mut driver);
        let start = Instant::now();
        while queue.take(&mut chain).unwrap() {
            queue.complete(chain.head(), chain.writable_len()).unwrap();
        }
        std::hint::black_box(queue.needs_signal().unwrap());
        assert!(queue.arm().unwrap());
        nanos += start.elapsed().as_nanos();
    }
    println!("mote: {} ns", nanos / u128::from(ROUNDS * u32::from(BATCH)));

    let mut driver = Driver::new(mem, 0, 256);
    let mut queue = virtio_queue::Queue::new(256).unwrap();
    queue.set_desc_table_address(Some(driver.descriptors as u32), None);
    queue.set_avail_ring_address(Some(driver.available as u32), None);
    queue.set_used_ring_address(Some(driver.used as u32), None);
    queue.set_event_idx(true);
    queue.set_ready(true);
    let mut slices = Vec::new();
    let mut nanos = 0;
    for _ in 0..ROUNDS {
        offer(&mut driver);
        let start = Instant::now();
        while let Some(chain) = queue.iter(mem).unwrap().next() {
            let head = chain.head_index();
            let mut written = 0;
            slices.clear();
            for descriptor in chain {
                written += descriptor.len();
                let len = descriptor.len() as usize;
                let pieces =
                    GuestMemory::get_slices(mem, descriptor.addr(), len, Permissions::Write);
                slices.extend(pieces.unwrap().map(Result::unwrap));
            }
            std::hint::black_box(&slices);
            queue.add_used(mem, head, written).unwrap();
        }
        std::hint::black_box(queue.needs_notification(mem).unwrap());
        assert!(!queue.enable_notification(mem).unwrap());
        nanos += start.elapsed().as_nanos();
    }
    println!(
        "virtio-queue: {} ns",
        nanos / u128::from(ROUNDS * u32::from(BATCH))
    );
}
