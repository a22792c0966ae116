//! The command line.

pub mod api;
pub mod ctl;
pub mod demo;
mod flags;
mod run;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lexopt::prelude::*;

use self::flags::{Asked, RESTORE, RUN, VERSION, once, unexpected};
use crate::api::Options;
use crate::config::{VmConfig, check_path};
use crate::error::Error;

/// `mote --help`.
pub const HELP: &str = "\
Mote runs one virtual machine in one small, locked-down process.

Usage: mote COMMAND [OPTIONS]

Commands:
  run      Boot a CD-ROM, a disk or a kernel   (mote run --help)
  restore  Restore a VM from a snapshot        (mote restore --help)
  merge    Combine a full snapshot with diff snapshots  (mote merge --help)
  demo     Install a system from a CD and boot it, all in memory
  api      Serve Firecracker's API             (mote api --help)
  ctl      Control a VM with that API          (mote ctl --help)
  doctor   Check whether this host can run VMs (mote doctor --help)

Options:
  -h, --help     Show this help
  -V, --version  Show the version

Exit codes:
  0  the guest powered off          4  the host lacks something
  1  mote failed                    5  the guest crashed (triple fault)
  2  wrong flag or config file      6  KVM cannot continue
  3  kernel or image unusable       7  the guest reset (--on-reset exit)
  8  nothing to boot                9  'mote doctor' found problems
  10 the snapshot of --snapshot was not taken
  128 + N  ended by signal N
";

/// `mote merge --help`.
pub const MERGE_HELP: &str = "\
Combine a full snapshot with the diff snapshots that follow it into one full
snapshot, and verify the checksums of all files.

Usage: mote merge BASE DIFF... INTO

BASE and each DIFF are directories with the files 'state' and 'memory', each
DIFF relative to the one before it. The directory INTO is created if missing.
";

/// `mote doctor --help`.
pub const DOCTOR_HELP: &str = "\
Check whether this host and your images can be used for virtual machines: what
is fine, weak, missing or unknown, and what to do. It changes nothing.

Usage: mote doctor [IMAGE...] [--json]

Options:
  --json      Print one JSON object instead of a table
  -h, --help  Show this help

Exit codes, the first that applies:
  4  the host lacks something that VMs need
  3  an image cannot be used, or is in use
  9  a check failed or could not be completed (less secure or slower)
  0  all is fine
";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print a text and end with code 0.
    Print(&'static str),
    /// Boot a VM, or restore one.
    Run(Box<VmConfig>),
    /// Serve the control API.
    Api(Box<Options>),
    /// Ask something of a VM that runs.
    Control(ctl::Order),
    /// Let a machine install a system from a CD and boot it, all in memory.
    Demo,
    /// Make one snapshot of the first ones, in the last directory.
    Merge(Vec<PathBuf>),
    /// Examine the host and these images; whether the answer is to be JSON.
    Doctor(Vec<PathBuf>, bool),
}

/// Parses the process's arguments, without the program's name.
///
/// # Errors
/// [`Error::Usage`] names the flag at fault; errors of `--config` name the
/// file and the key.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut parser = lexopt::Parser::from_args(args);
    let (command, parsed) = match parser.next()? {
        None => {
            let why = "no command given; 'mote --help' lists them";
            return Err(Error::Usage(why.to_owned()));
        }
        Some(Short('h') | Long("help")) => return Ok(Command::Print(HELP)),
        Some(Short('V') | Long("version")) => return Ok(Command::Print(VERSION)),
        // As Firecracker is called, which has no commands.
        Some(Long(flag)) if flags::is_of_api(flag) => {
            let flag = flag.to_owned();
            ("api", api::parse(parser, Some(flag)).map(serve))
        }
        Some(Value(command)) => match command.to_str() {
            Some("api") => ("api", api::parse(parser, None).map(serve)),
            Some("ctl") => ("ctl", ctl::parse(parser).map(control)),
            Some("run") => ("run", run::parse(parser, RUN).map(boot)),
            Some("restore") => ("restore", run::parse(parser, RESTORE).map(boot)),
            Some("demo") => ("demo", demo(parser)),
            Some("doctor") => ("doctor", doctor(parser)),
            Some("merge") => ("merge", merge_command(parser)),
            Some("help") => return Ok(Command::Print(HELP)),
            Some("version") => return Ok(Command::Print(VERSION)),
            // A file to boot, given as to other monitors.
            _ if Path::new(&command).is_file() => {
                ("run", Err(Error::Arguments(unexpected(&command))))
            }
            _ => {
                let name = command.display();
                let why = format!("unknown command '{name}'; 'mote --help' lists them");
                return Err(Error::Usage(why));
            }
        },
        Some(other) => ("", Err(other.unexpected().into())),
    };
    parsed.map_err(|error| match error {
        Error::Arguments(why) => {
            let space = if command.is_empty() { "" } else { " " };
            Error::Usage(format!("{why}; see 'mote{space}{command} --help'"))
        }
        error => error,
    })
}

fn command<T>(asked: Asked<T>, make: impl Fn(T) -> Command) -> Command {
    match asked {
        Asked::Text(text) => Command::Print(text),
        Asked::For(what) => make(what),
    }
}

fn boot(asked: Asked<VmConfig>) -> Command {
    command(asked, |config| Command::Run(Box::new(config)))
}

fn control(asked: Asked<ctl::Order>) -> Command {
    command(asked, Command::Control)
}

fn serve(asked: Asked<Options>) -> Command {
    command(asked, |options| Command::Api(Box::new(options)))
}

fn demo(mut parser: lexopt::Parser) -> Result<Command, Error> {
    match parser.next()? {
        None => Ok(Command::Demo),
        Some(Short('h') | Long("help")) => Ok(Command::Print(demo::HELP)),
        Some(other) => Err(other.unexpected().into()),
    }
}

fn doctor(mut parser: lexopt::Parser) -> Result<Command, Error> {
    let (mut images, mut json, mut seen) = (Vec::new(), false, Vec::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(DOCTOR_HELP)),
            Long("json") => {
                once(&mut seen, "json")?;
                json = true;
            }
            Value(image) => images.push(argument(image)?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Doctor(images, json))
}

/// A path that is no flag's value.
fn argument(path: OsString) -> Result<PathBuf, Error> {
    check_path(path).map_err(Error::Arguments)
}

fn merge_command(mut parser: lexopt::Parser) -> Result<Command, Error> {
    let mut paths = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(MERGE_HELP)),
            Value(path) => paths.push(argument(path)?),
            other => return Err(other.unexpected().into()),
        }
    }
    match paths.len() {
        0..3 => Err(Error::Arguments("BASE, DIFF and INTO are needed".to_owned())),
        _ => Ok(Command::Merge(paths)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, OnReset};

    fn parse_line(line: &str) -> Result<Command, Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_become_a_config() {
        let line = "run --kernel k --initrd=i --memory 1G --cpus 4 --serial none --on-reset exit";
        let Ok(Command::Run(config)) = parse_line(line) else {
            panic!("{line}");
        };
        assert_eq!(config.kernel, Some("k".into()));
        assert_eq!((config.memory, config.cpus), (1 << 30, 4));
        assert_eq!(config.serial, config::SerialTo::None.into());
        assert_eq!(config.on_reset, Some(OnReset::Exit));
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (line, word) in [
            ("", "no command"),
            ("fly", "'fly'"),
            ("run", "--kernel"),
            ("run --kernel", "--kernel"),
            ("run --kernel a --kernel b", "--kernel is given twice"),
            ("run --kernel k --memory 0", "--memory"),
            ("run --kernel k --memory 1", "--memory"),
            ("run --kernel k --memory lots", "--memory"),
            ("run --kernel k --cpus 0", "--cpus"),
            ("run --kernel k --cpus 33", "--cpus"),
            ("run --kernel k --cpus many", "--cpus"),
            ("run --kernel k --serial com2", "--serial"),
            ("run --kernel k --serial file:", "--serial"),
            ("run --kernel k --on-reset sleep", "--on-reset"),
            ("run --kernel k --on-enospc stop", "--on-enospc"),
            ("run --kernel k --disk a,bw=0", "--disk: bw=0"),
            ("run --kernel k --net tap=a,rx-ops=0", "--net: ops=0"),
            ("run --kernel k --graceful 0", "--graceful: 0"),
            ("run --kernel k --graceful soon", "--graceful"),
            ("run --kernel k --seccomp allow", "--seccomp"),
            ("run --kernel k --kvm-fd 1", "--kvm-fd: descriptor 1"),
            ("run --kernel k --ready-fd 99999", "--ready-fd: descriptor 99999"),
            ("run --kernel k --require-landlock 0", "--require-landlock"),
            ("run --kernel k --no-sandbox --seccomp log", "--no-sandbox"),
            ("run --kernel k --then exit", "--then needs --snapshot"),
            ("restore d --then exit", "--then needs --snapshot"),
            ("restore d e", "DIR is given twice"),
            ("run --kernel k --color", "--color"),
            ("run --kernel k extra", "extra"),
            ("run a.iso", "\"a.iso\": use --cdrom"),
            ("run a.img", "use --disk"),
            ("run a.json", "use --config"),
            ("run k.txt", "use --kernel, --disk or --cdrom"),
            ("run --disk d --kernel k --bus pci --cmdline pci=off", "use --bus mmio"),
            ("run --kernel k --verify", "see 'mote run --help'"),
            ("run --boot disk", "--cdrom"),
            ("run --disk d --boot cdrom", "--boot: no CD-ROM"),
            ("run --cdrom d --boot disk", "--boot: no disk"),
            ("run --disk d --boot x", "--boot: no drive 'x'"),
            ("run --disk d --kernel k --boot disk", "--boot and --boot-entry"),
            ("run --disk d --cmdline quiet", "need --kernel"),
            ("run --disk d --initrd i", "need --kernel"),
            ("demo --fast", "--fast"),
            ("doctor --fast", "mote doctor --help"),
            ("doctor --json=yes", "--json"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
            assert_eq!(error.exit_code(), crate::error::exit::USAGE);
        }
    }
}
