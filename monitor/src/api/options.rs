//! What the command line of the API's process says.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Bus, LoggerEntry, MetricsEntry, OnReset, Policy, Serial};

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The VM's name.
    pub id: String,
    /// Where to make the socket.
    pub socket: Option<PathBuf>,
    /// Who may use it.
    pub mode: Option<u32>,
    /// The number of one that the caller made.
    pub socket_fd: Option<RawFd>,
    /// There is to be none.
    pub no_api: bool,
    /// A VM to start with.
    pub config_file: Option<PathBuf>,
    /// The most bytes of a request's body.
    pub max_body: usize,
    /// The log.
    pub logger: Option<LoggerEntry>,
    /// Metrics.
    pub metrics: Option<MetricsEntry>,
    /// How often they are written.
    pub period: Duration,
    /// Directories beneath which files may be opened.
    pub allow: Vec<PathBuf>,
    /// When the caller began, in microseconds of the clock that only runs, and
    /// the processor time of it and of its parents.
    pub begun: (Option<u64>, u64),
    /// The serial console, unless the API says otherwise.
    pub serial: Option<Serial>,
    /// What devices are attached to.
    pub bus: Bus,
    /// What a guest's reset does.
    pub on_reset: Option<OnReset>,
    /// How long a guest may take to shut down when a signal asks for the end.
    pub graceful: Option<Duration>,
    /// Print where start-up time went.
    pub timings: bool,
    /// A descriptor of `/dev/kvm`.
    pub kvm_fd: Option<RawFd>,
    /// A descriptor to write a line to when the API can be used; with no API,
    /// when the guest is about to run.
    pub ready_fd: Option<RawFd>,
    /// How the process is confined.
    pub sandbox: Policy,
}
