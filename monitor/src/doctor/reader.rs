//! Where checks read: files of the host, which they only look at.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::report::Verdict;
use crate::error::os_message;

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

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The text of a file, without white space around it.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(path))?;
        file.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Names in a directory, sorted.
    pub(super) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let entries = std::fs::read_dir(self.path(path))?;
        let mut names: Vec<String> = entries.flatten().map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Whether this process may do that with a file, by its effective user.
    pub(super) fn may(&self, path: &str, what: Access) -> io::Result<()> {
        may(&self.path(path), what)
    }

    /// A device, opened to read. Anything else of that name is left alone.
    pub(super) fn device(&self, path: &str) -> io::Result<File> {
        let path = self.path(path);
        if !path.metadata()?.file_type().is_char_device() {
            return Err(io::Error::other("is no device"));
        }
        File::open(path)
    }

    /// Has `judge` look at the text of a file; one that cannot be read is
    /// unknown, whatever the reason.
    pub(super) fn judge(&self, path: &str, judge: impl FnOnce(&str) -> Verdict) -> Verdict {
        match self.read(path) {
            Ok(text) => judge(&text),
            Err(error) => unreadable(path, &error),
        }
    }
}

pub(super) fn may(path: &Path, what: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, what, AtFlags::EACCESS)?)
}

pub(super) fn unreadable(path: &str, error: &io::Error) -> Verdict {
    Verdict::unknown(format!("{path}: {}", os_message(error)))
}

/// A number of bytes as people say it.
pub(super) fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 {
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}
