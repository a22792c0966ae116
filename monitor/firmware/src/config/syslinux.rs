//! Configurations of isolinux, syslinux and extlinux
//! (the Syslinux wiki, "Config" and "Menu"), and U-Boot's of the same form.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Config, Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE, MAX_TEXT, key_value};
use crate::Error;
use crate::volume::{Path, Volumes};

/// Files that include each other.
const MAX_DEPTH: usize = 8;
/// Files in all.
const MAX_FILES: usize = 64;

pub(super) fn read(volumes: &mut Volumes, path: &Path) -> Result<Config, Error> {
    let mut parser = Parser {
        volumes,
        start: path,
        config: Config::default(),
        default: String::new(),
        append: String::new(),
        files: Vec::new(),
        submenus: 0,
        open: false,
    };
    parser.file(path, 0)?;
    let mut config = parser.config;
    // What has no APPEND of its own gets the one from the top.
    for entry in &mut config.entries {
        if entry.cmdline.is_empty() {
            entry.cmdline.clone_from(&parser.append);
        }
        finish(entry, parser.volumes, path);
    }
    let fits = |entry: &Entry| entry.id == parser.default;
    let default = config.entries.iter().position(fits);
    config.lost = super::lost(default, &parser.default);
    config.default = default.unwrap_or(0);
    Ok(config)
}

struct Parser<'a> {
    volumes: &'a Volumes,
    /// The first file: paths are relative to its directory.
    start: &'a Path,
    config: Config,
    default: String,
    append: String,
    /// Those that have been read: menus lead to each other in circles.
    files: Vec<Path>,
    /// How deep it is in menus that a line of another one leads to.
    submenus: usize,
    /// Lines belong to the last entry.
    open: bool,
}

impl Parser<'_> {
    fn file(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        if self.files.contains(path) {
            return Ok(());
        }
        self.files.push(path.clone());
        if depth > MAX_DEPTH || self.files.len() > MAX_FILES {
            return Err(Error::TooLarge("number of files that include each other"));
        }
        let text = self.volumes.text(path, MAX_TEXT)?;
        let mut help = false;
        for line in text.lines().map(|line| line.get(..MAX_LINE).unwrap_or(line)) {
            // What stands between TEXT HELP and ENDTEXT is for people.
            match key_value(line).0 {
                key if key.eq_ignore_ascii_case("endtext") => help = false,
                key if key.eq_ignore_ascii_case("text") => help = true,
                _ if help => {}
                _ => self.line(line, depth)?,
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str, depth: usize) -> Result<(), Error> {
        let (key, value) = key_value(line);
        let key = key.to_ascii_lowercase();
        let (sub, rest) = key_value(value);
        match (key.as_str(), sub.to_ascii_lowercase().as_str()) {
            ("include", _) | ("menu", "include") | ("config", _) => {
                let name = if key == "menu" { key_value(rest).0 } else { sub };
                let path = self.start.beside(name);
                // What is not there is left out, as Syslinux does.
                if self.volumes.kind(&path).is_some() {
                    self.file(&path, depth + 1)?;
                }
            }
            ("menu", "begin") => (self.submenus, self.open) = (self.submenus + 1, false),
            ("menu", "end") => {
                (self.submenus, self.open) = (self.submenus.saturating_sub(1), false);
            }
            ("default" | "ontimeout", _) => {
                if !value.ends_with(".c32") && self.submenus == 0 {
                    self.default = value.to_string();
                }
            }
            ("label", _) if self.config.entries.len() < MAX_ENTRIES => {
                let (title, id) = (value.to_string(), value.to_string());
                self.open = true;
                self.config.entries.push(Entry { title, id, ..Entry::default() });
            }
            ("append", _) if self.config.entries.is_empty() => self.append = value.to_string(),
            _ => {
                let default = key == "menu" && sub.eq_ignore_ascii_case("default");
                let default = default && self.submenus == 0;
                let entry = self.config.entries.last_mut().filter(|_| self.open);
                let Some(entry) = entry else {
                    return Ok(());
                };
                if default {
                    self.default.clone_from(&entry.id);
                }
                set(entry, self.start, &key, value);
            }
        }
        Ok(())
    }
}

/// Takes a line that belongs to an entry.
fn set(entry: &mut Entry, start: &Path, key: &str, value: &str) {
    let (sub, rest) = key_value(value);
    match key {
        "kernel" | "linux" => {
            // A kernel may be followed by what else belongs on its line.
            entry.kernel = Some(start.beside(sub)).filter(|kernel| !is_module(&kernel.path));
            if !rest.is_empty() {
                entry.cmdline = rest.to_string();
            }
        }
        // A dash says that there is nothing, not even what the top says.
        "append" if value == "-" => entry.cmdline = " ".into(),
        "append" => entry.cmdline = value.to_string(),
        "initrd" => entry.initrds = initrds(start, value),
        "menu" if sub.eq_ignore_ascii_case("label") => {
            // The caret marks a key to press.
            entry.title = rest.replace('^', "");
        }
        _ => {}
    }
}

/// Syslinux's own modules, boot sectors and network loaders.
fn is_module(path: &str) -> bool {
    [".c32", ".bin", ".bss", ".bs", ".0", ".com", ".cbt"]
        .iter()
        .any(|end| path.to_ascii_lowercase().ends_with(end))
}

fn initrds(start: &Path, list: &str) -> Vec<Path> {
    let names = list.split(',').filter(|name| !name.is_empty());
    names.take(MAX_INITRDS).map(|name| start.beside(name.trim())).collect()
}

/// An initrd may be named on the command line, and a kernel without its suffix.
fn finish(entry: &mut Entry, volumes: &Volumes, start: &Path) {
    let cmdline = core::mem::take(&mut entry.cmdline);
    for word in cmdline.split_whitespace() {
        match word.strip_prefix("initrd=") {
            Some(list) => entry.initrds = initrds(start, list),
            None if entry.cmdline.is_empty() => entry.cmdline.push_str(word),
            None => entry.cmdline = format!("{} {word}", entry.cmdline),
        }
    }
    if let Some(kernel) = &mut entry.kernel
        && volumes.kind(kernel).is_none()
    {
        // U-Boot's files lie in /boot/extlinux, and name /boot as the root
        // where that is a volume of its own.
        let short = kernel.path.strip_prefix("/boot").map(String::from);
        let short = short.map(|path| Path { volume: kernel.volume, path });
        if let Some(short) = short.filter(|short| volumes.kind(short).is_some()) {
            *kernel = short;
        }
    }
}
