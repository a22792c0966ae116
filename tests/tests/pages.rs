//! Guest memory that is there from the beginning, and of huge pages.

use std::fs;
use std::path::Path;
use std::process::Command;

use mote_tests::proc::{mapped, status};
use mote_tests::tap::count;
use mote_tests::vm::LIMIT;
use mote_tests::{Scratch, Terminal, Vm, have_kvm, mote, run, tiny};

const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// Puts the host's number of huge pages back at the end.
struct Pool(String);

impl Pool {
    /// Sets `pages` of 2 MiB aside; `None` if the host has not that many, or does
    /// not let us.
    fn of(pages: u64) -> Option<Self> {
        let pool = Self(fs::read_to_string(POOL).unwrap());
        fs::write(POOL, pages.to_string()).ok()?;
        let has: u64 = fs::read_to_string(POOL).unwrap().trim().parse().unwrap();
        (has >= pages).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(POOL, &self.0);
    }
}

fn saved(scratch: &Scratch, args: &[&str]) -> std::path::PathBuf {
    let to = scratch.join("saved");
    fs::create_dir(&to).unwrap();
    let mut command = tiny("resumed", args);
    run(command.args(["--then", "exit", "--snapshot"]).arg(&to)).expect(0);
    to
}

/// Bytes of huge pages that the process has.
fn huge(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("AnonHugePages"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// The number before the words of a line of `--timings`.
fn faults(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("page faults"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[test]
fn memory_is_there_before_the_guest_runs() {
    if !have_kvm() {
        return;
    }
    let resident = |args: &[&str]| {
        let vm = Vm::start(&mut tiny("idle", args));
        vm.wait_for("idle");
        status(vm.pid(), "VmRSS") >> 10
    };
    assert!(resident(&["--memory", "160M"]) < 100);
    assert!(resident(&["--memory", "160M", "--prefault"]) >= 160);
    // After its own reset, too.
    let mut vm = Vm::start(&mut tiny("touch", ["--memory", "160M", "--prefault"]));
    vm.wait_for("ready");
    vm.send("b");
    vm.wait_for_times("ready", 2);
    assert!(status(vm.pid(), "VmRSS") >> 10 >= 160);
    // A snapshot's stays in its file.
    let scratch = Scratch::new();
    let from = saved(&scratch, &["--memory", "160M"]);
    let text = from.to_str().unwrap();
    let left = [&["--prefault"][..], &[]].map(|args| {
        let mut command = mote(["restore", text, "--timings"]);
        let end = run(command.args(args));
        faults(&end.expect(0).err)
    });
    assert!(left[0] < left[1], "{left:?}");
}

/// All is mapped, and nothing but what the guest writes is its own.
#[test]
fn a_restored_guest_shares_what_it_only_reads() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let to = scratch.join("saved");
    fs::create_dir(&to).unwrap();
    let mut command = tiny("snapshot", ["--memory", "160M", "--then", "exit"]);
    run(command.arg("--snapshot").arg(&to)).expect(0);
    let mapped = |args: &[&str]| {
        let vm = Vm::start(mote(["restore", to.to_str().unwrap()]).args(args));
        vm.wait_for("again");
        mapped(vm.pid(), &to.join("memory"))
    };
    let (all, some) = (mapped(&["--prefault"]), mapped(&[]));
    assert_eq!(all.size, 160 << 10);
    let more = all.anonymous.saturating_sub(some.anonymous);
    assert!(more < 1 << 10, "{} {}", all.anonymous, some.anonymous);
}

#[test]
fn huge_pages_are_used_as_far_as_there_are_some() {
    if !have_kvm() {
        return;
    }
    let args = ["--memory", "160M", "--prefault", "--hugepages", "thp"];
    let vm = Vm::start(&mut tiny("idle", args));
    vm.wait_for("idle");
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if enabled.is_ok_and(|which| !which.contains("[never]")) {
        assert!(huge(vm.pid()) > 100 << 20, "{}", huge(vm.pid()));
    }
    drop(vm);
    for (args, words) in [
        (&["--hugepages", "1G"][..], &["--hugepages", "1G"][..]),
        (&["--hugepages", "2M", "--memory", "129M"], &["--hugepages", "2M"]),
    ] {
        run(&mut tiny("idle", args)).expect(2).complains(words);
    }
    let end = run(&mut mote(["restore", "/", "--hugepages", "thp"]));
    end.expect(2).complains(&["--hugepages", "snapshot"]);
}

/// In one test, for the pool is the host's.
#[test]
fn pages_that_are_set_aside_are_used_or_missed() {
    if !have_kvm() {
        return;
    }
    let Some(_pool) = Pool::of(100) else {
        println!("skipped: the host sets no huge pages aside");
        return;
    };
    let free = || {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find(|line| line.starts_with("HugePages_Free"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    };
    let before = free();
    let pages = ["--hugepages", "2M"];
    let args = [&pages[..], &["--memory", "1G"]].concat();
    let end = run(&mut tiny("idle", args));
    end.expect(4).complains(&["huge pages", "nr_hugepages"]);
    let scratch = Scratch::new();
    let directory = |name: &str| {
        let path = scratch.join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let [small, large, again] = ["small", "large", "again"].map(directory);
    let save = |command: &mut Command, to: &Path| {
        let end = run(command.args(["--then", "exit", "--snapshot"]).arg(to));
        end.expect(0).out.clone()
    };
    let memory = ["--memory", "64M"];
    save(&mut tiny("snapshot", memory), &small);
    save(&mut tiny("snapshot", [memory, pages].concat()), &large);
    let goes_on = |from: &Path, args: &[&str], to: Option<&Path>| {
        let mut command = mote(["restore", "--verify"]);
        command.arg(from).args(args);
        if let Some(to) = to {
            save(&mut command, to);
            return String::new();
        }
        let mut vm = Vm::start(&mut command);
        vm.wait_for("again");
        assert_eq!(before - free() >= 32, args == pages);
        vm.send("wmq");
        let out = vm.end().expect(0).out.clone();
        out[out.find("again").unwrap()..].to_owned()
    };
    let said = goes_on(&small, &[], None);
    assert_eq!(goes_on(&large, &[], None), said);
    assert_eq!(goes_on(&small, &pages, None), said);
    // And saved out of them.
    goes_on(&large, &pages, Some(&again));
    let rest = |text: &str| text[text.find("changed").unwrap()..].to_owned();
    let mut vm = Vm::start(mote(["restore", "--verify"]).arg(&again));
    vm.send("wmq");
    let out = vm.end().expect(0).out.clone();
    assert_eq!(rest(&out), rest(&said));
    assert_eq!(free(), before);
}

/// Whoever sits at a terminal sees that a long save goes on.
#[test]
fn a_long_save_says_how_far_it_is() {
    if !have_kvm() {
        return;
    }
    let scratch = Scratch::new();
    let to = scratch.join("saved");
    fs::create_dir(&to).unwrap();
    let mote = tiny("snapshot", ["--memory", "64M", "--then", "exit"]);
    let terminal = Terminal::open();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=pwrite64"]);
    strace.args(["-e", "inject=pwrite64:delay_enter=300000"]);
    strace.arg(mote.get_program()).args(mote.get_args());
    strace.arg("--snapshot").arg(&to);
    terminal.attach(&mut strace);
    let mut vm = strace.spawn().unwrap();
    for word in [" %\rmote: saving memory: ", "saving memory: written"] {
        let came = |bytes: &[u8]| count(bytes, word) > 0;
        let screen = &terminal.screen;
        assert!(screen.wait(LIMIT, came), "no {word:?} in {}", screen.text());
    }
    assert!(vm.wait().unwrap().success());
}
