//! Unified kernel images: PE files with a kernel, its initrd and command line
//! as sections (UAPI.5; Microsoft PE format).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

use super::{Config, Entry, MAX_ENTRIES, MAX_LINE, by_version};
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
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// The command line.
    pub cmdline: Option<String>,
    /// What a menu shows.
    pub title: Option<String>,
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
    let title = words(".osrel", MAX_RELEASE)?.and_then(|release| {
        let line = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches(['"', '\'']).to_string())
    });
    Ok(Some(Unified {
        kernel: kernel?,
        initrd: section(".initrd").transpose()?,
        cmdline: words(".cmdline", MAX_LINE)?,
        title,
    }))
}

fn entry(volumes: &Volumes, path: &Path, id: &str) -> Result<Option<Entry>, Error> {
    let Some(unified) = open(&volumes.open(path)?)? else {
        return Ok(None);
    };
    Ok(Some(Entry {
        title: unified.title.unwrap_or_else(|| id.to_string()),
        id: id.to_string(),
        kernel: Some(path.clone()),
        ..Entry::default()
    }))
}

/// The images of a directory, the newest first.
pub(super) fn list(volumes: &Volumes, dir: &Path) -> Result<Config, Error> {
    let mut config = Config::default();
    let mut names = volumes.names(dir)?;
    names.retain(|name| name.to_ascii_lowercase().ends_with(".efi"));
    names.sort_by(|a, b| by_version(b, a));
    for name in names.iter().take(MAX_ENTRIES) {
        let path = Path {
            volume: dir.volume,
            path: format!("{}/{name}", dir.path),
        };
        let id = name.get(..name.len() - 4).unwrap_or(name);
        config.entries.extend(entry(volumes, &path, id)?);
    }
    Ok(config)
}

/// The one image that UEFI would start: a unified kernel image, or a kernel
/// that is a program for UEFI as well.
pub(super) fn single(volumes: &Volumes, path: &Path) -> Result<Config, Error> {
    let mut found = entry(volumes, path, "BOOTX64.EFI")?;
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
    Ok(Config {
        entries,
        ..Config::default()
    })
}
