//! What a person sees and chooses.

use std::string::String;
use std::vec::Vec;

use super::{Choice, ask, list};
use crate::config::{Config, Entry};
use crate::machine::Machine;

/// A person at the console.
struct Person(Vec<u8>, String, u64);

impl Machine for Person {
    fn print(&mut self, text: &str) {
        self.1.push_str(text);
    }
    fn memory(&mut self, _: u64, _: u64) -> Option<&mut [u8]> {
        None
    }
    fn kept(&mut self) -> &mut [u8] {
        &mut []
    }
    fn key(&mut self) -> Option<u8> {
        // A zero is a while without a key.
        let key = if self.0.is_empty() { 0 } else { self.0.remove(0) };
        Some(key).filter(|key| *key != 0)
    }
    fn milliseconds(&mut self) -> u64 {
        self.2 += 100;
        self.2
    }
}

fn menu(default: usize) -> Config {
    let entry = |number: usize| Entry {
        title: std::format!("title {number}"),
        // One of them cannot be started.
        flaw: (number == 6).then(|| "no kernel".into()),
        ..Entry::default()
    };
    Config { entries: (1..=12).map(entry).collect(), default, ..Config::default() }
}

#[test]
fn keys_choose() {
    use Choice::{End, Entry};
    for (keys, chosen) in [
        ("2\r", Entry(1)),
        ("\n", Entry(3)),
        ("", Entry(3)),
        ("12\r", Entry(11)),
        ("13\r3\r", Entry(2)),
        ("0\r1\r", Entry(0)),
        ("9\x7f8\r", Entry(7)),
        ("99999999\r5\r", Entry(4)),
        ("6\r1\r", Entry(0)),
        ("x\r", Entry(3)),
        ("\x1b[A\r", Entry(2)),
        ("\x1b[A\x1b[A\x1bOA\x1b[A\x1b[A\r", Entry(0)),
        ("\x1b[B\x1b[B\x1b[B\r", Entry(6)),
        // The sixth cannot be started: the person goes on.
        ("\x1b[B\x1bOB\r\x1b[A\r", Entry(4)),
        ("\x1b[C\r", Entry(3)),
        ("1\x1b\x002\r", Entry(1)),
        ("1\x03", End),
    ] {
        let mut person = Person(keys.bytes().collect(), String::new(), 0);
        assert_eq!(ask(&menu(3), &mut person), chosen, "{keys:?}");
        // The menu waits no longer than it says.
        assert!(person.2 <= 20_000, "{keys:?}: {}", person.2);
    }
}

#[test]
fn seconds_count_down_until_a_key() {
    let mut nobody = Person(Vec::new(), String::new(), 0);
    assert_eq!(ask(&menu(0), &mut nobody), Choice::Entry(0));
    for seconds in ["in 5 s", "in 4 s", "in 1 s"] {
        assert!(nobody.1.contains(seconds), "{}", nobody.1);
    }
    let mut person = Person(b"1\r".to_vec(), String::new(), 0);
    assert_eq!(ask(&menu(1), &mut person), Choice::Entry(0));
    assert!(person.1.ends_with("Enter for 2 (title 2): 1\x1b[K"), "{:?}", person.1);
}

#[test]
fn entries_that_cannot_start_say_why() {
    let mut person = Person(b"6\r1\r".to_vec(), String::new(), 0);
    list(&menu(0), &mut person);
    assert!(person.1.contains("\n   6  title 6 (no kernel)\n   7  title 7\n"), "{}", person.1);
    assert_eq!(ask(&menu(0), &mut person), Choice::Entry(0));
    assert!(person.1.contains("6 cannot be started: no kernel"), "{}", person.1);
}
