//! Limine's configuration: `limine.conf`, and `limine.cfg` of before version 8
//! (Limine, CONFIG.md).

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::entry::{
    Config, Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE, MAX_TEXT, Variables, assignment, bounded,
    expand, lost,
};
use crate::Error;
use crate::volume::{Path, Search, Volumes};

/// Menus inside menus, and macros.
const MAX_DEPTH: usize = 16;
const MAX_MACROS: usize = 64;

pub(super) fn read(volumes: &mut Volumes, path: &Path) -> Result<Config, Error> {
    let text = volumes.text(path, MAX_TEXT)?;
    let (mark, separator) = if path.path.ends_with(".cfg") { (':', '=') } else { ('/', ':') };
    let mut macros = Variables::new();
    macros.insert("ARCH".to_owned(), "x86-64".to_owned());
    let mut entries: Vec<Entry> = Vec::new();
    // The menus that the next line lies in, and whether each shows what is in it.
    let mut menus: Vec<(String, bool)> = Vec::new();
    // Which entry, or first entry of a menu, each line of the menu stands for.
    let mut shown = Vec::new();
    let mut default = "1".to_owned();
    // Directories have no keys of their own but a comment.
    let mut open = false;
    for line in text.lines().map(|line| line.trim().get(..MAX_LINE).unwrap_or(line.trim())) {
        let title = line.trim_start_matches(mark);
        let depth = line.len() - title.len();
        if depth > 0 {
            let (name, expanded) = match title.trim().strip_prefix('+') {
                Some(name) => (name.trim(), true),
                None => (title.trim(), false),
            };
            menus.truncate(depth - 1);
            if menus.iter().all(|menu| menu.1) {
                shown.push(entries.len());
            }
            if menus.len() < MAX_DEPTH {
                menus.push((name.to_owned(), expanded));
            }
            open = false;
            continue;
        }
        if let Some((name, value)) = line.strip_prefix("${").and_then(|l| l.split_once("}=")) {
            if macros.len() < MAX_MACROS {
                macros.insert(name.to_owned(), expand(value, &macros));
            }
            continue;
        }
        let Some((key, value)) = assignment(line, separator) else { continue };
        let value = expand(value, &macros);
        if menus.is_empty() {
            if key == "default_entry" {
                default = value;
            }
            continue;
        }
        if key == "comment" || (!open && entries.len() == MAX_ENTRIES) {
            continue;
        }
        if !open {
            let titles: Vec<&str> = menus.iter().map(|menu| menu.0.as_str()).collect();
            let id = titles.last().copied().unwrap_or_default().to_owned();
            bounded(&entries)?;
            entries.push(Entry { title: titles.join(" > "), id, ..Entry::default() });
            open = true;
        }
        if let Some(entry) = entries.last_mut() {
            set(entry, &key, value, volumes, path);
        }
    }
    bounded(&entries)?;
    let number = default.parse().unwrap_or(0usize).checked_sub(1);
    let index = number.and_then(|number| shown.get(number)).copied();
    let titled = || entries.iter().position(|entry| entry.id == default || entry.title == default);
    let index = index.filter(|index| *index < entries.len()).or_else(titled);
    let lost = lost(index, &default).filter(|_| default != "1");
    Ok(Config { entries, default: index.unwrap_or(0), lost, ..Config::default() })
}

fn set(entry: &mut Entry, key: &str, value: String, volumes: &Volumes, own: &Path) {
    match key {
        "protocol" => match value.as_str() {
            "linux" | "efi" | "efi_chainload" | "uefi" => {}
            _ => entry.flaw = Some(format!("protocol {value}: not supported")),
        },
        "cmdline" | "kernel_cmdline" => entry.cmdline = value,
        "path" | "kernel_path" | "image_path" | "module_path" => {
            let path = resource(volumes, own, &value);
            if path.is_none() && entry.flaw.is_none() {
                entry.flaw = Some(format!("{value}: no such device or file system"));
            }
            match key {
                "module_path" if entry.initrds.len() < MAX_INITRDS => entry.initrds.extend(path),
                "module_path" => {}
                _ => entry.kernel = path,
            }
        }
        _ => {}
    }
}

/// The file that `boot():/path` means, or `boot:///path` before version 8.
fn resource(volumes: &Volumes, own: &Path, text: &str) -> Option<Path> {
    let text = text.trim_start_matches('$');
    // What follows is a checksum.
    let text = text.rsplit_once('#').map_or(text, |(text, _)| text);
    let (kind, (argument, path)) = match text.split_once("://") {
        Some((kind, rest)) => (kind, rest.split_once('/')?),
        None => {
            let (kind, rest) = text.split_once('(')?;
            (kind, rest.split_once("):")?)
        }
    };
    let device = &volumes.list.get(own.volume)?.device;
    let (drive, number) = argument.split_once(':').unwrap_or((argument, ""));
    let drive = drive.parse().unwrap_or(1usize).saturating_sub(1);
    let part = |number: &str| match number {
        "" | "0" => String::new(),
        number => format!(",{number}"),
    };
    let volume = match kind {
        "boot" if argument.is_empty() => own.volume,
        "boot" => {
            let whole = device.split(',').next().unwrap_or_default();
            volumes.device(&format!("{whole}{}", part(argument)))?
        }
        "hdd" => volumes.device(&format!("hd{drive}{}", part(number)))?,
        "odd" => volumes.device(&format!("cd{drive}{}", part(number)))?,
        "guid" | "uuid" => volumes.search(Search::Uuid, argument, None)?,
        "fslabel" => volumes.search(Search::Label, argument, None)?,
        _ => return None,
    };
    Some(Path { volume, path: format!("/{}", path.trim_start_matches('/')) })
}
