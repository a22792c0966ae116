//! Block requests: valid chains, rarely broken, on a disk that rarely fails.
//!
//! As long as nothing was broken, every answer is compared with a model;
//! always, nothing but the buffers and the used ring may change.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote_fuzz::backend::{Disk, Handle};
use mote_fuzz::driver::Driver;
use mote_fuzz::oracle::Allowed;
use mote_fuzz::{DATA, RAM, clear, edge, fill, poke, ram, snapshot};
use mote_virtio::blk::{Block, Medium, OnNoSpace, Options, Worker};
use mote_virtio::{
    Activation, Device, QueueConfig, QueueSetup, QueueState, Step, WhenEmpty, features,
};

const SECTORS: u64 = 32;
const QUEUE: u16 = 16;
const POISON: u8 = 0xa5;

struct Guest {
    driver: Driver<'static>,
    block: Block<'static>,
    worker: Worker<'static>,
    disk: Arc<Disk>,
    model: Vec<u8>,
    features: u64,
    writable: bool,
    /// Something was broken or failed: the model no longer knows.
    spoilt: bool,
    /// Where the next buffer goes.
    space: u64,
    expected: Vec<PredictedFds>,
}

/// An answer the model foresees.
struct PredictedFds {
    head: u16,
    status: u64,
    byte: u8,
    data: Vec<(u64, u32, Vec<u8>)>,
    used: u32,
}

impl Guest {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        clear(POISON);
        let disk = Disk::new(SECTORS as usize);
        let writable = u.ratio(3, 4)?;
        let handle = Box::new(Handle(disk.clone()));
        let medium = match writable {
            true => Medium::Disk(handle),
            false => Medium::ReadOnly(handle),
        };
        let options = Options {
            id: "fuzz".into(),
            queue_size: QUEUE,
            on_no_space: *u.choose(&[OnNoSpace::Pause, OnNoSpace::Error])?,
            ..Options::default()
        };
        let block = Block::new(ram(), medium, options).unwrap();
        let features = block.features() & (u.arbitrary::<u64>()? | features::VERSION_1);
        let model = disk.bytes.lock().unwrap().clone();
        let guest = Self {
            driver: Driver::new(ram(), 0, QUEUE),
            block,
            worker: Worker::default(),
            model,
            disk,
            features,
            writable,
            spoilt: false,
            space: DATA,
            expected: Vec::new(),
        };
        guest.start(QueueState::default());
        Ok(guest)
    }

    fn start(&self, state: QueueState) {
        let config = QueueConfig {
            size: u32::from(QUEUE),
            descriptors: self.driver.descriptors,
            available: self.driver.available,
            used: self.driver.used,
        };
        let activation = Activation {
            features: self.features,
            queues: vec![Some(QueueSetup { config, state })],
            writeback: None,
        };
        self.block.start(&activation).unwrap();
    }

    /// Guest memory for a buffer of its own, so that answers do not overlap.
    fn place(&mut self, len: u64) -> u64 {
        let at = self.space;
        self.space += len + 1;
        at
    }

    /// `len` bytes at `at` cut into descriptors.
    fn cut(
        u: &mut Unstructured<'_>,
        at: u64,
        len: u32,
        writable: bool,
    ) -> Result<Vec<(u64, u32, bool)>> {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let rest = len - done;
            let n = match u.ratio(3, 4)? || pieces.len() >= 3 {
                true => rest,
                false => u.int_in_range(1..=rest)?,
            };
            pieces.push((at + u64::from(done), n, writable));
            done += n;
        }
        Ok(pieces)
    }

    fn request(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let kind = *u.choose(&[0u32, 0, 1, 1, 4, 8, 11, 13, 2, 99])?;
        let sector = match u.ratio(7, 8)? {
            true => u.int_in_range(0..=SECTORS)?,
            false => edge(u)?,
        };
        let len = match u.ratio(7, 8)? {
            true => 512 * u.int_in_range(0..=4)?,
            false => u.int_in_range(0..=2049)?,
        };
        if self.space + 8192 > RAM as u64 {
            return Ok(());
        }
        let header = self.place(16);
        self.driver.put(header, kind.to_le_bytes());
        self.driver.put(header + 8, sector.to_le_bytes());
        let mut buffers = Self::cut(u, header, 16, false)?;
        let inward = matches!(kind, 0 | 8);
        let data = self.place(u64::from(len));
        if len != 0 {
            if !inward {
                for at in (0..u64::from(len)).step_by(64) {
                    self.driver.put(data + at, [u.arbitrary::<u8>()? & 0x7f]);
                }
            }
            buffers.extend(Self::cut(u, data, len, inward)?);
        }
        let status = self.place(1);
        buffers.push((status, 1, true));
        let indirect = self.features & features::INDIRECT_DESC != 0 && u.arbitrary()?;
        let head = if indirect && buffers.len() <= usize::from(QUEUE) {
            let table = self.place(16 * buffers.len() as u64);
            self.driver.build_indirect(table, &buffers)
        } else {
            self.driver.build(&buffers)
        };
        let Some(head) = head else { return Ok(()) };
        self.driver.offer(head);
        self.foresee((kind, sector), (data, len), status, head);
        Ok(())
    }

    /// What has to be answered, by the simplest reading of the rules.
    fn foresee(
        &mut self,
        (kind, sector): (u32, u64),
        (data, len): (u64, u32),
        status: u64,
        head: u16,
    ) {
        let whole = len != 0 && len.is_multiple_of(512);
        let end = u128::from(sector) * 512 + u128::from(len);
        let inside = whole && end <= u128::from(SECTORS * 512);
        let at = (sector as usize).wrapping_mul(512);
        let mut answer = PredictedFds { head, status, byte: 1, data: Vec::new(), used: 1 };
        match kind {
            0 if inside => {
                answer.byte = 0;
                answer.used = len + 1;
                let bytes = self.model[at..at + len as usize].to_vec();
                answer.data.push((data, len, bytes));
            }
            1 if inside && self.writable => {
                answer.byte = 0;
                for i in 0..u64::from(len) {
                    let [byte] = self.driver.get(data + i);
                    self.model[at + i as usize] = byte;
                }
            }
            0 | 1 => {}
            4 => answer.byte = 0,
            8 => {
                answer.byte = 0;
                let n = len.min(20);
                let mut id = b"fuzz".to_vec();
                id.resize(20, 0);
                answer.data.push((data, n, id[..n as usize].to_vec()));
                answer.used = n + 1;
            }
            // Lists of ranges are not modelled.
            11 | 13 => {
                self.spoilt |= self.writable;
            }
            _ => answer.byte = 2,
        }
        self.expected.push(answer);
    }

    fn spoil(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.spoilt = true;
        match u.int_in_range(0..=5)? {
            0 => poke(u, Driver::SPACE)?,
            1 => poke(u, RAM as u64)?,
            2 => self.driver.set_available_index(u.arbitrary()?),
            3 => self.driver.offer(u.int_in_range(0..=QUEUE)?),
            4 => {
                let raw =
                    (edge(u)?, edge(u)? as u32, u.int_in_range(0..=7)?, u.int_in_range(0..=QUEUE)?);
                self.driver.descriptor(u.int_in_range(0..=QUEUE - 1)?, raw);
            }
            _ => self.disk.fault.set(u.int_in_range(0..=4)?),
        }
        Ok(())
    }

    /// Runs the device; false once it is broken.
    fn run(&mut self, u: &mut Unstructured<'_>) -> Result<bool> {
        let mut allowed = Allowed::default();
        let before = snapshot();
        allowed.queue(&before, &self.driver);
        let budget = u.int_in_range(1..=20)?;
        let empty = *u.choose(&[WhenEmpty::Arm, WhenEmpty::Poll])?;
        let mut runs = 0;
        let alive = loop {
            let outcome = self.block.run(&mut self.worker, 0, &|| Duration::ZERO, budget, empty);
            match outcome.step {
                Step::More => {}
                Step::Idle | Step::Empty | Step::Paused => break true,
                Step::Broken => break false,
                step => panic!("{step:?}"),
            }
            runs += 1;
            assert!(runs <= QUEUE, "more than the queue held");
        };
        let after = snapshot();
        allowed.check(&before, &after);
        assert!(alive || self.spoilt, "a right driver broke the device");
        let used = self.driver.drain();
        if !self.spoilt {
            assert_eq!(used.len(), self.expected.len());
            for (head, len) in used {
                let at = self.expected.iter().position(|e| e.head == head).unwrap();
                let expected = self.expected.swap_remove(at);
                assert_eq!(self.driver.get(expected.status), [expected.byte]);
                assert_eq!(len, expected.used);
                for (at, len, bytes) in expected.data {
                    assert_eq!(after[at as usize..][..len as usize], bytes);
                }
            }
            self.space = DATA;
            fill(DATA, RAM - DATA as usize, POISON);
            assert_eq!(*self.disk.bytes.lock().unwrap(), self.model);
        }
        self.expected.clear();
        Ok(alive)
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut guest = Guest::new(u)?;
    let before = guest.model.clone();
    let mut steps = 0;
    while !u.is_empty() && steps < 200 {
        steps += 1;
        match u.int_in_range(0..=20)? {
            0..=11 => guest.request(u)?,
            12..=17 => {
                if !guest.run(u)? {
                    break;
                }
            }
            18 => {
                let state = guest.block.stop().queues.remove(0).unwrap();
                guest.start(state);
            }
            19 => {
                let features = guest.features;
                guest.block.write_config(features, u.int_in_range(30..=34)?, &[u.arbitrary()?]);
            }
            _ => guest.spoil(u)?,
        }
    }
    let state = guest.block.stop().queues.remove(0).unwrap();
    assert!(state.in_flight.len() <= usize::from(QUEUE));
    if !guest.writable {
        assert_eq!(*guest.disk.bytes.lock().unwrap(), before);
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
