//! `mote doctor`: is this host, and is this image, fit for virtual machines?
//!
//! It reads and asks, and changes nothing: files are opened to read only, no
//! VM is created. Each check is a function of the text or number that was read,
//! so that it can be shown any host; [`Host`] does the reading.

mod host;
mod image;
mod kvm;
mod report;
mod sandbox;

#[cfg(test)]
mod doctor_test;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

pub use self::report::{Finding, Level, Report, Verdict};

use self::image::Image;
use crate::error::os_message;
use crate::sandbox::confine_reader;

/// Bytes of a file that are read at most; those of /proc and /sys are shorter.
const LIMIT: u64 = 1 << 20;

/// Where the host is read from.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// A host whose /proc, /sys and /dev are below `root`: `/` for the one that
    /// this runs on.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a file, without white space around it.
    fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(path))?;
        file.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Names in a directory, sorted.
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let entries = std::fs::read_dir(self.path(path))?;
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Whether this process may do that with a file, by its effective user.
    fn may(&self, path: &str, what: Access) -> io::Result<()> {
        may(&self.path(path), what)
    }

    /// A device, opened to read. Anything else of that name is left alone.
    fn device(&self, path: &str) -> io::Result<File> {
        let path = self.path(path);
        if !path.metadata()?.file_type().is_char_device() {
            return Err(io::Error::other("is no device"));
        }
        File::open(path)
    }

    /// Has `judge` look at the text of a file; one that cannot be read is
    /// unknown, whatever the reason.
    fn judge(&self, path: &str, judge: impl FnOnce(&str) -> Verdict) -> Verdict {
        match self.read(path) {
            Ok(text) => judge(&text),
            Err(error) => unreadable(path, &error),
        }
    }
}

fn may(path: &Path, what: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, what, AtFlags::EACCESS)?)
}

fn unreadable(path: &str, error: &io::Error) -> Verdict {
    Verdict::unknown(format!("{path}: {}", os_message(error)))
}

/// A number of bytes as people say it.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}

/// Looks at the host and at the images, whose bytes are strangers': the process is
/// confined for good before it reads any.
pub fn examine(at: &Host, images: &[PathBuf]) -> Report {
    let mut report = Report::default();
    host::check(at, &mut report);
    kvm::check(at, &mut report);
    sandbox::check(at, &mut report);
    if images.is_empty() {
        return report;
    }
    let images: Vec<Image> = images.iter().map(|path| Image::open(path)).collect();
    let numbers = images.iter().filter_map(Image::number);
    let confined = confine_reader(numbers, std::iter::empty(), None);
    for image in images {
        image.report(confined.as_ref().copied(), &mut report);
    }
    report
}
