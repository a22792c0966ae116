//! Boot Loader Specification entries: one file for each
//! (UAPI.1, type 1; Fedora's `blscfg` reads the same files).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{Config, Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE, MAX_TEXT, by_version, key_value};
use crate::Error;
use crate::volume::{Path, Volumes};

/// Values of variables in an entry, as `grub.cfg` or `grubenv` set them.
pub(super) type Variables = BTreeMap<String, String>;

pub(super) fn read(volumes: &Volumes, dir: &Path) -> Result<Config, Error> {
    let entries = entries(volumes, dir, &Variables::new())?;
    let loader = dir.beside("loader.conf");
    let settings = volumes.text(&loader, MAX_TEXT).unwrap_or_default();
    let default = settings
        .lines()
        .map(key_value)
        .find(|(key, _)| *key == "default");
    let default = default.map_or("", |(_, value)| value);
    // A pattern as in a shell; only its usual form, a star at the end.
    let default = default.trim_end_matches(".conf").trim_end_matches('*');
    let fits = |entry: &Entry| !default.is_empty() && entry.id.starts_with(default);
    let found = entries.iter().position(fits);
    Ok(Config {
        lost: super::lost(found, default),
        default: found.unwrap_or(0),
        entries,
        ..Config::default()
    })
}

/// The entries of a directory, the newest first.
pub(super) fn entries(
    volumes: &Volumes,
    dir: &Path,
    variables: &Variables,
) -> Result<Vec<Entry>, Error> {
    let mut found: Vec<(Key, Entry)> = Vec::new();
    for name in volumes.names(dir)?.into_iter().take(MAX_ENTRIES) {
        let Some(id) = name.strip_suffix(".conf") else {
            continue;
        };
        let path = Path {
            volume: dir.volume,
            path: format!("{}/{name}", dir.path),
        };
        let text = volumes.text(&path, MAX_TEXT)?;
        found.push(parse(volumes, &path, id, &text, variables));
    }
    found.sort_by(|a, b| a.0.order(&b.0));
    Ok(found.into_iter().map(|(_, entry)| entry).collect())
}

/// What entries are sorted by.
#[derive(Default)]
struct Key {
    sort: String,
    machine: String,
    version: String,
    id: String,
}

impl Key {
    fn order(&self, other: &Self) -> Ordering {
        // Entries without a key come last, and newer ones first.
        let keyed = other.sort.is_empty().cmp(&self.sort.is_empty()).reverse();
        let version = || by_version(&other.version, &self.version);
        keyed
            .then_with(|| self.sort.cmp(&other.sort))
            .then_with(|| self.machine.cmp(&other.machine))
            .then_with(version)
            .then_with(|| by_version(&other.id, &self.id))
    }
}

fn parse(
    volumes: &Volumes,
    path: &Path,
    id: &str,
    text: &str,
    variables: &Variables,
) -> (Key, Entry) {
    let mut key = Key {
        id: id.to_string(),
        ..Key::default()
    };
    let mut entry = Entry {
        id: id.to_string(),
        ..Entry::default()
    };
    // Paths start at the root of the volume; where /boot is one of its own,
    // but the entries say /boot, that has to go.
    let place = |name: &str| {
        let whole = Path {
            volume: path.volume,
            path: format!("/{}", name.trim_start_matches('/')),
        };
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
                entry
                    .initrds
                    .extend(value.split_whitespace().take(rest).map(place));
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

/// Replaces `$name` by its value, as Fedora's entries expect.
fn expand(text: &str, variables: &Variables) -> String {
    let mut parts = text.split('$');
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
        let (name, rest) = part.split_at(end);
        let value = variables.get(name).map_or("", String::as_str);
        if result.len() + value.len() < MAX_LINE {
            result.push_str(value);
        }
        result.push_str(rest);
    }
    result.trim().to_string()
}
