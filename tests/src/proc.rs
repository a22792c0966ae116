//! What /proc tells about a running process.

use std::fs;
use std::path::{Path, PathBuf};

/// Targets of the open file descriptors, sorted.
///
/// # Panics
/// The process is not there.
#[must_use]
pub fn descriptors(pid: u32) -> Vec<String> {
    let mut targets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    targets.sort();
    targets
}

/// Names of the threads, sorted.
///
/// # Panics
/// The process is not there.
#[must_use]
pub fn threads(pid: u32) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// A number of `/proc/PID/status`, in KiB where it has a unit.
///
/// # Panics
/// The process or the line is not there.
#[must_use]
pub fn status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One-letter state of the process: R, S, T (stopped), Z, …
///
/// # Panics
/// The process is not there.
#[must_use]
pub fn state(pid: u32) -> char {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("State:"));
    line.unwrap()["State:".len()..].trim().chars().next().unwrap()
}

/// Whether the thread with this name waits.
#[must_use]
pub fn thread_sleeps(pid: u32, name: &str) -> bool {
    let stat = named_thread(pid, name).and_then(|task| fs::read_to_string(task.join("stat")).ok());
    // The state comes after the name, which is in parentheses.
    stat.is_some_and(|stat| stat.contains(&format!("({name}) S ")))
}

/// Processor time of all threads, in clock ticks (hundredths of a second).
///
/// # Panics
/// The process is not there.
#[must_use]
pub fn ticks(pid: u32) -> u64 {
    stat_ticks(&format!("/proc/{pid}/stat")).unwrap()
}

/// The same of the thread with this name, 0 if there is none.
#[must_use]
pub fn thread_ticks(pid: u32, name: &str) -> u64 {
    let stat = named_thread(pid, name).map(|task| task.join("stat"));
    // It may end at any time.
    stat.and_then(|stat| stat_ticks(&stat.to_string_lossy()).ok()).unwrap_or(0)
}

fn stat_ticks(path: &str) -> std::io::Result<u64> {
    let stat = fs::read_to_string(path)?;
    // Behind the name, which may hold anything: state is field 3, user and
    // system time are 14 and 15 (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let time = [fields[11], fields[12]];
    Ok(time.iter().map(|field| field.parse::<u64>().unwrap()).sum())
}

/// KiB of all mappings of a file, from `/proc/PID/smaps`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mapped {
    /// Address space.
    pub size: u64,
    /// In memory.
    pub resident: u64,
    /// Pages that are the process's own copies.
    pub private_dirty: u64,
    /// Pages that are no longer the file's.
    pub anonymous: u64,
}

/// Sums up the mappings of `file`.
///
/// # Panics
/// The process is not there.
#[must_use]
pub fn mapped(pid: u32, file: &Path) -> Mapped {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let name = file.to_string_lossy();
    let mut sum = Mapped::default();
    let mut inside = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        if !key.ends_with(':') {
            inside = line.ends_with(name.as_ref());
            continue;
        }
        let value: u64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let field = match key {
            "Size:" => &mut sum.size,
            "Rss:" => &mut sum.resident,
            "Private_Dirty:" => &mut sum.private_dirty,
            "Anonymous:" => &mut sum.anonymous,
            _ => continue,
        };
        *field += if inside { value } else { 0 };
    }
    sum
}

fn named_thread(pid: u32, name: &str) -> Option<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut tasks = tasks.into_iter().flatten().flatten().map(|task| task.path());
    tasks.find(|task| {
        let comm = fs::read_to_string(task.join("comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    })
}
