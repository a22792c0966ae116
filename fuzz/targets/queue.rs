//! A queue over arbitrary guest memory, with arbitrary indices.
#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote_fuzz::driver::Driver;
use mote_fuzz::oracle::Allowed;
use mote_fuzz::{DATA, clear, edge, poke, ram, snapshot};
use mote_virtio::{Chain, Queue, QueueConfig, QueueState, features};

/// Rings where a driver puts them, or one thing about them anywhere.
fn config(u: &mut Unstructured<'_>, driver: &Driver<'_>) -> Result<QueueConfig> {
    let mut config = QueueConfig {
        size: u32::from(driver.size),
        descriptors: driver.descriptors,
        available: driver.available,
        used: driver.used,
    };
    match u.int_in_range(0..=15)? {
        0 => config.size = edge(u)? as u32,
        1 => config.descriptors = edge(u)?,
        2 => config.available = edge(u)?,
        3 => config.used = edge(u)?,
        _ => {}
    }
    Ok(config)
}

fn state(u: &mut Unstructured<'_>) -> Result<QueueState> {
    let mut state = QueueState::default();
    if u.ratio(1, 4)? {
        let heads = u.int_in_range(0..=4)?;
        for _ in 0..heads {
            state.in_flight.push(u.int_in_range(0..=17)?);
        }
        state.next_used = u.arbitrary()?;
        state.next_available = state.next_used.wrapping_add(heads);
        if u.ratio(1, 8)? {
            state.next_available = u.arbitrary()?;
        }
    }
    Ok(state)
}

/// Descriptors and ring entries: near to right, or anything.
fn fill(u: &mut Unstructured<'_>, driver: &mut Driver<'_>) -> Result<()> {
    for i in 0..u.int_in_range(0..=driver.size)? {
        let flags = u.int_in_range(0..=7)?;
        let addr = if u.ratio(7, 8)? { u.int_in_range(0..=DATA + 0x8000)? } else { edge(u)? };
        let len = if u.ratio(7, 8)? { 16 * u.int_in_range(0..=32)? } else { edge(u)? as u32 };
        driver.descriptor(i, (addr, len, flags, u.int_in_range(0..=driver.size)?));
    }
    for _ in 0..u.int_in_range(0..=driver.size)? {
        driver.offer(u.int_in_range(0..=driver.size)?);
    }
    Ok(())
}

fn checked_take(queue: &mut Queue<'static>, chain: &mut Chain<'static>) -> bool {
    let before = queue.in_flight();
    match queue.take(chain) {
        Ok(true) => {
            let sum = |slices: &[mote_virtio::GuestSlice<'_>]| -> usize {
                slices.iter().map(|slice| slice.len()).sum()
            };
            assert_eq!(sum(chain.readable()), chain.readable_len() as usize);
            assert_eq!(sum(chain.writable()), chain.writable_len() as usize);
            assert!(sum(chain.readable()) + sum(chain.writable()) > 0);
            assert!(chain.readable().len() + chain.writable().len() <= 1024);
            assert!(chain.head() < queue.size());
            assert!(queue.in_flight() >= before && queue.in_flight() <= queue.size());
            true
        }
        Ok(false) => {
            assert_eq!(queue.in_flight(), before);
            false
        }
        Err(_) => false,
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    clear(0);
    let size = 1 << u.int_in_range(0..=4)?;
    let mut driver = Driver::new(ram(), 0, size);
    let (config, state) = (config(u, &driver)?, state(u)?);
    fill(u, &mut driver)?;
    let bits = [0, features::EVENT_IDX, features::INDIRECT_DESC, features::COMMON];
    let features = *u.choose(&bits)?;
    let Ok(mut queue) = Queue::new(ram(), 16, features, &config, &state) else {
        return Ok(());
    };
    let mut chain = Chain::new();
    let mut taken: Vec<u16> = Vec::new();
    let mut steps = 0;
    while !u.is_empty() && steps < 1000 {
        steps += 1;
        let mut allowed = Allowed::default();
        allowed.used_ring(config.used, queue.size());
        let before = snapshot();
        match u.int_in_range(0..=9)? {
            0..=3 => {
                if checked_take(&mut queue, &mut chain) {
                    taken.push(chain.head());
                }
            }
            4 => {
                if let Some(head) = taken.pop() {
                    queue.complete(head, u.arbitrary()?).unwrap();
                }
            }
            5 => {
                let head = u.int_in_range(0..=17)?;
                let was_taken = taken.iter().position(|taken| *taken == head);
                let done = queue.stage(head, 0);
                if let Some(at) = was_taken {
                    done.unwrap();
                    taken.swap_remove(at);
                }
                queue.publish();
            }
            6 => {
                if let Some(head) = taken.pop() {
                    queue.park(head);
                }
            }
            7 => {
                let _ = (queue.arm(), queue.pending());
            }
            8 => {
                let _ = queue.needs_signal();
                let state = queue.into_state();
                assert!(state.in_flight.len() >= taken.len());
                queue = Queue::new(ram(), 16, features, &config, &state).unwrap();
                taken.clear();
            }
            _ => {
                poke(u, DATA)?;
                continue;
            }
        }
        allowed.check(&before, &snapshot());
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
