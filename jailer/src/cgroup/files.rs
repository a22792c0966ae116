//! Makes, fills and removes the control groups that were planned.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::cgroup::plan::{Leaf, Plan};
use crate::error::{Error, jail};
use crate::paths::beneath;

/// The groups of a jail that is being made or running, leaf by leaf.
#[derive(Debug)]
pub struct Groups(Vec<(OwnedFd, Leaf)>);

impl Groups {
    /// Makes the leaves and sets their limits.
    ///
    /// # Errors
    /// The id is in use, or the system refuses something.
    pub fn make(plan: &Plan) -> Result<Self, Error> {
        let mut made = Vec::new();
        for leaf in &plan.leaves {
            let result = make_leaf(plan, leaf).and_then(|group| {
                for (file, value) in &leaf.first {
                    set(&group, file, value)?;
                }
                for (file, value) in &leaf.defaults {
                    match write(&group, file, value) {
                        Err(Errno::NOENT) => {}
                        other => other.map_err(|error| refusal(&group, file, value, error))?,
                    }
                }
                Ok(group)
            });
            match result {
                Ok(group) => made.push((group, leaf.clone())),
                Err(error) => {
                    // Not the groups of the jail whose id this is.
                    let own = made.len() + usize::from(!matches!(error, Error::InUse(_)));
                    plan.leaves.iter().take(own).for_each(|leaf| remove_leaf(plan, leaf));
                    return Err(error);
                }
            }
        }
        Ok(Self(made))
    }

    /// Moves a process in, with version 1.
    ///
    /// # Errors
    /// The system refuses.
    pub fn take(&self, pid: i32) -> Result<(), Error> {
        let mut groups = self.directories();
        groups.try_for_each(|group| set(group, "cgroup.procs", &pid.to_string()))
    }

    /// Sets the limits that are for a program that is ready.
    ///
    /// # Errors
    /// The system refuses.
    pub fn arm(&self) -> Result<(), Error> {
        let set_late = |(group, leaf): &(OwnedFd, Leaf)| {
            let mut writes = leaf.late.iter();
            writes.try_for_each(|(file, value)| set(group, file, value))
        };
        self.0.iter().try_for_each(set_late)
    }

    /// Their directories; with version 2 there is one, to start in.
    pub fn directories(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().map(|(group, _)| group)
    }

    /// Whether the kernel killed for want of memory.
    pub fn out_of_memory(&self) -> bool {
        let files = ["memory.events", "memory.oom_control"];
        let kills = |group: &OwnedFd| {
            files.iter().filter_map(|file| read(group, file)).any(|text| {
                let counts = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
                counts.into_iter().any(|count| count != "0")
            })
        };
        self.0.iter().any(|(group, _)| kills(group))
    }
}

/// Removes the groups of a jail, and the parents that nobody needs any more.
pub fn remove(plan: &Plan) {
    plan.leaves.iter().for_each(|leaf| remove_leaf(plan, leaf));
}

fn remove_leaf(plan: &Plan, leaf: &Leaf) {
    let directory = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let Ok(mount) = rustix::fs::open(&leaf.mount, directory, Mode::empty()) else {
        return;
    };
    if let Ok(parent) = beneath(&mount, &plan.parent, directory) {
        if let Ok(group) = beneath(&parent, Path::new(&plan.name), directory) {
            // Whoever is left in it after its first process; Linux 5.14.
            let _ = set(&group, "cgroup.kill", "1");
        }
        // The last process leaves its group a moment after it was waited for.
        for _ in 0..500 {
            match unlinkat(&parent, plan.name.as_str(), AtFlags::REMOVEDIR) {
                Err(Errno::BUSY) => sleep(Duration::from_millis(2)),
                _ => break,
            }
        }
    }
    for parent in plan.parent.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        let above = parent.parent().filter(|path| !path.as_os_str().is_empty());
        let above = above.map_or_else(
            || mount.try_clone().map_err(|_| Errno::BADF),
            |path| beneath(&mount, path, directory),
        );
        let (Ok(above), Some(name)) = (above, parent.file_name()) else {
            return;
        };
        // Another jail may be in it: then it stays.
        if unlinkat(&above, name, AtFlags::REMOVEDIR).is_err() {
            return;
        }
    }
}

fn make_leaf(plan: &Plan, leaf: &Leaf) -> Result<OwnedFd, Error> {
    let path = leaf.mount.join(&plan.parent).join(&plan.name);
    // The end of another jail may remove the parent between two of our steps.
    for _ in 0..100 {
        let made = descend(plan, leaf).and_then(|parent| new_leaf(&parent, &plan.name));
        match made {
            Err(Errno::NOENT | Errno::NODEV) => sleep(Duration::from_millis(1)),
            Err(Errno::BUSY) => {
                let why = "holds other processes";
                return Err(Error::InUse(format!(
                    "id {}: in use: {} {why}",
                    plan.name,
                    path.display()
                )));
            }
            other => return other.map_err(jail(format!("cgroup {}", path.display()))),
        }
    }
    Err(Error::Jail(format!("cgroup {}: its parent keeps vanishing", path.display())))
}

fn new_leaf(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(0o755);
    match mkdirat(parent, name, mode) {
        // Left behind by a jailer that was killed: empty, and so removable.
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::REMOVEDIR)?;
            mkdirat(parent, name, mode)?;
        }
        other => other?,
    }
    inherit_cpuset(parent, beneath(parent, Path::new(name), OFlags::DIRECTORY)?)
}

/// Opens the parent, making it and what is above it where they are missing.
fn descend(plan: &Plan, leaf: &Leaf) -> Result<OwnedFd, Errno> {
    let mut at = rustix::fs::open(&leaf.mount, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for part in &plan.parent {
        hand_down(plan, &at);
        match mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let below = beneath(&at, Path::new(part), OFlags::DIRECTORY)?;
        at = inherit_cpuset(&at, below)?;
    }
    hand_down(plan, &at);
    Ok(at)
}

/// Lets the groups below have the controllers. If that is refused, the writes
/// to a controller's missing files fail, and say so.
fn hand_down(plan: &Plan, group: &OwnedFd) {
    for name in &plan.controllers {
        let _ = set(group, "cgroup.subtree_control", &format!("+{name}"));
    }
}

/// Version 1's cpuset has no processors and no memory until it is told.
fn inherit_cpuset(parent: &OwnedFd, child: OwnedFd) -> Result<OwnedFd, Errno> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(&child, "cgroup.controllers").is_none()
            && read(&child, file).is_some_and(|text| text.trim().is_empty())
            && let Some(text) = read(parent, file)
        {
            let _ = set(&child, file, text.trim());
        }
    }
    Ok(child)
}

fn read(group: &OwnedFd, file: &str) -> Option<String> {
    let file = openat(group, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    std::io::read_to_string(fs::File::from(file)).ok()
}

fn set(group: &OwnedFd, file: &str, value: &str) -> Result<(), Error> {
    write(group, file, value).map_err(|error| refusal(group, file, value, error))
}

fn write(group: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = openat(group, file, flags, Mode::empty())?;
    rustix::io::write(open, value.as_bytes()).map(|_| ())
}

/// Why a file of a group was not written, in the words of who asked for it.
fn refusal(group: &OwnedFd, file: &str, value: &str, error: Errno) -> Error {
    let controller = file.split('.').next().unwrap_or_default();
    let why = match (error, read(group, "cgroup.controllers")) {
        (Errno::NOENT, Some(list)) if !list.split_whitespace().any(|c| c == controller) => format!(
            "the parent group does not hand controller {controller} down: \
             write +{controller} to its cgroup.subtree_control, or use another --parent-cgroup"
        ),
        (Errno::NOENT, version) => format!(
            "controller {controller} has no such file in version {} on this host",
            if version.is_some() { 2 } else { 1 }
        ),
        (Errno::INVAL | Errno::RANGE | Errno::DOM | Errno::NODEV, _) => {
            "the kernel does not take this value".to_owned()
        }
        (other, _) => crate::error::message(&other.into()),
    };
    Error::Jail(format!("cgroup: {file} = {value}: {why}"))
}
