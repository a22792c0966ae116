//! Boot configurations: what a medium says can be booted from it.

mod bls;
mod grub;
mod syslinux;
pub mod uki;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::Error;
use crate::volume::{Path, Volumes};

/// Bytes of a configuration file.
const MAX_TEXT: usize = 256 << 10;
/// Entries of one configuration.
const MAX_ENTRIES: usize = 256;
/// Initial RAM disks of one entry.
const MAX_INITRDS: usize = 16;
/// Bytes of a command line, of any variable and of any word.
const MAX_LINE: usize = 16 << 10;

/// Something that can be booted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What a menu shows; of an entry in a submenu with that one's title.
    pub title: String,
    /// What else names it: GRUB's `--id`, a label, a file's name.
    pub id: String,
    /// Where GRUB's menu has it, outermost submenu first: number from 0, title and
    /// identity of each submenu and of the entry itself.
    pub place: Vec<[String; 3]>,
    /// The kernel, or a unified kernel image.
    pub kernel: Option<Path>,
    /// Initial RAM disks, which the kernel gets one behind the other.
    pub initrds: Vec<Path>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Why it cannot be started, as far as that is known.
    pub flaw: Option<String>,
}

/// What a medium says can be booted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where it was found.
    pub source: String,
    /// Entries in the order of the menu.
    pub entries: Vec<Entry>,
    /// Index of the entry that is booted if nobody says otherwise.
    pub default: usize,
    /// What it names as its default in vain.
    pub lost: Option<String>,
}

impl Config {
    /// The entry with a title, an identity, a number as the menu shows it (from 1),
    /// a place as GRUB writes it (`1>2`, from 0, or `submenu>entry`), or the only
    /// one whose title begins so.
    ///
    /// # Errors
    /// There is none, or more than one title begins so.
    pub fn find(&self, name: &str) -> Result<usize, &'static str> {
        const NONE: &str = "no entry";
        let by = |fits: &dyn Fn(&Entry) -> bool| self.entries.iter().position(fits);
        let number = name.parse().ok().and_then(|n: usize| n.checked_sub(1));
        let whole = by(&|entry| entry.title == name || entry.id == name)
            .or(number.filter(|n| *n < self.entries.len()))
            .or_else(|| by(&|entry| name.contains('>') && entry.is_at(name, true)));
        if let Some(whole) = whole.filter(|_| !name.is_empty()) {
            return Ok(whole);
        }
        let begins = |(_, entry): &(usize, &Entry)| entry.title.starts_with(name);
        let mut beginning = self.entries.iter().enumerate().filter(begins);
        match (beginning.next().filter(|_| !name.is_empty()), beginning.next()) {
            (Some((index, _)), None) => Ok(index),
            (Some(_), Some(_)) => Err("more than one entry begins with"),
            (None, _) => Err(NONE),
        }
    }
}

impl Entry {
    /// Whether GRUB's menu has it at a place: numbers, titles or identities of the
    /// submenus and of the entry, with `>` between them. If that need not be
    /// `whole`, a submenu stands for all that is in it.
    fn is_at(&self, place: &str, whole: bool) -> bool {
        let parts = || place.split('>').map(str::trim);
        let count = parts().count();
        let mut pairs = self.place.iter().zip(parts());
        let long = if whole { self.place.len() == count } else { self.place.len() >= count };
        long && pairs.all(|(names, part)| names.iter().any(|name| !part.is_empty() && name == part))
    }
}

/// A way to read a configuration file.
type Reader = fn(&mut Volumes, &Path) -> Result<Config, Error>;

/// Files that GRUB's images read first.
const GRUB: [&str; 8] = [
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/grub/grub.cfg",
    "/grub2/grub.cfg",
    "/EFI/BOOT/grub.cfg",
    "/EFI/debian/grub.cfg",
    "/EFI/ubuntu/grub.cfg",
    "/EFI/fedora/grub.cfg",
];
/// What a GRUB on another medium reads that has this one as a file: its entries look
/// for such a file, so that anything else comes first.
const LOOPBACK: [&str; 2] = ["/boot/grub/loopback.cfg", "/boot/grub2/loopback.cfg"];
const SYSLINUX: [&str; 16] = [
    "/boot/extlinux/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/extlinux.conf",
    "/boot/isolinux/isolinux.cfg",
    "/isolinux/isolinux.cfg",
    "/isolinux.cfg",
    "/syslinux/isolinux.cfg",
    "/boot/x86_64/loader/isolinux.cfg",
    "/boot/isolinux.cfg",
    "/boot/syslinux/syslinux.cfg",
    "/syslinux/syslinux.cfg",
    "/syslinux.cfg",
    "/boot/syslinux.cfg",
    "/EFI/BOOT/syslinux.cfg",
];
const LOADER: [&str; 2] = ["/loader/entries", "/boot/loader/entries"];
const UNIFIED: [&str; 2] = ["/EFI/Linux", "/boot/EFI/Linux"];

/// The first configuration of a volume that names a kernel which is there.
/// `note` is told of each that was found and why it was refused.
pub fn find(volumes: &mut Volumes, volume: usize, note: &mut dyn FnMut(String)) -> Option<Config> {
    let mut sources: Vec<(&str, Reader)> = Vec::new();
    sources.extend(GRUB.map(|path| (path, grub::read as Reader)));
    sources.extend(LOADER.map(|path| (path, bls::read as Reader)));
    sources.extend(SYSLINUX.map(|path| (path, syslinux::read as Reader)));
    sources.extend(UNIFIED.map(|path| (path, bls::read as Reader)));
    sources.push(("/EFI/BOOT/BOOTX64.EFI", uki::single));
    sources.extend(LOOPBACK.map(|path| (path, grub::read as Reader)));
    for (source, read) in sources {
        let path = Path { volume, path: source.to_string() };
        if volumes.kind(&path).is_none() {
            continue;
        }
        let count = volumes.list.len();
        match read(volumes, &path) {
            Ok(mut config) => {
                let named = config.entries.len();
                let missing = keep_bootable(volumes, &mut config);
                if !config.entries.is_empty() {
                    config.source = source.to_string();
                    return Some(config);
                }
                note(match missing {
                    Some(kernel) => format!("{source}: {kernel}: no such kernel"),
                    None if named > 0 => format!("{source}: entries, but none with a kernel"),
                    None => format!("{source}: no entries"),
                });
            }
            Err(why) => note(format!("{source}: {why}")),
        }
        volumes.list.truncate(count);
    }
    None
}

/// The default that a configuration names, if it has no such entry. GRUB's first
/// entry is named by 0, and by nothing.
fn lost(found: Option<usize>, name: &str) -> Option<String> {
    let named = found.is_none() && !matches!(name.trim(), "" | "0" | "saved");
    named.then(|| name.to_string())
}

/// Leaves out entries without a kernel; the default stays the same entry.
/// Returns a kernel that was named and is not there.
fn keep_bootable(volumes: &Volumes, config: &mut Config) -> Option<String> {
    let mut missing = None;
    let (mut index, mut default) = (0, 0);
    let named = config.entries.get(config.default).filter(|_| config.lost.is_none());
    if let Some(entry) = named.filter(|entry| !is_there(volumes, entry)) {
        config.lost = Some(entry.title.clone());
    }
    config.entries.retain(|entry| {
        let there = is_there(volumes, entry);
        if let Some(kernel) = entry.kernel.as_ref().filter(|_| !there) {
            missing = Some(kernel.path.clone());
        }
        if index < config.default && there {
            default += 1;
        }
        index += 1;
        there
    });
    config.default = default.min(config.entries.len().saturating_sub(1));
    missing
}

fn is_there(volumes: &Volumes, entry: &Entry) -> bool {
    let kernel = entry.kernel.as_ref();
    kernel.is_some_and(|kernel| volumes.kind(kernel).is_some())
}

/// Compares names as versions (UAPI.10): numbers by their value, and separators
/// from the least: `~`, the end, `-`, `^`, `.`.
fn by_version(a: &str, b: &str) -> Ordering {
    let known = |c: &u8| c.is_ascii_alphanumeric() || b"~-^.".contains(c);
    let [a, b] = [a, b].map(|text| text.bytes().filter(known).collect::<Vec<u8>>());
    let (mut a, mut b) = (a.as_slice(), b.as_slice());
    loop {
        let first = (a.first().copied(), b.first().copied());
        if let (None, None) = first {
            return Ordering::Equal;
        }
        for separator in [Some(b'~'), None, Some(b'-'), Some(b'^'), Some(b'.')] {
            let order = (first.0 != separator).cmp(&(first.1 != separator));
            if order.is_ne() {
                return order;
            }
        }
        if first.0 == first.1 && first.0.is_some_and(|c| !c.is_ascii_alphanumeric()) {
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
            continue;
        }
        let numbers = [a, b].iter().any(|text| text.first().is_some_and(u8::is_ascii_digit));
        let part = |text: &[u8]| {
            let same = |c: &&u8| match numbers {
                true => c.is_ascii_digit(),
                false => c.is_ascii_alphabetic(),
            };
            text.iter().take_while(same).count()
        };
        let (x, y) = (a.split_at(part(a)), b.split_at(part(b)));
        let value = |digits: &[u8]| {
            let zeroes = digits.iter().take_while(|digit| **digit == b'0').count();
            let digits = digits.get(zeroes..).unwrap_or_default().to_vec();
            (digits.len(), digits)
        };
        let order = match numbers {
            true => value(x.0).cmp(&value(y.0)),
            false => x.0.cmp(y.0),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (x.1, y.1);
    }
}

/// The first word of a line and what follows it.
fn key_value(line: &str) -> (&str, &str) {
    let line = line.trim();
    let end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (key, value) = line.split_at(end);
    (key, value.trim())
}

#[cfg(test)]
#[path = "../config_test.rs"]
mod config_test;
