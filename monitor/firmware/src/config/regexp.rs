//! Patterns: extended regular expressions of POSIX without back-references, as GRUB's
//! `regexp` takes them, and a shell's.

use alloc::string::String;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::str::Chars;

/// Instructions of an expression, with all its repetitions.
const MAX_PROGRAM: usize = 512;
/// Instructions times letters of the text: what a match may take.
const MAX_STATES: usize = 1 << 14;
/// What a match counts as, in commands.
pub(super) const STEPS: usize = 20;
/// Groups inside groups.
const MAX_DEPTH: usize = 16;
/// Where the whole match and up to nine groups begin and end.
type Saved = [usize; 20];

/// Jumps are relative, so that instructions can be copied.
#[derive(Clone)]
enum Op {
    /// Ranges of letters, and whether they are those that do not match.
    Set(Vec<(char, char)>, bool),
    Begin,
    End,
    /// The first way is tried first.
    Split(isize, isize),
    Save(usize),
}

/// Whether all of a text is what a shell's pattern stands for: `*`, `?` and `[a-z]`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut expression, mut set) = (String::from("^"), false);
    for c in pattern.chars() {
        let first = set && (expression.ends_with('[') || expression.ends_with("[^"));
        match c {
            '!' if first => expression.push('^'),
            _ if set => {
                expression.push(c);
                set = c != ']' || first;
            }
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => {
                expression.push('[');
                set = true;
            }
            _ => expression.extend(['\\', c]),
        }
    }
    expression.push('$');
    find(&expression, text).is_some()
}

/// What a match of `pattern` in `text` and each group of it is; `None` without a match,
/// or if the expression is not one.
pub(super) fn find(pattern: &str, text: &str) -> Option<Vec<String>> {
    let mut parser = Parser { rest: pattern.chars().peekable(), groups: 1 };
    let program = parser.alternatives(0)?;
    let text: Vec<char> = text.chars().collect();
    let states = program.len().checked_add(1)?.checked_mul(text.len() + 1)?;
    if parser.rest.peek().is_some() || states > MAX_STATES {
        return None;
    }
    let mut seen = alloc::vec![false; states];
    let saved = (0..=text.len()).find_map(|start| run(&program, &text, start, &mut seen))?;
    let group = |pair: &[usize]| match *pair {
        [from, to] => text.get(from..to).unwrap_or_default().iter().collect(),
        _ => String::new(),
    };
    Some(saved.chunks_exact(2).map(group).collect())
}

/// No state is tried twice: it would fail again, and a loop without progress ends.
fn run(program: &[Op], text: &[char], start: usize, seen: &mut [bool]) -> Option<Saved> {
    let mut saved = [usize::MAX; 20];
    saved[0] = start;
    // What is left to try, the last first.
    let mut todo = alloc::vec![(0usize, start, saved)];
    while let Some((mut pc, mut at, mut saved)) = todo.pop() {
        loop {
            let state = seen.get_mut(pc * (text.len() + 1) + at)?;
            if core::mem::replace(state, true) {
                break;
            }
            let here = text.get(at).copied();
            let step = match program.get(pc) {
                None => {
                    saved[1] = at;
                    return Some(saved);
                }
                Some(Op::Set(ranges, negated)) => {
                    let has = |c| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                    here.filter(|c| has(*c) != *negated).map(|_| (1, 1))
                }
                Some(Op::Begin) => (at == 0).then_some((1, 0)),
                Some(Op::End) => here.is_none().then_some((1, 0)),
                Some(Op::Split(first, second)) => {
                    todo.push((pc.checked_add_signed(*second)?, at, saved));
                    Some((*first, 0))
                }
                Some(Op::Save(slot)) => {
                    saved.get_mut(*slot).into_iter().for_each(|saved| *saved = at);
                    Some((1, 0))
                }
            };
            let Some((by, letters)) = step else { break };
            (pc, at) = (pc.checked_add_signed(by)?, at + letters);
        }
    }
    None
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    groups: usize,
}

impl Parser<'_> {
    fn alternatives(&mut self, depth: usize) -> Option<Vec<Op>> {
        let mut program = self.branch(depth)?;
        while self.rest.next_if_eq(&'|').is_some() {
            let right = self.branch(depth)?;
            let behind = right.len() as isize + 1;
            program.insert(0, Op::Split(1, program.len() as isize + 2));
            program.push(Op::Split(behind, behind));
            program.extend(right);
        }
        Some(program)
    }

    fn branch(&mut self, depth: usize) -> Option<Vec<Op>> {
        let mut program = Vec::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let mut atom = self.atom(c, depth)?;
            while let Some(c) = self.rest.next_if(|c| matches!(c, '*' | '+' | '?' | '{')) {
                let (least, most) = self.times(c)?;
                atom = repeat(&atom, least, most)?;
            }
            program.extend(atom);
            if program.len() > MAX_PROGRAM {
                return None;
            }
        }
        Some(program)
    }

    fn atom(&mut self, c: char, depth: usize) -> Option<Vec<Op>> {
        let op = match c {
            '.' => Op::Set(Vec::new(), true),
            '^' => Op::Begin,
            '$' => Op::End,
            '[' => self.set()?,
            '(' if depth < MAX_DEPTH => {
                let slot = 2 * self.groups;
                self.groups += 1;
                let mut group = self.alternatives(depth + 1)?;
                self.rest.next_if_eq(&')')?;
                group.insert(0, Op::Save(slot));
                group.push(Op::Save(slot + 1));
                return Some(group);
            }
            '(' | '*' | '+' | '?' => return None,
            _ => {
                let letter = if c == '\\' { self.rest.next()? } else { c };
                Op::Set([(letter, letter)].into(), false)
            }
        };
        Some([op].into())
    }

    fn set(&mut self) -> Option<Op> {
        const CLASSES: [(&str, &[(char, char)]); 6] = [
            ("alpha", &[('a', 'z'), ('A', 'Z')]),
            ("digit", &[('0', '9')]),
            ("alnum", &[('a', 'z'), ('A', 'Z'), ('0', '9')]),
            ("lower", &[('a', 'z')]),
            ("upper", &[('A', 'Z')]),
            ("space", &[('\t', '\r'), (' ', ' ')]),
        ];
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            let from = self.rest.next()?;
            if from == ']' && !ranges.is_empty() {
                return Some(Op::Set(ranges, negated));
            }
            if from == '[' && self.rest.next_if_eq(&':').is_some() {
                let name: String = self.rest.by_ref().take_while(|c| *c != ':').collect();
                self.rest.next_if_eq(&']')?;
                let class = CLASSES.iter().find(|class| class.0 == name)?;
                ranges.extend_from_slice(class.1);
                continue;
            }
            let mut ahead = self.rest.clone();
            let to = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(to)) if to != ']' => {
                    self.rest = ahead;
                    to
                }
                _ => from,
            };
            ranges.push((from, to));
        }
    }

    /// How often an atom is wanted at least and at most.
    fn times(&mut self, c: char) -> Option<(usize, Option<usize>)> {
        Some(match c {
            '*' => (0, None),
            '+' => (1, None),
            '?' => (0, Some(1)),
            _ => {
                let bounds: String = self.rest.by_ref().take_while(|c| *c != '}').collect();
                let (least, most) = bounds.split_once(',').unwrap_or((&bounds, &bounds));
                let least = least.parse().ok()?;
                match most {
                    "" => (least, None),
                    most => (least, Some(most.parse().ok().filter(|most| *most >= least)?)),
                }
            }
        })
    }
}

fn repeat(atom: &[Op], least: usize, most: Option<usize>) -> Option<Vec<Op>> {
    let copies = most.unwrap_or(least.checked_add(1)?);
    if copies.checked_mul(atom.len() + 2)? > MAX_PROGRAM {
        return None;
    }
    let len = atom.len() as isize;
    let mut program = Vec::new();
    for copy in 0..copies {
        if copy >= least {
            // Behind it, and the jump that repeats it.
            program.push(Op::Split(1, len + 1 + isize::from(most.is_none())));
        }
        program.extend_from_slice(atom);
    }
    if most.is_none() {
        program.push(Op::Split(-len - 1, -len - 1));
    }
    Some(program)
}

#[cfg(test)]
mod tests {
    use super::{find, matches};
    use std::string::String;

    #[test]
    fn patterns_of_shells() {
        for (pattern, text, wanted) in [
            ("", "", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a.c", "abc", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[", "[", false),
            ("(a|b)+", "a", false),
            ("(a|b)+", "(a|b)+", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
        assert!(!matches(&"*a".repeat(100), &"a".repeat(300)));
    }

    #[test]
    fn expressions() {
        for (pattern, text, wanted) in [
            ("", "", Some(std::vec![""])),
            ("b+", "abbc", Some(std::vec!["bb"])),
            ("(.+)", "hd0,gpt2", Some(std::vec!["hd0,gpt2", "hd0,gpt2"])),
            (
                "^([^,]+),(gpt|msdos)?([0-9])$",
                "hd0,gpt2",
                Some(std::vec!["hd0,gpt2", "hd0", "gpt", "2"]),
            ),
            ("^(.*)/([^/]*)$", "/a/b/c", Some(std::vec!["/a/b/c", "/a/b", "c"])),
            ("(a|b|cd)*e", "abcde", Some(std::vec!["abcde", "cd"])),
            ("(a*)*b", "aaab", Some(std::vec!["aaab", "aaa"])),
            ("(a*)*b", "aaa", None),
            ("[]x-]+", "a-]x", Some(std::vec!["-]x"])),
            ("[[:digit:]]{2,3}", "12345", Some(std::vec!["123"])),
            ("^a{2}$", "aaa", None),
            ("x{2,}", "axxx", Some(std::vec!["xxx"])),
            ("a\\.b", "a.b", Some(std::vec!["a.b"])),
            ("a\\.b", "axb", None),
            ("^b", "ab", None),
            ("(", "(", None),
            (")", ")", None),
            ("[a", "a", None),
            ("*", "*", None),
            ("a{9,1}", "a", None),
            ("a\\", "a", None),
            ("((((a{9}){9}){9}){9}){9}", "a", None),
        ] {
            let groups = find(pattern, text);
            let count = wanted.as_ref().map_or(0, |wanted: &std::vec::Vec<&str>| wanted.len());
            let groups = groups.map(|mut groups| {
                groups.truncate(count);
                groups
            });
            let wanted =
                wanted.map(|w| w.into_iter().map(String::from).collect::<std::vec::Vec<_>>());
            assert_eq!(groups, wanted, "{pattern} {text}");
        }
        let deep = "(".repeat(10_000);
        assert_eq!(find(&deep, "a"), None);
        assert_eq!(find("(.*)*x", &"a".repeat(16 << 10)), None);
    }
}
