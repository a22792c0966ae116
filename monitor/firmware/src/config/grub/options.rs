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
    /// Sorts the words of a command. An option's own word stands behind `=` or is the
    /// next one, unless that looks like an option; what is not known is left out.
    pub(super) fn parse(arguments: &'a [String], known: &[(&'static str, char, bool)]) -> Self {
        let (mut given, mut words) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter().map(String::as_str).peekable();
        while let Some(word) = rest.next() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let mut found = match name.strip_prefix("--") {
                Some("") => {
                    words.extend(rest.map(String::from));
                    break;
                }
                Some(name) => known.iter().filter(|k| k.0 == name).collect::<Vec<_>>(),
                None => match word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                    Some(letters) => {
                        letters.chars().filter_map(|c| known.iter().find(|k| k.1 == c)).collect()
                    }
                    None => {
                        words.push(word.into());
                        continue;
                    }
                },
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
