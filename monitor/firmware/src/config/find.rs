//! Where configurations lie, in the order in which they are read.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::entry::{Config, Entry};
use super::{bls, elilo, grub, limine, syslinux, uki};
use crate::Error;
use crate::volume::{Path, Volumes};

/// A way to read a configuration file.
type Reader = fn(&mut Volumes, &Path) -> Result<Config, Error>;

/// Directories of `/EFI` that are looked at.
const MAX_VENDORS: usize = 64;

/// A family of configuration files, read one way.
type Family = (Reader, &'static [&'static str]);

/// All of them in their order; `*` stands for each directory of `/EFI`.
const FAMILIES: [Family; 8] = [
    // Installers and distributions put GRUB's on the medium that it boots from; what else
    // lies beside it is for other firmware or another way to boot the same.
    (
        grub::read,
        &[
            "/boot/grub/grub.cfg",
            "/boot/grub2/grub.cfg",
            "/grub/grub.cfg",
            "/grub2/grub.cfg",
            "/EFI/BOOT/grub.cfg",
            "/EFI/*/grub.cfg",
        ],
    ),
    // Entries that systemd-boot has on its ESP, and GRUB where it has no `grub.cfg`.
    (bls::read, &["/loader/entries", "/boot/loader/entries"]),
    // A PC's BIOS boots these, so that they come after what UEFI would have started.
    (
        syslinux::read,
        &[
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
        ],
    ),
    (
        limine::read,
        &[
            "/boot/limine/limine.conf",
            "/boot/limine.conf",
            "/limine/limine.conf",
            "/limine.conf",
            "/EFI/*/limine.conf",
            "/boot/limine/limine.cfg",
            "/boot/limine.cfg",
            "/limine/limine.cfg",
            "/limine.cfg",
            "/EFI/*/limine.cfg",
        ],
    ),
    (elilo::read, &["/EFI/BOOT/elilo.conf", "/elilo.conf", "/EFI/*/elilo.conf"]),
    // Unified images without a menu.
    (bls::read, &["/EFI/Linux", "/boot/EFI/Linux"]),
    // What UEFI starts where there is no configuration.
    (uki::single, &["/EFI/BOOT/BOOTX64.EFI"]),
    // For a GRUB on another medium that has this one as a file: the entries look for
    // such a file.
    (grub::read, &["/boot/grub/loopback.cfg", "/boot/grub2/loopback.cfg"]),
];

/// The first configuration of a volume that names a kernel which is there.
/// `note` is told of each that was found and why it was refused.
pub fn find(volumes: &mut Volumes, volume: usize, note: &mut dyn FnMut(String)) -> Option<Config> {
    let vendors = Path { volume, path: "/EFI".to_string() };
    let mut vendors = volumes.names(&vendors).unwrap_or_default();
    vendors.truncate(MAX_VENDORS);
    let mut sources: Vec<(String, Reader)> = Vec::new();
    for (read, places) in FAMILIES {
        for place in places {
            match place.split_once('*') {
                None => sources.push((place.to_string(), read)),
                Some((dir, file)) => {
                    sources.extend(vendors.iter().map(|name| (format!("{dir}{name}{file}"), read)));
                }
            }
        }
    }
    for (source, read) in sources {
        let path = Path { volume, path: source.clone() };
        if volumes.kind(&path).is_none() {
            continue;
        }
        let count = volumes.list.len();
        match read(volumes, &path) {
            Ok(mut config) => match check(volumes, &mut config) {
                Ok(()) => {
                    config.source = source;
                    return Some(config);
                }
                Err(why) => note(format!("{source}: {why}")),
            },
            Err(why) => note(format!("{source}: {why}")),
        }
        volumes.list.truncate(count);
    }
    None
}

/// Says of each entry without a kernel why it cannot start; the default becomes the next
/// one that can. Returns the reason of one if none can.
fn check(volumes: &Volumes, config: &mut Config) -> Result<(), String> {
    for entry in config.entries.iter_mut().filter(|entry| entry.flaw.is_none()) {
        entry.flaw = match &entry.kernel {
            None => Some("no kernel".to_string()),
            Some(kernel) if volumes.kind(kernel).is_some() => None,
            Some(kernel) => {
                let device = volumes.list.get(kernel.volume).map_or("", |volume| &volume.device);
                Some(format!("({device}){}: no such kernel", kernel.path))
            }
        };
    }
    let able = |entry: &&Entry| entry.flaw.is_none();
    let count = config.entries.iter().filter(able).count();
    let index = config.entries.iter().skip(config.default).position(|entry| able(&entry));
    let first = config.entries.iter().position(|entry| able(&entry));
    let wanted = config.entries.get(config.default).filter(|_| config.lost.is_none());
    if let Some((title, flaw)) = wanted.and_then(|e| Some((&e.title, e.flaw.as_ref()?))) {
        config.lost = Some(format!("'{title}' cannot be started: {flaw}"));
    }
    let flaw = config.entries.iter().rev().find_map(|entry| entry.flaw.clone());
    config.default = index.map(|index| index + config.default).or(first).unwrap_or(0);
    match (count, flaw) {
        (0, flaw) => Err(flaw.unwrap_or("no entries".to_string())),
        _ => Ok(()),
    }
}
