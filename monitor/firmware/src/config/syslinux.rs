//! Configurations of isolinux, syslinux and extlinux
//! (the Syslinux wiki, "Config" and "Menu"), and U-Boot's of the same form.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::entry::{
    Config, Entry, MAX_ENTRIES, MAX_INITRDS, MAX_LINE, MAX_TEXT, bounded, key_value, lost,
};
use crate::Error;
use crate::volume::{Path, Volumes};

/// Files that include each other.
const MAX_DEPTH: usize = 8;
/// Files in all.
const MAX_FILES: usize = 64;

pub(super) fn read(volumes: &mut Volumes, path: &Path) -> Result<Config, Error> {
    let mut parser = Parser {
        volumes,
        directory: path.clone(),
        config: Config::default(),
        default: String::new(),
        append: String::new(),
        files: Vec::new(),
        submenus: Vec::new(),
        open: false,
        next_file: None,
    };
    parser.menu(path, 0)?;
    let mut config = parser.config;
    let fits = |entry: &Entry| entry.id == parser.default;
    let default = config.entries.iter().position(fits);
    config.lost = lost(default, &parser.default);
    config.default = default.unwrap_or(0);
    Ok(config)
}

struct Parser<'a> {
    volumes: &'a Volumes,
    /// A file in the working directory: relative paths start beside it.
    directory: Path,
    config: Config,
    default: String,
    append: String,
    /// Files already read: menus lead to each other in circles.
    files: Vec<Path>,
    /// Titles of the submenus that the next line lies in.
    submenus: Vec<String>,
    /// Lines belong to the last entry.
    open: bool,
    /// The configuration file that the last entry loads in place of a kernel.
    next_file: Option<Path>,
}

impl Parser<'_> {
    /// Reads a file with all that it includes.
    fn menu(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        self.file(path, depth)?;
        self.close(depth)
    }

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
        let submenu = self.submenus.last_mut();
        match (key.as_str(), sub.to_ascii_lowercase().as_str()) {
            ("include", _) | ("menu", "include") => {
                let name = if key == "menu" { key_value(rest).0 } else { sub };
                let path = self.directory.beside(name);
                // What is not there is left out, as Syslinux does.
                if self.volumes.kind(&path).is_some() {
                    self.file(&path, depth + 1)?;
                }
            }
            ("menu", "begin") => {
                self.close(depth)?;
                self.submenus.push(rest.to_string());
                if self.submenus.len() > MAX_DEPTH {
                    return Err(Error::TooLarge("number of menus inside each other"));
                }
            }
            ("menu", "end") => {
                self.close(depth)?;
                self.submenus.pop();
            }
            ("menu", "title" | "label") if sub.eq_ignore_ascii_case("title") || !self.open => {
                submenu.into_iter().for_each(|title| *title = rest.replace('^', ""));
            }
            ("default" | "ontimeout", _) => {
                if !value.ends_with(".c32") && self.submenus.is_empty() {
                    self.default = value.to_string();
                }
            }
            ("label", _) => {
                self.close(depth)?;
                if self.config.entries.len() < MAX_ENTRIES {
                    let (title, id) = (value.to_string(), value.to_string());
                    self.open = true;
                    self.config.entries.push(Entry { title, id, ..Entry::default() });
                }
            }
            ("append", _) if !self.open => self.append = value.to_string(),
            _ => {
                let Some(entry) = self.config.entries.last_mut().filter(|_| self.open) else {
                    return Ok(());
                };
                match (key.as_str(), sub.to_ascii_lowercase().as_str()) {
                    ("menu", "default") if self.submenus.is_empty() => {
                        self.default.clone_from(&entry.id);
                    }
                    ("config", _) => {
                        self.next_file = Some(self.directory.beside(sub));
                        if !rest.is_empty() {
                            entry.cmdline = rest.to_string();
                        }
                    }
                    _ => set(entry, &self.directory, &key, value),
                }
            }
        }
        Ok(())
    }

    /// Completes the last entry when the next one begins.
    fn close(&mut self, depth: usize) -> Result<(), Error> {
        if !core::mem::take(&mut self.open) {
            return Ok(());
        }
        if let Some(path) = self.next_file.take() {
            return self.load(&path, depth);
        }
        if let Some(entry) = self.config.entries.last_mut() {
            // What has no APPEND of its own gets the one from the top.
            if entry.cmdline.is_empty() {
                entry.cmdline.clone_from(&self.append);
            }
            let titles = self.submenus.iter().filter(|title| !title.is_empty());
            let titles: String = titles.map(|title| format!("{title} > ")).collect();
            entry.title.insert_str(0, &titles);
            finish(entry, self.volumes, &self.directory);
        }
        bounded(&self.config.entries)
    }

    /// Puts the entries of another configuration file in place of the last entry, whose
    /// APPEND names their working directory (Syslinux wiki, "CONFIG").
    fn load(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        let Some(entry) = self.config.entries.pop() else {
            return Ok(());
        };
        if self.volumes.kind(path).is_none() {
            return Ok(());
        }
        let inside = self.directory.beside(&format!("{}/", entry.cmdline.trim_end_matches('/')));
        let moved = !entry.cmdline.is_empty() && self.volumes.kind(&inside).is_some();
        let next = if moved { inside } else { self.directory.clone() };
        let directory = core::mem::replace(&mut self.directory, next);
        let append = core::mem::take(&mut self.append);
        let (count, first) = (self.submenus.len(), self.config.entries.len());
        let starts = self.default.is_empty() || self.default == entry.id;
        if starts {
            self.default.clear();
        } else {
            self.submenus.push(entry.title);
        }
        self.menu(path, depth + 1)?;
        if starts && self.default.is_empty() {
            let first = self.config.entries.get(first);
            self.default = first.map_or(entry.id, |entry| entry.id.clone());
        }
        self.submenus.truncate(count);
        (self.directory, self.append) = (directory, append);
        Ok(())
    }
}

/// Takes a line that belongs to an entry.
fn set(entry: &mut Entry, directory: &Path, key: &str, value: &str) {
    let (sub, rest) = key_value(value);
    match key {
        "kernel" | "linux" => {
            // A kernel may be followed by what else belongs on its line.
            entry.kernel = Some(directory.beside(sub)).filter(|kernel| !is_module(&kernel.path));
            if !rest.is_empty() {
                entry.cmdline = rest.to_string();
            }
        }
        // A dash says that there is nothing, not even what the top says.
        "append" if value == "-" => entry.cmdline = " ".into(),
        "append" => entry.cmdline = value.to_string(),
        "initrd" => entry.initrds = initrds(directory, value),
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
