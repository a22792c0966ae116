//! A disk in memory with faults to order, and a driver that uses it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use vm_memory::Bytes;

use super::{Block, Medium, Options, ReadAt, Worker, WriteAt};
use crate::driver::{Driver, memory};
use crate::{
    Activation, Device, GuestSlice, Outcome, QueueConfig, QueueSetup, QueueState, WhenEmpty,
};

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;
/// A status byte nobody has written.
pub(crate) const NONE: u8 = 0xa5;

/// What happened to the disk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Write(u64, usize),
    Flush,
    Discard(u64, u64),
    Zero(u64, u64, bool),
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) bytes: Mutex<Vec<u8>>,
    pub(crate) events: Mutex<Vec<Event>>,
    pub(crate) reads: AtomicUsize,
    pub(crate) no_space: AtomicBool,
    pub(crate) flush_fails: AtomicBool,
    pub(crate) io_fails: AtomicBool,
    pub(crate) discard_unsupported: AtomicBool,
    /// At most this many bytes in one write; 0 for all.
    pub(crate) short_write: AtomicUsize,
    /// After the next write, the disk says that it has one sector.
    pub(crate) shrinks: AtomicBool,
    /// What `size` says, if not the truth.
    pub(crate) claimed_size: AtomicU64,
    /// How long a read takes.
    pub(crate) delay: Mutex<Duration>,
    /// Reads wait until so many are under way at once.
    pub(crate) together: Mutex<usize>,
    /// Reads under way that wait for the others.
    pub(crate) inside: Mutex<usize>,
    pub(crate) arrived: Condvar,
}

impl Disk {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let disk = Self::default();
        *disk.bytes.lock().unwrap() = (0..size).map(|i| (i / 512 + i) as u8).collect();
        Arc::new(disk)
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }

    pub(crate) fn at(&self, offset: usize, len: usize) -> Vec<u8> {
        self.bytes.lock().unwrap()[offset..offset + len].to_vec()
    }

    /// Waits for the others, if it is to.
    fn meet(&self) {
        let together = *self.together.lock().unwrap();
        if together == 0 {
            return;
        }
        let mut inside = self.inside.lock().unwrap();
        *inside += 1;
        if *inside == together {
            *inside = 0;
            self.arrived.notify_all();
        } else {
            // Long enough for any machine, and then the test fails.
            let limit = Duration::from_secs(60);
            let stays = |inside: &mut usize| *inside != 0;
            let _met = self.arrived.wait_timeout_while(inside, limit, stays).unwrap();
        }
    }

    fn log(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl ReadAt for Arc<Disk> {
    fn size(&self) -> io::Result<u64> {
        match self.claimed_size.load(Ordering::Relaxed) {
            0 => Ok(self.bytes.lock().unwrap().len() as u64),
            claimed => Ok(claimed),
        }
    }

    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        std::thread::sleep(*self.delay.lock().unwrap());
        self.meet();
        if self.io_fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("fault"));
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.lock().unwrap();
        let mut rest = bytes.get(offset as usize..).unwrap_or(&[]);
        let mut done = 0;
        for slice in to {
            let n = slice.len().min(rest.len());
            slice.copy_from(&rest[..n]);
            rest = &rest[n..];
            done += n;
        }
        Ok(done)
    }
}

impl WriteAt for Arc<Disk> {
    fn write_at(&self, from: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        if self.no_space.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.io_fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("fault"));
        }
        if self.shrinks.load(Ordering::Relaxed) {
            self.claimed_size.store(512, Ordering::Relaxed);
        }
        let mut data = Vec::new();
        for slice in from {
            let at = data.len();
            data.resize(at + slice.len(), 0);
            slice.copy_to(&mut data[at..]);
        }
        match self.short_write.load(Ordering::Relaxed) {
            0 => {}
            most => data.truncate(most),
        }
        let mut bytes = self.bytes.lock().unwrap();
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(&data);
        self.log(Event::Write(offset, data.len()));
        Ok(data.len())
    }

    fn flush(&self) -> io::Result<()> {
        self.log(Event::Flush);
        // As the kernel does: the error is told once.
        if self.flush_fails.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("lost writes"));
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.discard_unsupported.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.log(Event::Discard(offset, len));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> io::Result<()> {
        if self.no_space.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap()[offset as usize..(offset + len) as usize].fill(0);
        self.log(Event::Zero(offset, len, may_unmap));
        Ok(())
    }
}

pub(crate) const HEADER: u64 = 0x10_0000;
pub(crate) const STATUS: u64 = 0x10_1000;
pub(crate) const DATA: u64 = 0x20_0000;
const RAM: usize = 0x80_0000;

/// A started device with one queue and its driver.
pub(crate) struct Rig {
    pub(crate) driver: Driver<'static>,
    pub(crate) block: Arc<Block<'static>>,
    pub(crate) worker: Worker<'static>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) last: Option<Outcome>,
    slot: u64,
}

/// The parts of a rig before its device is started.
pub(crate) fn stopped(medium: impl FnOnce(Arc<Disk>) -> Medium, options: Options) -> Rig {
    let mem = memory(&[(0, RAM)]);
    let disk = Disk::new(64 * 512);
    let block = Block::new(mem, medium(disk.clone()), options).unwrap();
    Rig {
        driver: Driver::new(mem, 0, 64),
        block: Arc::new(block),
        worker: Worker::default(),
        disk,
        last: None,
        slot: 0,
    }
}

pub(crate) fn writable(disk: Arc<Disk>) -> Medium {
    Medium::Disk(Box::new(disk))
}

pub(crate) fn read_only(disk: Arc<Disk>) -> Medium {
    Medium::ReadOnly(Box::new(disk))
}

pub(crate) fn activation(driver: &Driver<'_>, features: u64, state: QueueState) -> Activation {
    let config = QueueConfig {
        size: u32::from(driver.size),
        descriptors: driver.descriptors,
        available: driver.available,
        used: driver.used,
    };
    Activation { features, queues: vec![Some(QueueSetup { config, state })], writeback: None }
}

impl Rig {
    /// A writable disk of 64 sectors with every feature negotiated.
    pub(crate) fn new() -> Self {
        Self::with(writable, Options::default(), u64::MAX)
    }

    /// A device started with those of `features` that it offers.
    pub(crate) fn with(
        medium: impl FnOnce(Arc<Disk>) -> Medium,
        options: Options,
        features: u64,
    ) -> Self {
        let rig = stopped(medium, options);
        let features = rig.block.features() & features;
        rig.start(features, QueueState::default());
        rig
    }

    pub(crate) fn start(&self, features: u64, state: QueueState) {
        self.block.start(&activation(&self.driver, features, state)).unwrap();
    }

    pub(crate) fn run(&mut self) -> Outcome {
        let clock = || Duration::ZERO;
        let outcome = self.block.run(&mut self.worker, 0, &clock, 64, WhenEmpty::Arm);
        self.last = Some(outcome);
        outcome
    }

    /// Offers a request without running it; returns its status address.
    pub(crate) fn offer(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> u64 {
        self.slot = (self.slot + 1) % 64;
        let (header, status) = (HEADER + 32 * self.slot, STATUS + self.slot);
        self.driver.put(header, kind.to_le_bytes());
        self.driver.put(header + 8, sector.to_le_bytes());
        self.driver.put(status, [NONE]);
        let mut buffers = vec![(header, 16, false)];
        buffers.extend_from_slice(data);
        buffers.push((status, 1, true));
        self.driver.send(&buffers);
        status
    }

    /// One request to its end: status and used length. Panics unless exactly
    /// this one was answered.
    pub(crate) fn request(
        &mut self,
        kind: u32,
        sector: u64,
        data: &[(u64, u32, bool)],
    ) -> (u8, u32) {
        let status = self.offer(kind, sector, data);
        let _ = self.run();
        let used = self.driver.drain();
        assert_eq!(used.len(), 1, "{:?}", self.last);
        let [byte] = self.driver.get(status);
        (byte, used[0].1)
    }

    pub(crate) fn read(&mut self, sector: u64, len: u32) -> u8 {
        self.request(IN, sector, &[(DATA, len, true)]).0
    }

    pub(crate) fn write(&mut self, sector: u64, len: u32) -> u8 {
        self.request(OUT, sector, &[(DATA, len, false)]).0
    }

    pub(crate) fn flush(&mut self) -> u8 {
        self.request(FLUSH, 0, &[]).0
    }

    /// A discard or write-zeroes of ranges of sector, count and flags.
    pub(crate) fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        for (i, (sector, count, flags)) in ranges.iter().enumerate() {
            let at = DATA + 16 * i as u64;
            self.driver.put(at, sector.to_le_bytes());
            self.driver.put(at + 8, count.to_le_bytes());
            self.driver.put(at + 12, flags.to_le_bytes());
        }
        let len = 16 * ranges.len() as u32;
        self.request(kind, 0, &[(DATA, len, false)]).0
    }

    pub(crate) fn fill(&self, addr: u64, len: usize, byte: u8) {
        let bytes = vec![byte; len];
        self.driver.mem.write_slice(&bytes, vm_memory::GuestAddress(addr)).unwrap();
    }

    pub(crate) fn guest(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.driver.mem.read_slice(&mut bytes, vm_memory::GuestAddress(addr)).unwrap();
        bytes
    }
}
