//! The queue beside rust-vmm's: the same results, and what each costs.

use std::time::Instant;

use crate::driver::Driver;
use crate::queue_test::{DATA, pair, ram};
use crate::{Chain, features};

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
    let buffers = [(DATA, 16, false), (DATA + 4096, 4096, true), (DATA + 64, 1, true)];
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
    println!("virtio-queue: {} ns", nanos / u128::from(ROUNDS * u32::from(BATCH)));
}
