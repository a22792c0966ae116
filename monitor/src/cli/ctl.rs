//! `mote ctl`: the API for people, on a VM that runs.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::*;
use serde_json::{Map, Value, json};

use super::flags::{Asked, named, once};
use crate::error::{Error, printable};

/// `mote ctl --help`.
pub const HELP: &str = "\
Control a VM that was started by 'mote api'.

Usage: mote ctl --socket PATH COMMAND [--json]

Commands:
  info                Show the VM's configuration and state
  pause               Pause its vCPUs and devices
  resume              Resume it
  power               Press its ACPI power button
  eject DRIVE         Eject the medium of a CD-ROM drive
  insert DRIVE FILE   Insert an image into a CD-ROM drive
  grow DISK           Notify the guest that the disk's image has grown
  metrics             Show the VM's counters
  snapshot STATE MEMORY   Save a paused VM to two files

Options:
  --socket PATH  Connect to the API on this socket
  --json         Print JSON instead of a table
  -h, --help     Show this help
";

/// How long an answer may take: pausing waits for the host's disks.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer in bytes.
const MOST: u64 = 16 << 20;

/// What to do with which VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    socket: PathBuf,
    task: Task,
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    Info,
    Metrics,
    /// Of this drive.
    Grow(String),
    /// Method, path, body.
    Tell(&'static str, String, String),
}

/// Parses the arguments behind `mote ctl`.
///
/// # Errors
/// [`Error::Usage`] names the fault.
pub(super) fn parse(mut parser: lexopt::Parser) -> Result<Asked<Order>, Error> {
    let (mut socket, mut json, mut words) = (None, false, Vec::new());
    let mut seen = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Asked::Text(HELP)),
            Long("json") => {
                once(&mut seen, "json")?;
                json = true;
            }
            Long("socket") => {
                once(&mut seen, "socket")?;
                let path = crate::config::check_socket(parser.value()?);
                socket = Some(named("socket", path)?);
            }
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(socket) = socket else {
        return Err(Error::Arguments("--socket PATH is needed".to_owned()));
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let order = Order { socket, task: task(&words)?, json };
    Ok(Asked::For(order))
}

fn task(words: &[&str]) -> Result<Task, Error> {
    let tell = |method, path: String, body: serde_json::Value| {
        Ok(Task::Tell(method, path, body.to_string()))
    };
    let drive = |id: &str, more: serde_json::Value| {
        let mut body = json!({ "drive_id": id });
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        tell("PATCH", format!("/drives/{id}"), body)
    };
    match words {
        ["info"] => Ok(Task::Info),
        ["metrics"] => Ok(Task::Metrics),
        ["pause"] => tell("PATCH", "/vm".to_owned(), json!({ "state": "Paused" })),
        ["resume"] => tell("PATCH", "/vm".to_owned(), json!({ "state": "Resumed" })),
        ["power"] => {
            let body = json!({ "action_type": "SendCtrlAltDel" });
            tell("PUT", "/actions".to_owned(), body)
        }
        ["eject", id] => drive(id, json!({ "eject": true })),
        ["insert", id, path] => drive(id, json!({ "path_on_host": path })),
        ["grow", id] => Ok(Task::Grow((*id).to_owned())),
        ["snapshot", state, memory] => {
            let body = json!({ "snapshot_path": state, "mem_file_path": memory });
            tell("PUT", "/snapshot/create".to_owned(), body)
        }
        [] => Err(Error::Arguments("no command given".to_owned())),
        [word, ..] => {
            let lines = HELP.lines().filter_map(|line| line.strip_prefix("  "));
            let mut usages = lines.filter_map(|line| line.split("  ").next());
            Err(Error::Arguments(
                match usages.find(|usage| usage.split(' ').next() == Some(*word)) {
                    Some(usage) => format!("wrong number of arguments: use '{usage}'"),
                    None => format!("unknown command '{word}'"),
                },
            ))
        }
    }
}

impl Order {
    /// Carries it out; returns what there is to print.
    ///
    /// # Errors
    /// The socket cannot be reached, or the server refuses the request.
    #[inline(never)]
    pub fn run(&self) -> Result<String, Error> {
        let get = |path| request(&self.socket, "GET", path, "");
        match &self.task {
            Task::Tell(method, path, body) => {
                request(&self.socket, method, path, body)?;
                Ok(if self.json { "{}\n" } else { "" }.to_owned())
            }
            Task::Grow(id) => {
                // Its own image once more is how Firecracker's API says it.
                let config = read(&get("/vm/config")?)?;
                let drives = config.get("drives").and_then(Value::as_array);
                let is_it = |drive: &&Value| drive.get("drive_id").is_some_and(|at| at == id);
                let found = drives.and_then(|drives| drives.iter().find(is_it));
                let path = found.and_then(|drive| drive.get("path_on_host"));
                let body = json!({ "drive_id": id, "path_on_host": path }).to_string();
                let task = Task::Tell("PATCH", format!("/drives/{id}"), body);
                Self { task, ..self.clone() }.run()
            }
            Task::Metrics => {
                let text = get("/metrics")?;
                Ok(metrics(&text, self.json))
            }
            Task::Info => {
                let both = [read(&get("/")?)?, read(&get("/vm/config")?)?];
                Ok(info(both, self.json))
            }
        }
    }
}

fn read(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|e| Error::Refused(format!("the answer is no JSON: {e}")))
}

/// Makes one request and returns the body of its answer.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<String, Error> {
    let failed = |e: io::Error| Error::file("API socket", socket, &e);
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).map_err(failed)?;
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let parts = answer.split_once("\r\n\r\n");
    let (head, body) = parts.ok_or_else(|| Error::Refused("there was no answer".to_owned()))?;
    if matches!(head.split(' ').nth(1), Some("200" | "204")) {
        return Ok(body.to_owned());
    }
    Err(fault(head, body))
}

/// What a server says against a request.
fn fault(head: &str, body: &str) -> Error {
    let fault: Value = serde_json::from_str(body).unwrap_or_default();
    let why = fault.get("fault_message").and_then(Value::as_str);
    Error::Refused(printable(why.unwrap_or(head)))
}

/// Counts as a table, or as an object.
fn metrics(text: &str, as_json: bool) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let counts = lines.filter_map(|line| line.rsplit_once(' '));
    if as_json {
        let count = |(name, value): (&str, &str)| {
            (name.to_owned(), value.parse::<u64>().map_or(Value::Null, Value::from))
        };
        let all = Value::Object(counts.map(count).collect());
        return printable(&all.to_string()) + "\n";
    }
    let mut table = String::new();
    for (name, value) in counts.filter(|(_, value)| *value != "0") {
        // Writing to a String cannot fail.
        let (name, value) = (printable(name), printable(value));
        let _ = writeln!(table, "{value:>12}  {name}");
    }
    table
}

/// What a VM is, as a table, or as one object.
fn info([own, config]: [Value; 2], as_json: bool) -> String {
    if as_json {
        let mut all = Map::new();
        all.extend(own.as_object().cloned().unwrap_or_default());
        all.insert("config".to_owned(), config);
        return printable(&Value::Object(all).to_string()) + "\n";
    }
    let text = |value: &Value, path: &str| match value.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let kernel = text(&config, "/boot-source/kernel_image_path");
    let kernel = if kernel.is_empty() { "from its drives".to_owned() } else { kernel };
    let mut rows = vec![
        ("id", text(&own, "/id")),
        ("state", text(&own, "/state")),
        ("version", text(&own, "/app_name") + " " + &text(&own, "/vmm_version")),
        ("kernel", kernel),
        ("memory", text(&config, "/machine-config/mem_size_mib") + " MiB"),
        ("vCPUs", text(&config, "/machine-config/vcpu_count")),
    ];
    let list = |key: &str| config.get(key).and_then(Value::as_array).cloned();
    for drive in list("drives").unwrap_or_default() {
        let kind = if text(&drive, "/media") == "cdrom" { "CD-ROM" } else { "disk" };
        rows.push((kind, text(&drive, "/drive_id") + "  " + &text(&drive, "/path_on_host")));
    }
    for nic in list("network-interfaces").unwrap_or_default() {
        rows.push(("network", text(&nic, "/iface_id") + "  " + &text(&nic, "/host_dev_name")));
    }
    let mut table = String::new();
    for (name, value) in rows {
        let _ = writeln!(table, "{name:<8} {}", printable(&value));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;

    fn parse_line(line: &str) -> Result<Command, Error> {
        crate::cli::parse(line.split_whitespace().map(std::ffi::OsString::from))
    }

    #[test]
    fn orders() {
        let line = "ctl insert --socket s cd a.iso --json";
        let Ok(Command::Control(order)) = parse_line(line) else { panic!("{line}") };
        let body = r#"{"drive_id":"cd","path_on_host":"a.iso"}"#.to_owned();
        let task = Task::Tell("PATCH", "/drives/cd".to_owned(), body);
        let socket = "s".into();
        assert_eq!(order, Order { socket, task, json: true });
        for (line, word) in [
            ("ctl", "--socket"),
            ("ctl pause", "--socket"),
            ("ctl --socket s", "no command"),
            ("ctl --socket s jump", "'jump'"),
            ("ctl --socket s eject", "use 'eject DRIVE'"),
            ("ctl --socket s snapshot a", "use 'snapshot STATE MEMORY'"),
            ("ctl --socket s pause now", "use 'pause'"),
            ("ctl --socket s pause --fast", "--fast"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }

    /// A server may be anybody's: whatever it says, nothing of it commands the
    /// terminal, turns text around, or makes a line.
    #[test]
    fn nothing_of_a_servers_reaches_the_terminal() {
        let controls = (0..0x20).chain(0x7f..0xa0).chain([0x200e, 0x202e, 0x2066]);
        for c in controls.filter_map(char::from_u32) {
            let text = format!("x{c}[31mx");
            let own = json!({"id": text, "state": text, "app_name": text, "vmm_version": text});
            let part = json!({"drive_id": text, "media": text, "path_on_host": text,
                "iface_id": text, "host_dev_name": text});
            let config = json!({"boot-source": {"kernel_image_path": text},
                "machine-config": {"mem_size_mib": text, "vcpu_count": text},
                "drives": [part], "network-interfaces": [part]});
            let body = json!({ "fault_message": text }).to_string();
            let lines = format!("{text} {text}\n");
            let all = [
                info([own.clone(), config.clone()], false),
                info([own, config], true),
                metrics(&lines, false),
                metrics(&lines, true),
                fault("", &body).to_string(),
                fault(&text, "").to_string(),
            ];
            for said in all {
                let shown = |c: char| c == '\n' || crate::error::is_shown(c);
                assert!(said.chars().all(shown), "{c:?}: {said:?}");
                let rows = said.lines().count();
                assert!(rows == 8 || rows <= 2, "{c:?}: {said:?}");
            }
        }
    }

    #[test]
    fn tables() {
        let text = "# TYPE a counter\na_total{id=\"x\"} 5\nb 0\n# EOF\n";
        assert_eq!(metrics(text, false), "           5  a_total{id=\"x\"}\n");
        assert_eq!(metrics(text, true), "{\"a_total{id=\\\"x\\\"}\":5,\"b\":0}\n");
        let own = json!({"id": "i", "state": "Running", "app_name": "Mote", "vmm_version": "1"});
        let config = json!({"machine-config": {"mem_size_mib": 9, "vcpu_count": 2},
            "drives": [{"drive_id": "d", "media": "cdrom", "path_on_host": "x"}]});
        let table = info([own, config], false);
        assert!(table.contains("memory   9 MiB\n") && table.contains("CD-ROM   d  x\n"));
        assert!(table.contains("kernel   from its drives\n"));
    }
}
