//! Where control groups are mounted, and the plan of those of a jail.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::error::Error;

/// Where control groups are mounted.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    /// Version 1: a controller and its mount.
    pub v1: Vec<(String, PathBuf)>,
    /// Version 2: the mount and the controllers it has.
    pub v2: Option<(PathBuf, Vec<String>)>,
}

/// The controllers of version 1, among other mount options.
const CONTROLLERS: &str = "cpu cpuacct cpuset memory pids blkio devices hugetlb net_cls net_prio \
    freezer perf_event rdma misc";

/// One group of the jail: the only one with version 2, one per controller with
/// version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// Written before the program is there.
    pub first: Vec<(String, String)>,
    /// The same, but nobody has asked for it: left out where it is missing.
    pub defaults: Vec<(String, String)>,
    /// Written when the program is ready.
    pub late: Vec<(String, String)>,
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
    /// Controllers that the parents have to hand down (version 2).
    pub controllers: Vec<String>,
    /// The leaves.
    pub leaves: Vec<Leaf>,
}

impl Mounts {
    /// Reads what is mounted.
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
            let path = PathBuf::from(path);
            match kind {
                "cgroup2" if found.v2.is_none() => {
                    let list = controllers(&path);
                    found.v2 = Some((path, list));
                }
                "cgroup" => {
                    let named = options
                        .split(',')
                        .filter(|option| CONTROLLERS.split(' ').any(|known| known == *option));
                    found.v1.extend(named.map(|name| (name.to_owned(), path.clone())));
                }
                _ => {}
            }
        }
        found
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
        let offered = mounts.v2.as_ref().map_or(&[][..], |(_, list)| list);
        let mut wanted = args.cgroup.iter().map(|(file, _)| controller(file));
        // Controllers may be on one side, on the other, or on some of both.
        let fits = !offered.is_empty()
            && wanted.all(|name| offered.iter().any(|controller| controller == name));
        let fits = fits || mounts.v1.is_empty();
        let unified = args.cgroup_version.map_or(fits, |version| version == 2);
        let parent = args.parent_cgroup.clone().unwrap_or_else(|| args.exec_name.clone().into());
        let mut plan = Self {
            unified,
            parent,
            name: args.id.clone(),
            controllers: Vec::new(),
            leaves: Vec::new(),
        };
        if unified {
            let (mount, available) = mounts.v2.as_ref().ok_or_else(|| none("version 2"))?;
            plan.unified_leaf(&args.cgroup, mount, available)?;
        }
        for (file, value) in args.cgroup.iter().filter(|_| !unified) {
            let controller = controller(file);
            let mount = mounts.v1.iter().find(|(name, _)| name == controller);
            let (_, mount) = mount.ok_or_else(|| none(controller))?;
            match plan.leaves.iter_mut().find(|leaf| leaf.mount == *mount) {
                Some(leaf) => leaf.add(file, value),
                None => {
                    let mut leaf = Leaf::of(mount);
                    leaf.add(file, value);
                    plan.leaves.push(leaf);
                }
            }
        }
        Ok(Some(plan))
    }

    /// The leaf of version 2: what was asked for, and what belongs to it.
    fn unified_leaf(
        &mut self,
        asked: &[(String, String)],
        mount: &Path,
        available: &[String],
    ) -> Result<(), Error> {
        let mut leaf = Leaf::of(mount);
        let given = |file: &str| asked.iter().any(|(name, _)| name == file);
        for (file, value, controller) in [
            // One thread out of memory is a VM out of order: end all of it.
            ("memory.oom.group", "1", "memory"),
            ("memory.swap.max", "0", "memory"),
            // 32 vCPUs, a worker per device, and KVM's own thread.
            ("pids.max", "256", "pids"),
        ] {
            if available.iter().any(|name| name == controller) && !given(file) {
                leaf.defaults.push((file.to_owned(), value.to_owned()));
            }
        }
        for (file, value) in asked {
            if !available.iter().any(|name| name == controller(file)) {
                return Err(none(controller(file)));
            }
            leaf.add(file, value);
        }
        let writes = leaf.first.iter().chain(&leaf.defaults);
        for (file, _) in writes.chain(&leaf.late) {
            let controller = controller(file).to_owned();
            if !self.controllers.contains(&controller) {
                self.controllers.push(controller);
            }
        }
        self.leaves.push(leaf);
        Ok(())
    }
}

impl Leaf {
    fn of(mount: &Path) -> Self {
        Self { mount: mount.to_owned(), ..Self::default() }
    }

    /// Adds what was asked for; limits on the processor wait for the program.
    fn add(&mut self, file: &str, value: &str) {
        let late = file.starts_with("cpu.max") || file.starts_with("cpu.cfs_");
        let writes = if late { &mut self.late } else { &mut self.first };
        writes.push((file.to_owned(), value.to_owned()));
    }
}

fn none(what: &str) -> Error {
    Error::Jail(format!("cgroup: this host has no controller {what}, or not in this version"))
}

fn controller(file: &str) -> &str {
    file.split('.').next().unwrap_or_default()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.unified { "starts inside" } else { "is moved into" };
        for leaf in &self.leaves {
            let path = leaf.mount.join(&self.parent).join(&self.name);
            writeln!(f, "{:<12}{how} {}", "cgroup", path.display())?;
            for (file, value) in leaf.first.iter().chain(&leaf.defaults) {
                writeln!(f, "{:<12}{file} = {value}", "cgroup")?;
            }
            for (file, value) in &leaf.late {
                writeln!(f, "{:<12}{file} = {value}, when ready", "cgroup")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
