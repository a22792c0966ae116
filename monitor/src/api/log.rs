//! The log, in Firecracker's form. Its size is bounded, so that no client can fill a
//! disk with it.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::config::VmConfig;
use crate::error::Error;
use crate::error::is_shown;
use crate::host::files::Output;

/// Bytes that one place may write in a window: requests and faults, which a client
/// causes, leave no line about the VM's state out.
const OF_PLACE: usize = 8 << 10;
/// Bytes of a line's text at most.
const OF_TEXT: usize = 1 << 10;
/// Seconds of a window.
const WINDOW: i64 = 10;

/// How much a line matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is written.
    Off,
    /// Something could not be done.
    Error,
    /// Something is not as it should be.
    Warning,
    /// What happens.
    #[default]
    Info,
    /// More than that, which Mote does not write.
    Debug,
}

/// Places that write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A request came.
    Request,
    /// It could not be done.
    Fault,
    /// The VM started, paused, went on or ended.
    State,
}

/// Number of places.
const PLACES: usize = 3;

/// Where lines go, and how many.
#[derive(Debug)]
pub struct Log {
    to: Option<File>,
    id: String,
    level: Level,
    show_level: bool,
    /// Seconds and nanoseconds between the clock that runs and the time of day:
    /// a confined thread can only read the first.
    offset: (i64, i64),
    window: i64,
    written: [usize; PLACES],
    /// Lines left out since the log was made.
    dropped: u64,
    untold: u64,
}

impl Level {
    /// The level of Firecracker's name.
    ///
    /// # Errors
    /// There is no such level: which there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warning" | "warn" => Ok(Self::Warning),
            "info" => Ok(Self::Info),
            "debug" | "trace" => Ok(Self::Debug),
            _ => Err(format!("'{name}' is not one of Error, Warning, Info, Debug, Trace, Off")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Error => "ERROR",
            Self::Warning => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}

impl Log {
    /// A log that goes nowhere, of the VM `id`.
    pub fn nowhere(id: &str) -> Self {
        let (now, day) = (monotonic(), clock_gettime(ClockId::Realtime));
        Self {
            to: None,
            id: id.to_owned(),
            level: Level::default(),
            show_level: false,
            offset: (day.tv_sec - now.tv_sec, day.tv_nsec - now.tv_nsec),
            window: i64::MIN,
            written: [0; PLACES],
            dropped: 0,
            untold: 0,
        }
    }

    /// Sends lines to `file` from now on, if there is one.
    pub fn configure(&mut self, file: Option<File>, level: Option<Level>, show_level: bool) {
        if file.is_some() {
            self.to = file;
        }
        self.level = level.unwrap_or(self.level);
        self.show_level = show_level;
    }

    /// The file that lines go to.
    pub fn file(&self) -> Option<&File> {
        self.to.as_ref()
    }

    /// Number of its descriptor.
    pub fn number(&self) -> Option<RawFd> {
        self.file().map(AsRawFd::as_raw_fd)
    }

    /// Lines that were left out.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Milliseconds since 1970.
    pub fn day_ms(&self) -> i64 {
        let (seconds, nanos) = self.day();
        seconds * 1000 + nanos / 1_000_000
    }

    fn day(&self) -> (i64, i64) {
        let now = monotonic();
        let nanos = now.tv_nsec + self.offset.1;
        let seconds = now.tv_sec + self.offset.0 + nanos.div_euclid(1_000_000_000);
        (seconds, nanos.rem_euclid(1_000_000_000))
    }

    /// Writes a line, or counts it as left out.
    pub fn line(&mut self, place: Place, level: Level, text: &str) {
        if self.to.is_none() || level > self.level {
            return;
        }
        let (seconds, nanos) = self.day();
        if seconds.saturating_sub(self.window) >= WINDOW {
            (self.window, self.written) = (seconds, [0; PLACES]);
            let untold = std::mem::take(&mut self.untold);
            if untold > 0 {
                let lost = format!("{untold} lines are suppressed here");
                let lost = self.format((seconds, nanos), Level::Warning, &lost);
                self.write(&lost);
            }
        }
        let line = self.format((seconds, nanos), level, text);
        let fits = match self.written.get_mut(place as usize) {
            Some(written) if *written + line.len() <= OF_PLACE => {
                *written += line.len();
                true
            }
            _ => false,
        };
        if !fits || !self.write(&line) {
            self.dropped += 1;
            self.untold += 1;
        }
    }

    fn format(&self, (seconds, nanos): (i64, i64), level: Level, text: &str) -> String {
        let (id, when) = (&self.id, date(seconds));
        let shown = if self.show_level { format!(":{}", level.name()) } else { String::new() };
        // What a client says must not look like another line, nor be one of any length.
        let end = text.floor_char_boundary(OF_TEXT);
        let (text, rest) = text.split_at(end);
        let text: String = text.chars().filter(|c| is_shown(*c)).collect();
        let more = if rest.is_empty() { "" } else { " ..." };
        format!("{when}.{nanos:09} [{id}:main{shown}] {text}{more}\n")
    }

    /// Tells whether it was written whole. It never waits for a reader.
    fn write(&self, line: &str) -> bool {
        let Some(to) = &self.to else { return false };
        rustix::io::write(to, line.as_bytes()).is_ok_and(|written| written == line.len())
    }
}

/// Opens a file or named pipe to add to, of the VM that is described so far.
///
/// # Errors
/// See [`Output::open`].
pub fn open(what: &'static str, path: &Path, of: &VmConfig) -> Result<File, Error> {
    let output = Output { what, path, append: true, mode: 0o600 };
    output.open(of)
}

fn monotonic() -> Timespec {
    clock_gettime(ClockId::Monotonic)
}

/// Seconds since 1970 as a date and time (UTC): days are counted from March, so
/// that a leap day comes last in its year.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_700_000_000, "2023-11-14T22:13:20"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    /// However often and by whomever it is made to speak.
    #[test]
    fn a_log_is_bounded() {
        let path = std::env::temp_dir().join(format!("mote-log-{}", std::process::id()));
        let mut log = Log::nowhere("vm");
        let file = open("log", &path, &VmConfig::default()).unwrap();
        log.configure(Some(file), None, true);
        let long = "é\u{9b}31m".repeat(20_000);
        for round in 0..1000 {
            log.line(Place::Request, Level::Info, &long);
            log.line(Place::Request, Level::Info, &format!("request {round}\nx"));
            log.line(Place::Fault, Level::Error, "fault");
            log.line(Place::State, Level::Debug, "not at this level");
        }
        for _ in 0..20 {
            log.line(Place::State, Level::Info, "The VM was started.");
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // The clock may have gone from one window to the next.
        let lines = text.lines().count() as u64;
        assert!(text.len() <= 2 * PLACES * OF_PLACE + 100, "{}", text.len());
        assert!(log.dropped() >= 2000 - lines);
        assert_eq!(text.matches("] The VM was started.\n").count(), 20, "{text}");
        assert!(text.lines().all(|line| line.contains(" [vm:main:")));
        assert!(text.contains(":INFO] request 0x\n") && text.contains(" ...\n"), "{text}");
        assert!(text.lines().all(|line| line.len() < 2 * OF_TEXT && line.chars().all(is_shown)));
    }
}
