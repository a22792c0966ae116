//! Any sequence of stores into the windows of all three devices, with
//! drivers that come up, work, break and go down, and an owner that pauses,
//! saves, restores and power-cycles. The page is compared with the registers
//! after each step.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote_fuzz::backend::{Disk, Handle, Wire, WireHandle};
use mote_fuzz::driver::Driver;
use mote_fuzz::{DATA, clear, edge, poke, ram};
use mote_virtio::blk::{Block, Medium, Options, Worker};
use mote_virtio::net::{self, Net, RxWorker, TxWorker};
use mote_virtio::transport::{PAGE_SIZE, Window};
use mote_virtio::{Device, Effect, Endpoint, EndpointStateV1, QueueState, Step, WhenEmpty};
use vm_memory::MmapRegion;

const QUEUE: u16 = 16;

/// What a worker of each device calls.
enum Work {
    Block(Arc<Block<'static>>),
    Net(Arc<Net<'static>>, Box<(RxWorker<'static>, TxWorker<'static>)>),
}

struct Slot {
    endpoint: Endpoint<'static>,
    device: Arc<dyn Device>,
    work: Work,
    drivers: [u64; 2],
}

struct Machine {
    slots: Vec<Slot>,
    cd: Arc<Block<'static>>,
    medium: Arc<Disk>,
    wire: Arc<Wire>,
    worker: Worker<'static>,
}

fn windows() -> Arc<MmapRegion> {
    static REGION: OnceLock<Arc<MmapRegion>> = OnceLock::new();
    let region = REGION.get_or_init(|| Arc::new(MmapRegion::new(3 * PAGE_SIZE).unwrap()));
    Arc::clone(region)
}

fn slot(index: usize, device: Arc<dyn Device>, work: Work) -> Slot {
    let window = Window::new(windows(), index * PAGE_SIZE).unwrap();
    Slot {
        endpoint: Endpoint::new(window, device.clone()).unwrap(),
        device,
        work,
        // All share their rings' place: worse than any driver.
        drivers: [0, Driver::SPACE],
    }
}

impl Machine {
    fn new() -> Self {
        clear(0);
        let options = || Options { queue_size: QUEUE, queues: 2, ..Options::default() };
        let disk = Medium::Disk(Box::new(Handle(Disk::new(8))));
        let disk = Arc::new(Block::new(ram(), disk, options()).unwrap());
        let medium = Disk::new(8);
        let cd = Medium::ReadOnly(Box::new(Handle(medium.clone())));
        let cd = Arc::new(Block::new(ram(), cd, options()).unwrap());
        let wire = Arc::new(Wire::default());
        let tap = Box::new(WireHandle(wire.clone()));
        let net_options = net::Options { queue_size: QUEUE, ..net::Options::default() };
        let net = Arc::new(Net::new(ram(), tap, net_options).unwrap());
        let workers = Box::default();
        Self {
            slots: vec![
                slot(0, disk.clone(), Work::Block(disk)),
                slot(1, cd.clone(), Work::Block(cd.clone())),
                slot(2, net.clone(), Work::Net(net, workers)),
            ],
            cd,
            medium,
            wire,
            worker: Worker::default(),
        }
    }

    fn run(&mut self, index: usize, budget: usize) {
        let Self { slots, worker, .. } = self;
        let slot = &mut slots[index];
        let now = Duration::ZERO;
        let outcomes = match &mut slot.work {
            Work::Block(block) => {
                [0, 1].map(|queue| block.run(worker, queue, &|| now, budget, WhenEmpty::Arm))
            }
            Work::Net(net, workers) => [
                net.run_rx(&mut workers.0, now, budget),
                net.run_tx(&mut workers.1, now, budget, WhenEmpty::Arm),
            ],
        };
        for outcome in outcomes {
            let stopped = outcome.step == Step::Stopped;
            let registers = slot.endpoint.transport().registers();
            assert!(!stopped || !outcome.signal);
            assert!(registers.is_active() || stopped, "works without a driver");
            if outcome.refresh {
                let _ = slot.endpoint.refresh();
            }
        }
    }
}

impl Slot {
    fn write(&mut self, at: u64, data: &[u8]) -> Effect {
        let registers = self.endpoint.transport().registers();
        let healthy = registers.is_healthy();
        let mut activation = registers.activation(&[]);
        let selected = registers.state().queue_select as usize;
        let effect = self.endpoint.write(at, data);
        let registers = self.endpoint.transport().registers();
        if effect == Effect::QueueStopped {
            activation.queues[selected] = None;
        }
        if healthy && effect != Effect::Reset {
            assert_eq!(registers.activation(&[]), activation, "moved while active");
        }
        if let Effect::Notify(queue) = effect {
            assert!(usize::from(queue) < self.device.queue_sizes().len());
            assert!(registers.is_healthy());
        }
        effect
    }

    fn store(&mut self, at: u64, value: u32) {
        let _ = self.write(at, &value.to_le_bytes());
    }

    /// What a right driver does, from a reset on.
    fn bring_up(&mut self, mask: u64, size: u32) {
        self.store(0x70, 0);
        let features = self.device.features() & (mask | 1 << 32);
        let (low, high) = (features as u32, (features >> 32) as u32);
        for (at, value) in
            [(0x70, 1), (0x70, 3), (0x24, 0), (0x20, low), (0x24, 1), (0x20, high), (0x70, 0xb)]
        {
            self.store(at, value);
        }
        for (index, base) in self.drivers.into_iter().enumerate() {
            let driver = Driver::new(ram(), base, QUEUE);
            let queue = [
                (0x30, index as u32),
                (0x38, size),
                (0x80, driver.descriptors as u32),
                (0x84, 0),
                (0x90, driver.available as u32),
                (0x94, 0),
                (0xa0, driver.used as u32),
                (0xa4, 0),
                (0x44, 1),
            ];
            for (at, value) in queue {
                self.store(at, value);
            }
        }
        self.store(0x70, 0xf);
    }

    fn load(&self, at: u64) -> u32 {
        let mut word = [0; 4];
        self.endpoint.transport().window().load(at, &mut word);
        u32::from_le_bytes(word)
    }

    fn check(&self) {
        let registers = self.endpoint.transport().registers();
        let state = registers.state();
        let page = [
            (0x00, 0x7472_6976),
            (0x04, 2),
            (0x08, self.device.device_id()),
            (0x10, registers.device_features()),
            (0x34, registers.queue_size_max()),
            (0x44, u32::from(registers.queue_ready())),
            (0x60, state.interrupt_status),
            (0x70, u32::from(state.status)),
            (0xb0, u32::MAX),
            (0xb4, u32::MAX),
            (0xfc, state.config_generation),
        ];
        for (at, value) in page {
            assert_eq!(self.load(at), value, "{at:#x}");
        }
    }

    fn check_config(&self) {
        let config = self.device.config();
        let mut seen = vec![0; config.len()];
        self.endpoint.transport().window().load(0x100, &mut seen);
        assert_eq!(seen, config);
    }

    fn restore(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.endpoint.pause();
        let mut state = self.endpoint.save().unwrap();
        for _ in 0..u.int_in_range(0..=3)? {
            bend(u, &mut state)?;
        }
        if self.endpoint.restore(&state).is_ok() {
            assert_eq!(self.endpoint.save(), Some(state));
        }
        Ok(())
    }
}

/// Changes one thing in a saved state.
fn bend(u: &mut Unstructured<'_>, state: &mut EndpointStateV1) -> Result<()> {
    let registers = &mut state.registers;
    match u.int_in_range(0..=9)? {
        0 => registers.status = u.arbitrary()?,
        1 => registers.driver_features = edge(u)?,
        2 => registers.interrupt_status = u.arbitrary()?,
        3 => registers.queue_select = edge(u)? as u32,
        4 => registers.queues.truncate(1),
        5 => {
            if let Some(queue) = registers.queues.first_mut() {
                queue.config.size = edge(u)? as u32;
                queue.ready = u.arbitrary()?;
            }
        }
        6 => {
            if let Some(queue) = registers.queues.first_mut() {
                queue.config.used = edge(u)?;
            }
        }
        7 => state.queues.push(None),
        8 => state.writeback = u.arbitrary()?,
        _ => {
            let mut queue = QueueState {
                next_available: u.arbitrary()?,
                next_used: u.arbitrary()?,
                in_flight: Vec::new(),
            };
            for _ in 0..u.int_in_range(0..=3)? {
                queue.in_flight.push(u.int_in_range(0..=QUEUE)?);
            }
            if u.arbitrary()? {
                queue.next_available = queue.next_used.wrapping_add(queue.in_flight.len() as u16);
            }
            if let Some(slot) = state.queues.first_mut() {
                *slot = Some(queue);
            }
        }
    }
    Ok(())
}

/// A store: often to a register, often of a value that means something.
fn store(u: &mut Unstructured<'_>, slot: &mut Slot) -> Result<()> {
    if u.ratio(1, 4)? {
        let at = match u.ratio(3, 4)? {
            true => u.int_in_range(0..=0x1100)?,
            false => edge(u)?,
        };
        let width = *u.choose(&[4usize, 1, 2, 8, 0, 3, 16])?;
        let bytes = u.bytes(width.min(u.len()))?;
        let _ = slot.write(at, bytes);
        return Ok(());
    }
    let registers = [
        0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4,
        0xac, 0xc0, 0x100, 0x120,
    ];
    let at = *u.choose(&registers)?;
    let values = [0, 1, 2, 3, 4, 8, 0xb, 0xf, 16, 0x4f, 0x80, 0x1000, 0x2000];
    let value = match u.ratio(7, 8)? {
        true => *u.choose(&values)?,
        false => edge(u)? as u32,
    };
    slot.store(at, value);
    Ok(())
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut machine = Machine::new();
    let mut steps = 0;
    while !u.is_empty() && steps < 300 {
        steps += 1;
        let index = u.int_in_range(0..=2)?;
        let slot = &mut machine.slots[index];
        match u.int_in_range(0..=19)? {
            0..=7 => store(u, slot)?,
            8..=9 => slot.bring_up(u.arbitrary()?, 16),
            10 => slot.bring_up(u64::MAX, edge(u)? as u32),
            11..=12 => machine.run(index, u.int_in_range(0..=9)?),
            13 => poke(u, DATA)?,
            14 => slot.endpoint.pause(),
            15 => {
                let _ = slot.endpoint.resume();
            }
            16 => slot.restore(u)?,
            17 => slot.endpoint.power_cycle(),
            18 => {
                let sectors = if u.arbitrary()? { 0 } else { 4 };
                let change = || {
                    machine.medium.bytes.lock().unwrap().resize(sectors * 512, 7);
                    Ok(())
                };
                machine.cd.exchange(change).unwrap();
                let _ = machine.slots[1].endpoint.refresh();
            }
            _ => {
                machine.wire.fault.set(u.int_in_range(0..=6)?);
                machine.wire.incoming.lock().unwrap().push_back(vec![0; 100]);
            }
        }
        let slot = &mut machine.slots[index];
        slot.check();
        let _ = slot.endpoint.refresh();
        slot.check();
        slot.check_config();
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
