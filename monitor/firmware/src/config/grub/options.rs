//! Options of GRUB's commands, read as GRUB does (grub-core/lib/arg.c).

use alloc::string::String;
use alloc::vec::Vec;

/// What a command was given.
pub(super) struct Options<'a> {
    /// Long names in the order of the command, and the word that belongs to each.
    given: Vec<(&'static str, Option<&'a str>)>,
    /// All other words.
    pub(super) words: Vec<String>,
}

impl<'a> Options<'a> {
    /// Sorts the words of a command. Options are `long`, `long/s` with a short form, or
    /// end with `=` if a word belongs to them: behind `=`, or the next one unless that
    /// looks like an option. Unknown options are left out.
    pub(super) fn parse(arguments: &'a [String], known: &'static str) -> Self {
        let (mut given, mut words) = (Vec::new(), Vec::new());
        let known: Vec<(&str, &str, bool)> = known
            .split_whitespace()
            .map(|option| {
                let name = option.trim_end_matches('=');
                let (long, short) = name.split_once('/').unwrap_or((name, ""));
                (long, short, name != option)
            })
            .collect();
        let mut rest = arguments.iter().map(String::as_str).peekable();
        while let Some(word) = rest.next() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let mut found: Vec<_> = match (name.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(""), _) => {
                    words.extend(rest.map(String::from));
                    break;
                }
                (Some(name), _) => known.iter().filter(|k| k.0 == name).collect(),
                (None, Some(letters)) if !letters.is_empty() => {
                    let short = |c: char| known.iter().find(|k| k.1.starts_with(c));
                    letters.chars().filter_map(short).collect()
                }
                _ => {
                    words.push(word.into());
                    continue;
                }
            };
            let last = found.pop();
            given.extend(found.into_iter().map(|k| (k.0, None)));
            let Some((name, _, takes)) = last else {
                continue;
            };
            let value = match takes {
                true if word.starts_with("--") && word.contains('=') => Some(value),
                true => rest.next_if(|next| !next.starts_with('-')),
                false => None,
            };
            given.push((*name, value));
        }
        Self { given, words }
    }

    /// The words that belong to an option, one for each time that it was given.
    pub(super) fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        let given = self.given.iter().filter(move |given| given.0 == name);
        given.filter_map(|given| given.1)
    }

    /// The word that belongs to an option.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.values(name).next_back()
    }

    /// The last given one of some options.
    pub(super) fn last(&self, names: &[&str]) -> Option<&'static str> {
        let mut given = self.given.iter().rev().map(|given| given.0);
        given.find(|name| names.contains(name))
    }
}
