//! One device of a VM: what connects it, and what its worker threads serve.

use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mote_snapshot::DeviceV1;
use mote_virtio::EndpointStateV1;

use super::connection::Connection;
use super::{drive, nic};
use crate::config::Drive;
use crate::error::Error;
use crate::sandbox::{Sandbox, Slot as Number, Thread};

/// How long the control of a VM waits for a host file.
pub const HOST_FILE_TIMEOUT: Duration = Duration::from_secs(5);
/// Device types (virtio 1.2, 5).
const NETWORK: u32 = 1;
/// See [`NETWORK`].
const BLOCK: u32 = 2;

/// What a device's worker threads serve.
pub(super) enum Work {
    Drive(drive::Work),
    Nic(nic::Work),
}

/// One device: what connects it, and what its workers do.
pub(super) struct Slot {
    pub(super) link: Arc<Connection>,
    pub(super) work: Work,
}

impl Slot {
    pub(super) fn backend(&self) -> RawFd {
        match &self.work {
            Work::Drive(work) => work.image,
            Work::Nic(work) => work.tap,
        }
    }

    /// What kind of thread its workers are, and the sandbox for them.
    pub(super) fn confinement(&self, sandbox: Sandbox) -> (Thread, Sandbox) {
        let thread = match &self.work {
            Work::Drive(work) if work.read_only => Thread::ReadOnly,
            Work::Drive(_) => Thread::Disk,
            Work::Nic(_) => Thread::Net,
        };
        let end = match &self.work {
            Work::Drive(work) => work.end,
            Work::Nic(_) => 0,
        };
        let sandbox = sandbox
            .with_end(end)
            .with(Number::Own, self.backend())
            .with(Number::Doorbell, self.link.doorbell.as_raw_fd())
            .with_row((Number::Interrupt, Number::InterruptLast), self.link.interrupt_numbers());
        (thread, sandbox)
    }

    /// What a saved device is known by, with its state and its limits' levels.
    pub(super) fn saved(&self, endpoint: EndpointStateV1) -> DeviceV1 {
        let now = self.link.clock.elapsed();
        let limits = match &self.work {
            Work::Drive(work) => work.block.levels(now),
            Work::Nic(work) => work.net.levels(now),
        };
        let (kind, read_only) = match &self.work {
            Work::Drive(work) => (BLOCK, work.read_only),
            Work::Nic(_) => (NETWORK, false),
        };
        DeviceV1 { kind, id: self.link.name.clone(), read_only, endpoint, limits }
    }
}

/// Has a worker of a drive do `job`: the main thread must not wait for a host file.
pub(super) fn ask(
    (link, work): (&Connection, &drive::Work),
    job: drive::Job,
) -> Result<(), String> {
    match work.ask(link, job, Instant::now() + HOST_FILE_TIMEOUT) {
        Some(done) => done.map_err(|why| format!("drive {}: {why}", link.name)),
        None => Err(hung(&link.name)),
    }
}

pub(super) fn hung(name: &str) -> String {
    let time = HOST_FILE_TIMEOUT.as_secs();
    format!("drive {name}: its host file has not responded for {time} s: retry when it does")
}

/// `error`, or that it comes from an image that the VM has in another drive.
pub(super) fn twice(drive: &Drive, slots: &[Arc<Slot>], error: Error) -> Error {
    let Ok(image) = std::fs::metadata(&drive.path) else {
        return error;
    };
    let same = |slot: &&Arc<Slot>| {
        // SAFETY: the descriptor belongs to the slot, which is alive.
        let other = unsafe { BorrowedFd::borrow_raw(slot.backend()) };
        let other = rustix::fs::fstat(other);
        other.is_ok_and(|other| {
            let file = (other.st_dev, other.st_ino) == (image.dev(), image.ino());
            // Several names may lead to one device.
            file || (image.file_type().is_block_device() && other.st_rdev == image.rdev())
        })
    };
    match slots.iter().find(same) {
        Some(slot) => {
            let why = format!(
                "is drive {} of this VM, too: only drives that cannot write may share it",
                slot.link.name
            );
            Error::Input("drive", drive.path.clone(), why)
        }
        None => error,
    }
}
