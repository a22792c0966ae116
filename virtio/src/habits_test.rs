//! Habits of drivers, right and nearly right: each is a list of stores, and of
//! what the driver then reads and may wait for. Each is also followed with the
//! device saved and restored before every single step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, MmapRegion};

use crate::blk::fake::{DATA, IN, OK, Rig, stopped, writable};
use crate::blk::{Options, Worker};
use crate::driver::Driver;
use crate::transport::{PAGE_SIZE, Window};
use crate::{Device, Effect, Endpoint, Step, WhenEmpty};

use Do::{Break, R, Unused, Up, Use, W};

/// One step of a driver.
#[derive(Clone, Copy, Debug)]
enum Do {
    /// Store a value at an offset.
    W(u64, u32),
    /// Load from an offset: this has to be there, or the driver waits for ever.
    R(u64, u32),
    /// Bring the device up from a reset as the specification says.
    Up,
    /// Have a request answered.
    Use,
    /// Make a request available that the device must not touch.
    Unused,
    /// Make a chain available that no driver may build.
    Break,
}

const SELECT: u64 = 0x30;
const SIZE: u64 = 0x38;
const SIZE_MAX: u64 = 0x34;
const READY: u64 = 0x44;
const NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;

#[rustfmt::skip]
const HABITS: [(&str, &[Do]); 18] = [
    ("stops its queue before the reset", &[Up, Use, W(SELECT, 0), W(READY, 0), R(READY, 0), Unused,
        W(STATUS, 0), R(STATUS, 0), Up, Use]),
    ("clears a stopped queue's registers", &[Up, W(READY, 0), R(READY, 0), W(SIZE, 0), W(0x80, 0),
        W(0x84, 0), W(0x90, 0), W(0x94, 0), W(0xa0, 0), W(0xa4, 0), R(STATUS, 0xf), W(STATUS, 0), Up, Use]),
    ("sets a stopped queue up again without a reset", &[Up, Use, W(READY, 0), R(READY, 0), W(SIZE, 64),
        W(READY, 1), R(READY, 0), Unused, W(STATUS, 0), R(STATUS, 0), Up, Use]),
    ("stops a queue twice", &[Up, W(READY, 0), R(READY, 0), W(READY, 0), R(READY, 0), R(STATUS, 0xf)]),
    ("stops a queue before the device runs", &[W(STATUS, 3), W(READY, 1), R(READY, 1), W(READY, 0), R(READY, 0),
        W(STATUS, 0), Up, Use]),
    ("stops a queue that it never set up", &[W(READY, 0), R(READY, 0), W(STATUS, 3), W(READY, 0), R(READY, 0)]),
    ("stops a queue after it has given up", &[Up, W(STATUS, 0x8f), R(STATUS, 0x8f), W(READY, 0), R(READY, 0),
        W(STATUS, 0), R(STATUS, 0), Up, Use]),
    ("stops a queue after it gave up before the device ran", &[W(STATUS, 3), W(READY, 1), W(STATUS, 0x83),
        W(READY, 0), R(READY, 0), W(STATUS, 0), R(STATUS, 0), Up, Use]),
    ("stops a queue of a device that needs a reset", &[Up, Break, R(STATUS, 0x4f), W(READY, 0), R(READY, 0),
        R(STATUS, 0x4f), W(STATUS, 0), R(STATUS, 0), Up, Use]),
    ("rings for a stopped queue", &[Up, W(READY, 0), W(NOTIFY, 0), Unused, R(READY, 0), W(STATUS, 0), Up, Use]),
    ("looks for queues that are not there", &[W(SELECT, 1), R(SIZE_MAX, 0), R(READY, 0), W(READY, 0), R(READY, 0),
        W(SELECT, u32::MAX), R(SIZE_MAX, 0), R(READY, 0), W(SELECT, 0), R(SIZE_MAX, 256), Up, Use]),
    ("stops queues that are not there", &[Up, W(SELECT, 1), W(READY, 0), R(READY, 0), W(SELECT, 0), R(READY, 1), Use]),
    ("reads features beyond the first 64", &[W(0x14, 2), R(0x10, 0), W(0x14, 3), R(0x10, 0),
        W(0x14, u32::MAX), R(0x10, 0), W(0x14, 1), R(0x10, 0x1), Up, Use]),
    ("writes features beyond the first 64", &[W(STATUS, 3), W(0x24, 1), W(0x20, 1), W(0x24, 2), W(0x20, 0),
        W(0x24, 3), W(0x20, 0), W(STATUS, 0xb), R(STATUS, 0xb)]),
    ("asks for too much and then for less", &[W(STATUS, 3), W(0x24, 1), W(0x20, 0x8000_0001), W(STATUS, 0xb),
        R(STATUS, 3), W(0x20, 1), W(STATUS, 0xb), R(STATUS, 0xb)]),
    ("waits for a reset in every state", &[W(STATUS, 0), R(STATUS, 0), W(STATUS, 0), R(STATUS, 0), W(STATUS, 1),
        W(STATUS, 0), R(STATUS, 0), Up, W(STATUS, 0), R(STATUS, 0), R(READY, 0), R(0x60, 0), Up, Use]),
    ("writes what only older devices have", &[W(0x28, 4096), W(0x3c, 4096), W(0x40, 16), R(0x40, 0), Up, Use]),
    ("acknowledges what it has read", &[Up, Use, R(0x60, 1), W(0x64, 1), Use, W(0x64, u32::MAX), Use]),
];

struct Guest {
    rig: Rig,
    endpoint: Endpoint<'static>,
}

fn endpoint(device: Arc<dyn Device>) -> (Endpoint<'static>, Window) {
    let region = Arc::new(MmapRegion::new(PAGE_SIZE).unwrap());
    let window = Window::new(region, 0).unwrap();
    (Endpoint::new(window.clone(), device).unwrap(), window)
}

fn load(window: &Window, at: u64) -> u32 {
    let mut word = [0; 4];
    window.load(at, &mut word);
    u32::from_le_bytes(word)
}

impl Guest {
    fn new() -> Self {
        let rig = stopped(writable, Options::default());
        let (endpoint, _) = endpoint(rig.block.clone());
        Self { rig, endpoint }
    }

    fn write(&mut self, at: u64, value: u32) -> Effect {
        self.endpoint.write(at, &value.to_le_bytes())
    }

    fn read(&self, at: u64) -> u32 {
        load(self.endpoint.transport().window(), at)
    }

    fn up(&mut self) {
        self.rig.driver = Driver::new(self.rig.driver.mem, 0, 64);
        let offered = self.rig.block.features();
        let driver = &self.rig.driver;
        let queue = [driver.descriptors, driver.available, driver.used].map(|at| at as u32);
        let writes = [
            (STATUS, 0),
            (STATUS, 1),
            (STATUS, 3),
            (0x24, 0),
            (0x20, offered as u32),
            (0x24, 1),
            (0x20, (offered >> 32) as u32),
            (STATUS, 0xb),
            (SELECT, 0),
            (SIZE, 64),
            (0x80, queue[0]),
            (0x90, queue[1]),
            (0xa0, queue[2]),
            (READY, 1),
            (STATUS, 0xf),
        ];
        for (at, value) in writes {
            let _ = self.write(at, value);
        }
        assert_eq!((self.read(STATUS), self.read(READY)), (0xf, 1));
    }

    fn step(&mut self, step: Do) {
        match step {
            W(at, value) => {
                let _ = self.write(at, value);
            }
            R(at, value) => assert_eq!(self.read(at), value, "{at:#x}"),
            Up => self.up(),
            Use => assert_eq!(self.rig.read(1, 512), OK),
            Unused => {
                self.rig.offer(IN, 0, &[(DATA, 512, true)]);
                let reads = self.rig.disk.reads.load(Ordering::Relaxed);
                let outcome = self.rig.run();
                assert_eq!((outcome.step, outcome.signal), (Step::Stopped, false));
                assert!(self.rig.driver.drain().is_empty());
                assert_eq!(self.rig.disk.reads.load(Ordering::Relaxed), reads);
            }
            Break => {
                self.rig.driver.send(&[(DATA, 1, true)]);
                assert_eq!(self.rig.run().step, Step::Broken);
                assert!(self.endpoint.refresh());
            }
        }
    }

    /// Saves the device and goes on with what was saved.
    fn move_on(&mut self) {
        self.endpoint.pause();
        let saved = self.endpoint.save().unwrap();
        self.endpoint.restore(&saved).unwrap();
        assert_eq!(self.endpoint.save(), Some(saved));
        let _ = self.endpoint.resume();
    }
}

#[test]
fn no_driver_waits_for_ever() {
    for (habit, steps) in HABITS {
        for restored in [false, true] {
            let mut guest = Guest::new();
            for (number, step) in steps.iter().enumerate() {
                println!("a driver that {habit}, restored: {restored}, step {number}: {step:?}");
                if restored {
                    guest.move_on();
                }
                guest.step(*step);
            }
        }
    }
}

/// A queue that is stopped amid requests: those that the device is at are
/// answered first, and once the driver can read that the queue is stopped,
/// nothing of it changes any more.
#[test]
fn a_stopped_queue_answers_nothing_more() {
    let mut stopped_amid = 0;
    for round in 0..200 {
        let mut guest = Guest::new();
        guest.up();
        *guest.rig.disk.delay.lock().unwrap() = Duration::from_micros(50);
        let window = guest.endpoint.transport().window().clone();
        let over = AtomicBool::new(false);
        let (mem, used) = (guest.rig.driver.mem, guest.rig.driver.used + 2);
        let used = || mem.read_obj::<u16>(GuestAddress(used)).unwrap();
        for _ in 0..16 {
            guest.rig.offer(IN, 1, &[(DATA, 512, true)]);
        }
        thread::scope(|scope| {
            for _ in 0..3 {
                let (block, over) = (guest.rig.block.clone(), &over);
                scope.spawn(move || {
                    let mut worker = Worker::default();
                    while !over.load(Ordering::Relaxed) {
                        let clock = || Duration::ZERO;
                        let _ = block.run(&mut worker, 0, &clock, 2, WhenEmpty::Arm);
                    }
                });
            }
            let other_cpu = scope.spawn(|| {
                while load(&window, READY) != 0 {
                    std::hint::spin_loop();
                }
                used()
            });
            while used() < round % 8 {
                thread::yield_now();
            }
            let _ = guest.write(READY, 0);
            let shown = other_cpu.join().unwrap();
            thread::sleep(Duration::from_micros(200));
            over.store(true, Ordering::Relaxed);
            let used = used();
            assert_eq!(used, shown, "answered after it was stopped");
            stopped_amid += u32::from(used > 0 && used < 16);
        });
        let answered = guest.rig.driver.drain().len();
        let begun = guest.rig.disk.reads.load(Ordering::Relaxed);
        assert_eq!(answered, begun, "what was begun is answered");
    }
    assert!(stopped_amid > 20, "{stopped_amid}");
}
