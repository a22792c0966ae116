//! What will be done, as plain data made from the arguments and a few facts
//! about the host. It can be printed, and tested without any privilege.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use rustix::process::Resource;

use crate::args::{Args, Kvm, Limit, PassedFd, SharedFile};
use crate::cgroup;
use crate::error::Error;

/// What the plan depends on beside the arguments.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Effective user of the caller.
    pub uid: u32,
    /// Effective group of the caller.
    pub gid: u32,
    /// Which of the caller's standard descriptors are terminals.
    pub terminals: [bool; 3],
    /// Whether the kernel has time namespaces (Linux 5.6).
    pub time_namespaces: bool,
    /// Where cgroups are mounted.
    pub cgroups: cgroup::Mounts,
}

/// The root of the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A file system in memory with nothing but these files, read-only.
    Memory(Vec<SharedFile>),
    /// A directory: the base, and the path that is made or opened below it.
    Directory(PathBuf, [String; 3]),
}

/// A descriptor of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Standard input, output or error, as the caller has it.
    Standard,
    /// The same where the caller's is a terminal: one of the jail's own.
    Terminal,
    /// Standard input, output or error on /dev/null.
    Null,
    /// The pipe to say on that it is ready.
    Ready,
    /// A tap or a descriptor of the caller's.
    Passed(PassedFd),
    /// /dev/kvm.
    Kvm,
}

/// Everything that will be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The arguments.
    pub args: Args,
    /// Its arguments, with its name.
    pub argv: Vec<OsString>,
    /// The jailer is root: the namespaces belong to the host's user namespace.
    pub privileged: bool,
    /// User of the program.
    pub uid: u32,
    /// Group of the program.
    pub gid: u32,
    /// A time namespace, too.
    pub time_namespace: bool,
    /// The root.
    pub root: Root,
    /// Device nodes below /dev.
    pub nodes: Vec<&'static str>,
    /// Descriptors from 0 up; all others are closed.
    pub table: Vec<Slot>,
    /// The control groups.
    pub cgroup: Option<cgroup::Plan>,
    /// Resource limits.
    pub limits: Vec<Limit>,
}

impl Plan {
    /// Makes the plan.
    ///
    /// # Errors
    /// The arguments ask for what this host or user cannot have.
    pub fn new(args: &Args, host: &Host) -> Result<Self, Error> {
        let privileged = host.uid == 0;
        let own = |flag: &str, given: Option<u32>, own: u32| match given {
            Some(id) if privileged || id == own => Ok(id),
            Some(id) => Err(Error::Usage(format!(
                "--{flag}: only root may run the program as {id}; you are {own}"
            ))),
            None if privileged => Err(Error::Usage(format!("as root, --{flag} has to be given"))),
            None => Ok(own),
        };
        let root = match &args.base {
            None => Root::Memory(args.files.clone()),
            Some(base) => {
                let below = [args.exec_name.clone(), args.id.clone(), "root".to_owned()];
                // The keeper leaves the caller's directory.
                let base = std::path::absolute(base).unwrap_or_else(|_| base.clone());
                Root::Directory(base, below)
            }
        };
        let mut nodes = Vec::new();
        if args.kvm == Kvm::Node {
            nodes.push("kvm");
        }
        if args.netns.is_some() {
            nodes.push("net/tun");
        }
        let mut argv = vec![args.exec_name.clone().into()];
        argv.extend(args.rest.iter().cloned());
        Ok(Self {
            argv,
            privileged,
            uid: own("uid", args.uid, host.uid)?,
            gid: own("gid", args.gid, host.gid)?,
            time_namespace: host.time_namespaces,
            root,
            nodes,
            table: table(args, host),
            cgroup: cgroup::Plan::new(args, &host.cgroups)?,
            limits: limits(&args.limits),
            args: args.clone(),
        })
    }

    /// The number of the pipe in the program's descriptors.
    pub fn ready_by_fd(&self) -> bool {
        self.table.contains(&Slot::Ready)
    }
}

fn table(args: &Args, host: &Host) -> Vec<Slot> {
    let standard = |terminal| match (args.daemonize, terminal) {
        (true, _) => Slot::Null,
        (_, true) => Slot::Terminal,
        _ => Slot::Standard,
    };
    let mut table: Vec<Slot> = host.terminals.map(standard).into();
    if args.ready_by_fd {
        table.push(Slot::Ready);
    }
    table.extend(args.passed.iter().cloned().map(Slot::Passed));
    if args.kvm == Kvm::Descriptor {
        table.push(Slot::Kvm);
    }
    table
}

/// The limits given and, for resources without one, the defaults.
fn limits(asked: &[Limit]) -> Vec<Limit> {
    // The last two: a priority above the host's other programs.
    let fixed = [
        ("core", Resource::Core, 0),
        ("no-file", Resource::Nofile, 2048),
        ("nice", Resource::Nice, 0),
        ("rtprio", Resource::Rtprio, 0),
    ];
    let mut limits =
        fixed.map(|(name, resource, value)| Limit { name, resource, value, asked: false }).to_vec();
    for limit in asked {
        limits.retain(|other| other.resource != limit.resource);
        limits.push(*limit);
    }
    limits
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, text: String| writeln!(f, "{what:<12}{text}");
        line("jail", self.args.id.clone())?;
        let copied = if self.args.copy { "a sealed copy in memory of " } else { "" };
        line("program", format!("{copied}{}, by descriptor", self.args.exec.display()))?;
        let words: Vec<_> = self.argv.iter().map(|word| format!("{}", word.display())).collect();
        line("arguments", words.join(" "))?;
        line("environment", "empty".to_owned())?;
        line("user", format!("{} group {}", self.uid, self.gid))?;
        let time = if self.time_namespace { " time" } else { "" };
        let network = if self.args.netns.is_some() { "" } else { " network" };
        let kinds = format!("mount pid{network} ipc uts cgroup{time}");
        match self.privileged {
            true => line("namespaces", format!("{kinds}, the host's; then user, for the program"))?,
            false => line("namespaces", format!("user {kinds}"))?,
        }
        if let Some(path) = &self.args.netns {
            line("network", format!("joins {}", path.display()))?;
        }
        line("nested", "user namespaces: 0".to_owned())?;
        write!(f, "{}", self.root)?;
        let mut line = |what: &str, text: String| writeln!(f, "{what:<12}{text}");
        for node in &self.nodes {
            line("device", format!("/dev/{node}"))?;
        }
        for (number, slot) in self.table.iter().enumerate() {
            line("descriptor", format!("{number} {slot}"))?;
        }
        line("descriptors", "all others closed".to_owned())?;
        for Limit { name, value, .. } in &self.limits {
            line("limit", format!("{name} = {value}"))?;
        }
        if let Some(cgroup) = &self.cgroup {
            write!(f, "{cgroup}")?;
        }
        let session = "separate session, keyring and signals";
        writeln!(f, "{:<12}{session}", "caller")?;
        let rest = "capabilities none, bounding set empty, no new privileges";
        writeln!(f, "{:<12}{rest}", "privileges")?;
        let ready = if self.ready_by_fd() { "a byte on descriptor 3" } else { "execution" };
        let reported =
            self.args.ready_fd.map(|fd| format!(", reported on {fd}")).unwrap_or_default();
        writeln!(f, "{:<12}by {ready}{reported}", "ready")
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = "nosuid nodev noexec";
        match self {
            Self::Memory(files) => {
                writeln!(f, "{:<12}in memory, read-only, {how}", "root")?;
                files.iter().try_for_each(|file| {
                    let mode = if file.writable { "read-write" } else { "read-only" };
                    let path = file.path.display();
                    writeln!(f, "{:<12}/{} = {path}, {mode}", "file", file.name)
                })
            }
            Self::Directory(base, below) => {
                let path = base.join(below.join("/"));
                writeln!(f, "{:<12}{}, {how}", "root", path.display())
            }
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("the caller's"),
            Self::Terminal => f.write_str("a terminal of the jail's own, relayed"),
            Self::Null => f.write_str("/dev/null"),
            Self::Ready => f.write_str("to say ready on"),
            Self::Passed(PassedFd::Tap(name)) => write!(f, "tap {name}"),
            Self::Passed(PassedFd::Inherited(fd)) => write!(f, "the caller's {fd}"),
            Self::Kvm => f.write_str("/dev/kvm"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn plan(line: &str, uid: u32) -> Result<Plan, Error> {
        let line = format!("--plan --id a --exec-file /bin/mote {line}");
        let command = parse(line.split_whitespace().map(OsString::from))?;
        let Command::Plan(args) = command else { panic!("{line}") };
        let host = Host { uid, gid: uid, time_namespaces: true, ..Host::default() };
        Plan::new(&args, &host)
    }

    #[test]
    fn descriptors_are_numbered_in_order() {
        let plan = plan("--ready-by fd --kvm fd --pass-fd 9 --tap vm0", 7).unwrap();
        let text = plan.to_string();
        for line in [
            "descriptor  2 the caller's",
            "descriptor  3 to say ready on",
            "descriptor  4 the caller's 9",
            "descriptor  5 tap vm0",
            "descriptor  6 /dev/kvm",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(plan.nodes.is_empty());
    }

    #[test]
    fn only_root_chooses_who_it_runs_as() {
        assert_eq!(plan("", 7).unwrap().uid, 7);
        assert!(plan("--uid 8", 7).is_err());
        assert!(plan("--uid 8", 0).is_err(), "no gid");
        let root = plan("--uid 8 --gid 9", 0).unwrap();
        assert_eq!((root.uid, root.gid, root.privileged), (8, 9, true));
    }

    #[test]
    fn firecrackers_layout_is_kept() {
        let plan = plan("--chroot-base-dir /srv/jailer", 7).unwrap();
        assert!(plan.to_string().contains("/srv/jailer/mote/a/root"), "{plan}");
    }

    #[test]
    fn limits_given_replace_the_defaults() {
        let plan = plan("--resource-limit no-file=64 --resource-limit fsize=1", 7).unwrap();
        let want = [("core", 0), ("nice", 0), ("rtprio", 0), ("no-file", 64), ("fsize", 1)];
        assert_eq!(plan.limits.iter().map(|l| (l.name, l.value)).collect::<Vec<_>>(), want);
    }

    #[test]
    fn no_terminal_of_the_caller_gets_into_a_jail() {
        for line in ["", "--daemonize"] {
            let text = format!("--plan --id a --exec-file /bin/mote {line}");
            let words = text.split_whitespace().map(OsString::from);
            let Command::Plan(args) = parse(words).unwrap() else { panic!("{line}") };
            let host = Host { uid: 7, terminals: [true, false, true], ..Host::default() };
            let want = match line {
                "" => [Slot::Terminal, Slot::Standard, Slot::Terminal],
                _ => [const { Slot::Null }; 3],
            };
            assert_eq!(Plan::new(&args, &host).unwrap().table, want);
        }
    }
}
