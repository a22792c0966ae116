//! Unified kernel images: PE files with a kernel, its initrd and command line
//! as sections (UAPI.5; Microsoft PE format), and the add-ons beside them
//! (systemd-stub(7)).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::entry::{Config, Entry, MAX_INITRDS, MAX_LINE};
use super::order::{Key, counted};
use crate::Error;
use crate::bytes::{le16, le32, part, text};
use crate::disk::File;
use crate::volume::{Path, Volumes};

const DAMAGED: Error = Error::Damaged("PE file");
/// Sections of an image.
const MAX_SECTIONS: u16 = 96;
/// Bytes of the release information.
const MAX_RELEASE: usize = 16 << 10;

/// What a unified kernel image and its add-ons hold.
pub struct Unified {
    /// The kernel.
    pub kernel: File,
    /// Microcode and initial RAM disks.
    pub initrds: Vec<File>,
    /// The image's own command line.
    pub cmdline: String,
    /// What the add-ons append to a command line.
    pub more: String,
}

/// The unified kernel image at a path, with its add-ons; `None` if the file is not one.
///
/// # Errors
/// It is damaged, or cannot be read.
pub fn open(volumes: &Volumes, path: &Path) -> Result<Option<Unified>, Error> {
    let Some(image) = Image::open(volumes.open(path)?)? else {
        return Ok(None);
    };
    let Some(kernel) = image.section(".linux")? else {
        return Ok(None);
    };
    let (cmdline, mut more) = (image.text(".cmdline", MAX_LINE)?, String::new());
    let mut images = vec![image];
    let (dir, name) = path.path.rsplit_once('/').unwrap_or(("", &path.path));
    let plain = format!("{dir}/{}.extra.d", counted(name).0);
    let own = format!("{}.extra.d", path.path);
    let own = if volumes.kind(&path.beside(&own)).is_some() { own } else { plain };
    for dir in ["/loader/addons", &own] {
        let dir = path.beside(dir);
        for name in volumes.names(&dir).unwrap_or_default() {
            let addon = name.to_ascii_lowercase().ends_with(".addon.efi");
            if !addon || images.len() == MAX_INITRDS {
                continue;
            }
            let addon = volumes.open(&dir.beside(&format!("{}/{name}", dir.path)))?;
            let Some(addon) = Image::open(addon)? else {
                continue;
            };
            let words = addon.text(".cmdline", MAX_LINE)?;
            if !words.is_empty() && more.len() + words.len() < MAX_LINE {
                more = format!("{more} {}", words.trim());
            }
            images.push(addon);
        }
    }
    let mut initrds = Vec::new();
    for name in [".ucode", ".initrd"] {
        for image in &images {
            initrds.extend(image.section(name)?);
        }
    }
    Ok(Some(Unified { kernel, initrds, cmdline, more }))
}

/// A PE file and its section headers.
struct Image {
    file: File,
    headers: Vec<u8>,
}

impl Image {
    /// `None` if the file is not of that format.
    fn open(file: File) -> Result<Option<Self>, Error> {
        let head = file.head(4096)?;
        let at = le32(&head, 0x3c) as usize;
        if !head.starts_with(b"MZ") || part(&head, at, 4) != b"PE\0\0" {
            return Ok(None);
        }
        let (sections, optional) = (le16(&head, at + 6), le16(&head, at + 20));
        if sections > MAX_SECTIONS {
            return Err(DAMAGED);
        }
        let mut headers = vec![0; usize::from(sections) * 40];
        file.read(at as u64 + 24 + u64::from(optional), &mut headers)?;
        Ok(Some(Self { file, headers }))
    }

    fn section(&self, name: &str) -> Result<Option<File>, Error> {
        let mut headers = self.headers.chunks_exact(40);
        let header = headers.find(|header| text(part(header, 0, 8)) == name);
        // The size in the file is rounded up, that in memory is not.
        let len = |header| le32(header, 8).min(le32(header, 16));
        let slice = |header| self.file.slice(le32(header, 20).into(), len(header).into());
        header.map(slice).transpose()
    }

    /// A section's text; empty if there is none.
    fn text(&self, name: &str, most: usize) -> Result<String, Error> {
        let section = self.section(name)?;
        let bytes = section.map(|section| section.whole(most)).transpose()?;
        Ok(text(&bytes.unwrap_or_default()))
    }
}

/// An image as an entry of a menu, with what it is sorted by; `None` if it is not one.
pub(super) fn entry(
    volumes: &Volumes,
    path: &Path,
    id: &str,
) -> Result<Option<(Key, Entry)>, Error> {
    let Some(image) = Image::open(volumes.open(path)?)? else {
        return Ok(None);
    };
    if image.section(".linux")?.is_none() {
        return Ok(None);
    }
    let release = image.text(".osrel", MAX_RELEASE)?;
    // The first of some values that it says of its system.
    let says = |names: &[&str]| {
        let value = |name: &&str| {
            let mut lines = release.lines().filter_map(|line| line.split_once('='));
            let (_, value) = lines.find(|(key, _)| key == name)?;
            Some(value.trim().trim_matches(['"', '\'']).to_string())
        };
        names.iter().find_map(value).unwrap_or_default()
    };
    let key = Key {
        sort: says(&["IMAGE_ID", "ID"]),
        version: says(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]),
        id: id.to_string(),
        ..Key::default()
    };
    let title = says(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"]);
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
