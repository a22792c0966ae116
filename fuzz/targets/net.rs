//! Frames both ways: valid chains, rarely broken, on a tap that rarely fails.
//!
//! As long as nothing was broken, every frame is compared with what went in;
//! always, nothing but the buffers and the used rings may change.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote_fuzz::backend::{Wire, WireHandle};
use mote_fuzz::driver::Driver;
use mote_fuzz::oracle::Allowed;
use mote_fuzz::{DATA, RAM, clear, edge, poke, ram, snapshot};
use mote_virtio::net::{HEADER_LEN, Net, Options, RxWorker, TxWorker};
use mote_virtio::{
    Activation, Device, QueueConfig, QueueSetup, Step, Stopped, WhenEmpty, features,
};

const QUEUE: u16 = 16;

struct Guest {
    rx: Driver<'static>,
    tx: Driver<'static>,
    net: Net<'static>,
    rx_worker: RxWorker<'static>,
    tx_worker: TxWorker<'static>,
    wire: Arc<Wire>,
    features: u64,
    spoilt: bool,
    space: u64,
    /// Receive buffers by head.
    buffers: Vec<Vec<(u64, u32, bool)>>,
    /// Frames offered to be sent, header and all.
    frames: Vec<Vec<u8>>,
    /// What the device may write: a buffer that it holds stays its own, even
    /// if a wrong driver changes the descriptor.
    granted: Allowed,
    /// Frames the tap holds, in order.
    waiting: Vec<Vec<u8>>,
}

impl Guest {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        clear(0xa5);
        let wire = Arc::new(Wire::default());
        let options = Options {
            mtu: *u.choose(&[None, Some(1500)])?,
            udp_offload: u.arbitrary()?,
            queue_size: QUEUE,
            ..Options::default()
        };
        let net = Net::new(ram(), Box::new(WireHandle(wire.clone())), options).unwrap();
        let features = net.features() & (u.arbitrary::<u64>()? | features::VERSION_1);
        let guest = Self {
            rx: Driver::new(ram(), 0, QUEUE),
            tx: Driver::new(ram(), Driver::SPACE, QUEUE),
            net,
            rx_worker: RxWorker::default(),
            tx_worker: TxWorker::default(),
            wire,
            features,
            spoilt: false,
            space: DATA,
            buffers: vec![Vec::new(); usize::from(QUEUE)],
            frames: Vec::new(),
            granted: Allowed::default(),
            waiting: Vec::new(),
        };
        guest.start(&Stopped::default());
        Ok(guest)
    }

    fn start(&self, from: &Stopped) {
        let setup = |index: usize, driver: &Driver<'_>| {
            let config = QueueConfig {
                size: u32::from(QUEUE),
                descriptors: driver.descriptors,
                available: driver.available,
                used: driver.used,
            };
            let state = from.queues.get(index).cloned().flatten().unwrap_or_default();
            Some(QueueSetup { config, state })
        };
        let activation = Activation {
            features: self.features,
            queues: vec![setup(0, &self.rx), setup(1, &self.tx)],
            writeback: None,
        };
        self.net.start(&activation).unwrap();
    }

    fn place(&mut self, len: u32) -> Option<u64> {
        let at = self.space;
        let end = at + u64::from(len) + 1;
        (end <= RAM as u64).then(|| {
            self.space = end;
            at
        })
    }

    fn cut(
        &mut self,
        u: &mut Unstructured<'_>,
        len: u32,
        writable: bool,
    ) -> Result<Vec<(u64, u32, bool)>> {
        let mut pieces = Vec::new();
        let Some(at) = self.place(len) else {
            return Ok(pieces);
        };
        let mut done = 0;
        while done < len {
            let rest = len - done;
            let n = match u.ratio(3, 4)? || pieces.len() >= 4 {
                true => rest,
                false => u.int_in_range(1..=rest.min(14))?,
            };
            pieces.push((at + u64::from(done), n, writable));
            done += n;
        }
        Ok(pieces)
    }

    fn offer_buffer(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let len = match u.ratio(3, 4)? {
            true => *u.choose(&[1526u32, 2048, 4096, 12, 60])?,
            false => u.int_in_range(1..=3000)?,
        };
        let pieces = self.cut(u, len, true)?;
        if let Some(head) = self.rx.build(&pieces) {
            self.buffers[usize::from(head)] = pieces;
            self.rx.offer(head);
        }
        Ok(())
    }

    fn arrive(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let len = match u.ratio(7, 8)? {
            true => u.int_in_range(12..=5000)?,
            false => u.int_in_range(0..=66_000)?,
        };
        let tag = u.arbitrary::<u8>()?;
        let mut frame: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_add(tag) & 0x7f).collect();
        for byte in frame.iter_mut().take(HEADER_LEN) {
            *byte = 0;
        }
        self.waiting.push(frame.clone());
        self.wire.incoming.lock().unwrap().push_back(frame);
        Ok(())
    }

    fn send(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let len = match u.ratio(7, 8)? {
            true => u.int_in_range(26..=2000)?,
            false => u.int_in_range(1..=70_000)?,
        };
        let pieces = self.cut(u, len, false)?;
        let Some((at, ..)) = pieces.first().copied() else {
            return Ok(());
        };
        for i in 0..u64::from(len.min(64)) {
            let byte = if i < 12 { 0 } else { u.arbitrary::<u8>()? & 0x7f };
            self.tx.put(at + i, [byte]);
        }
        if u.ratio(1, 4)? {
            self.tx.put(at, [u.int_in_range(0..=4)?, u.int_in_range(0..=6)?]);
            self.tx.put(at + 4, u.arbitrary::<u64>()?.to_le_bytes());
        }
        let indirect = self.features & features::INDIRECT_DESC != 0 && u.arbitrary()?;
        let head = match indirect.then(|| self.place(16 * 8)).flatten() {
            Some(table) => self.tx.build_indirect(table, &pieces),
            None => self.tx.build(&pieces),
        };
        if let Some(head) = head {
            let memory = snapshot();
            self.frames.push(memory[at as usize..][..len as usize].to_vec());
            self.tx.offer(head);
        }
        Ok(())
    }

    fn spoil(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.spoilt = true;
        let driver = if u.arbitrary()? { &mut self.rx } else { &mut self.tx };
        match u.int_in_range(0..=5)? {
            0 => poke(u, 2 * Driver::SPACE)?,
            1 => poke(u, RAM as u64)?,
            2 => driver.set_available_index(u.arbitrary()?),
            3 => driver.offer(u.int_in_range(0..=QUEUE)?),
            4 => {
                let raw =
                    (edge(u)?, edge(u)? as u32, u.int_in_range(0..=7)?, u.int_in_range(0..=QUEUE)?);
                driver.descriptor(u.int_in_range(0..=QUEUE - 1)?, raw);
            }
            _ => self.wire.fault.set(u.int_in_range(0..=6)?),
        }
        Ok(())
    }

    fn run_rx(&mut self, u: &mut Unstructured<'_>) -> Result<bool> {
        if !self.spoilt {
            self.granted = Allowed::default();
        }
        let before = snapshot();
        self.granted.queue(&before, &self.rx);
        let budget = u.int_in_range(1..=20)?;
        let mut runs = 0;
        let alive = loop {
            match self.net.run_rx(&mut self.rx_worker, Duration::ZERO, budget).step {
                Step::More => {}
                Step::Idle | Step::NoBuffers | Step::NoBuffersUntil(_) | Step::WaitUntil(_) => {
                    break true;
                }
                Step::Broken => break false,
                step => panic!("{step:?}"),
            }
            runs += 1;
            // Every step takes a frame or a buffer away.
            assert!(runs < 1000 || self.spoilt, "endless work");
            if runs >= 1000 {
                break true;
            }
        };
        self.granted.check(&before, &snapshot());
        assert!(alive || self.spoilt, "a right driver broke the device");
        let used = self.rx.drain();
        if !self.spoilt {
            self.compare(&used);
        }
        Ok(alive)
    }

    /// Each frame in the used buffers is one that waited, in order, whole.
    fn compare(&mut self, used: &[(u16, u32)]) {
        let memory = snapshot();
        let mut used = used.iter();
        while let Some((head, len)) = used.next() {
            if *len == 0 {
                continue; // a useless buffer given back
            }
            let mut frame = self.contents(&memory, *head, *len);
            let buffers = u16::from_le_bytes([frame[10], frame[11]]);
            for _ in 1..buffers {
                let (head, len) = used.next().expect("all buffers of a frame");
                frame.extend(self.contents(&memory, *head, *len));
            }
            frame[10..12].fill(0);
            let at = self.waiting.iter().position(|waiting| *waiting == frame);
            let at = at.expect("a frame that arrived");
            self.waiting.drain(..=at);
        }
    }

    fn contents(&self, memory: &[u8], head: u16, len: u32) -> Vec<u8> {
        let pieces = &self.buffers[usize::from(head)];
        let all = pieces.iter().flat_map(|(at, len, _)| &memory[*at as usize..][..*len as usize]);
        let bytes: Vec<u8> = all.take(len as usize).copied().collect();
        assert_eq!(bytes.len(), len as usize, "more used than the buffer has");
        bytes
    }

    fn run_tx(&mut self, u: &mut Unstructured<'_>) -> Result<bool> {
        let mut allowed = Allowed::default();
        let before = snapshot();
        allowed.used_ring(self.tx.used, QUEUE);
        let budget = u.int_in_range(1..=20)?;
        let empty = *u.choose(&[WhenEmpty::Arm, WhenEmpty::Poll])?;
        let mut runs = 0;
        let alive = loop {
            let now = Duration::ZERO;
            match self.net.run_tx(&mut self.tx_worker, now, budget, empty).step {
                Step::More => {}
                Step::Idle | Step::Empty | Step::WaitUntil(_) => break true,
                Step::Broken => break false,
                step => panic!("{step:?}"),
            }
            runs += 1;
            assert!(runs <= 2 * QUEUE, "more than the queue held");
        };
        allowed.check(&before, &snapshot());
        assert!(alive || self.spoilt, "a right driver broke the device");
        let used = self.tx.drain();
        // A spoilt used ring holds what the guest wrote, or a frame that it had put there.
        assert!(self.spoilt || used.iter().all(|(_, len)| *len == 0), "nothing is written to it");
        let sent = std::mem::take(&mut *self.wire.sent.lock().unwrap());
        if !self.spoilt {
            // What was sent is what was offered, in order, less what had no
            // right to be.
            let mut offered = std::mem::take(&mut self.frames).into_iter();
            for frame in sent {
                assert!(offered.any(|offered| offered == frame), "not offered");
            }
            for dropped in offered {
                let plain = dropped.get(..12) == Some(&[0; 12]);
                let sized = (26..=65_612).contains(&dropped.len());
                assert!(!plain || !sized, "dropped without reason");
            }
        }
        Ok(alive)
    }
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut guest = Guest::new(u)?;
    let mut steps = 0;
    while !u.is_empty() && steps < 100 {
        steps += 1;
        let alive = match u.int_in_range(0..=20)? {
            0..=5 => guest.offer_buffer(u).map(|()| true)?,
            6..=8 => guest.arrive(u).map(|()| true)?,
            9..=11 => guest.send(u).map(|()| true)?,
            12..=14 => guest.run_rx(u)?,
            15..=17 => guest.run_tx(u)?,
            18 => {
                let stopped = guest.net.stop();
                for queue in stopped.queues.iter().flatten() {
                    assert!(queue.in_flight.len() <= usize::from(QUEUE));
                }
                guest.start(&stopped);
                true
            }
            _ => guest.spoil(u).map(|()| true)?,
        };
        if !alive {
            assert!(guest.net.is_broken());
            break;
        }
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
