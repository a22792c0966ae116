//! virtio-blk (virtio 1.2, 5.2).
//!
//! `medium` is what the monitor implements, `request` turns a chain into a
//! checked request, `execute` does it, `engine` runs a queue, and this file
//! is the device around them.

#[cfg(test)]
mod blk_test;
mod config;
#[cfg(test)]
mod cost_test;
mod counters;
mod engine;
mod execute;
#[cfg(test)]
pub(crate) mod fake;
mod medium;
#[cfg(test)]
mod pool_test;
mod request;
#[cfg(test)]
mod run_test;
#[cfg(test)]
mod storage_test;

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::rate::{LevelV1, Limiter, RateLimiter};
use crate::running::Runner;
use crate::{Activation, Device, Error, Memory, Stopped, Unpoisoned as _, features};

pub use config::{ID_LEN, OnNoSpace, Options, SECTOR};
pub use counters::BlockCounters;
pub use engine::Worker;
pub use medium::{Medium, ReadAt, WriteAt};

use config::WRITEBACK_OFFSET;
use execute::Health;

/// What is in the drive, and how large it was when it was put in.
struct Inserted {
    medium: Medium,
    size: u64,
}

/// A block device: share it between the endpoint and its workers.
pub struct Block<'m> {
    options: Options,
    id: [u8; ID_LEN],
    writable: bool,
    inserted: RwLock<Inserted>,
    /// Sectors shown to the driver, readable without waiting for a worker.
    sectors: AtomicU64,
    writeback: AtomicBool,
    health: Health,
    limiter: Limiter,
    runner: Runner<'m, ()>,
    counters: BlockCounters,
}

impl<'m> Block<'m> {
    /// A stopped device on `medium`. Whether it can be written is decided
    /// here for good: a drive made with another medium than
    /// [`Medium::Disk`] is read-only.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::MediumSize`], or [`Error::OddSize`] for a
    /// disk to write that is not whole sectors. A read-only one is rounded
    /// down.
    pub fn new(mem: &'m Memory, medium: Medium, options: Options) -> Result<Self, Error> {
        options.check()?;
        let writable = matches!(medium, Medium::Disk(_));
        let size = medium_size(&medium)?;
        if writable && !size.is_multiple_of(SECTOR) {
            return Err(Error::OddSize(size));
        }
        let mut id = [0; ID_LEN];
        for (to, from) in id.iter_mut().zip(options.id.bytes()) {
            *to = from;
        }
        Ok(Self {
            id,
            writable,
            inserted: RwLock::new(Inserted { medium, size }),
            sectors: AtomicU64::new(size / SECTOR),
            writeback: AtomicBool::new(true),
            health: Health::default(),
            limiter: Limiter::new(options.limiter),
            runner: Runner::new(mem, options.dirty),
            options,
            counters: BlockCounters::default(),
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &BlockCounters {
        &self.counters
    }

    /// True once a flush failed or the medium shrank: writes and flushes are
    /// refused from then on.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    /// Replaces the rate limits; the new buckets are full. Wake the workers
    /// that wait for the old ones.
    pub fn set_limiter(&self, limiter: RateLimiter) {
        self.limiter.set(limiter);
    }

    /// What is in the buckets of the rate limits.
    pub fn levels(&self, now: Duration) -> Vec<Option<LevelV1>> {
        self.limiter.lock().levels(now).to_vec()
    }

    /// Sets what is in them, as far as they are so large.
    pub fn set_levels(&self, levels: &[Option<LevelV1>]) {
        self.limiter.lock().set_levels(levels);
    }

    /// Looks how large the medium is now, waiting for the workers to finish
    /// what they are at. Call [`Endpoint::refresh`](crate::Endpoint::refresh)
    /// afterwards, so that the driver is told of the new capacity.
    ///
    /// # Errors
    /// [`Error::MediumSize`]: it has become smaller, or does not tell;
    /// [`Error::OddSize`] as in [`Block::new`]. The size stays then.
    pub fn resize(&self) -> Result<(), Error> {
        let mut inserted = self.inserted.write().unpoisoned();
        let least = inserted.size;
        self.measure(&mut inserted, least)
    }

    /// Takes over the medium's size, which is to be `least` bytes at least.
    fn measure(&self, inserted: &mut Inserted, least: u64) -> Result<(), Error> {
        let size = medium_size(&inserted.medium)?;
        if self.writable && !size.is_multiple_of(SECTOR) {
            return Err(Error::OddSize(size));
        }
        if size < least {
            return Err(Error::MediumSize(format!("{size} bytes, less than {least}")));
        }
        inserted.size = size;
        self.sectors.store(size / SECTOR, Ordering::Relaxed);
        Ok(())
    }

    /// Sectors of 512 bytes of the medium, as the guest sees them.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }

    /// Has the medium changed by `change`, while no worker looks at it. A disk
    /// must stay whole sectors long; a drive that failed goes on failing. Call
    /// [`Endpoint::refresh`](crate::Endpoint::refresh) afterwards.
    ///
    /// # Errors
    /// What `change` says, and as [`resize`](Self::resize), but smaller it may
    /// be.
    pub fn exchange(&self, change: impl FnOnce() -> std::io::Result<()>) -> Result<(), Error> {
        let mut inserted = self.inserted.write().unpoisoned();
        change().map_err(|error| Error::MediumSize(error.to_string()))?;
        self.measure(&mut inserted, 0)
    }

    /// Makes what the guest has written durable, for a snapshot. Call it on a
    /// stopped device.
    ///
    /// # Errors
    /// The host's, or an error if the drive failed before.
    pub fn sync(&self) -> std::io::Result<()> {
        let inserted = self.inserted.read().unpoisoned();
        self.health.sync(&inserted.medium)
    }
}

fn medium_size(medium: &Medium) -> Result<u64, Error> {
    medium.reader().size().map_err(|error| Error::MediumSize(error.to_string()))
}

impl Device for Block<'_> {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        self.options.features(self.writable)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![self.options.queue_size; usize::from(self.options.queues)]
    }

    fn config(&self) -> Vec<u8> {
        let sectors = self.sectors.load(Ordering::Relaxed);
        let writeback = self.writeback.load(Ordering::Relaxed);
        self.options.config(sectors, writeback)
    }

    /// Only `writeback`, and only if CONFIG_WCE was negotiated (5.2.5.2).
    fn write_config(&self, features: u64, offset: usize, data: &[u8]) -> bool {
        let &[value @ 0..=1] = data else { return false };
        if offset != WRITEBACK_OFFSET || features & features::BLK_CONFIG_WCE == 0 {
            return false;
        }
        self.writeback.swap(value == 1, Ordering::Relaxed) != (value == 1)
    }

    fn start(&self, activation: &Activation) -> Result<(), Error> {
        self.runner.start(self.options.queue_size, activation, ())?;
        if let Some(writeback) = activation.writeback {
            self.writeback.store(writeback, Ordering::Relaxed);
        } else if activation.features & features::BLK_FLUSH == 0 {
            // 5.2.5.2: a driver that cannot flush starts in write-through.
            self.writeback.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    fn stop(&self) -> Stopped {
        let queues = self.runner.stop();
        Stopped { queues, writeback: self.writeback.load(Ordering::Relaxed) }
    }

    fn reset(&self) {
        self.writeback.store(true, Ordering::Relaxed);
    }

    fn is_broken(&self) -> bool {
        self.runner.is_broken()
    }
}
