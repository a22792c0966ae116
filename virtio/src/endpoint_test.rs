//! A device behind its registers, driven as a guest and its owner do.

use std::sync::Arc;
use std::time::Duration;

use vm_memory::MmapRegion;

use crate::blk::fake::{DATA, IN, IOERR, OK, Rig, stopped, writable};
use crate::blk::{Options, Worker};
use crate::transport::{PAGE_SIZE, Window};
use crate::{
    Device, Effect, Endpoint, EndpointStateV1, Error, QueueState, Step, WhenEmpty, features,
};

struct Machine {
    rig: Rig,
    endpoint: Endpoint<'static>,
}

impl Machine {
    fn new() -> Self {
        let rig = stopped(writable, Options::default());
        let endpoint = endpoint(rig.block.clone());
        Self { rig, endpoint }
    }

    fn write(&mut self, at: u64, value: u32) -> Effect {
        self.endpoint.write(at, &value.to_le_bytes())
    }

    fn read(&self, at: u64) -> u32 {
        let mut word = [0; 4];
        self.endpoint.transport().window().load(at, &mut word);
        u32::from_le_bytes(word)
    }

    /// What a driver does, up to DRIVER_OK.
    fn start(&mut self) -> Effect {
        let offered = self.rig.block.features();
        let driver = &self.rig.driver;
        let queue = [driver.descriptors, driver.available, driver.used].map(|at| at as u32);
        let writes = [
            (0x70, 1),
            (0x70, 3),
            (0x24, 0),
            (0x20, offered as u32),
            (0x24, 1),
            (0x20, (offered >> 32) as u32),
            (0x70, 0xb),
            (0x30, 0),
            (0x38, 64),
            (0x80, queue[0]),
            (0x90, queue[1]),
            (0xa0, queue[2]),
            (0x44, 1),
        ];
        for (at, value) in writes {
            assert_eq!(self.write(at, value), Effect::None);
        }
        self.write(0x70, 0xf)
    }

    fn driver_forgets(&mut self) {
        let mem = self.rig.driver.mem;
        self.rig.driver = crate::driver::Driver::new(mem, 0, 64);
    }
}

fn endpoint(device: Arc<dyn Device>) -> Endpoint<'static> {
    let region = Arc::new(MmapRegion::new(PAGE_SIZE).unwrap());
    Endpoint::new(Window::new(region, 0).unwrap(), device).unwrap()
}

#[test]
fn a_driver_starts_uses_and_resets_the_device_again_and_again() {
    let mut machine = Machine::new();
    for _ in 0..5 {
        assert_eq!(machine.rig.run().step, Step::Stopped);
        assert_eq!(machine.start(), Effect::Started);
        assert_eq!(machine.rig.read(1, 512), OK);
        assert_eq!(machine.rig.write(1, 512), OK);
        assert_eq!(machine.write(0x50, 0), Effect::Notify(0));
        assert_eq!(machine.write(0x70, 0), Effect::Reset);
        assert_eq!(machine.read(0x70), 0);
        machine.driver_forgets();
    }
}

/// Flaw table line 1: queue registers writable after activation (Firecracker
/// CVE-2026-5747): the device goes on with the queue it started with.
#[test]
fn the_queue_cannot_be_moved_under_a_running_device() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    for at in (0..0x100).step_by(4).filter(|at| *at != 0x70 && *at != 0x50) {
        assert_eq!(machine.write(at, 0x00ff_ff00), Effect::None);
    }
    assert_eq!(machine.rig.read(1, 512), OK);
}

#[test]
fn a_queue_outside_memory_needs_a_reset_and_is_told() {
    let mut machine = Machine::new();
    machine.rig.driver.used = 0xffff_fff0;
    assert_eq!(machine.start(), Effect::Interrupt);
    assert_eq!(machine.read(0x70), 0x4f);
    assert_eq!(machine.read(0x60) & 2, 2);
    assert_eq!(machine.rig.run().step, Step::Stopped);
    assert_eq!(machine.write(0x50, 0), Effect::None);
    assert_eq!(machine.write(0x70, 0), Effect::Reset);
    machine.driver_forgets();
    assert_eq!(machine.start(), Effect::Started);
}

/// Flaw table line 17: a queue size of 0, odd or too large.
#[test]
fn a_bad_size_needs_a_reset() {
    for size in [0, 3, 63, 512, u32::MAX] {
        let mut machine = Machine::new();
        for (at, value) in [(0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0xb), (0x38, size)] {
            assert_eq!(machine.write(at, value), Effect::None);
        }
        assert_eq!(machine.write(0x44, 1), Effect::None);
        assert_eq!(machine.write(0x70, 0xf), Effect::Interrupt, "{size}");
        assert_eq!(machine.read(0x70), 0x4f);
    }
}

#[test]
fn a_bad_chain_needs_a_reset_and_a_late_report_does_not_hit_the_next_start() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    machine.rig.driver.send(&[(DATA, 1, true)]);
    let outcome = machine.rig.run();
    assert_eq!((outcome.step, outcome.refresh), (Step::Broken, true));
    assert!(machine.endpoint.refresh());
    assert!(!machine.endpoint.refresh(), "told once");
    assert_eq!(machine.read(0x70), 0x4f);
    assert_eq!(machine.read(0x60), 3);
    // The guest is faster than the worker's report.
    assert_eq!(machine.write(0x70, 0), Effect::Reset);
    machine.driver_forgets();
    assert_eq!(machine.start(), Effect::Started);
    assert!(!machine.endpoint.refresh());
    assert_eq!(machine.read(0x70), 0xf);
    assert_eq!(machine.rig.read(0, 512), OK);
}

#[test]
fn the_write_back_switch_is_a_config_write() {
    let mut machine = Machine::new();
    assert_eq!(machine.endpoint.write(0x120, &[0]), Effect::None);
    assert_eq!(machine.read(0x120) & 0xff, 1, "not negotiated yet");
    assert_eq!(machine.start(), Effect::Started);
    assert_eq!(machine.endpoint.write(0x120, &[0]), Effect::None);
    assert_eq!(machine.read(0x120) & 0xff, 0);
    assert_eq!(machine.read(0x60), 1, "the driver knows what it wrote");
    assert_eq!(machine.write(0x70, 0), Effect::Reset);
    assert_eq!(machine.read(0x120) & 0xff, 1);
}

/// Flaw table line 29: saved before I/O settled (Firecracker #5582): what
/// was asked before the pause is answered once, after the resume or after a
/// restore in another device.
#[test]
fn pause_save_restore_resume_loses_nothing() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    let _ = machine.endpoint.write(0x120, &[0]);
    assert_eq!(machine.rig.read(0, 512), OK);
    let status = machine.rig.offer(IN, 2, &[(DATA, 512, true)]);
    assert_eq!(machine.endpoint.save(), None);
    machine.endpoint.pause();
    machine.endpoint.pause();
    assert_eq!(machine.rig.run().step, Step::Stopped);
    assert_eq!(machine.write(0x70, 0), Effect::None, "no guest runs now");
    let saved = machine.endpoint.save().unwrap();
    // Another process, the same memory.
    let rig = stopped(writable, Options::default());
    let block = crate::blk::Block::new(
        machine.rig.driver.mem,
        writable(rig.disk.clone()),
        Options::default(),
    );
    let block = Arc::new(block.unwrap());
    let mut other = endpoint(block.clone());
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), Some(saved));
    assert_eq!(other.resume(), Effect::Started);
    let mut word = [0; 4];
    other.transport().window().load(0x70, &mut word);
    assert_eq!(word[0], 0xf);
    assert_eq!(block.config()[32], 0);
    let mut worker = Worker::default();
    let outcome = block.run(&mut worker, 0, &|| Duration::ZERO, 64, WhenEmpty::Arm);
    assert_eq!((outcome.step, outcome.signal), (Step::Idle, true));
    assert_eq!(machine.rig.driver.get(status), [OK]);
    assert_eq!(machine.rig.driver.drain().len(), 1);
    // The first one goes on as well, with nothing done twice there.
    assert_eq!(machine.endpoint.resume(), Effect::Started);
    assert_eq!(machine.endpoint.resume(), Effect::None);
}

/// Flaw table line 15: restored lengths and indices trusted.
#[test]
fn a_hostile_state_is_refused_or_needs_a_reset() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    machine.endpoint.pause();
    let saved = machine.endpoint.save().unwrap();
    assert_eq!(machine.endpoint.resume(), Effect::Started);
    let queue = |state: &mut EndpointStateV1, queue| state.queues[0] = Some(queue);
    let bad_index = |next_available, next_used, in_flight: &[u16]| QueueState {
        next_available,
        next_used,
        in_flight: in_flight.to_vec(),
    };
    let broken: [&dyn Fn(&mut EndpointStateV1); 6] = [
        &|s| queue(s, bad_index(5, 0, &[])),
        &|s| queue(s, bad_index(1, 0, &[64])),
        &|s| queue(s, bad_index(2, 0, &[1, 1])),
        &|s| queue(s, bad_index(0, 0, &vec![0; 70_000])),
        &|s| s.registers.queues[0].config.used = u64::MAX - 3,
        &|s| s.registers.queues[0].config.descriptors = 1,
    ];
    for change in broken {
        let mut state = saved.clone();
        change(&mut state);
        machine.endpoint.restore(&state).unwrap();
        assert_eq!(machine.endpoint.resume(), Effect::Interrupt);
        assert_eq!(machine.read(0x70), 0x4f);
    }
    let refused: [&dyn Fn(&mut EndpointStateV1); 5] = [
        &|s| s.config.clear(),
        &|s| s.config.push(0),
        &|s| s.queues.push(None),
        &|s| s.registers.status = 4,
        &|s| s.registers.driver_features |= features::NET_MAC,
    ];
    for change in refused {
        let mut state = saved.clone();
        change(&mut state);
        let error = machine.endpoint.restore(&state).unwrap_err();
        assert!(matches!(error, Error::State(_)));
    }
    // An index that the guest's own ring contradicts shows when it is used.
    let mut state = saved;
    state.queues[0] = Some(bad_index(1000, 1000, &[]));
    machine.endpoint.restore(&state).unwrap();
    assert_eq!(machine.endpoint.resume(), Effect::Started);
    assert_eq!(machine.rig.run().step, Step::Broken);
    assert!(machine.endpoint.refresh());
}

/// A guest restored on another disk than it knew is told so.
#[test]
fn a_restore_on_another_disk_is_news() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    machine.endpoint.pause();
    let mut saved = machine.endpoint.save().unwrap();
    machine.endpoint.restore(&saved).unwrap();
    assert_eq!(machine.endpoint.resume(), Effect::Started);
    assert_eq!(machine.read(0x60), 1, "the same disk is no news");
    saved.config[0] = 99;
    machine.endpoint.restore(&saved).unwrap();
    assert_eq!(machine.read(0x100), 99);
    let generation = machine.read(0xfc);
    assert_eq!(machine.endpoint.resume(), Effect::Started);
    assert_eq!(machine.read(0x100), 64);
    assert_eq!(machine.read(0x60), 3);
    assert_ne!(machine.read(0xfc), generation);
}

#[test]
fn a_power_cycle_is_a_reset_from_anywhere() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    machine.endpoint.pause();
    machine.endpoint.power_cycle();
    assert_eq!(machine.endpoint.resume(), Effect::None);
    assert_eq!(machine.read(0x70), 0);
    machine.driver_forgets();
    assert_eq!(machine.start(), Effect::Started);
    assert_eq!(machine.rig.read(100, 512), IOERR);
}

/// Flaw table line 25: a guest drives the host's logs or work (OpenBSD 6.9
/// errata 001): a million bad stores are counted and nothing else.
#[test]
fn a_million_bad_kicks_are_only_counted() {
    let mut machine = Machine::new();
    assert_eq!(machine.start(), Effect::Started);
    for i in 0..1_000_000u32 {
        assert_eq!(machine.write(0x50, 1 + i), Effect::None);
    }
    assert_eq!(machine.endpoint.transport().rejected(), 1_000_000);
    assert_eq!(machine.rig.read(0, 512), OK);
}

/// Flaw table line 1 as a property: whatever is stored in whatever order, the
/// page shows what the registers are, nothing panics, and a running device
/// keeps its activation.
#[test]
fn any_sequence_of_stores_is_harmless() {
    let mut seed = 7u64;
    let mut random = move |below: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((seed >> 33) as u32) % below
    };
    let interesting = [0u32, 1, 2, 3, 4, 7, 8, 0xb, 0xf, 16, 64, 0x1000, 0x9000, u32::MAX];
    let (mut started, mut moved) = (0, 0);
    for _ in 0..200 {
        let mut machine = Machine::new();
        for _ in 0..200 {
            if random(50) == 0 {
                let _ = machine.write(0x70, 0);
                machine.driver_forgets();
                assert_eq!(machine.start(), Effect::Started);
                started += 1;
            }
            let at = match random(8) {
                0 => u64::from(random(0x1100)),
                1 => 0x70,
                _ => u64::from(random(0x45) * 4),
            };
            let value = interesting[random(interesting.len() as u32) as usize];
            let before = machine.endpoint.transport().registers().is_healthy();
            let mut activation = machine.endpoint.transport().registers().activation(&[]);
            let effect = machine.write(at, value);
            moved += u32::from(effect != Effect::None);
            let registers = machine.endpoint.transport().registers();
            if effect == Effect::QueueStopped {
                activation.queues.fill(None);
            }
            if before && registers.is_healthy() {
                assert_eq!(registers.activation(&[]), activation);
            }
            assert_eq!(machine.read(0x70), u32::from(registers.state().status));
            assert_eq!(machine.read(0x60), registers.state().interrupt_status);
            assert_eq!(machine.read(0x44), u32::from(registers.queue_ready()));
            let _ = machine.rig.run();
        }
    }
    assert!(started > 100 && moved > 100, "{started}, {moved}");
}
