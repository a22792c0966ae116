//! Where control groups are mounted, and the plan of those of a jail.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::error::Error;

/// A hierarchy of control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What its groups can limit.
    pub controllers: Vec<String>,
}

/// The hierarchies that are mounted.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    /// Version 1: one for each controller or a few.
    pub v1: Vec<Mount>,
    /// Version 2.
    pub v2: Option<Mount>,
}

/// The controllers of version 1, among other mount options.
const CONTROLLERS: &str = "cpu cpuacct cpuset memory pids blkio devices hugetlb net_cls net_prio \
    freezer perf_event rdma misc";

/// A file of a group, and its new content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its name.
    pub file: String,
    /// What the kernel is given.
    pub value: String,
    /// Not a default, which is left out where the file is missing.
    pub asked: bool,
}

/// One group of the jail: the only one with version 2, one per hierarchy with
/// version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// Its limits.
    pub writes: Vec<Write>,
}

/// The control groups of a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Version 2: the child starts inside; version 1: it is moved.
    pub unified: bool,
    /// Path of the parent below the mounts.
    pub parent: PathBuf,
    /// Name of the leaves.
    pub name: String,
    /// The leaves.
    pub leaves: Vec<Leaf>,
}

impl Mounts {
    /// Reads the mounts.
    pub fn read() -> Self {
        let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self::parse(&text, |mount| {
            let list = fs::read_to_string(mount.join("cgroup.controllers"));
            list.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        })
    }

    fn parse(mounts: &str, controllers: impl Fn(&Path) -> Vec<String>) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(path), Some(kind), Some(options)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let path = unescaped(path);
            match kind {
                "cgroup2" if found.v2.is_none() => {
                    let controllers = controllers(&path);
                    found.v2 = Some(Mount { path, controllers });
                }
                "cgroup" => {
                    let known = |option: &&str| CONTROLLERS.split(' ').any(|name| name == *option);
                    let controllers = options.split(',').filter(known).map(str::to_owned).collect();
                    found.v1.push(Mount { path, controllers });
                }
                _ => {}
            }
        }
        found
    }

    fn of(&self, unified: bool) -> &[Mount] {
        if unified { self.v2.as_slice() } else { &self.v1 }
    }
}

impl Plan {
    /// The groups that the arguments ask for, if they do.
    ///
    /// # Errors
    /// The host has no such controller.
    pub fn new(args: &Args, mounts: &Mounts) -> Result<Option<Self>, Error> {
        if args.cgroup.is_empty() && args.parent_cgroup.is_none() {
            return Ok(None);
        }
        // Controllers may be in one version, in the other, or some in both.
        let fits = mounts.v2.as_ref().is_some_and(|mount| {
            !mount.controllers.is_empty()
                && args.cgroup.iter().all(|(file, _)| mount.has(controller(file)))
        });
        let fits = fits || mounts.v1.is_empty();
        let unified = args.cgroup_version.map_or(fits, |version| version == 2);
        let used = mounts.of(unified);
        if used.is_empty() {
            return Err(not_mounted(unified));
        }
        let leaf = |mount: &Mount| Leaf { mount: mount.path.clone(), writes: Vec::new() };
        let mut leaves: Vec<Leaf> = used.iter().map(leaf).collect();
        let given = |file: &str| args.cgroup.iter().any(|(name, _)| name == file);
        let defaults = DEFAULTS.iter().filter(|(file, _)| {
            unified && !given(file) && used.iter().any(|mount| mount.has(controller(file)))
        });
        let asked = args.cgroup.iter().map(|(file, value)| (file.as_str(), value.as_str(), true));
        for (file, value, asked) in
            asked.chain(defaults.map(|(file, value)| (*file, *value, false)))
        {
            let mut all = used.iter().zip(&mut leaves);
            let (_, leaf) = all
                .find(|(mount, _)| mount.has(controller(file)))
                .ok_or_else(|| no_controller(file, unified, mounts))?;
            leaf.writes.push(Write { file: file.to_owned(), value: value.to_owned(), asked });
        }
        leaves.retain(|leaf| unified || !leaf.writes.is_empty());
        let parent = args.parent_cgroup.clone().unwrap_or_else(|| args.exec_name.clone().into());
        Ok(Some(Self { unified, parent, name: args.id.clone(), leaves }))
    }

    /// Where a leaf is.
    pub fn path(&self, leaf: &Leaf) -> PathBuf {
        leaf.mount.join(&self.parent).join(&self.name)
    }
}

/// Limits of version 2 that apply unless others are given.
const DEFAULTS: [(&str, &str); 3] = [
    // One thread out of memory is a VM out of order: end all of it.
    ("memory.oom.group", "1"),
    ("memory.swap.max", "0"),
    // 32 vCPUs, a worker per device, and KVM's own thread.
    ("pids.max", "256"),
];

impl Mount {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

impl Write {
    /// Limits on the processor wait until the program is ready.
    pub fn late(&self) -> bool {
        self.file.starts_with("cpu.max") || self.file.starts_with("cpu.cfs_")
    }

    /// The controller of the file.
    pub fn controller(&self) -> &str {
        controller(&self.file)
    }
}

fn not_mounted(unified: bool) -> Error {
    let (version, how) = match unified {
        true => (2, "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
        false => (1, "mount -t cgroup -o CONTROLLER"),
    };
    Error::Jail(format!(
        "cgroup: version {version} is not mounted on this host: mount it ({how}), \
         use the other --cgroup-version, or leave --cgroup and --parent-cgroup out"
    ))
}

fn no_controller(file: &str, unified: bool, mounts: &Mounts) -> Error {
    let (version, other) = if unified { (2, 1) } else { (1, 2) };
    let name = controller(file);
    let all: Vec<_> =
        mounts.of(unified).iter().flat_map(|m| &m.controllers).map(String::as_str).collect();
    let remedy = match mounts.of(!unified).iter().any(|mount| mount.has(name)) {
        true => format!("version {other} has it: use --cgroup-version {other} for all limits"),
        false if all.is_empty() => "it has none".to_owned(),
        false => format!("it has {}", all.join(", ")),
    };
    Error::Jail(format!(
        "--cgroup {file}: no controller {name} in version {version} on this host: {remedy}"
    ))
}

fn controller(file: &str) -> &str {
    file.split('.').next().unwrap_or_default()
}

/// A path of /proc/self/mounts, which has blanks in octal.
fn unescaped(text: &str) -> PathBuf {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, byte)| text.replace(code, byte))
        .into()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.unified { "starts inside" } else { "is moved into" };
        for leaf in &self.leaves {
            writeln!(f, "{:<12}{how} {}", "cgroup", self.path(leaf).display())?;
            for write in &leaf.writes {
                let late = if write.late() { ", when ready" } else { "" };
                writeln!(f, "{:<12}{} = {}{late}", "cgroup", write.file, write.value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
