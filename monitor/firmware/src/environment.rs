//! Variables that a configuration saves, as GRUB's `save_env` does. The firmware writes
//! to no drive: they lie in a page of memory that outlives the VM's reset, as lines of
//! text, three for each variable.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

/// A variable of an environment block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// File system, path and name.
    pub key: String,
    /// The value on the medium. Once that changes, it counts again.
    pub medium: String,
    /// The value that takes its place.
    pub value: String,
}

/// Saved variables, the oldest first.
#[derive(Default)]
pub struct Environment(Vec<Saved>);

impl Environment {
    /// Reads the page.
    pub fn parse(page: &[u8]) -> Self {
        let text = String::from_utf8_lossy(page.split(|byte| *byte == 0).next().unwrap_or(page));
        let mut lines = text.lines().map(ToString::to_string);
        let next = || {
            let (key, medium, value) = (lines.next()?, lines.next()?, lines.next()?);
            Some(Saved { key, medium, value })
        };
        Self(core::iter::from_fn(next).collect())
    }

    /// Adds variables, and writes as many of all as the page holds, the newest first
    /// to have a place.
    pub fn save(mut self, saved: Vec<Saved>, page: &mut [u8]) {
        for new in saved {
            let parts = [&new.key, &new.medium, &new.value];
            if !parts.iter().any(|part| part.contains(['\n', '\r', '\0'])) {
                self.0.retain(|old| old.key != new.key);
                self.0.push(new);
            }
        }
        let mut text = String::new();
        for first in 0..=self.0.len() {
            text.clear();
            for Saved { key, medium, value } in self.0.iter().skip(first) {
                let _ = writeln!(text, "{key}\n{medium}\n{value}");
            }
            if text.len() <= page.len() {
                break;
            }
        }
        page.fill(0);
        page.iter_mut().zip(text.bytes()).for_each(|(to, byte)| *to = byte);
    }

    /// The value that takes the place of the one on the medium.
    pub fn value<'a>(&'a self, key: &str, medium: &'a str) -> &'a str {
        let saved = self.0.iter().find(|saved| saved.key == key && saved.medium == medium);
        saved.map_or(medium, |saved| &saved.value)
    }

    /// The variables of a file that its medium does not have.
    pub fn added<'a>(&'a self, file: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let added = self.0.iter().filter(|saved| saved.medium.is_empty());
        added.filter_map(move |saved| Some((saved.key.strip_prefix(file)?, &*saved.value)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Environment, Saved};
    use std::string::String;
    use std::vec::Vec;

    fn saved(key: &str, medium: &str, value: &str) -> Saved {
        Saved { key: key.into(), medium: medium.into(), value: value.into() }
    }

    #[test]
    fn saved_values_count_until_the_medium_changes() {
        let mut page = [0xff; 256];
        let first = std::vec![saved("f next", "2", ""), saved("f new", "", "1")];
        Environment::parse(&page).save(first, &mut page);
        Environment::parse(&page).save(std::vec![saved("f new", "", "3")], &mut page);
        let read = Environment::parse(&page);
        assert_eq!([read.value("f next", "2"), read.value("f next", "4")], ["", "4"]);
        assert_eq!([read.value("f none", "2"), read.value("g next", "2")], ["2", "2"]);
        assert_eq!(read.added("f ").collect::<Vec<_>>(), [("new", "3")]);
        assert_eq!(read.added("g ").count(), 0);
    }

    #[test]
    fn a_page_is_never_too_small_or_damaged() {
        let mut page = [0; 64];
        let all = (0..100).map(|n| saved(&std::format!("key{n}"), "a", &"v".repeat(n % 70)));
        Environment::default().save(all.collect(), &mut page);
        let read = Environment::parse(&page);
        assert_eq!(read.value("key99", "a"), "v".repeat(29));
        assert_eq!(read.value("key98", "a"), "a");
        Environment::default()
            .save(std::vec![saved("k\n", "", "x"), saved("k", "", "\0")], &mut page);
        assert_eq!(page, [0; 64]);
        for damaged in [&[0xff; 64][..], b"\n\n\n\n\n", b"a\nb", &[]] {
            let mut page = [0; 64];
            Environment::parse(damaged).save(std::vec![saved("k", "", "x")], &mut page);
            assert_eq!(Environment::parse(&page).value("k", ""), String::from("x"));
        }
    }
}
