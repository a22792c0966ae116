//! Boot Loader Specification entries: one file for each
//! (UAPI.1, type 1; Fedora's `blscfg` reads the same files).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::entry::{
    Config, Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE, MAX_TEXT, Variables, bounded, expand,
    key_value, lost,
};
use super::order::{Key, counted, stem};
use super::{regexp, uki};
use crate::Error;
use crate::volume::{Path, Volumes};

/// A menu as systemd-boot has it: entries' files beside unified kernel images, in one
/// order. `dir` is the directory of either.
pub(super) fn read(volumes: &mut Volumes, dir: &Path) -> Result<Config, Error> {
    let root =
        ["/loader/entries", "/EFI/Linux"].into_iter().find_map(|end| dir.path.strip_suffix(end));
    let at = |path: &str| Path {
        volume: dir.volume,
        path: format!("{}{path}", root.unwrap_or_default()),
    };
    let mut found = Vec::new();
    let entries = at("/loader/entries");
    if volumes.kind(&entries).is_some() {
        found = keyed(volumes, &entries, &Variables::new())?;
    }
    let images = at("/EFI/Linux");
    for name in volumes.names(&images).unwrap_or_default() {
        if found.len() < MAX_ENTRIES && name.to_ascii_lowercase().ends_with(".efi") {
            let path = images.beside(&format!("{}/{name}", images.path));
            let (id, bad) = counted(&name);
            let image = uki::entry(volumes, &path, &id)?;
            found.extend(image.map(|(key, entry)| (Key { bad, ..key }, entry)));
        }
    }
    found.sort_by(|a, b| a.0.order(&b.0));
    let default = default(volumes, &at("/loader/loader.conf"));
    // As it is before as a pattern, and the identity with its suffix or without.
    let named = |fits: &dyn Fn(&str) -> bool| {
        let mut keys = found.iter().map(|(key, _)| key.id.to_ascii_lowercase());
        keys.position(|id| fits(&id) || fits(stem(&id)))
    };
    let wanted = default.to_ascii_lowercase();
    let index = named(&|id| id == wanted).or_else(|| named(&|id| regexp::matches(&wanted, id)));
    Ok(Config {
        lost: lost(index, &default),
        default: index.unwrap_or(0),
        entries: found.into_iter().map(|(_, entry)| entry).collect(),
        ..Config::default()
    })
}

/// The default that `loader.conf` names: the one on the EFI system partition, also
/// where entries lie on a partition of their own.
fn default(volumes: &Volumes, own: &Path) -> String {
    let drive = volumes.list.get(own.volume).map(|volume| volume.drive);
    let mut places: Vec<Path> = (0..volumes.list.len())
        .map(|volume| Path { volume, path: String::from("/loader/loader.conf") })
        .collect();
    places.retain(|place| {
        let volume = volumes.list.get(place.volume);
        volume.is_some_and(|v| Some(v.drive) == drive && v.fs.name() == "FAT")
    });
    places.sort_by_key(|place| place.volume != own.volume);
    places.push(own.clone());
    let text = places.iter().find_map(|place| volumes.text(place, MAX_TEXT).ok());
    let text = text.unwrap_or_default();
    let mut lines = text.lines().map(key_value);
    let default = lines.find(|(key, _)| *key == "default");
    default.map_or("", |(_, value)| value).to_string()
}

/// The entries of a directory, the newest first, for GRUB's `blscfg`, whose
/// variables they may use.
pub(super) fn entries(
    volumes: &Volumes,
    dir: &Path,
    variables: &Variables,
) -> Result<Vec<Entry>, Error> {
    let mut found = keyed(volumes, dir, variables)?;
    found.sort_by(|a, b| a.0.order(&b.0));
    let value = |name| variables.get(name).map_or("", String::as_str);
    let entries = found.into_iter().map(|(_, mut entry)| {
        if entry.cmdline.is_empty() {
            entry.cmdline = expand(value("default_kernelopts"), variables);
        }
        if let Some(kernel) = &entry.kernel {
            let early = value("early_initrd").split_whitespace();
            let early: Vec<Path> = early.map(|name| kernel.beside(name)).collect();
            entry.initrds.splice(0..0, early);
            entry.initrds.truncate(MAX_INITRDS);
        }
        entry
    });
    Ok(entries.collect())
}

fn keyed(volumes: &Volumes, dir: &Path, variables: &Variables) -> Result<Vec<(Key, Entry)>, Error> {
    let mut found: Vec<(Key, Entry)> = Vec::new();
    for name in volumes.names(dir)?.into_iter().take(MAX_ENTRIES) {
        if !name.ends_with(".conf") {
            continue;
        }
        let path = Path { volume: dir.volume, path: format!("{}/{name}", dir.path) };
        let text = volumes.text(&path, MAX_LINE)?;
        let (id, bad) = counted(&name);
        let (key, entry) = parse(volumes, &path, stem(&id), &text, variables);
        found.push((Key { bad, id, ..key }, entry));
        bounded(found.iter().map(|found| &found.1))?;
    }
    Ok(found)
}

fn parse(
    volumes: &Volumes,
    path: &Path,
    id: &str,
    text: &str,
    variables: &Variables,
) -> (Key, Entry) {
    let mut key = Key { id: id.to_string(), ..Key::default() };
    let mut entry = Entry { id: id.to_string(), ..Entry::default() };
    // Paths start at the root of the volume; where /boot is one of its own,
    // but the entries say /boot, that has to go.
    let place = |name: &str| {
        let whole =
            Path { volume: path.volume, path: format!("/{}", name.trim_start_matches('/')) };
        let short = name.trim_start_matches('/').strip_prefix("boot/");
        match short {
            Some(short) if volumes.kind(&whole).is_none() => whole.beside(&format!("/{short}")),
            _ => whole,
        }
    };
    for line in text.lines() {
        let (name, value) = key_value(line);
        let value = &expand(value, variables);
        match name {
            "title" => entry.title = value.clone(),
            "sort-key" => key.sort = value.clone(),
            "machine-id" => key.machine = value.clone(),
            "version" => key.version = value.clone(),
            "linux" | "efi" | "uki" => entry.kernel = Some(place(value)),
            "initrd" => {
                let rest = MAX_INITRDS - entry.initrds.len();
                entry.initrds.extend(value.split_whitespace().take(rest).map(place));
            }
            "options" if entry.cmdline.len() + value.len() < MAX_LINE => {
                if !entry.cmdline.is_empty() {
                    entry.cmdline.push(' ');
                }
                entry.cmdline.push_str(value);
            }
            _ => {}
        }
    }
    if entry.title.is_empty() {
        entry.title = id.to_string();
    }
    if !key.version.is_empty() && !entry.title.contains(&key.version) {
        entry.title = format!("{} ({})", entry.title, key.version);
    }
    (key, entry)
}
