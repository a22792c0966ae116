//! The flags of `mote run`, `mote restore` and `mote api`: one row says which
//! commands have a flag and what it sets.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::prelude::*;

use super::values::{
    boot_entry, boot_from, descriptor, id, landlock, level, mode, number, path, seconds, socket,
    text, until, word,
};
use crate::api::Options;
use crate::config::{
    self, Bus, Drive, HugePages, Media, MetricsEntry, Mode, Nic, OnNoSpace, OnReset, SnapshotKind,
    Then, Until, VmConfig, check_cpus, check_memory, parse_disk, parse_net, parse_serial,
    parse_size,
};
use crate::error::Error;

/// `mote --version`.
pub const VERSION: &str = concat!("mote ", env!("CARGO_PKG_VERSION"), "\n");

/// What a command's arguments ask for.
pub enum Asked<T> {
    /// A text: help, or the version.
    Text(&'static str),
    /// What the command does.
    For(T),
}

/// A command that has flags of the table, a bit each.
pub(super) type Commands = u8;
pub(super) const RUN: Commands = 1;
pub(super) const RESTORE: Commands = 2;
pub(super) const API: Commands = 4;
/// The commands that start a VM at once.
const VM: Commands = RUN | RESTORE;
const ALL: Commands = VM | API;

/// A flag.
struct Flag {
    name: &'static str,
    commands: Commands,
    set: Set,
}

/// What a flag sets.
enum Set {
    /// It has no value.
    Switch(fn(&mut Draft)),
    /// It has one.
    Value(fn(&mut Draft, &OsStr) -> Done),
    /// A flag of Firecracker's that is refused, and why.
    Refused(&'static str),
}

type Done = Result<(), String>;

/// What the flags of one command line have set so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) vm: VmConfig,
    pub(super) api: Options,
    /// Devices that follow those of the config file.
    pub(super) drives: Vec<Drive>,
    pub(super) nics: Vec<Nic>,
    pub(super) on_no_space: Option<OnNoSpace>,
    /// The snapshot to restore.
    pub(super) directory: Option<PathBuf>,
    pub(super) uffd: Option<PathBuf>,
    pub(super) record: Option<Until>,
    pub(super) verify: bool,
    pub(super) no_working_set: bool,
    pub(super) no_cdrom_hint: bool,
    given: Vec<&'static str>,
}

const FLAGS: &[Flag] = &[
    // What the guest boots from.
    value("config", RUN, |d, v| some(&mut d.vm.config_file, path(v))),
    value("config-file", API, |d, v| some(&mut d.vm.config_file, path(v))),
    value("kernel", RUN, |d, v| some(&mut d.vm.kernel, path(v))),
    value("initrd", RUN, |d, v| some(&mut d.vm.initrd, path(v))),
    value("cmdline", RUN, |d, v| some(&mut d.vm.cmdline, text(v).map(str::to_owned))),
    switch("cmdline-devices", RUN, |d| d.vm.cmdline_devices = true),
    value("boot", RUN, |d, v| set(&mut d.vm.boot, boot_from(v))),
    value("boot-entry", RUN, |d, v| some(&mut d.vm.boot_entry, boot_entry(v))),
    switch("no-cdrom-hint", RUN, |d| d.no_cdrom_hint = true),
    // The machine.
    value("memory", RUN, |d, v| set(&mut d.vm.memory, parse_size(text(v)?).and_then(check_memory))),
    value("cpus", RUN, |d, v| set(&mut d.vm.cpus, number(v).and_then(check_cpus))),
    value("hugepages", VM, |d, v| set(&mut d.vm.huge_pages, word(v, PAGES))),
    switch("prefault", VM, |d| d.vm.prefault = true),
    value("bus", RUN, |d, v| set(&mut d.vm.bus, word(v, BUSES))),
    switch("enable-pci", API, |d| d.vm.bus = Bus::Pci),
    value("disk", VM, add_disk),
    value("cdrom", VM, add_cdrom),
    value("net", VM, add_nic),
    value("serial", ALL, |d, v| set(&mut d.vm.serial, parse_serial(text(v)?))),
    value("on-enospc", VM, |d, v| some(&mut d.on_no_space, word(v, NO_SPACE))),
    value("on-reset", RUN | API, |d, v| some(&mut d.vm.on_reset, word(v, RESETS))),
    value("graceful", ALL, |d, v| some(&mut d.vm.graceful, seconds(v))),
    // Snapshots.
    value("snapshot", VM, |d, v| some(&mut d.vm.snapshot, path(v))),
    value("then", VM, |d, v| set(&mut d.vm.then, word(v, THEN))),
    switch("diff", RESTORE, |d| {
        (d.vm.kind, d.vm.track_dirty_pages) = (SnapshotKind::Difference, true);
    }),
    switch("verify", RESTORE, |d| d.verify = true),
    value("uffd", RESTORE, |d, v| some(&mut d.uffd, socket(v))),
    value("record", RESTORE, |d, v| some(&mut d.record, until(v))),
    switch("no-working-set", RESTORE, |d| d.no_working_set = true),
    // The process.
    value("seccomp", ALL, |d, v| set(&mut d.vm.sandbox.mode, word(v, MODES))),
    value("require-landlock", ALL, |d, v| some(&mut d.vm.sandbox.landlock, landlock(v))),
    switch("no-sandbox", ALL, |d| d.vm.sandbox.mode = Mode::Off),
    value("kvm-fd", ALL, |d, v| some(&mut d.vm.kvm_fd, descriptor(v))),
    value("ready-fd", ALL, |d, v| some(&mut d.vm.ready_fd, descriptor(v))),
    switch("timings", ALL, |d| d.vm.timings = true),
    // The API.
    value("api-sock", API, |d, v| some(&mut d.api.socket, socket(v))),
    value("socket", API, |d, v| some(&mut d.api.socket, socket(v))),
    value("api-sock-mode", API, |d, v| some(&mut d.api.mode, mode(v))),
    value("api-fd", API, |d, v| some(&mut d.api.socket_fd, descriptor(v))),
    switch("no-api", API, |d| d.api.no_api = true),
    value("id", API, |d, v| set(&mut d.api.id, id(v))),
    value("allow-path", API, |d, v| path(v).map(|path| d.api.allow.push(path))),
    value("http-api-max-payload-size", API, |d, v| {
        set(&mut d.api.max_body, number(v).map(|size| size.clamp(1, MOST_BODY) as usize))
    }),
    value("log-path", API, |d, v| {
        some(&mut d.api.logger.get_or_insert_default().log_path, path(v))
    }),
    value("level", API, |d, v| some(&mut d.api.logger.get_or_insert_default().level, level(v))),
    switch("show-level", API, |d| d.api.logger.get_or_insert_default().show_level = true),
    value("metrics-path", API, |d, v| {
        some(&mut d.api.metrics, path(v).map(|metrics_path| MetricsEntry { metrics_path }))
    }),
    value("metrics-period", API, |d, v| set(&mut d.api.period, seconds(v))),
    value("start-time-us", API, |d, v| some(&mut d.api.start_time_us, number(v))),
    value("parent-cpu-time-us", API, |d, v| set(&mut d.api.parent_cpu_time_us, number(v))),
    // Flags of Firecracker's without effect: the log has no origins, the boot
    // marker is always watched, and filters are in no client's way.
    value("start-time-cpu-us", API, |_, v| number(v).map(drop)),
    value("mmds-size-limit", API, |_, v| number(v).map(drop)),
    value("module", API, |_, _| Ok(())),
    switch("show-log-origin", API, |_| ()),
    switch("boot-timer", API, |_| ()),
    switch("no-seccomp", API, |_| ()),
    refused("metadata", "Mote has no metadata service"),
    refused("seccomp-filter", "Mote's filters are part of it"),
    refused("describe-snapshot", "Mote's snapshots have a format of their own"),
    refused("snapshot-version", "Mote's snapshots have a format of their own"),
];

/// Flags that may be given more than once.
const LISTS: [&str; 4] = ["disk", "cdrom", "net", "allow-path"];

/// Flags that exclude each other.
const EXCLUDES: &[(&str, &str)] = &[
    ("record", "snapshot"),
    ("record", "uffd"),
    ("verify", "uffd"),
    ("hugepages", "uffd"),
    ("no-sandbox", "seccomp"),
    ("no-sandbox", "require-landlock"),
    ("api-sock", "socket"),
    ("api-sock", "api-fd"),
    ("socket", "api-fd"),
];

/// Flags without effect unless another one is given.
const NEEDS: &[(&str, &str)] =
    &[("then", "snapshot"), ("diff", "snapshot"), ("no-api", "config-file")];

const PAGES: &[(&str, HugePages)] = &[("thp", HugePages::Transparent), ("2M", HugePages::Reserved)];
const BUSES: &[(&str, Bus)] = &[("auto", Bus::Auto), ("mmio", Bus::Mmio), ("pci", Bus::Pci)];
const NO_SPACE: &[(&str, OnNoSpace)] = &[("pause", OnNoSpace::Pause), ("error", OnNoSpace::Error)];
const RESETS: &[(&str, OnReset)] = &[("restart", OnReset::Restart), ("exit", OnReset::Exit)];
const THEN: &[(&str, Then)] = &[("resume", Then::Resume), ("exit", Then::Exit)];
const MODES: &[(&str, Mode)] = &[("kill", Mode::Kill), ("log", Mode::Log)];
/// The largest limit of a request's body, in bytes.
const MOST_BODY: u64 = 1 << 20;

const fn switch(name: &'static str, commands: Commands, set: fn(&mut Draft)) -> Flag {
    Flag { name, commands, set: Set::Switch(set) }
}

const fn value(
    name: &'static str,
    commands: Commands,
    set: fn(&mut Draft, &OsStr) -> Done,
) -> Flag {
    Flag { name, commands, set: Set::Value(set) }
}

const fn refused(name: &'static str, why: &'static str) -> Flag {
    Flag { name, commands: API, set: Set::Refused(why) }
}

fn set<T>(to: &mut T, value: Result<T, String>) -> Done {
    value.map(|value| *to = value)
}

fn some<T>(to: &mut Option<T>, value: Result<T, String>) -> Done {
    set(to, value.map(Some))
}

fn add_disk(draft: &mut Draft, value: &OsStr) -> Done {
    let number = draft.count(Media::Disk);
    parse_disk(text(value)?, number).map(|disk| draft.drives.push(disk))
}

fn add_cdrom(draft: &mut Draft, value: &OsStr) -> Done {
    let id = format!("cdrom{}", draft.count(Media::CdRom));
    path(value).map(|path| draft.drives.push(Drive::new(Media::CdRom, path, id)))
}

fn add_nic(draft: &mut Draft, value: &OsStr) -> Done {
    let number = draft.nics.len();
    parse_net(text(value)?, number).map(|nic| draft.nics.push(nic))
}

/// Whether `mote api` has such a flag.
pub(super) fn is_of_api(name: &str) -> bool {
    FLAGS.iter().any(|flag| flag.name == name && flag.commands & API != 0)
}

impl Draft {
    /// Reads the flags of a command, the first of which may have been taken from
    /// the parser already; `help` is what `--help` shows.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Arguments`] names the flag at fault,
    /// [`Error::Config`] the file and the key.
    pub(super) fn parse(
        mut parser: lexopt::Parser,
        first: Option<String>,
        command: Commands,
        help: &'static str,
    ) -> Result<Asked<Self>, Error> {
        let (mut draft, mut values) = (Self::default(), Vec::new());
        let mut next = first;
        loop {
            let name = match next.take() {
                Some(name) => name,
                None => match parser.next()? {
                    None => break,
                    Some(Short('h') | Long("help")) => return Ok(Asked::Text(help)),
                    Some(Short('V') | Long("version")) => return Ok(Asked::Text(VERSION)),
                    Some(Long(name)) => name.to_owned(),
                    Some(Value(path)) => {
                        draft.positional(path, command)?;
                        continue;
                    }
                    Some(other) => return Err(other.unexpected().into()),
                },
            };
            let flag = FLAGS.iter().find(|flag| flag.name == name);
            let flag = flag.ok_or_else(|| Error::from(Long(&name).unexpected()))?;
            if flag.commands & command == 0 {
                let why = format!("--{name}: not a flag of this command");
                return Err(Error::Arguments(why));
            }
            if draft.is_given(flag.name) && !LISTS.contains(&flag.name) {
                return Err(Error::Usage(format!("--{name} is given twice")));
            }
            draft.given.push(flag.name);
            let value = match flag.set {
                Set::Switch(_) => OsString::new(),
                Set::Value(_) => parser.value()?,
                Set::Refused(why) => return Err(Error::Usage(format!("--{name}: {why}"))),
            };
            values.push((flag, value));
        }
        // Flags take precedence over the file, wherever they stand.
        if let Some((_, file)) = values.iter().find(|(flag, _)| flag.name == "config") {
            draft.vm = config::read_file(&named("config", path(file))?)?;
        }
        for (flag, value) in &values {
            match flag.set {
                Set::Value(set) => named(flag.name, set(&mut draft, value))?,
                Set::Switch(set) => set(&mut draft),
                Set::Refused(_) => {}
            }
        }
        draft.check_combinations()?;
        Ok(Asked::For(draft))
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains(&name)
    }

    fn count(&self, media: Media) -> usize {
        self.drives.iter().filter(|drive| drive.media == media).count()
    }

    /// Takes an argument that is no flag.
    fn positional(&mut self, value: OsString, command: Commands) -> Result<(), Error> {
        match command {
            RESTORE => {}
            RUN => return Err(Error::Arguments(unexpected(&value))),
            _ => return Err(Value(value).unexpected().into()),
        }
        let path = path(&value).map_err(Error::Arguments)?;
        match self.directory.replace(path) {
            None => Ok(()),
            Some(_) => Err(Error::Arguments("one snapshot only: DIR is given twice".to_owned())),
        }
    }

    fn check_combinations(&self) -> Result<(), Error> {
        let given = |name| self.is_given(name);
        let clash = EXCLUDES.iter().find(|(one, other)| given(one) && given(other));
        if let Some((one, other)) = clash {
            return Err(Error::Usage(format!("--{one} and --{other} cannot be combined")));
        }
        match NEEDS.iter().find(|(one, other)| given(one) && !given(other)) {
            Some((one, other)) => Err(Error::Usage(format!("--{one} needs --{other}"))),
            None => Ok(()),
        }
    }
}

/// The error of a file that has no flag before it: which flag to use.
pub(super) fn unexpected(value: &OsStr) -> String {
    let extension = PathBuf::from(value).extension().map(OsStr::to_ascii_lowercase);
    let flags = match extension.as_deref().and_then(OsStr::to_str) {
        Some("iso") => "use --cdrom for a CD-ROM image",
        Some("img" | "raw" | "qcow2") => "use --disk for a raw disk image",
        Some("json") => "use --config for a config file",
        _ => "use --kernel, --disk or --cdrom for a file to boot",
    };
    format!("unexpected argument {value:?}: {flags}")
}

/// Prefixes an error about a value with the flag's name.
pub(super) fn named<T>(flag: &str, value: Result<T, String>) -> Result<T, Error> {
    value.map_err(|why| Error::Usage(format!("--{flag}: {why}")))
}

/// Refuses an option that was given before and can be given once.
pub(super) fn once(seen: &mut Vec<String>, flag: &str) -> Result<(), Error> {
    if seen.iter().any(|earlier| earlier == flag) {
        return Err(Error::Usage(format!("--{flag} is given twice")));
    }
    seen.push(flag.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, api, run};

    /// A flag that exists and is not in the help might as well not exist.
    #[test]
    fn help_names_every_flag() {
        for (command, help) in
            [(RUN, run::RUN_HELP), (RESTORE, run::RESTORE_HELP), (API, api::HELP)]
        {
            let words = || help.split(|c: char| c.is_whitespace() || c == ',');
            for flag in FLAGS.iter().filter(|flag| flag.commands & command != 0) {
                let taken = !matches!(flag.set, Set::Refused(_));
                let named = words().any(|word| word.strip_prefix("--") == Some(flag.name));
                assert_eq!(named, taken, "{command}: --{}", flag.name);
            }
        }
    }

    #[test]
    fn a_flag_of_another_command_or_given_twice_is_refused() {
        for (command, line) in [(RUN, "run"), (RESTORE, "restore"), (API, "api")] {
            for flag in FLAGS {
                let name = flag.name;
                let value = if matches!(flag.set, Set::Value(_)) { "=x" } else { "" };
                let once = format!("--{name}{value}");
                let args = [line, &once, &once].map(OsString::from);
                let why = match flag.set {
                    _ if flag.commands & command == 0 => "not a flag of this command",
                    Set::Refused(why) => why,
                    _ if LISTS.contains(&name) => continue,
                    _ => "is given twice",
                };
                let error = cli::parse(args).unwrap_err().to_string();
                assert!(error.contains(&format!("--{name}")) && error.contains(why), "{error}");
            }
        }
    }

    /// Every flag that is named in a rule exists.
    #[test]
    fn rules_are_about_flags() {
        let names = EXCLUDES.iter().chain(NEEDS).flat_map(|(one, other)| [*one, *other]);
        for name in names.chain(LISTS) {
            assert!(FLAGS.iter().any(|flag| flag.name == name), "{name}");
        }
    }
}
