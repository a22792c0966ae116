//! The floor plan: imports of the monitor run down its floors. Read from the sources,
//! with no exceptions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The floors of `monitor/src`, from the top; a folder may use those below it.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["api"],
    &["run"],
    &["snapshot"],
    &["boot", "doctor"],
    &["vm"],
    &["devices"],
    &["sandbox"],
    &["host"],
    &["config"],
    &["error", "layout", "channel", "timings", "counts"],
];
/// Names from a crate's root, such as `["vm", "bus"]`.
type Place = Vec<String>;

/// A crate's files: what each imports, and what each hands on by `pub use`.
#[derive(Default)]
struct Sources {
    imports: BTreeMap<Place, BTreeSet<Place>>,
    doors: BTreeMap<Place, Place>,
}

impl Sources {
    fn read(name: &str, folder: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let mut texts = BTreeMap::new();
        collect(&root, &mut Vec::new(), &mut texts);
        assert!(texts.len() > 3, "{folder}: no sources");
        let mut all = Self::default();
        for (file, text) in &texts {
            let (mut imports, rest) = (BTreeSet::new(), code(text));
            for (public, tree) in uses(&rest) {
                for path in leaves(&tree) {
                    let path = path.split(" as ").next().unwrap_or_default().trim();
                    let Some(target) = absolute(path, file, name, &texts) else {
                        continue;
                    };
                    let own = target.starts_with(file) && target.len() > file.len() + 1;
                    match target.last() {
                        Some(last) if public && own => {
                            let door = [&file[..], std::slice::from_ref(last)].concat();
                            all.doors.insert(door, target);
                        }
                        _ => drop(imports.insert(target)),
                    }
                }
            }
            let body = without_uses(&rest);
            imports
                .extend(inline(&body).iter().filter_map(|path| absolute(path, file, name, &texts)));
            all.imports.insert(file.clone(), imports);
        }
        all
    }

    /// The file that defines what `path` names, through any doors.
    fn owner(&self, path: &Place) -> Place {
        let mut path = path.clone();
        // A function may have its file's name.
        let door =
            |part: &[String]| self.doors.get(part).filter(|_| !self.imports.contains_key(part));
        while let Some((through, rest)) =
            (1..=path.len()).find_map(|n| Some((door(&path[..n])?, &path[n..])))
        {
            path = [&through[..], rest].concat();
        }
        let files = (0..=path.len()).rev().map(|n| path[..n].to_vec());
        files.into_iter().find(|file| self.imports.contains_key(file)).unwrap_or_default()
    }

    /// Which files each file uses, other than itself.
    fn edges(&self) -> BTreeMap<Place, BTreeSet<Place>> {
        let own = |(file, paths): (&Place, &BTreeSet<Place>)| {
            let targets = paths.iter().map(|path| self.owner(path));
            (file.clone(), targets.filter(|target| target != file).collect())
        };
        self.imports.iter().map(own).collect()
    }
}

/// Reads every source below `folder` but tests in files of their own.
fn collect(folder: &Path, place: &mut Place, texts: &mut BTreeMap<Place, String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            place.push(name);
            collect(&path, place, texts);
            place.pop();
        } else if let Some(stem) = name.strip_suffix(".rs").filter(|s| !s.ends_with("_test")) {
            let mut file = place.clone();
            if !["mod", "lib"].contains(&stem) {
                file.push(stem.to_owned());
            }
            texts.insert(file, fs::read_to_string(path).unwrap());
        }
    }
}

/// The text without comments and without the tests at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").filter(|at| text[*at..].contains('{'));
    let text = &text[..end.unwrap_or(text.len())];
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The `use` statements: whether each is public, and its tree.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut all = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap_or_default().trim();
        if before.is_empty() || before.starts_with("pub") {
            let tree = code[at + 4..].split(';').next().unwrap_or_default();
            all.push((!before.is_empty(), tree.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    all
}

/// The code without its `use` statements.
fn without_uses(code: &str) -> String {
    let mut rest = String::new();
    let mut inside = false;
    for line in code.lines() {
        let start = line.trim_start();
        inside |= start.starts_with("use ") || start.starts_with("pub") && start.contains(" use ");
        if inside {
            inside = !line.contains(';');
        } else {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    rest
}

/// The paths of a `use` tree.
fn leaves(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let body = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in body.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match (c, depth) {
            (',', 0) => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| leaves(&format!("{prefix}{part}"))).collect()
}

/// Paths in the code itself that begin at the crate or a neighbour.
fn inline(code: &str) -> Vec<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = code.split(|c| !word(c)).filter(|word| word.contains("::"));
    words.map(str::to_owned).collect()
}

/// Where a path that is used in `file` leads from the crate's root; `None` if it leads
/// to another crate.
fn absolute(path: &str, file: &Place, name: &str, all: &BTreeMap<Place, String>) -> Option<Place> {
    let mut words: Vec<&str> = path.split("::").filter(|word| !word.is_empty()).collect();
    words.retain(|word| *word != "*");
    let first = *words.first()?;
    let mut base = match first {
        "crate" => Vec::new(),
        "self" | "super" => file.clone(),
        _ if first == name => Vec::new(),
        _ => {
            let child = [&file[..], &[first.to_owned()]].concat();
            return all.contains_key(&child).then(|| {
                let rest = words[1..].iter().map(|word| (*word).to_owned());
                child.into_iter().chain(rest).collect()
            });
        }
    };
    for _ in words.iter().filter(|word| **word == "super") {
        base.pop();
    }
    words.retain(|word| !["super", "self", "crate", name].contains(word));
    Some(base.into_iter().chain(words.into_iter().map(str::to_owned)).collect())
}

#[test]
fn imports_of_the_monitor_run_down_its_floors() {
    let floor = |file: &Place| {
        let room = file.first().map_or("lib", String::as_str);
        FLOORS.iter().position(|rooms| rooms.contains(&room))
    };
    let mut wrong = Vec::new();
    for (file, targets) in Sources::read("mote", "monitor/src").edges() {
        let Some(own) = floor(&file) else {
            assert!(file.is_empty(), "{file:?} is on no floor");
            continue;
        };
        for target in targets {
            let same = file.first() == target.first();
            if !same && floor(&target).is_none_or(|other| other <= own) {
                wrong.push(format!("{} uses {}", file.join("::"), target.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The crates of programs and libraries, by the name that their paths begin with.
const CRATES: [(&str, &str); 5] = [
    ("mote", "monitor/src"),
    ("mote_firmware", "monitor/firmware/src"),
    ("mote_jailer", "jailer/src"),
    ("mote_snapshot", "snapshot/src"),
    ("mote_virtio", "virtio/src"),
];

/// Whoever changes a file of a ring has to know all of it. What a folder's door hands on by
/// `pub use` belongs to the file behind it.
#[test]
fn no_file_imports_what_imports_it() {
    let mut rings = Vec::new();
    for (name, folder) in CRATES {
        let edges = Sources::read(name, folder).edges();
        assert!(edges.values().any(|targets| !targets.is_empty()), "{folder}: no imports");
        let reach = |from: &Place| {
            let (mut seen, mut todo) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(file) = todo.pop() {
                let next = edges.get(&file).into_iter().flatten();
                todo.extend(next.filter(|file| seen.insert((*file).clone())).cloned());
            }
            seen
        };
        let reached: BTreeMap<&Place, BTreeSet<Place>> =
            edges.keys().map(|file| (file, reach(file))).collect();
        for (file, own) in &reached {
            let ring = own.iter().filter(|other| reached[other].contains(*file));
            let ring: Vec<String> = ring.map(|file| file.join("::")).collect();
            // Each once, by its first file.
            if own.contains(*file) && ring.first() == Some(&file.join("::")) {
                rings.push(format!("{name}: {}", ring.join(", ")));
            }
        }
    }
    assert!(rings.is_empty(), "{}", rings.join("\n"));
}

/// Lines of text, without comments and blank lines, that a file may have.
const MOST_LINES: usize = 500;

/// A file is read as a whole. Tests are no exception.
#[test]
fn no_file_is_too_long_to_be_read_at_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["fuzz", "jailer", "monitor", "snapshot", "tests", "virtio"];
    let mut todo: Vec<_> = folders.map(|folder| root.join(folder)).into();
    let (mut files, mut long) = (0, Vec::new());
    while let Some(path) = todo.pop() {
        if path.is_dir() && !path.ends_with("target") {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.lines().map(str::trim_start);
            let lines = text.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
            files += 1;
            long.extend((lines > MOST_LINES).then_some((path, lines)));
        }
    }
    assert!(files > 300, "{files} files were found");
    assert!(long.is_empty(), "more than {MOST_LINES} lines: {long:?}");
}
