//! What a driver may do with a queue.

use crate::driver::{Driver, INDIRECT, NEXT, WRITE, memory};
use crate::{Chain, Error, Memory, Queue, QueueConfig, QueueState, features};

pub(crate) const RAM: usize = 0x100_0000;
pub(crate) const DATA: u64 = 0x2_0000;

pub(crate) fn ram() -> &'static Memory {
    memory(&[(0, RAM)])
}

pub(crate) fn config(driver: &Driver<'_>) -> QueueConfig {
    QueueConfig {
        size: u32::from(driver.size),
        descriptors: driver.descriptors,
        available: driver.available,
        used: driver.used,
    }
}

pub(crate) fn pair(size: u16, features: u64) -> (Driver<'static>, Queue<'static>) {
    let mem = ram();
    let driver = Driver::new(mem, 0, size);
    let state = QueueState::default();
    let queue = Queue::new(mem, 1024, features, &config(&driver), &state).unwrap();
    (driver, queue)
}

pub(crate) fn take_error(
    driver: &mut Driver<'static>,
    queue: &mut Queue<'static>,
    head: u16,
) -> Error {
    driver.offer(head);
    queue.take(&mut Chain::new()).unwrap_err()
}

#[test]
fn a_chain_comes_out_as_it_was_built() {
    let (mut driver, mut queue) = pair(8, 0);
    let mut chain = Chain::new();
    assert!(!queue.take(&mut chain).unwrap());
    let head = driver.send(&[(DATA, 16, false), (DATA + 100, 512, true), (DATA + 1000, 1, true)]);
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
    let head = driver.build_indirect(table, &[(DATA, 16, false), (DATA + 64, 3, true)]).unwrap();
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
