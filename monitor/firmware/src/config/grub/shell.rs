//! A script that is run, its menu entries one after the other, to see what each would boot.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::script::{self, Block, Command, Piece, Word};
use crate::Error;
use crate::config::entry::{Config, Entry, MAX_ENTRIES, MAX_LINE, MAX_TEXT, bounded, lost};
use crate::environment::Saved;
use crate::volume::{Path, Volumes};

/// Commands that are run for one configuration.
const MAX_STEPS: usize = 20_000;
/// Files and functions that call each other.
pub(super) const MAX_CALLS: usize = 8;
/// Files that are read for one configuration.
const MAX_FILES: usize = 64;
/// Variables, and bytes of all their values.
const MAX_VARIABLES: usize = 1024;
const MAX_VALUES: usize = 128 << 10;
/// Bytes of the name of one, and of a value that is not counted.
const SHORT: usize = 256;
/// Words and marks of all files that are read for one configuration.
const MAX_TOKENS: usize = 1 << 15;

/// What GRUB's images set before they read a configuration.
const FEATURES: [&str; 7] = [
    "feature_menuentry_id",
    "feature_menuentry_options",
    "feature_platform_search_hint",
    "feature_default_font_path",
    "feature_all_video_module",
    "feature_timeout_style",
    "feature_200_final",
];

pub(in crate::config) fn read(volumes: &mut Volumes, path: &Path) -> Result<Config, Error> {
    let volume = volumes.list.get(path.volume).ok_or(Error::Missing)?;
    let device = volume.device.clone();
    let dir = path.path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let drive = volume.drive;
    let mut shell = Shell {
        volumes,
        drive,
        variables: BTreeMap::new(),
        functions: BTreeMap::new(),
        entries: Vec::new(),
        menu: (Vec::new(), 0),
        loading: Entry::default(),
        saves: Vec::new(),
        steps: 0,
        calls: 0,
        files: 0,
        tokens: MAX_TOKENS,
    };
    shell.set("root", &device);
    shell.set("prefix", &format!("({device}){dir}"));
    shell.set("config_directory", &format!("({device}){dir}"));
    shell.set("cmdpath", &format!("({device})/EFI/BOOT"));
    for (name, value) in [("grub_platform", "pc"), ("grub_cpu", "x86_64")] {
        shell.set(name, value);
    }
    FEATURES.iter().for_each(|name| shell.set(name, "y"));
    shell.source(path)?;
    let wanted = shell.get("default");
    let default = shell.entries.iter().position(|e| e.is_at(wanted, false));
    Ok(Config {
        lost: lost(default, wanted),
        default: default.unwrap_or(0),
        entries: shell.entries,
        saves: shell.saves,
        ..Config::default()
    })
}

/// Why a block of commands ended before its end.
pub(super) enum Stop {
    /// `return`, `break` or the end of what may be booted.
    Leave,
    /// The script cannot go on.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) struct Shell<'a> {
    pub(super) volumes: &'a mut Volumes,
    /// The drive whose configuration this is: searches begin there.
    pub(super) drive: usize,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) functions: BTreeMap<String, Block>,
    pub(super) entries: Vec<Entry>,
    /// The submenus that are open, and how many entries the menu has so far.
    pub(super) menu: (Vec<[String; 3]>, usize),
    /// What the entry whose commands are run has loaded.
    pub(super) loading: Entry,
    /// What is saved outside of entries.
    pub(super) saves: Vec<Saved>,
    pub(super) steps: usize,
    pub(super) calls: usize,
    pub(super) files: usize,
    /// Tokens that there is room for.
    pub(super) tokens: usize,
}

impl Shell<'_> {
    pub(super) fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        let known = self.variables.contains_key(name);
        let room = known || self.variables.len() < MAX_VARIABLES;
        // Short ones, which scripts set all the time, need no count.
        let count = || self.variables.values().map(String::len).sum::<usize>();
        let fits = value.len() <= SHORT || count() + value.len() <= MAX_VALUES;
        if room && fits && name.len() <= SHORT && value.len() <= MAX_LINE {
            self.variables.insert(name.to_string(), value.to_string());
        }
    }

    /// The file that a name in a script means.
    pub(super) fn path(&self, name: &str) -> Option<Path> {
        let (device, path) = match name.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?,
            None => (self.get("root"), name),
        };
        let volume = self.volumes.device(device)?;
        let path = path.to_string();
        Some(Path { volume, path })
    }

    /// Runs a file.
    pub(super) fn source(&mut self, path: &Path) -> Result<bool, Error> {
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(Error::TooLarge("number of files that read each other"));
        }
        let text = self.volumes.text(path, MAX_TEXT)?;
        let block = script::parse(&text, &mut self.tokens)?;
        drop(text);
        match self.call(&block) {
            Ok(status) => Ok(status),
            Err(Stop::Leave) => Ok(true),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Runs commands one level deeper.
    pub(super) fn call(&mut self, block: &Block) -> Result<bool, Stop> {
        if self.calls == MAX_CALLS {
            return Err(Error::TooLarge("number of calls inside each other").into());
        }
        self.calls += 1;
        let status = self.block(block);
        self.calls -= 1;
        status
    }

    pub(super) fn block(&mut self, block: &Block) -> Result<bool, Stop> {
        let mut status = true;
        for command in block.iter() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Error::TooLarge("number of commands that the script runs").into());
            }
            status = self.command(command)?;
        }
        Ok(status)
    }

    fn command(&mut self, command: &Command) -> Result<bool, Stop> {
        match command {
            Command::Simple(words, block) => self.simple(words, block.as_ref()),
            Command::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.block(condition)? {
                        return self.block(body);
                    }
                }
                self.block(otherwise)
            }
            Command::For(name, values, body) => {
                for value in self.expand(values) {
                    self.steps += 1;
                    self.set(name, &value);
                    if self.steps > MAX_STEPS || !self.turn(body)? {
                        break;
                    }
                }
                Ok(true)
            }
            Command::While(condition, body, end) => {
                while self.block(condition)? != *end {
                    self.steps += 1;
                    if self.steps > MAX_STEPS || !self.turn(body)? {
                        break;
                    }
                }
                Ok(true)
            }
            Command::Function(name, body) => {
                if self.functions.len() < MAX_VARIABLES {
                    self.functions.insert(name.clone(), Rc::clone(body));
                }
                Ok(true)
            }
        }
    }

    /// Runs a loop's body; tells whether the loop goes on.
    pub(super) fn turn(&mut self, body: &Block) -> Result<bool, Stop> {
        match self.block(body) {
            Err(Stop::Leave) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Replaces variables. What was not quoted falls into words of its own.
    pub(super) fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut expanded = Vec::new();
        let mut total = 0;
        for word in words {
            let (mut text, mut some) = (String::new(), word.is_empty());
            for piece in word {
                let (name, quoted) = match piece {
                    Piece::Text(part) => {
                        text.push_str(part);
                        some = true;
                        continue;
                    }
                    Piece::Variable { name, quoted } => (name, *quoted),
                };
                let value = self.get(name);
                total += value.len();
                if total > MAX_LINE {
                    break;
                }
                if quoted {
                    text.push_str(value);
                    some = true;
                    continue;
                }
                let mut parts = value.split_whitespace();
                if let Some(first) = parts.next() {
                    text.push_str(first);
                    some = true;
                }
                for part in parts {
                    expanded.push(core::mem::replace(&mut text, part.to_string()));
                }
            }
            if some {
                expanded.push(text);
            }
        }
        expanded
    }

    /// Runs the commands of an entry or a submenu with variables of its own.
    pub(super) fn menu_entry(
        &mut self,
        words: &[String],
        block: &Block,
        submenu: bool,
    ) -> Result<(), Stop> {
        let (mut title, mut id) = (String::new(), String::new());
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next().cloned().unwrap_or_default(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    words.next();
                }
                option if option.starts_with("--id=") => id = option.replacen("--id=", "", 1),
                option if option.starts_with("--") => {}
                text if title.is_empty() => title = text.to_string(),
                _ => {}
            }
        }
        let here = [self.menu.1.to_string(), title.clone(), id.clone()];
        self.menu.1 += 1;
        if self.entries.len() >= MAX_ENTRIES || self.menu.0.len() > MAX_CALLS {
            return Ok(());
        }
        let variables = self.variables.clone();
        self.menu.0.push(here);
        let status = if submenu {
            let count = core::mem::take(&mut self.menu.1);
            let status = self.call(block);
            self.menu.1 = count;
            status
        } else {
            self.loading = Entry::default();
            let named = |part: &[String; 3]| match part {
                [_, title, id] if id.is_empty() => title.clone(),
                [_, _, id] => id.clone(),
            };
            let chosen: Vec<String> = self.menu.0.iter().map(named).collect();
            self.set("chosen", &chosen.join(">"));
            let status = self.call(block);
            let titles: Vec<&str> = self.menu.0.iter().map(|part| part[1].as_str()).collect();
            let title = titles.join(" > ");
            let loaded = core::mem::take(&mut self.loading);
            self.entries.push(Entry { title, id, place: self.menu.0.clone(), ..loaded });
            bounded(&self.entries)?;
            status
        };
        self.menu.0.pop();
        self.variables = variables;
        match status {
            Err(Stop::Failed(error)) => Err(Stop::Failed(error)),
            _ => Ok(()),
        }
    }
}
