//! The command line of `mote --api-sock …`: Firecracker's, as its SDKs and
//! jailers call it, and Mote's own; `mote api --socket …` is the same for people.

use std::time::Duration;

use lexopt::prelude::*;

use super::flags::{self, Asked, named};
use crate::api::Options;
use crate::api::log::Level;
use crate::config::{self, Bus, LoggerEntry, MetricsEntry, Mode, parse_serial};
use crate::error::Error;
use crate::sandbox;

/// The most bytes of a request's body, unless said otherwise, as in Firecracker.
const MAX_BODY: usize = 51_200;
/// How often metrics are written, unless said otherwise, as in Firecracker.
const METRICS_PERIOD: Duration = Duration::from_secs(60);
/// What may be said at most: more is no request.
const MOST_BODY: u64 = 1 << 20;

/// `mote api --help`.
pub const HELP: &str = "\
Serve Firecracker's API on a Unix socket: configure, start and control a VM.

Usage: mote api --socket PATH [OPTIONS]
       mote --api-sock PATH [OPTIONS]                 (as Firecracker's clients)
       mote --no-api --config-file FILE [OPTIONS]

Firecracker's options:
  --api-sock PATH, --socket PATH  Where the socket is made
  --id ID             Name of the VM in log and answers
  --config-file FILE  Start the VM of this file at once
  --no-api            Serve no socket; needs --config-file
  --log-path PATH     Log to this file or named pipe
  --level LEVEL       Error, Warning, Info, Debug, Trace or Off  [default: Info]
  --show-level        Lines say their level
  --metrics-path PATH Write metrics to this file or named pipe
  --http-api-max-payload-size N   Bytes of a request at most [default: 51200]
  --start-time-us N, --start-time-cpu-us N, --parent-cpu-time-us N
                      When the caller began, for the metrics
  --show-log-origin, --module NAME, --boot-timer, --mmds-size-limit N,
  --no-seccomp        Taken, and change nothing: the sandbox stays

Mote's own:
  --api-sock-mode MODE  Who may use the socket, in octal [default: 600]
  --api-fd N          The listening socket is descriptor N
  --allow-path DIR    Open files only beneath DIR (may be given more than once)
  --serial WHERE      stdio, file:PATH[,append], pty, socket:PATH or none; ,hold
                      lets a slow reader hold the guest instead of losing output
                      [default: stdio]
  --metrics-period SECONDS  Write metrics so often while the VM runs, besides
                      at its start and end [default: 60]
  --on-reset WHAT     A guest's reset has to restart it, or to exit with code 7
                      [default: with a kernel exit with code 0, else restart]
  --ready-fd N        Write a line to descriptor N when requests are heard
  --graceful, --kvm-fd, --seccomp, --require-landlock, --no-sandbox, --timings
                      See 'mote run --help'
  -h, --help          Show this help
";

/// Parses flags, the first of which may have been read already.
///
/// # Errors
/// [`Error::Usage`] names the flag at fault.
pub(super) fn parse(
    mut parser: lexopt::Parser,
    first: Option<String>,
) -> Result<Asked<Options>, Error> {
    let mut all = Flags::default();
    let mut next = first;
    loop {
        let flag = match next.take() {
            Some(flag) => flag,
            None => match parser.next()? {
                None => break,
                Some(Short('h') | Long("help")) => return Ok(Asked::Text(HELP)),
                Some(Short('V') | Long("version")) => return Ok(Asked::Text(flags::VERSION)),
                Some(Long(name)) => name.to_owned(),
                Some(other) => return Err(other.unexpected().into()),
            },
        };
        // Two names of one option.
        let name = if flag == "socket" { "api-sock" } else { &flag };
        if flag != "allow-path" {
            flags::once(&mut all.seen, name)?;
        }
        if !all.switch(&flag)? {
            match parser.value() {
                Ok(value) => all.value(&flag, value)?,
                Err(_) if !has(&flag) => return Err(Long(&flag).unexpected().into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    all.check().map(Asked::For)
}

/// Whether there is such a flag.
pub fn has(flag: &str) -> bool {
    let mut all = Flags::default();
    let known = |done: Result<bool, Error>| !matches!(done, Err(Error::Arguments(_)));
    all.switch(flag).unwrap_or(true) || known(all.value(flag, "".into()).map(|()| true))
}

/// What has been read so far.
#[derive(Default)]
struct Flags {
    options: Options,
    logger: LoggerEntry,
    seen: Vec<String>,
    no_sandbox: bool,
    seccomp: Option<Mode>,
    landlock: Option<u32>,
}

impl Flags {
    /// Takes a flag that has no value; tells whether it is one.
    fn switch(&mut self, flag: &str) -> Result<bool, Error> {
        match flag {
            "no-api" => self.options.no_api = true,
            "show-level" => self.logger.show_level = true,
            "timings" => self.options.timings = true,
            "no-sandbox" => self.no_sandbox = true,
            // The log has no origins; the marker is always there; and filters
            // are in nobody's way.
            "show-log-origin" | "boot-timer" | "no-seccomp" => {}
            "enable-pci" => self.options.bus = Bus::Pci,
            "snapshot-version" => {
                return Err(refused(flag, "Mote's snapshots have a format of their own"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes a flag with its value.
    fn value(&mut self, flag: &str, value: std::ffi::OsString) -> Result<(), Error> {
        let options = &mut self.options;
        let text = || named(flag, value.to_str().ok_or_else(|| "is no text".to_owned()));
        let number = || text().and_then(|text| named(flag, flags::number(text)));
        let path = || named(flag, config::check_path(value.clone()));
        let fd = || number().and_then(|number| named(flag, flags::descriptor(number)));
        match flag {
            "api-sock" | "socket" => {
                let path = config::check_socket(value.clone());
                options.socket = Some(named(flag, path)?);
            }
            "api-sock-mode" => options.mode = Some(named(flag, mode(text()?))?),
            "api-fd" => options.socket_fd = Some(fd()?),
            "id" => options.id = text()?.to_owned(),
            "config-file" => options.config_file = Some(path()?),
            "log-path" => self.logger.log_path = Some(path()?),
            "level" => self.logger.level = Some(named(flag, level(text()?))?),
            "metrics-path" => {
                let metrics_path = path()?;
                options.metrics = Some(MetricsEntry { metrics_path });
            }
            "http-api-max-payload-size" => {
                let size = number()?.min(MOST_BODY);
                options.max_body = usize::try_from(size).unwrap_or(MAX_BODY);
            }
            "start-time-us" => options.begun.0 = Some(number()?),
            "parent-cpu-time-us" => options.begun.1 = number()?,
            "start-time-cpu-us" | "mmds-size-limit" => {
                number()?;
            }
            "module" => {}
            "allow-path" => options.allow.push(path()?),
            "serial" => options.serial = Some(named(flag, parse_serial(text()?))?),
            "on-reset" => options.on_reset = Some(named(flag, flags::on_reset(text()?))?),
            "metrics-period" => {
                options.period = named(flag, flags::seconds(number()?))?;
            }
            "graceful" => {
                let time = named(flag, flags::seconds(number()?))?;
                options.graceful = Some(time);
            }
            "kvm-fd" => options.kvm_fd = Some(fd()?),
            "ready-fd" => options.ready_fd = Some(fd()?),
            "seccomp" => self.seccomp = Some(named(flag, flags::seccomp(text()?))?),
            "require-landlock" => {
                let least = named(flag, flags::landlock(number()?))?;
                self.landlock = Some(least);
            }
            "metadata" => return Err(refused(flag, "Mote has no metadata service")),
            "seccomp-filter" => return Err(refused(flag, "Mote's filters are part of it")),
            "describe-snapshot" => {
                return Err(refused(flag, "Mote's snapshots have a format of their own"));
            }
            _ => return Err(Long(flag).unexpected().into()),
        }
        Ok(())
    }

    fn check(self) -> Result<Options, Error> {
        let mut options = self.options;
        let sockets = [options.socket.is_some(), options.socket_fd.is_some()];
        let usage = |why: &str| Err(Error::Usage(why.to_owned()));
        match (sockets, options.no_api) {
            ([true, true], _) => return usage("--api-sock and --api-fd exclude each other"),
            ([false, false], false) => return usage("--api-sock PATH or --api-fd N is needed"),
            (_, true) if options.config_file.is_none() => {
                return usage("--no-api needs --config-file");
            }
            _ => {}
        }
        check_id(&mut options.id)?;
        if options.max_body == 0 {
            options.max_body = MAX_BODY;
        }
        if options.period.is_zero() {
            options.period = METRICS_PERIOD;
        }
        let logs = ["log-path", "level"].iter().any(|flag| self.seen.iter().any(|s| s == flag));
        if logs || self.logger.show_level {
            options.logger = Some(self.logger);
        }
        options.sandbox = flags::policy(self.no_sandbox, self.seccomp, self.landlock)?;
        options.sandbox.opens = !options.allow.is_empty() && sandbox::landlock_version() > 0;
        Ok(options)
    }
}

/// The name that a VM without one has, or a check of the one that it has.
fn check_id(id: &mut String) -> Result<(), Error> {
    if id.is_empty() {
        *id = "anonymous-instance".to_owned();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.len() > 64 || !id.chars().all(plain) {
        return Err(refused("id", "1 to 64 letters, digits and '-'"));
    }
    Ok(())
}

/// Permissions of a file, without any for programs or special ones.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| mode & !0o666 == 0)
        .ok_or_else(|| format!("'{text}' is not 600, 660 or 666, or less"))
}

fn level(name: &str) -> Result<String, String> {
    match Level::parse(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("'{name}' is none of Error, Warning, Info, Debug, Trace, Off")),
    }
}

fn refused(flag: &str, why: &str) -> Error {
    Error::Usage(format!("--{flag}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Command};

    fn parse_line(line: &str) -> Result<Command, Error> {
        cli::parse(line.split_whitespace().map(std::ffi::OsString::from))
    }

    fn options(line: &str) -> Options {
        match parse_line(line) {
            Ok(Command::Api(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// The lines that Firecracker's jailer and its SDKs write.
    #[test]
    fn firecrackers_lines() {
        let all = options(
            "--id=vm-1 --start-time-us=5 --start-time-cpu-us=6 --parent-cpu-time-us 7 \
             --api-sock /run/a.socket --log-path l --level Debug --show-level --show-log-origin \
             --module m --metrics-path m --boot-timer --no-seccomp --mmds-size-limit 9 \
             --http-api-max-payload-size 1000 --config-file c",
        );
        assert_eq!((all.id.as_str(), all.begun), ("vm-1", (Some(5), 7)));
        assert_eq!(all.socket, Some("/run/a.socket".into()));
        assert_eq!((all.max_body, all.sandbox.mode), (1000, Mode::Kill));
        assert!(all.logger.is_some_and(|logger| logger.show_level));
        let all = options("--no-api --config-file c");
        assert_eq!((all.max_body, all.id.as_str()), (51_200, "anonymous-instance"));
        assert!(all.logger.is_none() && all.metrics.is_none());
        let all = options("api --socket s --allow-path /a --allow-path /b");
        assert_eq!(all.allow.len(), 2);
    }

    #[test]
    fn mistakes_name_the_flag() {
        for (line, word) in [
            ("api", "--api-sock"),
            ("--no-api", "--config-file"),
            ("--id x", "--api-sock"),
            ("--api-sock a --api-sock b", "--api-sock is given twice"),
            ("--api-sock a --socket b", "--api-sock is given twice"),
            ("api --socket a --api-sock b", "--api-sock is given twice"),
            ("--api-sock a --api-fd 1", "--api-fd: descriptor 1 is not"),
            ("--api-sock a --id a/b", "--id"),
            ("--api-sock a --level loud", "--level"),
            ("--api-sock a --api-sock-mode 777", "--api-sock-mode"),
            ("--api-sock a --api-sock-mode rw", "--api-sock-mode"),
            ("--api-sock a --metadata m", "--metadata"),
            ("--api-sock a --seccomp-filter f", "--seccomp-filter"),
            ("--api-sock a --snapshot-version", "--snapshot-version"),
            ("--api-sock a --describe-snapshot f", "--describe-snapshot"),
            ("--api-sock a --kernel k", "--kernel"),
            ("--api-sock a --start-time-us soon", "--start-time-us"),
            ("--api-sock a extra", "extra"),
            ("--api-sock", "--api-sock"),
            ("api --kernel k", "mote api --help"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
            assert_eq!(error.exit_code(), crate::error::exit::USAGE);
        }
    }
}
