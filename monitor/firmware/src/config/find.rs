//! Where configurations lie, in the order in which they are read.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::entry::{Config, Entry};
use super::{bls, grub, syslinux, uki};
use crate::Error;
use crate::volume::{Path, Volumes};

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
