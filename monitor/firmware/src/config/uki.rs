//! Unified kernel images: PE files with a kernel, its initrd and command line
//! as sections (UAPI.5; Microsoft PE format).

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::entry::{Config, Entry, MAX_LINE};
use super::order::Key;
use crate::Error;
use crate::bytes::{le16, le32, part, text};
use crate::disk::File;
use crate::volume::{Path, Volumes};

const DAMAGED: Error = Error::Damaged("PE file");
/// Sections of an image.
const MAX_SECTIONS: u16 = 96;
/// Bytes of the release information.
const MAX_RELEASE: usize = 16 << 10;

/// What a unified kernel image holds.
pub struct Unified {
    /// The kernel.
    pub kernel: File,
    /// Microcode and the initial RAM disk, as far as it has them.
    pub initrds: Vec<File>,
    /// The command line.
    pub cmdline: Option<String>,
    /// What it says of its system (os-release).
    pub release: String,
}

/// Takes a unified kernel image apart; `None` if the file is none.
///
/// # Errors
/// It is damaged, or cannot be read.
pub fn open(file: &File) -> Result<Option<Unified>, Error> {
    let head = file.head(4096)?;
    let at = le32(&head, 0x3c) as usize;
    if !head.starts_with(b"MZ") || part(&head, at, 4) != b"PE\0\0" {
        return Ok(None);
    }
    let (sections, optional) = (le16(&head, at + 6), le16(&head, at + 20));
    if sections > MAX_SECTIONS {
        return Err(DAMAGED);
    }
    let table = at as u64 + 24 + u64::from(optional);
    let mut raw = vec![0; usize::from(sections) * 40];
    file.read(table, &mut raw)?;
    let section = |name: &str| {
        let mut wanted = raw.chunks_exact(40);
        let header = wanted.find(|header| text(part(header, 0, 8)) == name)?;
        // The size in the file is rounded up, that in memory is not.
        let len = le32(header, 8).min(le32(header, 16));
        Some(file.slice(le32(header, 20).into(), len.into()))
    };
    let Some(kernel) = section(".linux") else {
        return Ok(None);
    };
    let words = |name, most| match section(name) {
        Some(found) => found?.whole(most).map(|bytes| Some(text(&bytes))),
        None => Ok(None),
    };
    let initrds = [".ucode", ".initrd"].into_iter().filter_map(section);
    Ok(Some(Unified {
        kernel: kernel?,
        initrds: initrds.collect::<Result<_, _>>()?,
        cmdline: words(".cmdline", MAX_LINE)?,
        release: words(".osrel", MAX_RELEASE)?.unwrap_or_default(),
    }))
}

impl Unified {
    /// The first of some values that it says of its system; empty if it has none.
    pub(super) fn says(&self, names: &[&str]) -> String {
        let value = |name: &&str| {
            let mut lines = self.release.lines().filter_map(|line| line.split_once('='));
            let (_, value) = lines.find(|(key, _)| key == name)?;
            Some(value.trim().trim_matches(['"', '\'']).to_string())
        };
        names.iter().find_map(value).unwrap_or_default()
    }
}

/// An image as an entry of a menu, with what it is sorted by; `None` if it is none.
pub(super) fn entry(
    volumes: &Volumes,
    path: &Path,
    id: &str,
) -> Result<Option<(Key, Entry)>, Error> {
    let Some(unified) = open(&volumes.open(path)?)? else {
        return Ok(None);
    };
    let key = Key {
        sort: unified.says(&["IMAGE_ID", "ID"]),
        version: unified.says(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]),
        id: id.to_string(),
        ..Key::default()
    };
    let title = unified.says(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"]);
    let entry = Entry {
        title: if title.is_empty() { id.to_string() } else { title },
        id: id.to_string(),
        kernel: Some(path.clone()),
        ..Entry::default()
    };
    Ok(Some((key, entry)))
}

/// The one image that UEFI would start: a unified kernel image, or a kernel
/// that is a program for UEFI as well.
pub(super) fn single(volumes: &mut Volumes, path: &Path) -> Result<Config, Error> {
    let mut found = entry(volumes, path, "BOOTX64.EFI")?.map(|(_, entry)| entry);
    let head = volumes.open(path)?.head(1024)?;
    if found.is_none() && part(&head, 0x202, 4) == b"HdrS" {
        found = Some(Entry {
            title: "BOOTX64.EFI".to_string(),
            kernel: Some(path.clone()),
            ..Entry::default()
        });
    }
    let none = "a program for UEFI that is neither a kernel nor holds one";
    let entries = [found.ok_or(Error::Unsupported(none))?].into();
    Ok(Config { entries, ..Config::default() })
}
