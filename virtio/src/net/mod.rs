//! virtio-net (virtio 1.2, 5.1): one receive and one transmit queue on a tap.
//!
//! `tap` is what the monitor implements, `rx` and `tx` move frames, `header`
//! knows what stands before each, and this file is the device around them.

mod config;
#[cfg(test)]
mod cost_test;
mod counters;
#[cfg(test)]
mod fake;
mod header;
#[cfg(test)]
mod pieces_test;
mod rx;
#[cfg(test)]
mod rx_fault_test;
#[cfg(test)]
mod rx_test;
mod tap;
mod tx;
#[cfg(test)]
mod tx_test;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use crate::rate::{LevelV1, Limiter, RateLimiter};
use crate::running::Runner;
use crate::{
    Activation, Counter, Device, Error, Memory, Outcome, Queue, Step, Stopped, Unpoisoned as _,
    features,
};

pub use config::{Options, RX_QUEUE, TX_QUEUE};
pub use counters::NetCounters;
pub use header::HEADER_LEN;
pub use rx::RxWorker;
pub use tap::{Offload, Tap};
pub use tx::TxWorker;

use counters::Tally;
use tap::is_down;

/// Bytes of a frame without large segments beyond its MTU: the virtio
/// header, Ethernet, two VLAN tags.
const FRAME_OVERHEAD: usize = HEADER_LEN + 14 + 8;

/// A started device.
type Running<'m> = crate::running::Running<'m, Start>;

/// What is kept from a start to the stop.
struct Start {
    /// Which start of the device this is, from 1.
    number: u64,
    offload: Offload,
    offload_set: AtomicBool,
    /// Bytes of the largest frame to make room for.
    largest_frame: usize,
    /// One frame may fill several buffers.
    merges: bool,
}

/// A network device: share it between the endpoint and its workers.
///
/// Receiving and sending each want one worker at a time; they may be the
/// same thread or two.
pub struct Net<'m> {
    options: Options,
    tap: Box<dyn Tap>,
    link_up: AtomicBool,
    /// The link changed and no outcome has said so yet.
    link_news: AtomicBool,
    rx_limiter: Limiter,
    tx_limiter: Limiter,
    runner: Runner<'m, Start>,
    starts: AtomicU64,
    counters: NetCounters,
}

impl<'m> Net<'m> {
    /// A stopped device on `tap`, with the link as it is there.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn new(mem: &'m Memory, tap: Box<dyn Tap>, options: Options) -> Result<Self, Error> {
        options.check()?;
        Ok(Self {
            link_up: AtomicBool::new(tap.is_up()),
            tap,
            link_news: AtomicBool::new(false),
            rx_limiter: Limiter::new(options.rx_limiter),
            tx_limiter: Limiter::new(options.tx_limiter),
            runner: Runner::new(mem, options.dirty),
            options,
            starts: AtomicU64::new(0),
            counters: NetCounters::default(),
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &NetCounters {
        &self.counters
    }

    /// Whether the driver is told that the link is up.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed)
    }

    /// Replaces the rate limits of receiving and of sending, where one is
    /// given; the new buckets are full. Wake the workers that wait for the old
    /// ones.
    pub fn set_limiters(&self, [rx, tx]: [Option<RateLimiter>; 2]) {
        for (limiter, limit) in [(&self.rx_limiter, rx), (&self.tx_limiter, tx)] {
            if let Some(limit) = limit {
                limiter.set(limit);
            }
        }
    }

    /// What is in the buckets of the limits of receiving, then of sending.
    pub fn levels(&self, now: Duration) -> Vec<Option<LevelV1>> {
        let limits = [&self.rx_limiter, &self.tx_limiter];
        let levels = limits.map(|limiter| limiter.lock().levels(now));
        levels.concat()
    }

    /// Sets what is in them, as far as they are so large.
    pub fn set_levels(&self, levels: &[Option<LevelV1>]) {
        let limits = [&self.rx_limiter, &self.tx_limiter];
        for (limiter, levels) in limits.into_iter().zip(levels.chunks(2)) {
            limiter.lock().set_levels(levels);
        }
    }

    /// How many chains wait in `queue`, for a worker that looks on instead of
    /// arming the doorbell.
    #[must_use]
    pub fn pending(&self, queue: usize) -> u16 {
        self.runner.pending(queue)
    }

    fn set_link(&self, up: bool) {
        // A load first: this is asked for each frame.
        if self.link_up.load(Ordering::Relaxed) != up {
            self.link_up.store(up, Ordering::Relaxed);
            self.link_news.store(true, Ordering::Relaxed);
        }
    }

    /// Runs `work` on a queue of the started device and turns the step it
    /// returns into an outcome.
    fn with_queue(
        &self,
        index: usize,
        work: impl FnOnce(&Running<'m>, &mut Queue<'m>) -> Step,
    ) -> Outcome {
        self.runner.with_queue(index, &self.counters.broken, |running, queue| {
            let mut ring = queue.lock().unpoisoned();
            let step = work(running, &mut ring);
            ring.publish();
            let signal = ring.needs_signal().unwrap_or(false);
            Outcome { step, signal, refresh: self.link_news.swap(false, Ordering::Relaxed) }
        })
    }

    /// Has `next` receive or send up to `budget` frames, until it says why not, and counts
    /// frames, bytes and dropped frames in `counters`.
    fn each_frame(
        &self,
        budget: usize,
        counters: [&Counter; 3],
        mut next: impl FnMut(&mut Tally) -> Result<Option<Step>, Error>,
    ) -> Step {
        let mut tally = Tally::default();
        let step = loop {
            if tally.steps >= budget || self.runner.is_stopping() {
                break Step::More;
            }
            tally.steps += 1;
            match next(&mut tally) {
                Ok(None) => {}
                Ok(Some(step)) => break step,
                Err(_) => break Step::Broken,
            }
        };
        let counted = [tally.frames, tally.bytes, tally.dropped];
        counters.into_iter().zip(counted).for_each(|(counter, n)| counter.add(n));
        step
    }

    /// The largest frame the tap may have for a driver with these features.
    fn largest_frame(&self, offload: Offload) -> usize {
        let all = usize::from(u16::MAX) + FRAME_OVERHEAD;
        match self.options.mtu {
            Some(mtu) if !offload.has_segments() => usize::from(mtu) + FRAME_OVERHEAD,
            _ => all,
        }
    }
}

impl Device for Net<'_> {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.options.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.options.queue_size; 2]
    }

    fn config(&self) -> Vec<u8> {
        self.options.config(self.link_is_up())
    }

    /// With VERSION_1 nothing in it can be written (5.1.4.2).
    fn write_config(&self, _features: u64, _offset: usize, _data: &[u8]) -> bool {
        false
    }

    fn start(&self, activation: &Activation) -> Result<(), Error> {
        let offload = Offload::from_features(activation.features);
        let own = Start {
            number: self.starts.fetch_add(1, Ordering::Relaxed) + 1,
            offload,
            offload_set: AtomicBool::new(false),
            largest_frame: self.largest_frame(offload),
            merges: activation.features & features::NET_MRG_RXBUF != 0,
        };
        self.runner.start(self.options.queue_size, activation, own)
    }

    fn stop(&self) -> Stopped {
        Stopped { queues: self.runner.stop(), writeback: false }
    }

    fn reset(&self) {}

    fn is_broken(&self) -> bool {
        self.runner.is_broken()
    }
}
