//! Every command in the documents does what they say: the `sh` blocks of each run
//! in the order in which they stand, in a fresh directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_tests::medium::{disk, iso};
use mote_tests::{Scratch, guest, have_kvm, run, vm};

/// What makes commands that a person types one by one work in one go: a client waits
/// for its server's socket, and a failed request fails. `cargo` and `tests/run` are
/// what runs this test, so that they only have to name what exists.
const PRELUDE: &str = r#"
set -euo pipefail
exec </dev/null
USER=root
wait_for() { for _ in $(seq 500); do [ ! -S "$1" ] || return 0; sleep 0.02; done; return 1; }
curl() { wait_for "$2"; command curl -sS --fail-with-body "$@"; }
mote() {
    [ "$1" != ctl ] || wait_for "$3"
    # In the background the shell's own process becomes mote, for the trap below to end.
    [ "$BASHPID" = $$ ] || exec mote "$@"
    command mote "$@"
}
cargo() {
    case "$*" in
        'run --release -- demo') mote demo ;;
        'install --locked --path '*) test -f "$REPOSITORY/$4/Cargo.toml" ;;
        *) echo "an unknown use of cargo: $*" >&2; return 1 ;;
    esac
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"#;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The `sh` blocks of a document, one after the other.
fn commands(document: &Path) -> String {
    let text = fs::read_to_string(document).unwrap();
    let mut blocks = text.split("```sh\n").skip(1);
    let commands = blocks.by_ref().map(|block| block.split("```").next().unwrap());
    commands.collect()
}

/// The files that documents name.
fn fixtures(scratch: &Scratch) {
    let system = fs::read(guest("system")).unwrap();
    let extlinux = "label l0\n linux /system\n append do=run\n initrd /system\n";
    let files: &[(&str, &[u8])] =
        &[("extlinux/extlinux.conf", extlinux.as_bytes()), ("system", &system)];
    let installed = fs::read(disk(scratch, "installed", false, files)).unwrap();
    let cfg = "menuentry Install {\n linux /system do=install disk=0\n initrd /initrd\n}\n";
    let files: &[(&str, &[u8])] =
        &[("boot/grub/grub.cfg", cfg.as_bytes()), ("system", &system), ("initrd", &installed)];
    let _ = iso(scratch, "installer", files);
    let images = scratch.join("images");
    fs::create_dir(&images).unwrap();
    for (name, program) in [
        ("vmlinux", "hello"),
        ("app.elf", "marks"),
        ("service.elf", "idle"),
        ("images/vmlinux", "idle"),
    ] {
        fs::copy(guest(program), scratch.join(name)).unwrap();
    }
    for name in ["root.img", "images/root.img", "tools.iso", "initrd.img"] {
        scratch.file(name, vec![0; 1 << 20]);
    }
    // The user of a jail has to be let in.
    for name in ["vmlinux", "root.img"] {
        let mode = fs::Permissions::from_mode(0o666);
        fs::set_permissions(scratch.join(name), mode).unwrap();
    }
    fs::create_dir(scratch.join("tests")).unwrap();
    symlink("/bin/true", scratch.join("tests/run")).unwrap();
    assert!(repository().join("tests/run").exists());
}

fn documents() -> Vec<PathBuf> {
    let root = repository();
    let docs = fs::read_dir(root.join("monitor/docs")).unwrap();
    let mut all: Vec<_> = docs.map(|entry| entry.unwrap().path()).collect();
    all.extend(["README.md", "jailer/README.md"].map(|name| root.join(name)));
    all.retain(|path| path.extension().is_some_and(|e| e == "md"));
    all.sort();
    all
}

#[test]
fn every_command_in_the_documents_works() {
    if !have_kvm() {
        return;
    }
    let mut ran = 0;
    for document in documents() {
        let commands = commands(&document);
        if commands.is_empty() {
            continue;
        }
        let scratch = Scratch::new();
        fixtures(&scratch);
        let mut command = Command::new("unshare");
        // A network of its own, for taps.
        command.args(["--net", "bash", "-c"]).arg(format!("{PRELUDE}{commands}"));
        command.current_dir(&*scratch).env("REPOSITORY", repository());
        command.env("MOTE", vm::binary()).env("MOTE_JAILER", vm::jailer());
        // Real files: a jail takes no symbolic link for its program.
        let programs = scratch.join("programs");
        fs::create_dir(&programs).unwrap();
        fs::copy(vm::binary(), programs.join("mote")).unwrap();
        fs::copy(vm::jailer(), programs.join("mote-jailer")).unwrap();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()));
        let end = run(&mut command);
        assert_eq!(end.code, 0, "{}\n{}\n{}", document.display(), end.out, end.err);
        ran += 1;
    }
    assert!(ran >= 7, "only {ran} documents have commands");
}

/// Every file and heading that a document links to exists.
#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
    };
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let all: BTreeSet<_> =
                    headings.map(|h| anchor(h.trim_start_matches('#'))).collect();
                assert!(all.contains(heading), "{}: {link}", document.display());
            }
        }
    }
}

/// The first page is read in two minutes.
#[test]
fn the_readme_is_short() {
    let text = fs::read_to_string(repository().join("README.md")).unwrap();
    let words = text.split_whitespace().count();
    assert!(words <= 600, "{words} words");
}

/// The table of flaws names a test for each, which is there.
#[test]
fn every_flaw_has_its_test() {
    let text = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let table = text.split("## Flaws and their tests").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() > 50, "{rows:?}");
    for row in rows {
        let (mut source, mut found) = (String::new(), false);
        for word in row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
            let (path, name) = match word.split_once(": ") {
                Some((path, name)) => (Some(path), Some(name)),
                None if word.contains('/') => (Some(word), None),
                None => (None, Some(word).filter(|word| word.contains('_'))),
            };
            if let Some(path) = path.filter(|path| !path.contains('*')) {
                let path = repository().join(path);
                assert!(path.exists(), "{word}: no such file: {row}");
                source = fs::read_to_string(path).unwrap_or_default();
                found = true;
            }
            // Constants of the kernel are named as well.
            if let Some(name) = name.filter(|name| !name.starts_with(char::is_uppercase)) {
                assert!(source.contains(&format!("fn {name}(")), "{name}: no such test: {row}");
                found = true;
            }
        }
        assert!(found || row.contains('*') || row.contains("the same"), "no test: {row}");
    }
}
