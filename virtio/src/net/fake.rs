//! A tap in memory with faults to order, and a driver that uses it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::{HEADER_LEN, Net, Offload, Options, RxWorker, Tap, TxWorker};
use crate::driver::{Driver, memory};
use crate::{
    Activation, Device, GuestSlice, Outcome, QueueConfig, QueueSetup, QueueState, Stopped,
    WhenEmpty,
};

#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) incoming: Mutex<VecDeque<Vec<u8>>>,
    pub(crate) sent: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
    pub(crate) offload: Mutex<Vec<Offload>>,
    /// The error number of every read and write, if not 0.
    pub(crate) error: AtomicI32,
    pub(crate) busy: AtomicBool,
    pub(crate) down: AtomicBool,
    /// Slices of the last read.
    pub(crate) last_read: Mutex<Vec<usize>>,
    /// Bytes in the first piece of the last frame that was sent, and how many
    /// pieces followed it.
    pub(crate) last_write: Mutex<(usize, usize)>,
}

impl Wire {
    fn fault(&self) -> io::Result<()> {
        match self.error.load(Ordering::Relaxed) {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }
}

impl Tap for Arc<Wire> {
    fn read_frame(&self, to: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<Option<usize>> {
        self.fault()?;
        *self.last_read.lock().unwrap() = to.iter().map(|slice| slice.len()).collect();
        let Some(frame) = self.incoming.lock().unwrap().pop_front() else {
            return Ok(None);
        };
        let mut rest = &frame[..];
        for slice in to {
            let n = slice.len().min(rest.len());
            slice.copy_from(&rest[..n]);
            rest = &rest[n..];
        }
        let n = rest.len().min(overflow.len());
        overflow[..n].copy_from_slice(&rest[..n]);
        Ok(Some(frame.len() - (rest.len() - n)))
    }

    fn write_frame(&self, start: &[u8], from: &[GuestSlice<'_>]) -> io::Result<Option<usize>> {
        self.fault()?;
        if self.busy.load(Ordering::Relaxed) {
            return Ok(None);
        }
        *self.last_write.lock().unwrap() = (start.len(), from.len());
        let (header, frame) = start.split_at(HEADER_LEN);
        let mut frame = frame.to_vec();
        for slice in from {
            let at = frame.len();
            frame.resize(at + slice.len(), 0);
            slice.copy_to(&mut frame[at..]);
        }
        let len = HEADER_LEN + frame.len();
        self.sent.lock().unwrap().push((header.to_vec(), frame));
        Ok(Some(len))
    }

    fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    fn set_offload(&self, offload: Offload) -> io::Result<()> {
        self.offload.lock().unwrap().push(offload);
        Ok(())
    }
}

pub(crate) const DATA: u64 = 0x20_0000;

/// A started device and the driver of its two queues.
pub(crate) struct Rig {
    pub(crate) rx: Driver<'static>,
    pub(crate) tx: Driver<'static>,
    pub(crate) net: Arc<Net<'static>>,
    pub(crate) rx_worker: RxWorker<'static>,
    pub(crate) tx_worker: TxWorker<'static>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) features: u64,
}

impl Rig {
    /// Started with those of `features` that it offers.
    pub(crate) fn with(options: Options, features: u64) -> Self {
        let mem = memory(&[(0, 0x80_0000)]);
        let wire = Arc::new(Wire::default());
        let net = Net::new(mem, Box::new(wire.clone()), options).unwrap();
        let features = net.features() & features;
        let rig = Self {
            rx: Driver::new(mem, 0, 64),
            tx: Driver::new(mem, Driver::SPACE, 64),
            net: Arc::new(net),
            rx_worker: RxWorker::default(),
            tx_worker: TxWorker::default(),
            wire,
            features,
        };
        rig.start(&Stopped::default());
        rig
    }

    pub(crate) fn new() -> Self {
        Self::with(Options::default(), u64::MAX)
    }

    pub(crate) fn start(&self, from: &Stopped) {
        let setup = |index: usize, driver: &Driver<'_>| {
            Some(QueueSetup {
                config: QueueConfig {
                    size: u32::from(driver.size),
                    descriptors: driver.descriptors,
                    available: driver.available,
                    used: driver.used,
                },
                state: from
                    .queues
                    .get(index)
                    .map_or_else(QueueState::default, |q| q.clone().unwrap()),
            })
        };
        let activation = Activation {
            features: self.features,
            queues: vec![setup(0, &self.rx), setup(1, &self.tx)],
            writeback: None,
        };
        self.net.start(&activation).unwrap();
    }

    pub(crate) fn run_rx(&mut self) -> Outcome {
        self.net.run_rx(&mut self.rx_worker, Duration::ZERO, 64)
    }

    pub(crate) fn run_tx(&mut self) -> Outcome {
        let now = Duration::ZERO;
        self.net.run_tx(&mut self.tx_worker, now, 64, WhenEmpty::Arm)
    }

    /// A frame of `len` bytes with its header arrives.
    pub(crate) fn arrive(&self, len: usize) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        for byte in frame.iter_mut().take(HEADER_LEN) {
            *byte = 0;
        }
        self.wire.incoming.lock().unwrap().push_back(frame.clone());
        frame
    }

    pub(crate) fn guest(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let addr = GuestAddress(addr);
        self.rx.mem.read_slice(&mut bytes, addr).unwrap();
        bytes
    }

    pub(crate) fn fill(&self, addr: u64, bytes: &[u8]) {
        self.rx.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }
}
