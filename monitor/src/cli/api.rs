//! The command line of `mote --api-sock …`: Firecracker's, as its SDKs and
//! jailers call it, and Mote's own; `mote api --socket …` is the same for people.

use super::flags::{API, Asked, Draft};
use crate::api::Options;
use crate::config;
use crate::error::Error;
use crate::sandbox;

/// `mote api --help`.
pub const HELP: &str = "\
Serve Firecracker's API on a Unix socket: configure, start and control a VM.

Usage: mote api --socket PATH [OPTIONS]
       mote --api-sock PATH [OPTIONS]                 (as Firecracker's clients)
       mote --no-api --config-file FILE [OPTIONS]

Firecracker's options:
  --api-sock PATH, --socket PATH  Path of the socket
  --id ID             Name of the VM in logs and responses
  --config-file FILE  Start the VM of this file at once
  --no-api            Serve no socket; needs --config-file
  --log-path PATH     Log to this file or named pipe
  --level LEVEL       Error, Warning, Info, Debug, Trace or Off  [default: Info]
  --show-level        Show the level in each line
  --metrics-path PATH Write metrics to this file or named pipe
  --http-api-max-payload-size N  Largest request body in bytes [default: 51200]
  --start-time-us N, --start-time-cpu-us N, --parent-cpu-time-us N
                      When the caller started, for the metrics
  --enable-pci        Attach devices to a PCI bus
  --show-log-origin, --module NAME, --boot-timer, --mmds-size-limit N,
  --no-seccomp        Accepted without effect: the sandbox stays on

Mote's options:
  --api-sock-mode MODE  Permissions of the socket, in octal [default: 600]
  --api-fd N          Use descriptor N, a listening socket
  --allow-path DIR    Open files only beneath DIR (may be given more than once)
  --serial WHERE      stdio, file:PATH[,append], pty, socket:PATH or none; ,hold
                      stalls the guest instead of losing output
                      [default: stdio]
  --metrics-period SECONDS  Write metrics this often while the VM runs, and at
                      its start and end [default: 60]
  --on-reset WHAT     On the guest's reset: restart it, or exit with code 7
                      [default: with a kernel exit with code 0, else restart]
  --ready-fd N        Write a line to descriptor N when requests are served
  --graceful, --kvm-fd, --seccomp, --require-landlock, --no-sandbox, --timings
                      See 'mote run --help'
  -h, --help          Show this help
";

/// Parses flags, the first of which is given where Firecracker's clients call
/// and no command is named.
///
/// # Errors
/// [`Error::Usage`] names the flag at fault.
pub(super) fn parse(
    parser: lexopt::Parser,
    first: Option<String>,
) -> Result<Asked<Options>, Error> {
    let socket = if first.is_some() { "--api-sock" } else { "--socket" };
    let draft = match Draft::parse(parser, first, API, HELP)? {
        Asked::Text(text) => return Ok(Asked::Text(text)),
        Asked::For(draft) => draft,
    };
    let mut options = Options { vm: draft.vm, ..draft.api };
    if options.socket.is_none() && options.socket_fd.is_none() && !options.no_api {
        return Err(Error::Arguments(format!("{socket} PATH or --api-fd N is needed")));
    }
    config::check_descriptors(&options.vm, options.socket_fd).map_err(Error::Usage)?;
    options.vm.sandbox.opens = !options.allow.is_empty() && sandbox::landlock_version() > 0;
    Ok(Asked::For(options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Command};
    use crate::config::Mode;

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
        assert_eq!(
            (all.id.as_str(), all.start_time_us, all.parent_cpu_time_us),
            ("vm-1", Some(5), 7)
        );
        assert_eq!(all.socket, Some("/run/a.socket".into()));
        assert_eq!((all.max_body, all.vm.sandbox.mode), (1000, Mode::Kill));
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
            ("api", "--socket PATH"),
            ("--no-api", "--config-file"),
            ("--id x", "--api-sock"),
            ("--api-sock a --api-sock b", "--api-sock is given twice"),
            ("--api-sock a --socket b", "--api-sock and --socket cannot be combined"),
            ("api --socket a --socket b", "--socket is given twice"),
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
