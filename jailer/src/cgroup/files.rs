//! Makes, fills and removes the control groups that were planned.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::cgroup::plan::{Leaf, Plan, Write};
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
                set(&group, leaf.writes.iter().filter(|write| !write.late()))?;
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
        self.0.iter().try_for_each(|(group, leaf)| {
            let what = || format!("cgroup below {}: moving a process in", leaf.mount.display());
            write(group, "cgroup.procs", &pid.to_string()).map_err(jail(what()))
        })
    }

    /// Sets the limits that are for a program that is ready.
    ///
    /// # Errors
    /// The system refuses.
    pub fn arm(&self) -> Result<(), Error> {
        let mut all = self.0.iter();
        all.try_for_each(|(group, leaf)| set(group, leaf.writes.iter().filter(|w| w.late())))
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

/// Removes the groups of a jail, and the parents that are empty then.
pub fn remove(plan: &Plan) {
    plan.leaves.iter().for_each(|leaf| remove_leaf(plan, leaf));
}

/// By paths, as no file system of control groups has symbolic links.
fn remove_leaf(plan: &Plan, leaf: &Leaf) {
    let group = plan.path(leaf);
    // Processes that outlived the first one; Linux 5.14.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    // The last process leaves its group a moment after it was waited for.
    for _ in 0..500 {
        match fs::remove_dir(&group) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                sleep(Duration::from_millis(2))
            }
            _ => break,
        }
    }
    // Parents up to the first one that another jail is in.
    let mut parents = plan.parent.ancestors().filter(|path| !path.as_os_str().is_empty());
    parents.all(|parent| fs::remove_dir(leaf.mount.join(parent)).is_ok());
}

fn make_leaf(plan: &Plan, leaf: &Leaf) -> Result<OwnedFd, Error> {
    let path = plan.path(leaf);
    let what = || format!("cgroup {}", path.display());
    // The end of another jail may remove the parent between two of our steps.
    for _ in 0..100 {
        let made = descend(plan, leaf)?.map_or(Err(Errno::NOENT), |dir| new_leaf(&dir, &plan.name));
        return match made {
            Err(Errno::NOENT | Errno::NODEV) => {
                sleep(Duration::from_millis(1));
                continue;
            }
            Err(Errno::BUSY) => {
                let why = format!("in use: {} holds other processes", path.display());
                Err(Error::InUse(format!("id {}: {why}", plan.name)))
            }
            other => other.map_err(|error| no_group(&what(), error)),
        };
    }
    Err(Error::Jail(format!("{}: its parent keeps vanishing", what())))
}

/// Why a group cannot be made.
fn no_group(what: &str, error: Errno) -> Error {
    let why = match error {
        Errno::AGAIN => {
            "cgroup.max.descendants or cgroup.max.depth of a group above is reached: \
             raise it, or use another --parent-cgroup"
        }
        Errno::ACCESS | Errno::PERM => {
            "no permission to create groups there: use a --parent-cgroup that is delegated to you, \
             or start the jailer as root"
        }
        Errno::ROFS => "mounted read-only: mount it read-write, or leave --cgroup out",
        other => return jail(what)(other),
    };
    Error::Jail(format!("{what}: {why}"))
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

/// Opens the parent, creating it and its ancestors if they are missing; none
/// if one vanished in between.
fn descend(plan: &Plan, leaf: &Leaf) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut path = leaf.mount.clone();
    let what = |path: &Path| format!("cgroup {}", path.display());
    let mut at =
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| no_group(&what(&path), e))?;
    let mut parts = plan.parent.iter();
    loop {
        if plan.unified {
            hand_down(leaf, &at, &path)?;
        }
        let Some(part) = parts.next() else { return Ok(Some(at)) };
        path.push(part);
        let made = match mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        };
        let below = made.and_then(|()| beneath(&at, Path::new(part), OFlags::DIRECTORY));
        at = match below.and_then(|below| inherit_cpuset(&at, below)) {
            Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
            other => other.map_err(|error| no_group(&what(&path), error))?,
        };
    }
}

/// Lets the groups below have the controllers, unless they have them already.
fn hand_down(leaf: &Leaf, group: &OwnedFd, path: &Path) -> Result<(), Error> {
    let mut done: Vec<&str> = Vec::new();
    for limit in &leaf.writes {
        let controller = limit.controller();
        if done.contains(&controller) {
            continue;
        }
        done.push(controller);
        let file = "cgroup.subtree_control";
        let Err(error) = write(group, file, &format!("+{controller}")) else { continue };
        let has = |list: String| list.split_whitespace().any(|name| name == controller);
        if !limit.asked || read(group, file).is_none_or(has) {
            continue;
        }
        let why = match error {
            Errno::BUSY => "it holds processes: use another --parent-cgroup",
            Errno::NOENT | Errno::OPNOTSUPP | Errno::INVAL => {
                "it is threaded (cgroup.type), or is not given it itself: use another --parent-cgroup"
            }
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                "you may not write its cgroup.subtree_control: have root do it"
            }
            other => &crate::error::message(&other.into()),
        };
        let what = format!("cgroup {}", path.display());
        return Err(Error::Jail(format!(
            "{what}: cannot hand controller {controller} down: {why}"
        )));
    }
    Ok(())
}

/// A new cpuset of version 1 has no processors and no memory until they are set.
fn inherit_cpuset(parent: &OwnedFd, child: OwnedFd) -> Result<OwnedFd, Errno> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(&child, "cgroup.controllers").is_none()
            && read(&child, file).is_some_and(|text| text.trim().is_empty())
            && let Some(text) = read(parent, file)
        {
            let _ = write(&child, file, text.trim());
        }
    }
    Ok(child)
}

fn read(group: &OwnedFd, file: &str) -> Option<String> {
    let file = openat(group, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    std::io::read_to_string(fs::File::from(file)).ok()
}

/// Sets limits; defaults are left out where their file is missing.
fn set<'a>(group: &OwnedFd, mut limits: impl Iterator<Item = &'a Write>) -> Result<(), Error> {
    limits.try_for_each(|limit| match write(group, &limit.file, &limit.value) {
        Err(Errno::NOENT) if !limit.asked => Ok(()),
        other => other.map_err(|error| refusal(group, limit, error)),
    })
}

fn write(group: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = openat(group, file, flags, Mode::empty())?;
    rustix::io::write(open, value.as_bytes()).map(|_| ())
}

/// Why a limit was not set.
fn refusal(group: &OwnedFd, limit: &Write, error: Errno) -> Error {
    let version = if read(group, "cgroup.controllers").is_some() { 2 } else { 1 };
    let (file, value, controller) = (&limit.file, &limit.value, limit.controller());
    let why = match error {
        Errno::NOENT => format!("controller {controller} has no such file in version {version}"),
        Errno::INVAL | Errno::RANGE | Errno::DOM | Errno::NODEV => {
            format!("version {version} of controller {controller} does not take this value")
        }
        other => crate::error::message(&other.into()),
    };
    Error::Jail(format!("--cgroup {file}={value}: {why}"))
}
