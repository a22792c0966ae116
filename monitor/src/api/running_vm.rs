//! What requests need: of a VM that runs, and of the host's files.

use std::fs;
use std::path::Path;

use mote_virtio::rate::RateLimiter;

use super::log;
use crate::boot::Source;
use crate::config::{Drive, SnapshotKind, VmConfig};
use crate::counts::Counts;
use crate::error::Error;
use crate::host::disk;

/// A running VM, as the API sees it. Devices have the numbers of their windows.
pub trait Vm {
    /// Whether it is paused.
    fn is_paused(&self) -> bool;
    /// Stops vCPUs and devices.
    ///
    /// # Errors
    /// A vCPU does not stop.
    fn pause(&mut self) -> Result<(), Error>;
    /// Resumes them.
    fn resume(&mut self);
    /// Presses the power button.
    ///
    /// # Errors
    /// Why it has none.
    fn power_button(&mut self) -> Result<(), String>;
    /// Sets the limits of a drive, or of what a network interface receives; and
    /// of what that sends.
    fn limit(&mut self, device: usize, limits: [Option<RateLimiter>; 2]);
    /// Looks how large a drive's image is now.
    ///
    /// # Errors
    /// The host's, or the image has become smaller.
    fn resize(&mut self, device: usize) -> Result<(), String>;
    /// Puts another medium into a drive that is only read, or none.
    ///
    /// # Errors
    /// It cannot be used, or not any more.
    fn change(&mut self, device: usize, path: Option<&Path>) -> Result<(), String>;
    /// Saves it, while it is paused, to two files that are not there yet.
    ///
    /// # Errors
    /// They cannot be made; then neither is there.
    fn save(&mut self, state: &Path, memory: &Path, kind: SnapshotKind) -> Result<(), String>;
    /// What it has counted.
    fn metrics(&self, to: &mut Counts);
}

/// What a request needs of the host's files before the start.
pub trait Files {
    /// Opens a file or named pipe to add to, making it if it is missing, for
    /// the VM that has been described so far.
    ///
    /// # Errors
    /// It cannot be opened, or is neither a file nor a pipe.
    fn append(&self, what: &'static str, path: &Path, of: &VmConfig) -> Result<fs::File, Error>;
    /// Whether a kernel and an initrd can be opened.
    ///
    /// # Errors
    /// They cannot.
    fn check_kernel(&self, kernel: &Path, initrd: Option<&Path>) -> Result<(), Error>;
    /// Whether a drive's image can be opened.
    ///
    /// # Errors
    /// It cannot.
    fn check_drive(&self, drive: &Drive) -> Result<(), Error>;
}

/// The host's.
pub struct HostFiles;

impl Files for HostFiles {
    fn append(&self, what: &'static str, path: &Path, of: &VmConfig) -> Result<fs::File, Error> {
        log::open(what, path, of)
    }

    fn check_kernel(&self, kernel: &Path, initrd: Option<&Path>) -> Result<(), Error> {
        Source::open(kernel, initrd, None).map(|_| ())
    }

    fn check_drive(&self, drive: &Drive) -> Result<(), Error> {
        disk::check(drive)
    }
}
