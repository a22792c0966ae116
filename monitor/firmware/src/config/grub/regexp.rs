//! GRUB's `regexp`: extended regular expressions of POSIX without back-references.

use alloc::string::String;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::str::Chars;

/// Instructions of an expression, with all its repetitions.
const MAX_PROGRAM: usize = 512;
/// Instructions times letters of the text: what a match may take.
const MAX_STATES: usize = 1 << 16;
/// What a match counts as, in commands.
pub(super) const STEPS: usize = 20;
/// Groups inside groups.
const MAX_DEPTH: usize = 16;
/// The whole match and its groups.
const GROUPS: usize = 10;

/// Jumps are relative, so that instructions can be copied.
#[derive(Clone)]
enum Op {
    Any,
    /// Ranges of letters, and whether they are those that do not match.
    Set(Vec<(char, char)>, bool),
    Begin,
    End,
    /// The first way is tried first.
    Split(isize, isize),
    Jump(isize),
    Save(usize),
}

/// What a match of `pattern` in `text` and each group of it is; `None` without a match,
/// or if the expression is none.
pub(super) fn find(pattern: &str, text: &str) -> Option<Vec<String>> {
    let mut parser = Parser { rest: pattern.chars().peekable(), groups: 1 };
    let program = parser.alternatives(0)?;
    let text: Vec<char> = text.chars().collect();
    let states = program.len().checked_add(1)?.checked_mul(text.len() + 1)?;
    if parser.rest.peek().is_some() || states > MAX_STATES {
        return None;
    }
    let mut seen = alloc::vec![false; states];
    (0..=text.len()).find_map(|start| run(&program, &text, start, &mut seen))
}

/// What is left to try, the last first.
enum Todo {
    Try(usize, usize),
    Restore(usize, usize),
}

/// No state is tried twice: it would fail again, and a loop without progress ends.
fn run(program: &[Op], text: &[char], start: usize, seen: &mut [bool]) -> Option<Vec<String>> {
    let mut saved = [usize::MAX; 2 * GROUPS];
    let mut todo = alloc::vec![Todo::Try(0, start)];
    while let Some(next) = todo.pop() {
        let (mut pc, mut at) = match next {
            Todo::Try(pc, at) => (pc, at),
            Todo::Restore(slot, old) => {
                saved.get_mut(slot).into_iter().for_each(|s| *s = old);
                continue;
            }
        };
        loop {
            let state = seen.get_mut(pc * (text.len() + 1) + at)?;
            if core::mem::replace(state, true) {
                break;
            }
            let here = text.get(at).copied();
            let step = match program.get(pc) {
                None => return Some(groups(&saved, text, start, at)),
                Some(Op::Any) => here.is_some().then_some((1, 1)),
                Some(Op::Set(ranges, negated)) => {
                    let has = |c| ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                    here.filter(|c| has(*c) != *negated).map(|_| (1, 1))
                }
                Some(Op::Begin) => (at == 0).then_some((1, 0)),
                Some(Op::End) => here.is_none().then_some((1, 0)),
                Some(Op::Jump(by)) => Some((*by, 0)),
                Some(Op::Split(first, second)) => {
                    todo.push(Todo::Try(pc.checked_add_signed(*second)?, at));
                    Some((*first, 0))
                }
                Some(Op::Save(slot)) => {
                    if let Some(place) = saved.get_mut(*slot) {
                        todo.push(Todo::Restore(*slot, *place));
                        *place = at;
                    }
                    Some((1, 0))
                }
            };
            let Some((by, letters)) = step else { break };
            (pc, at) = (pc.checked_add_signed(by)?, at + letters);
        }
    }
    None
}

fn groups(saved: &[usize], text: &[char], start: usize, end: usize) -> Vec<String> {
    let part = |from: usize, to: usize| -> String {
        text.get(from..to).unwrap_or_default().iter().collect()
    };
    let pairs = saved.chunks_exact(2).skip(1).map(|pair| match *pair {
        [from, to] => part(from, to),
        _ => String::new(),
    });
    core::iter::once(part(start, end)).chain(pairs).collect()
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
            program.insert(0, Op::Split(1, offset(program.len() + 2)?));
            program.push(Op::Jump(offset(right.len() + 1)?));
            program.extend(right);
        }
        (depth <= MAX_DEPTH).then_some(program)
    }

    fn branch(&mut self, depth: usize) -> Option<Vec<Op>> {
        let mut program = Vec::new();
        while let Some(c) = self.rest.next_if(|c| !matches!(c, '|' | ')')) {
            let mut atom = self.atom(c, depth)?;
            while let Some((least, most)) = self.times()? {
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
        let literal = |c| Op::Set([(c, c)].into(), false);
        let op = match c {
            '.' => Op::Any,
            '^' => Op::Begin,
            '$' => Op::End,
            '[' => self.set()?,
            '\\' => literal(self.rest.next()?),
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
            c => literal(c),
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

    /// How often an atom is wanted at least and at most, if that is said.
    fn times(&mut self) -> Option<Option<(usize, Option<usize>)>> {
        let next = self.rest.next_if(|c| matches!(c, '*' | '+' | '?' | '{'));
        Some(Some(match next {
            None => return Some(None),
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some(_) => {
                let bounds: String = self.rest.by_ref().take_while(|c| *c != '}').collect();
                let (least, most) = bounds.split_once(',').unwrap_or((&bounds, &bounds));
                let least = least.parse().ok()?;
                match most {
                    "" => (least, None),
                    most => (least, Some(most.parse().ok().filter(|most| *most >= least)?)),
                }
            }
        }))
    }
}

fn repeat(atom: &[Op], least: usize, most: Option<usize>) -> Option<Vec<Op>> {
    let copies = most.unwrap_or(least + 1);
    if copies.checked_mul(atom.len() + 2)? > MAX_PROGRAM {
        return None;
    }
    let mut program = Vec::new();
    for copy in 0..copies {
        if copy >= least {
            // Behind it, and the jump that repeats it.
            let behind = offset(atom.len())? + 1 + isize::from(most.is_none());
            program.push(Op::Split(1, behind));
        }
        program.extend_from_slice(atom);
    }
    if most.is_none() {
        program.push(Op::Jump(-offset(atom.len())? - 1));
    }
    Some(program)
}

fn offset(len: usize) -> Option<isize> {
    isize::try_from(len).ok()
}

#[cfg(test)]
mod tests {
    use super::find;
    use std::string::String;

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
