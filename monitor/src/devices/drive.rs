//! Drives: a block device, its image, and the workers between them.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mote_virtio::blk::{self, Block, Medium, Options, ReadAt as _, Worker};
use mote_virtio::{Device, Dirty, Step, Unpoisoned as _, WhenEmpty};

use super::connection::{BUDGET, Connection};
use super::poll::Poll;
use crate::channel::{Sender, channel};
use crate::config::{Drive, Media, OnNoSpace, VmConfig};
use crate::error::Error;
use crate::host::disk::{CdImage, DiskFile, OpenDisk};
use crate::host::files::New;
use crate::host::memory::GuestRam;
use crate::host::signals;

/// How long a worker waits before it tries a full disk again.
const NO_SPACE: Duration = Duration::from_millis(500);

/// What a drive's workers serve.
pub(super) struct Work {
    pub(super) block: Arc<Block<'static>>,
    queues: usize,
    /// Worker threads.
    pub(super) threads: usize,
    poll_us: u16,
    /// Number of the image's descriptor, and whether it is only read.
    pub(super) image: RawFd,
    pub(super) read_only: bool,
    /// Bytes of the image; behind it nothing may be written.
    pub(super) end: u64,
    /// The image of a CD-ROM drive.
    tray: Option<CdImage>,
    /// A new image, which has no name so far.
    new: Mutex<Option<New>>,
    pub(super) access: ImageAccess,
}

/// What the main thread has a worker do with the image.
pub(super) type Job = fn(&Block<'static>) -> Result<(), String>;

/// Who is at a drive's image. A host file may hang: the main thread keeps the workers
/// away before it waits for what they hold, and waits for them with a deadline.
#[derive(Default)]
pub(super) struct ImageAccess {
    state: Mutex<AccessState>,
    left: Condvar,
}

#[derive(Default)]
struct AccessState {
    workers: usize,
    /// Workers only do jobs.
    held: bool,
    job: Option<(Job, Sender<Result<(), String>>)>,
}

impl ImageAccess {
    fn state(&self) -> MutexGuard<'_, AccessState> {
        self.state.lock().unpoisoned()
    }

    /// Keeps workers away from the image; tells whether they have left within `limit`.
    pub(super) fn hold(&self, limit: Duration) -> bool {
        let mut state = self.state();
        state.held = true;
        let waited = self.left.wait_timeout_while(state, limit, |state| state.workers > 0);
        waited.unpoisoned().0.workers == 0
    }

    /// Resumes workers, once their doorbell rings.
    pub(super) fn release(&self) {
        self.state().held = false;
    }

    /// Whether a worker is at the image.
    pub(super) fn is_used(&self) -> bool {
        self.state().workers > 0
    }
}

/// Opens a drive's image and makes its device, with a queue for each vCPU.
pub(super) fn open(
    drive: &Drive,
    config: &VmConfig,
    ram: &'static GuestRam,
    dirty: Option<&'static Dirty>,
) -> Result<(Arc<dyn Device>, Work), Error> {
    let mut discard = true;
    let image;
    let mut end = 0;
    let mut tray = None;
    let mut new = None;
    let medium = match drive.media {
        Media::CdRom => {
            let disc = CdImage::open(&drive.path)?;
            image = disc.as_raw_fd();
            tray = Some(disc.clone());
            Medium::ReadOnly(Box::new(disc))
        }
        Media::Disk => {
            let how =
                OpenDisk { read_only: drive.read_only, direct: drive.direct, create: drive.create };
            let mut disk = Box::new(DiskFile::open(&drive.path, &how)?);
            new = disk.take_new();
            discard = disk.discards();
            image = disk.as_raw_fd();
            end = disk.size().map_err(|e| Error::file("disk", &drive.path, &e))?;
            if !drive.read_only && !end.is_multiple_of(drive.block_size.into()) {
                let why = format!("has {end} bytes, not whole blocks of {}", drive.block_size);
                return Err(Error::Input("disk", drive.path.clone(), why));
            }
            if drive.read_only { Medium::ReadOnly(disk) } else { Medium::Disk(disk) }
        }
    };
    let options = Options {
        id: config.serial(drive),
        queues: config.cpus.into(),
        logical_block: drive.block_size,
        discard,
        on_no_space: match drive.on_no_space {
            OnNoSpace::Pause => blk::OnNoSpace::Pause,
            OnNoSpace::Error => blk::OnNoSpace::Error,
        },
        limiter: drive.limiter,
        dirty,
        ..Options::default()
    };
    let block = Block::new(ram, medium, options)
        .map_err(|e| Error::Input("drive", drive.path.clone(), e.to_string()))?;
    let block = Arc::new(block);
    let work = Work {
        block: Arc::clone(&block),
        queues: config.cpus.into(),
        threads: drive.threads.into(),
        poll_us: drive.poll_us,
        image,
        read_only: drive.read_only || drive.media == Media::CdRom,
        end,
        tray,
        new: Mutex::new(new),
        access: ImageAccess::default(),
    };
    Ok((block, work))
}

/// How a worker continues after it has checked every queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There is more to do.
    Work,
    /// There is nothing, and no doorbell would ring.
    Empty,
    /// Until the doorbell rings, or this time at most.
    Sleep(Option<Duration>),
}

impl Work {
    /// What a worker thread does: serve all queues, look on for a moment where
    /// that pays, sleep on the doorbell.
    pub(super) fn serve(&self, link: &Arc<Connection>) {
        let own = if self.threads == 1 {
            Worker::default()
        } else {
            let link = Arc::clone(link);
            Worker::of_pool(move || link.ring())
        };
        let mut worker = DriveWorker { work: self, link, clock: link.clock, told: false, own };
        // Several that look on would take each other's requests, and a drive
        // has several because its requests take long.
        let mut poll = Poll::new(if self.threads == 1 { self.poll_us } else { 0 });
        loop {
            if poll.pays() {
                match worker.round(WhenEmpty::Poll) {
                    Next::Work => continue,
                    Next::Empty if poll.watch(|| self.has_work()) => continue,
                    Next::Empty | Next::Sleep(_) => {}
                }
            }
            if let Next::Sleep(until) = worker.round(WhenEmpty::Arm) {
                worker.sleep(until, &mut poll);
            }
        }
    }

    /// Has a worker do `job`; `None` if that is not done `until` then.
    pub(super) fn ask(
        &self,
        link: &Connection,
        job: Job,
        until: Instant,
    ) -> Option<Result<(), String>> {
        let (tell, told) = channel();
        self.access.state().job = Some((job, tell));
        link.ring();
        let mut answer = None;
        signals::wait_until(until, |limit| {
            answer = told.recv_timeout(limit).ok();
            answer.is_some()
        });
        answer
    }

    /// The new image that still has to get its name, if it is one.
    pub(super) fn take_new(&self) -> Option<New> {
        let mut new = self.new.lock().unpoisoned();
        new.take()
    }

    /// Whether its medium can be changed.
    pub(super) fn is_cdrom(&self) -> bool {
        self.tray.is_some()
    }

    /// Inserts an image into a CD-ROM drive, or ejects the medium; `nothing`
    /// is a descriptor that nothing can be read from.
    pub(super) fn change(
        &self,
        path: Option<&Path>,
        nothing: BorrowedFd<'_>,
    ) -> Result<(), String> {
        let Some(tray) = &self.tray else {
            let why = "Only a CD-ROM drive's medium can be changed while the VM runs.";
            return Err(why.to_owned());
        };
        let new = path.map(CdImage::open).transpose();
        let new = new.map_err(|e| e.to_string())?;
        let changed = self.block.exchange(|| match &new {
            Some(new) => tray.replace(new.fd(), false),
            None => tray.replace(nothing, true),
        });
        changed.map_err(|e| e.to_string())
    }

    /// What it has counted, in Firecracker's names where it has them.
    pub(super) fn counts(&self) -> [(&'static str, u64); 11] {
        let counters = self.block.counters();
        [
            ("read_count", counters.reads.get()),
            ("write_count", counters.writes.get()),
            ("read_bytes", counters.read_bytes.get()),
            ("write_bytes", counters.written_bytes.get()),
            ("flush_count", counters.flushes.get()),
            ("rate_limiter_throttled_events", counters.throttled.get()),
            ("execute_fails", counters.errors.get()),
            ("requests", counters.requests.get()),
            ("discards", counters.discards.get()),
            ("no_space", counters.no_space.get()),
            ("broken", counters.broken.get()),
        ]
    }

    fn has_work(&self) -> bool {
        (0..self.queues).any(|queue| self.block.pending(queue) > 0)
    }
}

/// A worker thread.
struct DriveWorker<'a> {
    work: &'a Work,
    link: &'a Connection,
    clock: Instant,
    /// The user knows that the host has no room left.
    told: bool,
    own: Worker<'static>,
}

impl DriveWorker<'_> {
    /// Does what the main thread wants, or serves each queue once if it may.
    fn round(&mut self, when_empty: WhenEmpty) -> Next {
        let access = &self.work.access;
        let mut state = access.state();
        let job = state.job.take();
        if state.held && job.is_none() {
            return Next::Sleep(None);
        }
        state.workers += 1;
        drop(state);
        let next = match job {
            Some((job, tell)) => {
                // Who asked may have given up.
                let _ = tell.send(job(&self.work.block));
                Next::Work
            }
            None => self.serve_queues(when_empty),
        };
        let mut state = access.state();
        state.workers -= 1;
        // A wake-up is a system call, and this is done for every few requests.
        if state.held {
            access.left.notify_one();
        }
        drop(state);
        next
    }

    fn serve_queues(&mut self, when_empty: WhenEmpty) -> Next {
        let (mut until, mut more, mut empty) = (None, false, false);
        let clock = || self.clock.elapsed();
        for queue in 0..self.work.queues {
            let block = &self.work.block;
            let outcome = block.run(&mut self.own, queue, &clock, BUDGET, when_empty);
            self.link.answer(&outcome);
            let wake = match outcome.step {
                Step::More => {
                    more = true;
                    None
                }
                Step::Empty => {
                    empty = true;
                    None
                }
                Step::WaitUntil(at) => Some(at),
                Step::Paused => {
                    tell(&mut self.told, &self.link.name);
                    Some(self.clock.elapsed() + NO_SPACE)
                }
                _ => None,
            };
            until = [until, wake].into_iter().flatten().min();
        }
        match until {
            _ if more => Next::Work,
            None if empty => Next::Empty,
            until => Next::Sleep(until),
        }
    }

    fn sleep(&self, until: Option<Duration>, poll: &mut Poll) {
        let begin = self.clock.elapsed();
        self.link.sleep(None, until.map(|at| at.saturating_sub(begin)));
        if until.is_none() {
            poll.slept(self.clock.elapsed().saturating_sub(begin));
        }
    }
}

/// Says, once, that the drive `name` waits for room.
fn tell(told: &mut bool, name: &str) {
    if !std::mem::replace(told, true) {
        crate::host::console::say(&format!(
            "mote: disk {name}: the host has no room left; its guest waits\r\n"
        ));
    }
}
