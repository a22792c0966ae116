//! The command line, checked as far as it can be without looking at the system.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use lexopt::prelude::*;
use rustix::process::Resource;

use crate::error::Error;

/// `mote-jailer --help`.
pub const HELP: &str = "\
Run a virtual machine monitor in a jail: every kind of namespace, an empty
read-only root, no privileges, no environment, nothing left behind.

Usage: mote-jailer --id ID --exec-file FILE [OPTIONS] [-- ARGUMENTS OF FILE]

Options of Firecracker's jailer:
  --id ID                Name of the jail: up to 64 letters, digits and -
  --exec-file FILE       Static program to run; it is executed by descriptor
  --uid N, --gid N       User and group of FILE   [default: you, if not root]
  --chroot-base-dir DIR  Use DIR/NAME OF FILE/ID/root and its files as the root,
                         writable         [default: an empty root in memory]
  --netns PATH           Join this network namespace  [default: an empty one]
  --cgroup FILE=VALUE    Set a limit, as memory.max=256M; can be repeated
  --cgroup-version N     Version 1 or 2   [default: 2 if it has all controllers]
  --parent-cgroup PATH   Make the jail's cgroup in PATH below the mount
                                                       [default: name of FILE]
  --resource-limit NAME=VALUE   fsize, no-file (2048), memlock, nproc or as
  --daemonize            Return when the program is ready; run in the background
  --new-pid-ns           Accepted; a jail always has a PID namespace

Other options:
  --file PATH[,rw][,as=NAME]  Share one file as /NAME in the root in memory;
                         write a comma in PATH twice
  --tap NAME             Open a tap and pass it as the program's next descriptor
  --pass-fd N            Pass the caller's descriptor N as the next descriptor
  --kvm HOW              node: /dev/kvm in the jail; fd: only as a descriptor,
                         after those above; none           [default: node]
  --ready-fd N           Write a line to descriptor N when the program is ready
  --ready-by HOW         exec: ready when it runs; fd: when it writes a byte to
                         descriptor 3; taps and others follow  [default: exec]
  --ready-within S       Apply cpu.max after S seconds even if not ready    [10]
  --copy-exec            Execute a sealed copy of FILE in memory
  --plan                 Print the plan and exit
  -h, --help             Show this help
  -V, --version          Show the version

cpu.max (cgroup v1: cpu.cfs_*) applies once the program is ready, has closed its
end of that descriptor, or has run for the time of --ready-within.

Exit codes: that of the program, or
  123  the id is in use          126  FILE or a file given cannot be used
  124  wrong flag                128 + N  killed by signal N
  125  the jail cannot be created
";

/// `mote-jailer --version`.
pub const VERSION: &str = concat!("mote-jailer ", env!("CARGO_PKG_VERSION"), "\n");

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print a text and end with code 0.
    Print(&'static str),
    /// Print the plan.
    Plan(Box<Args>),
    /// Run the program.
    Run(Box<Args>),
}

/// How the program gets at KVM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kvm {
    /// As the device node `/dev/kvm`.
    #[default]
    Node,
    /// As an open descriptor.
    Descriptor,
    /// Not at all.
    None,
}

/// A file of the host's in the jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in the jail's root.
    pub name: String,
    /// May be written.
    pub writable: bool,
}

/// A descriptor that the program gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassedFd {
    /// Attached to this tap by the jailer.
    Tap(String),
    /// The caller's.
    Inherited(i32),
}

/// A resource limit, soft and hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What `--resource-limit` calls it.
    pub name: &'static str,
    /// The resource.
    pub resource: Resource,
    /// In the resource's own unit (setrlimit(2)).
    pub value: u64,
    /// Not a default, which gives way to the caller's hard limit.
    pub asked: bool,
}

/// What `--resource-limit` takes.
const LIMITS: [(&str, Resource); 5] = [
    ("fsize", Resource::Fsize),
    ("no-file", Resource::Nofile),
    ("memlock", Resource::Memlock),
    ("nproc", Resource::Nproc),
    ("as", Resource::As),
];

/// The checked command line.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// `--id`
    pub id: String,
    /// `--exec-file`
    pub exec: PathBuf,
    /// Its last component.
    pub exec_name: String,
    /// `--uid`
    pub uid: Option<u32>,
    /// `--gid`
    pub gid: Option<u32>,
    /// `--chroot-base-dir`
    pub base: Option<PathBuf>,
    /// `--netns`
    pub netns: Option<PathBuf>,
    /// `--cgroup`, file and value.
    pub cgroup: Vec<(String, String)>,
    /// `--cgroup-version`
    pub cgroup_version: Option<u8>,
    /// `--parent-cgroup`
    pub parent_cgroup: Option<PathBuf>,
    /// `--resource-limit`
    pub limits: Vec<Limit>,
    /// `--daemonize`
    pub daemonize: bool,
    /// `--file`
    pub files: Vec<SharedFile>,
    /// `--tap` and `--pass-fd`, in order.
    pub passed: Vec<PassedFd>,
    /// `--kvm`
    pub kvm: Kvm,
    /// `--ready-fd`
    pub ready_fd: Option<i32>,
    /// `--ready-by fd`
    pub ready_by_fd: bool,
    /// `--ready-within`
    pub ready_within: Option<u32>,
    /// `--copy-exec`
    pub copy: bool,
    /// What follows `--`.
    pub rest: Vec<OsString>,
}

/// Parses the process's arguments, without its name. Errors name the flag.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut all = args.into_iter();
    let own: Vec<OsString> = all.by_ref().take_while(|arg| arg != "--").collect();
    let mut args = Args { rest: all.collect(), ..Args::default() };
    let mut parser = lexopt::Parser::from_args(own);
    let (mut plan, mut seen) = (false, Vec::new());
    while let Some(arg) = parser.next().map_err(usage)? {
        let flag = match arg {
            Short('h') | Long("help") => return Ok(Command::Print(HELP)),
            Short('V') | Long("version") => return Ok(Command::Print(VERSION)),
            Long(name) => name.to_owned(),
            Value(value) => {
                let why = format!(
                    "'{}' is not a flag; the program's own arguments follow --",
                    value.display()
                );
                return Err(Error::Usage(why));
            }
            other @ Short(_) => return Err(usage(other.unexpected())),
        };
        match flag.as_str() {
            "plan" => plan = true,
            "daemonize" => args.daemonize = true,
            "copy-exec" => args.copy = true,
            "new-pid-ns" => {}
            name => {
                if seen.contains(&flag) && !REPEATED.contains(&name) {
                    return Err(Error::Usage(format!("--{name} is given twice")));
                }
                valued(&mut args, name, &mut parser)?;
                seen.push(flag);
            }
        }
    }
    check(&mut args)?;
    let args = Box::new(args);
    Ok(if plan { Command::Plan(args) } else { Command::Run(args) })
}

/// The flags that may be given several times.
const REPEATED: [&str; 5] = ["cgroup", "resource-limit", "file", "tap", "pass-fd"];

/// A flag whose value follows.
struct Flag<'a> {
    name: &'a str,
    parser: &'a mut lexopt::Parser,
}

impl Flag<'_> {
    fn wrong(&self, why: &str) -> Error {
        Error::Usage(format!("--{}: {why}", self.name))
    }

    fn path(&mut self) -> Result<PathBuf, Error> {
        let value = self.parser.value().map_err(usage)?;
        if value.is_empty() { Err(self.wrong("the value is empty")) } else { Ok(value.into()) }
    }

    fn text<T>(&mut self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Error> {
        let value = self.path()?;
        let text = value.to_str().ok_or_else(|| self.wrong("the value is not UTF-8 text"))?;
        parse(text).map_err(|why| self.wrong(&why))
    }
}

/// One flag that has a value.
fn valued(args: &mut Args, name: &str, parser: &mut lexopt::Parser) -> Result<(), Error> {
    let mut flag = Flag { name, parser };
    match name {
        "id" => args.id = flag.text(|text| Ok(text.to_owned()))?,
        "exec-file" => args.exec = flag.path()?,
        "uid" => args.uid = Some(flag.text(id_number)?),
        "gid" => args.gid = Some(flag.text(id_number)?),
        "chroot-base-dir" => args.base = Some(flag.path()?),
        "netns" => args.netns = Some(flag.path()?),
        "cgroup" => args.cgroup.push(flag.text(cgroup)?),
        "cgroup-version" => {
            args.cgroup_version = Some(flag.text(|text| one_of(text, &[("1", 1), ("2", 2)]))?);
        }
        "parent-cgroup" => args.parent_cgroup = Some(flag.path()?),
        "resource-limit" => args.limits.push(flag.text(limit)?),
        "file" => args.files.push(flag.text(shared_file)?),
        "tap" => args.passed.push(PassedFd::Tap(flag.text(tap)?)),
        "pass-fd" => {
            args.passed.push(PassedFd::Inherited(flag.text(|text| descriptor(text, 3))?));
        }
        "kvm" => {
            let ways = [("node", Kvm::Node), ("fd", Kvm::Descriptor), ("none", Kvm::None)];
            args.kvm = flag.text(|text| one_of(text, &ways))?;
        }
        "ready-fd" => args.ready_fd = Some(flag.text(|text| descriptor(text, 1))?),
        "ready-by" => {
            args.ready_by_fd = flag.text(|text| one_of(text, &[("exec", false), ("fd", true)]))?;
        }
        "ready-within" => args.ready_within = Some(flag.text(seconds)?),
        _ => return Err(usage(Long(name).unexpected())),
    }
    Ok(())
}

/// Checks the flags against each other.
fn check(args: &mut Args) -> Result<(), Error> {
    let wrong = |why: &str| Err(Error::Usage(why.to_owned()));
    let id_char = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if args.id.is_empty() {
        return wrong("no id given; use --id");
    }
    if args.id.len() > 64 || !args.id.chars().all(id_char) {
        let why = format!("--id: '{}' is not 1 to 64 letters, digits and -", args.id);
        return Err(Error::Usage(why));
    }
    if args.exec.as_os_str().is_empty() {
        return wrong("no program given; use --exec-file");
    }
    let name = args.exec.file_name().and_then(|name| name.to_str());
    args.exec_name = match name {
        Some(name) => name.to_owned(),
        None => return wrong("--exec-file: the path does not end in a file's name"),
    };
    if let Some(parent) = &args.parent_cgroup
        && !plain(parent)
    {
        return wrong("--parent-cgroup: not a path below the cgroup mount, without . and ..");
    }
    if args.base.is_some() && !args.files.is_empty() {
        return wrong("--file is for the root in memory, not for --chroot-base-dir");
    }
    let mut names: Vec<_> = args.files.iter().map(|file| &file.name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        return wrong("--file: two files have the same name in the jail; use as=NAME");
    }
    Ok(())
}

/// A relative path of ordinary names only.
fn plain(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn id_number(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("0 is root, even in a jail: give the jail a separate number, \
                      such as 10001, which no user or group of the host has"
            .to_owned()),
        // The highest means "no change" to the kernel.
        Ok(id) if id < u32::MAX => Ok(id),
        _ => Err(format!("'{text}' is not a user or group number")),
    }
}

fn descriptor(text: &str, least: i32) -> Result<i32, String> {
    let number = text.parse().ok().filter(|fd| *fd >= least);
    number.ok_or_else(|| format!("'{text}' is not a descriptor from {least} up"))
}

fn tap(text: &str) -> Result<String, String> {
    let fits = (1..libc::IFNAMSIZ).contains(&text.len());
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%');
    if fits && plain {
        Ok(text.to_owned())
    } else {
        Err(format!("'{text}' is not the name of an interface"))
    }
}

fn cgroup(text: &str) -> Result<(String, String), String> {
    let (file, value) =
        text.split_once('=').ok_or_else(|| format!("'{text}' is not FILE=VALUE"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-';
    let controller = file.split('.').next().unwrap_or_default();
    // cgroup.procs and its like are the jailer's own business.
    if !file.contains('.') || !file.chars().all(allowed) || ["", "cgroup"].contains(&controller) {
        return Err(format!("'{file}' is not a file of a controller"));
    }
    if value.is_empty() || value.contains('\n') {
        return Err(format!("'{text}' has no usable value"));
    }
    Ok((file.to_owned(), value.to_owned()))
}

fn limit(text: &str) -> Result<Limit, String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    let Some((name, resource)) = LIMITS.into_iter().find(|(known, _)| *known == name) else {
        let names = LIMITS.map(|(name, _)| name).join(", ");
        return Err(format!("'{name}' is not one of {names}"));
    };
    let value = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
    Ok(Limit { name, resource, value, asked: true })
}

fn seconds(text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.ok_or_else(|| format!("'{text}' is not a number of seconds from 1 to 86400"))
}

fn shared_file(text: &str) -> Result<SharedFile, String> {
    // Two commas are one of a name; no argument has a zero byte in it.
    let text = text.replace(",,", "\0");
    let mut parts = text.split(',').map(|part| part.replace('\0', ","));
    let path = PathBuf::from(parts.next().unwrap_or_default());
    let (mut writable, mut name) = (false, None);
    for part in parts {
        match part.split_once('=') {
            None if part == "rw" => writable = true,
            Some(("as", given)) => name = Some(given.to_owned()),
            _ => return Err(format!("'{part}' is neither rw nor as=NAME")),
        }
    }
    let text = path.display();
    let own = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let name = name.or(own).unwrap_or_default();
    let taken = ["", ".", "..", "dev"].contains(&name.as_str());
    if taken || name.contains('/') || name.len() > 255 {
        return Err(format!("'{text}': no usable name in the jail"));
    }
    Ok(SharedFile { path, name, writable })
}

fn one_of<T: Copy>(text: &str, ways: &[(&str, T)]) -> Result<T, String> {
    let found = ways.iter().find(|(name, _)| *name == text);
    found.map(|(_, way)| *way).ok_or_else(|| {
        let names: Vec<_> = ways.iter().map(|(name, _)| *name).collect();
        format!("'{text}' is not one of {}", names.join(", "))
    })
}

fn usage(error: lexopt::Error) -> Error {
    Error::Usage(format!("{error}; see 'mote-jailer --help'"))
}

#[cfg(test)]
#[path = "args_test.rs"]
mod tests;
