//! What the command line of the API's process says.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{LoggerEntry, MetricsEntry, VmConfig};

/// The largest body of a request in bytes, unless stated otherwise, as in Firecracker.
const MAX_BODY: usize = 51_200;
/// How often metrics are written, unless stated otherwise, as in Firecracker.
const METRICS_PERIOD: Duration = Duration::from_secs(60);

/// What the command line says.
#[derive(Clone, Debug)]
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
    /// When the caller began, in microseconds of the monotonic clock.
    pub start_time_us: Option<u64>,
    /// Processor time of the caller and of its parents, in microseconds.
    pub parent_cpu_time_us: u64,
    /// What the flags say of the VM itself. Its descriptor for readiness gets a line
    /// when the API can be used; with no API, when the guest is about to run.
    pub vm: VmConfig,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: "anonymous-instance".to_owned(),
            socket: None,
            mode: None,
            socket_fd: None,
            no_api: false,
            max_body: MAX_BODY,
            logger: None,
            metrics: None,
            period: METRICS_PERIOD,
            allow: Vec::new(),
            start_time_us: None,
            parent_cpu_time_us: 0,
            vm: VmConfig::default(),
        }
    }
}
