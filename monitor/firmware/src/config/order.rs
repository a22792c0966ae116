//! The order of entries that are files of their own (UAPI.1, "Sorting"; UAPI.10).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;

/// What entries are sorted by.
#[derive(Default)]
pub(super) struct Key {
    /// All its tries are spent.
    pub(super) bad: bool,
    pub(super) sort: String,
    pub(super) machine: String,
    pub(super) version: String,
    pub(super) id: String,
}

impl Key {
    pub(super) fn order(&self, other: &Self) -> Ordering {
        // Entries without a key come last, and newer ones first.
        let keyed = || self.sort.is_empty().cmp(&other.sort.is_empty());
        let version = || match self.sort.is_empty() {
            true => Ordering::Equal,
            false => by_version(&other.version, &self.version),
        };
        self.bad
            .cmp(&other.bad)
            .then_with(keyed)
            .then_with(|| self.sort.cmp(&other.sort))
            .then_with(|| self.machine.cmp(&other.machine))
            .then_with(version)
            .then_with(|| by_version(&other.id, &self.id))
    }
}

/// A name without its suffix.
pub(super) fn stem(id: &str) -> &str {
    id.strip_suffix(".conf").or(id.strip_suffix(".efi")).unwrap_or(id)
}

/// The identity that the name of a file stands for, and whether all its tries are
/// spent: `NAME+LEFT-DONE.conf` (UAPI, Automatic Boot Assessment).
pub(super) fn counted(name: &str) -> (String, bool) {
    let stem = stem(name);
    let suffix = name.get(stem.len()..).unwrap_or_default();
    if let Some((id, count)) = stem.rsplit_once('+') {
        let left = count.split('-').next().unwrap_or_default();
        let numbers = count.bytes().all(|c| c.is_ascii_digit() || c == b'-');
        if numbers && !left.is_empty() {
            let spent = left.bytes().all(|c| c == b'0');
            return (format!("{id}{suffix}"), spent);
        }
    }
    (name.to_string(), false)
}

/// Compares names as versions (UAPI.10): numbers by their value, and separators
/// from the least: `~`, the end, `-`, `^`, `.`.
pub(super) fn by_version(a: &str, b: &str) -> Ordering {
    let known = |c: &u8| c.is_ascii_alphanumeric() || b"~-^.".contains(c);
    let [a, b] = [a, b].map(|text| text.bytes().filter(known).collect::<Vec<u8>>());
    let (mut a, mut b) = (a.as_slice(), b.as_slice());
    loop {
        let first = (a.first().copied(), b.first().copied());
        if let (None, None) = first {
            return Ordering::Equal;
        }
        for separator in [Some(b'~'), None, Some(b'-'), Some(b'^'), Some(b'.')] {
            let order = (first.0 != separator).cmp(&(first.1 != separator));
            if order.is_ne() {
                return order;
            }
        }
        if first.0 == first.1 && first.0.is_some_and(|c| !c.is_ascii_alphanumeric()) {
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
            continue;
        }
        let numbers = [a, b].iter().any(|text| text.first().is_some_and(u8::is_ascii_digit));
        let part = |text: &[u8]| {
            let same = |c: &&u8| match numbers {
                true => c.is_ascii_digit(),
                false => c.is_ascii_alphabetic(),
            };
            text.iter().take_while(same).count()
        };
        let (x, y) = (a.split_at(part(a)), b.split_at(part(b)));
        let value = |digits: &[u8]| {
            let zeroes = digits.iter().take_while(|digit| **digit == b'0').count();
            let digits = digits.get(zeroes..).unwrap_or_default().to_vec();
            (digits.len(), digits)
        };
        let order = match numbers {
            true => value(x.0).cmp(&value(y.0)),
            false => x.0.cmp(y.0),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (x.1, y.1);
    }
}
