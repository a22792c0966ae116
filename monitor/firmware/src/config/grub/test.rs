//! GRUB's `test`: expressions over texts, numbers and files.

use alloc::string::String;
use alloc::vec::Vec;

use super::shell::Shell;
use crate::fs::Kind;

impl Shell<'_> {
    /// Whether an expression holds (GRUB manual, "test").
    pub(super) fn test(&self, words: &[String]) -> bool {
        // `-o` binds less than `-a`, which binds less than `!`.
        words.split(|word| word == "-o").any(|part| {
            let parts = part.split(|word| word == "-a");
            parts.into_iter().all(|part| self.primary(part))
        })
    }

    fn primary(&self, words: &[String]) -> bool {
        let negations = words.iter().take_while(|word| *word == "!").count();
        // `! = x` compares an exclamation mark.
        let negations = if negations == words.len() { 0 } else { negations };
        let words: Vec<&str> = words.iter().skip(negations).map(String::as_str).collect();
        let holds = match words.as_slice() {
            [] => false,
            [text] => !text.is_empty(),
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            ["-f", file] => self.kind_of(file) == Some(Kind::File),
            ["-d", file] => self.kind_of(file) == Some(Kind::Directory),
            ["-e", file] => self.kind_of(file).is_some(),
            ["-s", file] => self.len_of(file).is_some_and(|len| len > 0),
            [a, "=" | "==", b] => a == b,
            [a, "!=", b] => a != b,
            [a, "<", b] => a < b,
            [a, ">", b] => a > b,
            [a, "<=", b] => a <= b,
            [a, ">=", b] => a >= b,
            [a, "-eq", b] => number(a) == number(b),
            [a, "-ne", b] => number(a) != number(b),
            [a, "-lt", b] => number(a) < number(b),
            [a, "-gt", b] => number(a) > number(b),
            [a, "-le", b] => number(a) <= number(b),
            [a, "-ge", b] => number(a) >= number(b),
            _ => false,
        };
        holds != (negations % 2 == 1)
    }

    fn kind_of(&self, file: &str) -> Option<Kind> {
        self.volumes.kind(&self.path(file)?)
    }

    fn len_of(&self, file: &str) -> Option<u64> {
        let file = self.volumes.open(&self.path(file)?);
        file.ok().map(|file| file.len())
    }
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}
