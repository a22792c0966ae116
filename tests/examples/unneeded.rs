//! Names the rules of the sandbox's table that no traced run has used; fails if
//! there is one. `tests/needed` makes the traces.

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use mote::sandbox::Thread;
use mote::sandbox::rule::{If, Rule, THREADS};
use mote::sandbox::table::{LATER, rules};

/// Rules that the tests need not use, and why.
const SPARED: &[(libc::c_long, &str)] = &[
    (libc::SYS_brk, "a heap may grow at any allocation"),
    (libc::SYS_clock_gettime, "only where the clock cannot be read without"),
    (libc::SYS_restart_syscall, "only if stopped within a timed wait"),
    (libc::SYS_madvise, "populating is for Linux kernels; see the lab"),
    (libc::SYS_fcntl, "in debug builds only"),
    (libc::SYS_tgkill, "an API on a terminal, stopped by it as other VMs are"),
    (libc::SYS_write, "each thread may have last words"),
];

const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_NAME: u64 = 15;

/// Kind of thread and place in its list.
type Used = BTreeSet<(usize, usize)>;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let names = numbers()?;
    let mut used = Used::new();
    let folder = env::args_os().nth(1).ok_or("usage: unneeded FOLDER")?;
    let mut runs = 0;
    for trace in fs::read_dir(&folder)? {
        read(&fs::read(trace?.path())?, &names, &mut used);
        runs += 1;
    }
    let mut unneeded = 0;
    for (kind, (thread, _)) in THREADS.iter().enumerate() {
        for (place, rule) in rules(*thread).enumerate() {
            // Any vCPU may do what one has done.
            let by_first = || *thread == Thread::Vcpu && used_by_first(rule, &used);
            if used.contains(&(kind, place)) || by_first() {
                continue;
            }
            if rule.why.starts_with(LATER) {
                continue;
            }
            let spared = SPARED.iter().find(|(call, _)| *call == rule.call);
            let verdict = spared.map_or("UNNEEDED", |(_, why)| why);
            let name = name_of(rule, &names);
            println!("{thread:?}: {name}, {}: {verdict}", rule.why);
            unneeded += usize::from(spared.is_none());
        }
    }
    println!("{runs} runs, {} rules used, {unneeded} unneeded", used.len());
    let all_used = runs > 0 && unneeded == 0;
    Ok(if all_used { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn used_by_first(rule: &Rule, used: &Used) -> bool {
    let kind = THREADS.iter().position(|(thread, _)| *thread == Thread::FirstVcpu);
    let same = |other: &&Rule| std::ptr::eq(*other, rule);
    let place = rules(Thread::FirstVcpu).position(|other| same(&other));
    kind.zip(place).is_some_and(|at| used.contains(&at))
}

/// Numbers of the system calls by name, from the C library's header.
fn numbers() -> Result<HashMap<String, libc::c_long>, Box<dyn Error>> {
    let header = Path::new("/usr/include/x86_64-linux-gnu/asm/unistd_64.h");
    let text = fs::read_to_string(header)?;
    let define = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(define).collect())
}

fn name_of<'a>(rule: &Rule, names: &'a HashMap<String, libc::c_long>) -> &'a str {
    let mut names = names.iter();
    names.find(|(_, number)| **number == rule.call).map_or("?", |(name, _)| name)
}

/// A thread of a trace.
#[derive(Default)]
struct Traced {
    name: String,
    /// All but the main one inherit the first.
    filters: usize,
}

fn read(trace: &[u8], numbers: &HashMap<String, libc::c_long>, used: &mut Used) {
    let mut threads: HashMap<String, Traced> = HashMap::new();
    let new = |filters| Traced { filters, ..Traced::default() };
    // An API's process keeps the filter that it has before its VM, beneath all others.
    let mut early = false;
    for line in String::from_utf8_lossy(trace).lines() {
        let Some((pid, call)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let Some((name, rest)) = call.trim_start().split_once('(') else {
            continue;
        };
        let inherited = usize::from(!threads.is_empty());
        let thread = threads.entry(pid.to_owned()).or_insert_with(|| new(inherited));
        // The arguments of one of them are not traced raw.
        if let (1, Some(number), "prctl" | "seccomp") = (thread.filters, numbers.get(name), name) {
            let dumpable = rest.starts_with("PR_SET_DUMPABLE");
            let what = if dumpable { PR_SET_DUMPABLE } else { PR_SET_NAME };
            mark(None, *number, &[what], used);
            if early {
                use_early(*number, &[what], used);
            }
        }
        match name {
            "prctl" => {
                if let Some(name) = rest.split('"').nth(1) {
                    name.clone_into(&mut thread.name);
                }
            }
            // With this flag for all threads that there are.
            "seccomp" if raw(rest, 1) == 1 => {
                threads.values_mut().for_each(|thread| thread.filters += 1);
            }
            "seccomp" => {
                thread.filters += 1;
                early |= threads.len() == 1;
            }
            _ if thread.filters == 0 => {}
            _ => {
                let arguments: Vec<u64> = (0..6).map(|at| raw(rest, at)).collect();
                let Some(number) = numbers.get(name) else {
                    continue;
                };
                let name = match thread.filters {
                    1 => None,
                    _ => Some(thread.name.as_str()),
                };
                mark(name, *number, &arguments, used);
                if early {
                    use_early(*number, &arguments, used);
                }
            }
        }
    }
}

/// An argument of a call that was traced raw; 0 if it has no such.
fn raw(rest: &str, at: usize) -> u64 {
    let end = rest.find([')', '<']).unwrap_or(rest.len());
    let word = rest[..end].split(',').nth(at).unwrap_or_default().trim();
    let hex = word.strip_prefix("0x");
    hex.map_or_else(|| word.parse(), |hex| u64::from_str_radix(hex, 16)).unwrap_or(0)
}

/// Of a thread with this name, or none while the VM is made.
fn mark(name: Option<&str>, number: libc::c_long, arguments: &[u64], used: &mut Used) {
    for (kind, (thread, _)) in THREADS.iter().enumerate() {
        let Some(name) = name else {
            if matches!(
                thread,
                Thread::Start
                    | Thread::StartApi
                    | Thread::StartOpen
                    | Thread::StartSaver
                    | Thread::Reader
            ) {
                use_rules(kind, *thread, (number, arguments), used);
            }
            continue;
        };
        let same = match thread {
            Thread::Early
            | Thread::Start
            | Thread::StartApi
            | Thread::StartOpen
            | Thread::Reader => false,
            Thread::Main | Thread::Control | Thread::Opener => name.is_empty(),
            // What a snapshot is written with is in both.
            Thread::StartSaver | Thread::Saver => name.is_empty(),
            Thread::FirstVcpu => name == "vcpu0",
            Thread::Vcpu => name.starts_with("vcpu") && name != "vcpu0",
            // Drives may have any name.
            Thread::Net => name.starts_with("net"),
            Thread::Disk | Thread::ReadOnly => {
                !name.is_empty() && !name.starts_with("vcpu") && !name.starts_with("net")
            }
        };
        if same {
            use_rules(kind, *thread, (number, arguments), used);
        }
    }
}

/// Of any thread of an API's process: all of them are under these filters, too.
fn use_early(number: libc::c_long, arguments: &[u64], used: &mut Used) {
    for (kind, (thread, _)) in THREADS.iter().enumerate() {
        if matches!(thread, Thread::Early | Thread::StartOpen) {
            use_rules(kind, *thread, (number, arguments), used);
        }
    }
}

fn use_rules(kind: usize, thread: Thread, call: (libc::c_long, &[u64]), used: &mut Used) {
    let (number, arguments) = call;
    for (place, rule) in rules(thread).enumerate() {
        if rule.call == number && rule.when.iter().all(|check| fits(check, arguments)) {
            used.insert((kind, place));
        }
    }
}

/// Whether the arguments may be so; numbers of descriptors are not compared.
fn fits(check: &If, arguments: &[u64]) -> bool {
    let argument = |at: u8| arguments.get(usize::from(at)).copied().unwrap_or(0);
    match *check {
        If::Is(at, value) => argument(at) as u32 == value,
        If::OneOf(at, values) => values.contains(&(argument(at) as u32)),
        If::Exactly(at, value) => argument(at) == value,
        If::Short(at) => argument(at) >> 32 == 0,
        If::Type(at, kind) => argument(at) >> 8 & 0xff == u64::from(kind),
        If::Slot(..) | If::Between(..) | If::Below(..) | If::Absent => true,
    }
}
