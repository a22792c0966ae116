//! Metrics, as Firecracker's JSON lines and as OpenMetrics text. Each thread has
//! separate counters, without a lock;
//! here they are only read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::http::Method;
use super::log::Log;
use super::running_vm::Vm;
use crate::counts::{Counts, Row};

/// The type of OpenMetrics text.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Firecracker's groups and names. Its clients want all of them, also of what
/// Mote has not; an `_agg` has a shortest, longest and total time.
const FIRECRACKER: &[&str] = &[
    "api_server process_startup_time_us process_startup_time_cpu_us",
    "balloon activate_fails inflate_count stats_updates_count stats_update_fails deflate_count \
     event_fails",
    "block activate_fails cfg_fails no_avail_buffer event_fails execute_fails invalid_reqs_count \
     flush_count queue_event_count rate_limiter_event_count update_count update_fails read_bytes \
     write_bytes read_count write_count read_agg write_agg rate_limiter_throttled_events \
     io_engine_throttled_events remaining_reqs_count",
    "deprecated_api deprecated_http_api_calls",
    "get_api_requests instance_info_count machine_cfg_count mmds_count vmm_version_count",
    "patch_api_requests drive_count drive_fails network_count network_fails machine_cfg_count \
     machine_cfg_fails mmds_count mmds_fails",
    "put_api_requests actions_count actions_fails boot_source_count boot_source_fails drive_count \
     drive_fails logger_count logger_fails machine_cfg_count machine_cfg_fails cpu_cfg_count \
     cpu_cfg_fails metrics_count metrics_fails network_count network_fails mmds_count mmds_fails \
     vsock_count vsock_fails",
    "i8042 error_count missed_read_count missed_write_count read_count write_count reset_count",
    "uart error_count flush_count missed_read_count missed_write_count read_count write_count",
    "latencies_us full_create_snapshot diff_create_snapshot load_snapshot pause_vm resume_vm \
     vmm_full_create_snapshot vmm_diff_create_snapshot vmm_load_snapshot vmm_pause_vm \
     vmm_resume_vm",
    "logger missed_metrics_count metrics_fails missed_log_count",
    "mmds rx_accepted rx_accepted_err rx_accepted_unusual rx_bad_eth rx_invalid_token rx_no_token \
     rx_count tx_bytes tx_count tx_errors tx_frames connections_created connections_destroyed",
    "net activate_fails cfg_fails mac_address_updates no_rx_avail_buffer no_tx_avail_buffer \
     event_fails rx_queue_event_count rx_event_rate_limiter_count rx_rate_limiter_throttled \
     rx_tap_event_count rx_bytes_count rx_packets_count rx_fails rx_count tap_read_fails \
     tap_write_fails tap_write_agg tx_bytes_count tx_malformed_frames tx_fails tx_count \
     tx_packets_count tx_queue_event_count tx_rate_limiter_event_count tx_rate_limiter_throttled \
     tx_spoofed_mac_count tx_remaining_reqs_count",
    "seccomp num_faults",
    "vcpu exit_io_in exit_io_out exit_mmio_read exit_mmio_write failures exit_io_in_agg \
     exit_io_out_agg exit_mmio_read_agg exit_mmio_write_agg",
    "vmm panic_count",
    "signals sigbus sigsegv sigxfsz sigxcpu sigpipe sighup sigill",
    "vsock activate_fails cfg_fails rx_queue_event_fails tx_queue_event_fails \
     ev_queue_event_fails muxer_event_fails conn_event_fails rx_queue_event_count \
     tx_queue_event_count rx_bytes_count tx_bytes_count rx_packets_count tx_packets_count \
     conns_added conns_killed conns_removed killq_resync tx_flush_fails tx_write_fails \
     rx_read_fails",
    "entropy activate_fails entropy_event_fails entropy_event_count entropy_bytes \
     host_rng_fails entropy_rate_limiter_throttled rate_limiter_event_count",
];

/// Requests by group and name in Firecracker's JSON.
type Requests = BTreeMap<(&'static str, String), u64>;

/// What the API counts itself, and where all of it is written.
#[derive(Debug, Default)]
pub struct Metrics {
    to: Option<File>,
    requests: Requests,
    /// Microseconds that the last pause and the last resume took.
    pub latencies: BTreeMap<&'static str, u64>,
    /// Microseconds from the caller's `--start-time-us` to the open socket.
    pub startup_us: u64,
    /// Processor time until then in microseconds, the caller's included.
    pub startup_cpu_us: u64,
    missed: u64,
    /// As it was written last.
    last: Counts,
    /// When it is written next, once a VM runs, and how often.
    next: Option<(Instant, Duration)>,
}

impl Counts {
    /// The line that Firecracker would write: the counts since `last`,
    /// of all members of a group and of each.
    fn json(&self, last: &Self) -> String {
        let mut all = skeleton();
        all.insert("utc_timestamp_ms".to_owned(), self.ms.into());
        for row in &self.rows {
            let same =
                |old: &&Row| old.group == row.group && old.id == row.id && old.name == row.name;
            let before = last.rows.iter().find(same).map_or(0, |old| old.value);
            let value = match row.gauge {
                true => row.value,
                false => row.value.saturating_sub(before),
            };
            add(&mut all, row.group, &row.name, value);
            if !row.id.is_empty() {
                add(&mut all, &format!("{}_{}", row.group, row.id), &row.name, value);
            }
        }
        Value::Object(all).to_string() + "\n"
    }

    /// All of it as OpenMetrics text.
    pub fn openmetrics(&self) -> String {
        let mut families: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
        for row in &self.rows {
            let name = format!("mote_{}_{}", row.group, row.name);
            families.entry(name).or_default().push(row);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        for (name, rows) in families {
            let (kind, suffix) = match rows.first() {
                Some(row) if row.gauge => ("gauge", ""),
                _ => ("counter", "_total"),
            };
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for row in rows {
                let label = match row.id.as_str() {
                    "" => String::new(),
                    id => format!("{{id=\"{id}\"}}"),
                };
                let _ = writeln!(text, "{name}{suffix}{label} {}", row.value);
            }
        }
        text + "# EOF\n"
    }
}

/// Firecracker's groups with nothing counted.
fn skeleton() -> Map<String, Value> {
    let group = |line: &&str| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let zero = |word: &str| {
            let value = match word.ends_with("_agg") {
                true => serde_json::json!({"min_us": 0, "max_us": 0, "sum_us": 0}),
                false => Value::from(0),
            };
            (word.to_owned(), value)
        };
        (name, Value::Object(words.map(zero).collect()))
    };
    FIRECRACKER.iter().map(group).collect()
}

fn add(all: &mut Map<String, Value>, group: &str, name: &str, value: u64) {
    let group = all.entry(group).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(group) = group {
        let old = group.get(name).and_then(Value::as_u64).unwrap_or(0);
        group.insert(name.to_owned(), old.saturating_add(value).into());
    }
}

impl Metrics {
    /// Counts a request to the resource whose path begins with `first`.
    pub fn count(&mut self, method: Method, first: &str, failed: bool) {
        let group = match method {
            Method::Get => "get_api_requests",
            Method::Put => "put_api_requests",
            Method::Patch => "patch_api_requests",
        };
        let name = match first {
            "" => "instance_info",
            "version" => "vmm_version",
            "machine-config" => "machine_cfg",
            "boot-source" => "boot_source",
            "drives" => "drive",
            "network-interfaces" => "network",
            "actions" | "logger" | "metrics" | "mmds" | "vsock" => first,
            "cpu-config" => "cpu_cfg",
            _ => "other",
        };
        let mut add =
            |what| *self.requests.entry((group, format!("{name}_{what}"))).or_default() += 1;
        add("count");
        if failed {
            add("fails");
        }
    }

    /// Writes lines to `file` from now on.
    pub fn write_to(&mut self, file: File) {
        self.to = Some(file);
    }

    /// The file that lines go to.
    pub fn file(&self) -> Option<&File> {
        self.to.as_ref()
    }

    /// Number of its descriptor.
    pub fn number(&self) -> Option<RawFd> {
        self.file().map(AsRawFd::as_raw_fd)
    }

    /// All counts now.
    pub fn snapshot(&self, log: &Log, vm: Option<&dyn Vm>) -> Counts {
        let mut now = Counts { ms: log.day_ms(), rows: Vec::new() };
        for ((group, name), count) in &self.requests {
            now.add(group, "", &[(name.as_str(), *count)]);
        }
        let missed = [("missed_log_count", log.dropped()), ("missed_metrics_count", self.missed)];
        now.add("logger", "", &missed);
        let startup = [
            ("process_startup_time_us", self.startup_us),
            ("process_startup_time_cpu_us", self.startup_cpu_us),
        ];
        now.gauge("api_server", &startup);
        for (name, us) in &self.latencies {
            now.gauge("latencies_us", &[(name, *us)]);
        }
        if let Some(vm) = vm {
            vm.metrics(&mut now);
        }
        now
    }

    /// A VM runs: lines are due at once, which tells what its start took, and
    /// then every `period`.
    pub fn begin(&mut self, period: Duration, now: Instant) {
        self.next = self.to.as_ref().map(|_| (now, period));
    }

    /// How long it is until a line has to be written by itself, if ever.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        let (next, _) = self.next?;
        Some(next.saturating_duration_since(now))
    }

    /// Writes a line, if there is where to.
    ///
    /// # Errors
    /// The file or pipe takes no line.
    pub fn flush(&mut self, log: &Log, vm: Option<&dyn Vm>) -> Result<(), String> {
        let Some(to) = &self.to else { return Ok(()) };
        let moment = Instant::now();
        if let Some((next, period)) = self.next.as_mut().filter(|due| due.0 <= moment) {
            *next = moment + *period;
        }
        let now = self.snapshot(log, vm);
        let line = now.json(&self.last);
        match rustix::io::write(to, line.as_bytes()) {
            Ok(written) if written == line.len() => {
                self.last = now;
                Ok(())
            }
            // A pipe whose reader is slow; the next line says what this would.
            _ => {
                self.missed += 1;
                Err("The metrics could not be written: the pipe is full, or the disk.".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(read: u64) -> Counts {
        let mut all = Counts::default();
        all.add("block", "a", &[("read_bytes", read)]);
        all.add("block", "b", &[("read_bytes", 1)]);
        all.gauge("latencies_us", &[("pause_vm", 7)]);
        all
    }

    #[test]
    fn a_line_has_all_groups_and_what_is_new() {
        let line = snapshot(10).json(&snapshot(4));
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["block"]["read_bytes"], 6);
        assert_eq!(line["block_a"]["read_bytes"], 6);
        assert_eq!(line["block_b"]["read_bytes"], 0);
        assert_eq!(line["latencies_us"]["pause_vm"], 7);
        assert_eq!(line["vsock"]["conns_added"], 0);
        assert_eq!(line["vcpu"]["exit_io_in_agg"]["max_us"], 0);
    }

    #[test]
    fn lines_are_due_from_the_start_on() {
        let (now, minute) = (Instant::now(), Duration::from_secs(60));
        let mut metrics = Metrics::default();
        metrics.begin(minute, now);
        assert_eq!(metrics.due(now), None);
        metrics.write_to(File::options().write(true).open("/dev/null").unwrap());
        metrics.begin(minute, now);
        assert_eq!(metrics.due(now), Some(Duration::ZERO));
        let log = Log::nowhere("a");
        metrics.flush(&log, None).unwrap();
        let after = metrics.due(Instant::now()).unwrap();
        assert!(!after.is_zero() && after <= minute);
        // One that is asked for changes nothing.
        let next = metrics.next;
        metrics.flush(&log, None).unwrap();
        assert_eq!(metrics.next, next);
        assert_eq!(metrics.due(now + 2 * minute), Some(Duration::ZERO));
    }

    #[test]
    fn openmetrics_names_each_family_once() {
        let text = snapshot(10).openmetrics();
        let expected = "# TYPE mote_block_read_bytes counter\n\
                        mote_block_read_bytes_total{id=\"a\"} 10\n\
                        mote_block_read_bytes_total{id=\"b\"} 1\n\
                        # TYPE mote_latencies_us_pause_vm gauge\n\
                        mote_latencies_us_pause_vm 7\n# EOF\n";
        assert_eq!(text, expected);
    }
}
