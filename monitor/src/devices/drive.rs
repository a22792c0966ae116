//! Drives: a block device, its image, and the workers between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mote_virtio::blk::{self, Block, Medium, Options, Worker};
use mote_virtio::{Device, Step, WhenEmpty};

use super::{BUDGET, Slot, sleep};
use crate::backend::{CdImage, DiskFile, OpenDisk};
use crate::config::{Drive, Media, OnNoSpace};
use crate::error::Error;
use crate::memory::GuestRam;

/// How long a worker waits before it tries a full disk again.
const NO_SPACE: Duration = Duration::from_millis(500);

/// What a drive's workers serve.
pub(super) struct Work {
    block: Arc<Block<'static>>,
    queues: usize,
    /// Worker threads.
    pub(super) threads: usize,
}

/// Opens a drive's image and makes its device, with a queue for each vCPU.
pub(super) fn open(
    drive: &Drive,
    cpus: u8,
    ram: &'static GuestRam,
) -> Result<(Arc<dyn Device>, Work), Error> {
    let medium = match drive.media {
        Media::CdRom => Medium::ReadOnly(Box::new(CdImage::open(&drive.path)?)),
        Media::Disk => {
            let how = OpenDisk {
                read_only: drive.read_only,
                direct: drive.direct,
                create: drive.create,
            };
            let disk = Box::new(DiskFile::open(&drive.path, &how)?);
            if drive.read_only {
                Medium::ReadOnly(disk)
            } else {
                Medium::Disk(disk)
            }
        }
    };
    let options = Options {
        id: drive.id.clone(),
        queues: cpus.into(),
        on_no_space: match drive.on_no_space {
            OnNoSpace::Pause => blk::OnNoSpace::Pause,
            OnNoSpace::Error => blk::OnNoSpace::Error,
        },
        limiter: drive.limiter,
        ..Options::default()
    };
    let block = Block::new(ram, medium, options)
        .map_err(|e| Error::Input("drive", drive.path.clone(), e.to_string()))?;
    let block = Arc::new(block);
    let work = Work {
        block: Arc::clone(&block),
        queues: cpus.into(),
        threads: drive.threads.into(),
    };
    Ok((block, work))
}

impl Work {
    /// What a worker thread does: serve all queues, sleep on the doorbell.
    pub(super) fn serve(&self, slot: &Slot) {
        let clock = Instant::now();
        let mut worker = Worker::default();
        let mut told = false;
        loop {
            let mut until = None;
            let mut more = false;
            for queue in 0..self.queues {
                let now = clock.elapsed();
                let outcome = self
                    .block
                    .run(&mut worker, queue, now, BUDGET, WhenEmpty::Arm);
                slot.answer(&outcome);
                let wake = match outcome.step {
                    Step::More => {
                        more = true;
                        None
                    }
                    Step::WaitUntil(at) => Some(at),
                    Step::Paused => {
                        if !std::mem::replace(&mut told, true) {
                            let name = &slot.name;
                            crate::console::say(&format!(
                                "mote: disk {name}: the host has no room left; its guest waits\r\n"
                            ));
                        }
                        Some(now + NO_SPACE)
                    }
                    _ => None,
                };
                until = [until, wake].into_iter().flatten().min();
            }
            if !more {
                let limit = until.map(|at| at.saturating_sub(clock.elapsed()));
                sleep(slot, None, limit);
            }
        }
    }
}
