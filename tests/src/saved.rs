//! Guests that are saved and restored.

use std::fs;
use std::path::Path;

use crate::{Vm, mote, run, tiny};

/// A path as text.
///
/// # Panics
/// It is not UTF-8.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The rest of the first line of `out` that begins with `word`.
///
/// # Panics
/// No line does.
#[must_use]
pub fn behind(out: &str, word: &str) -> String {
    let found = out.lines().find_map(|line| line.strip_prefix(word));
    found.unwrap_or_else(|| panic!("no {word:?} in {out:?}")).to_owned()
}

/// Takes a snapshot in the middle of a line and ends; returns the hash of the
/// guest's memory. `devices` are flags for both steps: the runtime writes the
/// boot marker with its first instructions, so the VM that gets as far as the
/// guest's own is a restored one.
///
/// # Panics
/// Any of it fails.
pub fn save(to: &Path, args: &[&str], devices: &[&str]) -> String {
    let start = to.with_extension("start");
    fs::create_dir(&start).unwrap();
    let then = ["--then", "exit", "--snapshot"];
    let all = [args, devices, &then, &[text(&start)]].concat();
    let end = run(&mut tiny("snapshot", all));
    assert_eq!((end.expect(0).out.as_str(), end.complaints()), ("", vec![]));
    let all = [devices, &then, &[text(to)]].concat();
    let end = run(mote(["restore", text(&start)]).args(all));
    let out = &end.expect(0).out;
    assert!(out.ends_with("half a"), "{out}");
    assert_eq!(end.complaints(), [""; 0]);
    behind(out, "hash ")
}

/// A VM that is restored from the directory `from`.
///
/// # Panics
/// It cannot be started.
pub fn restore(from: &Path, args: &[&str]) -> Vm {
    Vm::start(mote(["restore", text(from)]).args(args))
}

/// Restores a guest, which must be as it was and must listen to its console.
///
/// # Panics
/// It is not or does not.
pub fn goes_on(from: &Path, hash: &str, args: &[&str]) {
    let mut vm = restore(from, args);
    vm.wait_for(&format!("again {hash}"));
    vm.send("x");
    vm.wait_for("got 120");
    vm.send("q");
    let end = vm.end();
    let out = &end.expect(0).out;
    assert!(out.starts_with(" line\nagain "), "{out}");
    assert_eq!(end.complaints(), [""; 0]);
}
