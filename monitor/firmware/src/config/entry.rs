//! What every reader makes of a configuration file: the entries of a menu.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Error;
use crate::environment::Saved;
use crate::volume::Path;

/// Bytes of a configuration file.
pub(super) const MAX_TEXT: usize = 256 << 10;
/// Entries of one configuration.
pub(super) const MAX_ENTRIES: usize = 256;
/// Initial RAM disks of one entry.
pub(super) const MAX_INITRDS: usize = 16;
/// Bytes of a command line, of any variable and of any word.
pub(super) const MAX_LINE: usize = 16 << 10;

/// Values of variables, by their names.
pub(super) type Variables = BTreeMap<String, String>;

/// Bytes of all entries of one configuration.
const MAX_BYTES: usize = 1 << 20;

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
    /// What it saves when it is started.
    pub saves: Vec<Saved>,
}

/// What a medium says can be booted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where it was found.
    pub source: String,
    /// Entries in the order of the menu.
    pub entries: Vec<Entry>,
    /// Index of the entry that is booted by default.
    pub default: usize,
    /// Why its default is not the entry that it names.
    pub lost: Option<String>,
    /// What it saves, whichever entry is started.
    pub saves: Vec<Saved>,
}

impl Config {
    /// The entry with a title, an identity, a number as the menu shows it (from 1),
    /// a place as GRUB writes it (`1>2`, from 0, or `submenu>entry`), or the only
    /// one whose title begins so.
    ///
    /// # Errors
    /// No entry fits, or more than one title begins so.
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
    pub(super) fn is_at(&self, place: &str, whole: bool) -> bool {
        let parts = || place.split('>').map(str::trim);
        let count = parts().count();
        let mut pairs = self.place.iter().zip(parts());
        let long = if whole { self.place.len() == count } else { self.place.len() >= count };
        long && pairs.all(|(names, part)| names.iter().any(|name| !part.is_empty() && name == part))
    }
}

/// Checks that entries have room in memory.
///
/// # Errors
/// They do not.
pub(super) fn bounded<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), Error> {
    let len = |entry: &Entry| {
        let place = entry.place.iter().flatten().map(String::len).sum::<usize>();
        let paths = entry.initrds.iter().chain(&entry.kernel).map(|path| path.path.len());
        entry.title.len() + entry.id.len() + entry.cmdline.len() + place + paths.sum::<usize>()
    };
    match entries.into_iter().map(len).sum::<usize>() > MAX_BYTES {
        true => Err(Error::TooLarge("menu")),
        false => Ok(()),
    }
}

/// Says which default a configuration names, if it has no such entry. GRUB's first
/// entry is named by 0, and by nothing.
pub(super) fn lost(found: Option<usize>, name: &str) -> Option<String> {
    let named = found.is_none() && !matches!(name.trim(), "" | "0" | "saved" | "@saved");
    named.then(|| format!("no entry '{name}'"))
}

/// The first word of a line and what follows it.
pub(super) fn key_value(line: &str) -> (&str, &str) {
    let line = line.trim();
    let end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (key, value) = line.split_at(end);
    (key, value.trim())
}

/// A line's key in small letters and its value without quotes.
pub(super) fn assignment(line: &str, separator: char) -> Option<(String, &str)> {
    let (key, value) = line.split_once(separator)?;
    let value = value.trim();
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Some((key.trim().to_ascii_lowercase(), quoted.unwrap_or(value)))
}

/// Replaces `$name` and `${name}` by their values, as far as a line has room.
pub(super) fn expand(text: &str, variables: &Variables) -> String {
    let mut parts = text.split('$');
    let mut result = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = part.find(|c| !is_name(c)).unwrap_or(part.len());
        let braces = part.strip_prefix('{').and_then(|part| part.split_once('}'));
        let (name, rest) = braces.unwrap_or_else(|| part.split_at(end));
        let value = variables.get(name).map_or("", String::as_str);
        if result.len() + value.len() < MAX_LINE {
            result.push_str(value);
        }
        result.push_str(rest);
    }
    result.trim().to_string()
}
