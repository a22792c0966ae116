//! Several workers on one queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::fake::{DATA, IN, Rig, writable};
use super::{Block, Options, Worker};
use crate::{Device, Step, WhenEmpty, features};

/// A pool of workers on one queue answers every request exactly once, and a
/// stop in the middle waits for them and loses nothing.
#[test]
fn a_pool_shares_a_queue() {
    let mut rig = Rig::new();
    *rig.disk.delay.lock().unwrap() = Duration::from_micros(50);
    let mut sent = 0;
    let mut done = 0;
    let mut starts = 0;
    while starts < 20 {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let block = rig.block.clone();
                std::thread::spawn(move || {
                    let mut worker = Worker::default();
                    loop {
                        let now = Duration::ZERO;
                        let outcome = block.run(&mut worker, 0, &|| now, 8, WhenEmpty::Arm);
                        match outcome.step {
                            Step::Stopped => return,
                            Step::Idle | Step::More => std::thread::yield_now(),
                            step => panic!("{step:?}"),
                        }
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            done += rig.driver.drain().len();
            while sent - done < 16 {
                rig.offer(IN, sent as u64 % 64, &[(DATA, 512, true)]);
                sent += 1;
            }
        }
        let stopped = rig.block.stop();
        for thread in threads {
            thread.join().unwrap();
        }
        let state = stopped.queues[0].clone().unwrap();
        assert!(state.in_flight.is_empty(), "every read that began has ended");
        rig.start(rig.block.features(), state);
        starts += 1;
    }
    while rig.run().step != Step::Idle {}
    done += rig.driver.drain().len();
    assert_eq!(done, sent);
    assert_eq!(rig.block.counters().requests.get(), sent as u64);
}

/// What an eventfd is: counts rings until somebody reads it.
#[derive(Default)]
struct Doorbell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// As a poll and a read: whoever comes later finds nothing.
    fn sleep(&self, stopped: &AtomicBool) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung && !stopped.load(Ordering::Relaxed) {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// A device without EVENT_IDX, its sleeping workers, and what they were told.
struct Pool {
    rig: Rig,
    bell: Arc<Doorbell>,
    stopped: Arc<AtomicBool>,
    interrupts: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn new(workers: usize, features: u64) -> Self {
        let rig = Rig::with(writable, Options::default(), features);
        let mut this = Self {
            rig,
            bell: Arc::default(),
            stopped: Arc::default(),
            interrupts: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..workers {
            let (block, bell) = (this.rig.block.clone(), this.bell.clone());
            let (stopped, interrupts) = (this.stopped.clone(), this.interrupts.clone());
            let work = move || serve(&block, &bell, &stopped, &interrupts);
            this.threads.push(thread::spawn(work));
        }
        this
    }

    /// Offers a read and rings if the device wishes it, as a driver does.
    fn read(&mut self, event_idx: bool) {
        let old = self.rig.driver.next_available;
        self.rig.offer(IN, 0, &[(DATA, 512, true)]);
        std::sync::atomic::fence(Ordering::SeqCst);
        let driver = &self.rig.driver;
        let wanted =
            if event_idx { driver.available_event() == old } else { driver.used_flags() == 0 };
        if wanted {
            self.bell.ring();
        }
    }

    fn end(self) -> u64 {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = self.rig.block.stop();
        for thread in self.threads {
            while !thread.is_finished() {
                self.bell.ring();
                thread::yield_now();
            }
            thread.join().unwrap();
        }
        self.interrupts.load(Ordering::Relaxed)
    }
}

fn serve(
    block: &Block<'static>,
    bell: &Arc<Doorbell>,
    stopped: &AtomicBool,
    interrupts: &AtomicU64,
) {
    let wake = bell.clone();
    let mut worker = Worker::of_pool(move || wake.ring());
    while !stopped.load(Ordering::Relaxed) {
        let outcome = block.run(&mut worker, 0, &|| Duration::ZERO, 64, WhenEmpty::Arm);
        interrupts.fetch_add(outcome.signal.into(), Ordering::Relaxed);
        if outcome.step == Step::Idle {
            bell.sleep(stopped);
        }
    }
}

/// Waits for it; a lost wake-up is a wait that has no end.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}");
}

const WITHOUT: u64 = !features::EVENT_IDX;

/// While one worker waits for its disk, others serve what comes then.
#[test]
fn a_slow_request_does_not_hold_up_the_next() {
    for features in [WITHOUT, u64::MAX] {
        let mut pool = Pool::new(4, features);
        for at_once in [1, 4] {
            *pool.rig.disk.together.lock().unwrap() = 4;
            // One by one, and all before any of the workers is awake.
            for number in 1..=4 {
                pool.read(features == u64::MAX);
                if at_once == 1 {
                    let disk = &pool.rig.disk;
                    wait("nobody else came", || *disk.inside.lock().unwrap() >= number % 4);
                }
            }
            let driver = &mut pool.rig.driver;
            let mut done = 0;
            wait("they are not four at once", || {
                done += driver.drain().len();
                done == 4
            });
        }
        pool.end();
    }
}

/// Every request is answered without another one having to ring, and no
/// interrupt comes for nothing.
#[test]
fn no_wake_up_is_lost_and_no_interrupt_is_for_nothing() {
    for features in [WITHOUT, u64::MAX] {
        let mut pool = Pool::new(3, features);
        let mut sent = 0;
        for burst in (0..3000).map(|round| round % 7 + 1) {
            for _ in 0..burst {
                pool.read(features == u64::MAX);
            }
            sent += burst;
            let driver = &mut pool.rig.driver;
            let mut done = 0;
            wait("a request is forgotten", || {
                done += driver.drain().len();
                done == burst
            });
        }
        assert_eq!(pool.rig.block.counters().requests.get(), sent as u64);
        let interrupts = pool.end();
        assert!(interrupts <= sent as u64, "{interrupts} for {sent}");
    }
}
