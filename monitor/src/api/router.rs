//! The state machine behind the API: what a request does to a VM that is being
//! configured, and to one that runs. It knows no socket and no KVM.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::http::{Method, Request, Response};
use super::log::{Level, Log, Place};
use super::options::Options;
use super::running_vm::{Files, Vm};
use crate::config::{File, MachineConfig, OnReset, Serial, VmConfig, from_json};
use crate::error::Error;
use crate::host::files;

/// The version of Firecracker's API that is spoken here.
const FIRECRACKER: &str = "1.16.1";

/// What Firecracker says when it is too early or too late for something.
pub(super) const TOO_EARLY: &str =
    "The requested operation is not supported before starting the microVM.";

pub(super) const TOO_LATE: &str =
    "The requested operation is not supported after starting the microVM.";

/// What Firecracker has and Mote has not, by the first part of its path.
const ABSENT: [(&str, &str); 7] = [
    ("balloon", "balloon device"),
    ("cpu-config", "choice of processor features"),
    ("entropy", "entropy device: guests use their processor's"),
    ("hotplug", "memory that can be added to a running VM"),
    ("mmds", "metadata service; use a drive or the kernel's command line"),
    ("pmem", "persistent memory device; use a drive"),
    ("vsock", "vsock device; use a network interface"),
];

/// What comes of a request.
#[derive(Debug)]
pub enum Verdict {
    /// This answer.
    Answer(Response),
    /// The VM has to be started, and has been described so then; then there is an
    /// answer.
    Start(Box<(VmConfig, File)>),
}

/// What requests and the command line have configured so far.
pub struct State {
    pub(super) options: Options,
    pub(super) files: Box<dyn Files>,
    pub(super) file: File,
    pub(super) serial: Option<Serial>,
    /// The VM that runs.
    running: Option<Box<VmConfig>>,
    /// The log.
    pub log: Log,
    /// Counters.
    pub metrics: crate::api::metrics::Metrics,
}

/// `GET /`
#[derive(Serialize)]
struct Info<'a> {
    id: &'a str,
    state: &'static str,
    vmm_version: &'static str,
    app_name: &'static str,
}

/// `GET /version`
#[derive(Serialize)]
struct Version {
    firecracker_version: &'static str,
    mote_version: &'static str,
}

/// `PUT /actions`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Act {
    action_type: Action,
}

#[derive(Clone, Copy, Deserialize)]
enum Action {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

/// `PATCH /vm`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct VmPatch {
    pub(super) state: Wanted,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) enum Wanted {
    Paused,
    Resumed,
}

/// `PUT /serial`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct SerialEntry {
    #[serde(default, deserialize_with = "crate::config::some_path")]
    pub(super) serial_out_path: Option<std::path::PathBuf>,
    pub(super) rate_limiter: Option<serde::de::IgnoredAny>,
}

/// Done, or why not.
pub(super) type Done = Result<Response, String>;

impl State {
    /// Only the command line and its config file have configured the VM.
    ///
    /// # Errors
    /// The config file, or a file for log or metrics, cannot be used.
    pub fn new(options: Options, files: Box<dyn Files>) -> Result<Self, Error> {
        let mut file = match &options.vm.config_file {
            Some(path) => crate::config::read_entries(path)?,
            None => File::default(),
        };
        let (logger, metrics) = (file.logger.take(), file.metrics.take());
        let mut state = Self {
            files,
            file,
            serial: None,
            running: None,
            log: Log::nowhere(&options.id),
            metrics: crate::api::metrics::Metrics::default(),
            options,
        };
        let wrong = |why| Error::Usage(format!("config file: {why}"));
        if let Some(path) = &state.options.vm.config_file {
            let wrong = |(key, why)| Error::Config(path.clone(), key, why);
            state.file.config().map_err(wrong)?;
        }
        for entry in [state.options.logger.clone(), logger].into_iter().flatten() {
            state.put_logger(&entry).map_err(wrong)?;
        }
        let metrics = state.options.metrics.clone().or(metrics);
        if let Some(entry) = metrics {
            state.put_metrics(&entry).map_err(wrong)?;
        }
        Ok(state)
    }

    /// The command line.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The entries that describe the VM.
    pub fn described(&self) -> &File {
        &self.file
    }

    /// The VM that runs.
    pub fn running(&self) -> Option<&VmConfig> {
        self.running.as_deref()
    }

    /// Answers a request, about the VM that runs if one does.
    pub fn handle(&mut self, request: &Request, vm: Option<&mut dyn Vm>) -> Verdict {
        let (name, path) = (request.method.name(), &request.path);
        let text = format!("The API server received a {name} request on {path:?}.");
        self.log.line(Place::Request, Level::Info, &text);
        let result = self.route(request, vm);
        let first = request.path.split('/').nth(1).unwrap_or_default();
        self.metrics.count(request.method, first, result.is_err());
        match result {
            Ok(verdict) => verdict,
            Err(why) => Verdict::Answer(self.fault(&why)),
        }
    }

    /// The answer when something could not be done.
    pub fn fault(&mut self, why: &str) -> Response {
        self.log.line(Place::Fault, Level::Error, why);
        Response::fault(why)
    }

    /// The VM runs, which has been described so.
    pub fn started(&mut self, config: VmConfig, file: File) -> Response {
        self.file = file;
        if config.restore.is_some() {
            self.file.machine_config = Some(MachineConfig::of(&config));
        }
        self.running = Some(Box::new(config));
        self.metrics.begin(self.options.period, Instant::now());
        self.log.line(Place::State, Level::Info, "The VM was started.");
        Response::done()
    }

    /// Writes a line of metrics, if there is a file for them. A line that cannot be
    /// written is counted and does not disturb the VM.
    pub fn write_metrics(&mut self, vm: &dyn Vm) {
        let _ = self.metrics.flush(&self.log, Some(vm));
    }

    fn route(&mut self, request: &Request, vm: Option<&mut dyn Vm>) -> Result<Verdict, String> {
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        let first = parts.first().copied().unwrap_or_default();
        if let Some((_, what)) = ABSENT.iter().find(|(name, _)| *name == first) {
            return Err(format!("Mote has no {what}."));
        }
        let body = &request.body[..];
        let answer = match (request.method, body.is_empty()) {
            (Method::Get, true) => self.get(&parts, vm),
            (Method::Get, false) => Some(Err("GET request cannot have a body.".to_owned())),
            (Method::Put, true) => Some(Err("Empty PUT request.".to_owned())),
            (Method::Patch, true) => Some(Err("Empty PATCH request.".to_owned())),
            (Method::Put, false) if parts == ["actions"] => return self.act(read(body)?, vm),
            (Method::Put, false) if parts == ["snapshot", "load"] => {
                return self.load(read(body)?, vm.is_some());
            }
            (Method::Put, false) if parts == ["snapshot", "create"] => {
                Some(read(body).and_then(|entry| self.create(&entry, vm)))
            }
            (Method::Put, false) => self.put(&parts, body, vm.is_some()),
            (Method::Patch, false) => self.patch(&parts, body, vm),
        };
        let (name, path) = (request.method.name(), &request.path);
        let none = || Err(format!("Invalid request method and/or path: {name} {path}."));
        answer.unwrap_or_else(none).map(Verdict::Answer)
    }

    fn get(&mut self, parts: &[&str], vm: Option<&mut dyn Vm>) -> Option<Done> {
        Some(Ok(match parts {
            [""] => Response::json(&Info {
                id: &self.options.id,
                state: match vm.map(|vm| vm.is_paused()) {
                    None => "Not started",
                    Some(false) => "Running",
                    Some(true) => "Paused",
                },
                vmm_version: env!("CARGO_PKG_VERSION"),
                app_name: "Mote",
            }),
            ["version"] => Response::json(&Version {
                firecracker_version: FIRECRACKER,
                mote_version: env!("CARGO_PKG_VERSION"),
            }),
            ["machine-config"] => {
                Response::json(&self.file.machine_config.clone().unwrap_or_default())
            }
            ["vm", "config"] => {
                let mut file = self.file.clone();
                file.machine_config.get_or_insert_default();
                Response::json(&file)
            }
            ["metrics"] => {
                let now = self.metrics.snapshot(&self.log, vm.map(|vm| &*vm));
                Response::text(crate::api::metrics::OPENMETRICS, now.openmetrics())
            }
            _ => return None,
        }))
    }

    /// Configures a VM before it runs.
    fn put(&mut self, parts: &[&str], body: &[u8], runs: bool) -> Option<Done> {
        /// A body of the right form may still come too late.
        fn early<'a, T: Deserialize<'a>>(body: &'a [u8], runs: bool) -> Result<T, String> {
            let entry = read(body)?;
            if runs {
                return Err(TOO_LATE.to_owned());
            }
            Ok(entry)
        }
        Some(match parts {
            ["boot-source"] => early(body, runs).and_then(|entry| self.put_boot(entry)),
            ["machine-config"] => early(body, runs).and_then(|entry| self.put_machine(entry)),
            ["drives", id] => early(body, runs).and_then(|entry| self.put_drive(id, entry)),
            ["network-interfaces", id] => {
                early(body, runs).and_then(|entry| self.put_nic(id, entry))
            }
            ["logger"] => early(body, runs).and_then(|entry| self.put_logger(&entry)),
            ["metrics"] => early(body, runs).and_then(|entry| self.put_metrics(&entry)),
            ["serial"] => early(body, runs).and_then(|entry| self.put_serial(entry)),
            _ => return None,
        })
    }

    fn patch(&mut self, parts: &[&str], body: &[u8], vm: Option<&mut dyn Vm>) -> Option<Done> {
        let early = || TOO_EARLY.to_owned();
        Some(match parts {
            ["machine-config"] => {
                let entry = read(body).and_then(|patch| self.patched_machine(patch));
                entry.and_then(|entry| match vm {
                    None => self.put_machine(entry),
                    Some(_) => Err(TOO_LATE.to_owned()),
                })
            }
            ["vm"] => read(body).and_then(|patch| self.patch_vm(&patch, vm.ok_or_else(early)?)),
            ["drives", id] => {
                read(body).and_then(|patch| self.patch_drive(id, &patch, vm.ok_or_else(early)?))
            }
            ["network-interfaces", id] => {
                read(body).and_then(|patch| self.patch_nic(id, &patch, vm.ok_or_else(early)?))
            }
            _ => return None,
        })
    }

    fn act(&mut self, act: Act, vm: Option<&mut dyn Vm>) -> Result<Verdict, String> {
        let Some(vm) = vm else {
            return match act.action_type {
                Action::InstanceStart => {
                    let both = (self.config()?, self.file.clone());
                    Ok(Verdict::Start(Box::new(both)))
                }
                _ => Err(TOO_EARLY.to_owned()),
            };
        };
        match act.action_type {
            Action::InstanceStart => return Err(TOO_LATE.to_owned()),
            Action::SendCtrlAltDel => vm.power_button()?,
            Action::FlushMetrics => self.metrics.flush(&self.log, Some(vm))?,
        }
        Ok(Verdict::Answer(Response::done()))
    }

    /// The VM that has been described.
    ///
    /// # Errors
    /// What it lacks.
    pub fn config(&self) -> Result<VmConfig, String> {
        let config = self.describe(&self.file)?;
        if config.kernel.is_none() && config.drives.is_empty() {
            return Err("There is nothing to boot: set a boot source or a drive.".to_owned());
        }
        config.check_boot()?;
        Ok(config)
    }

    /// Refuses a log or metrics that are a file of the VM, which may have been
    /// named after them.
    ///
    /// # Errors
    /// They are, and which.
    pub fn check_outputs(&self, config: &VmConfig) -> Result<(), Error> {
        let log = self.file.logger.as_ref();
        let log = log.and_then(|entry| Some((entry.log_path.as_deref()?, self.log.file()?)));
        let metrics = self.file.metrics.as_ref();
        let metrics = metrics.and_then(|entry| Some((&*entry.metrics_path, self.metrics.file()?)));
        for (what, output) in [("log", log), ("metrics", metrics)] {
            if let Some((path, file)) = output {
                let found = file.metadata().map_err(|e| Error::file(what, path, &e))?;
                files::refuse_input(what, path, &found, config)?;
            }
        }
        Ok(())
    }

    /// The VM of these entries and of the command line.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub(super) fn describe(&self, file: &File) -> Result<VmConfig, String> {
        let mut config = file.apply(self.options.vm.clone()).map_err(faulty)?;
        if let Some(serial) = &self.serial {
            config.serial.clone_from(serial);
        }
        // As Firecracker, whose guests end by a reset. A computer that boots from
        // its disks restarts, as installers expect.
        let ends = config.kernel.as_ref().map(|_| OnReset::Exit);
        config.on_reset = config.on_reset.or(ends);
        config.ready_fd = config.ready_fd.filter(|_| self.options.no_api);
        config.changes = true;
        Ok(config)
    }

    /// The number of a device of the VM that runs.
    pub(super) fn position(&self, find: impl Fn(&VmConfig) -> Option<usize>) -> Option<usize> {
        self.running.as_deref().and_then(find)
    }
}

/// Reads a body.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    from_json(body).map_err(misread)
}

/// A body that cannot be used.
pub(super) fn misread(fault: (String, String)) -> String {
    let why = faulty(fault);
    format!("An error occurred when deserializing the json body of a request: {why}.")
}

/// A key and its fault.
pub(super) fn faulty<K: AsRef<str>>((key, why): (K, String)) -> String {
    match key.as_ref() {
        "" | "." => why,
        key => format!("{key}: {why}"),
    }
}

pub(super) fn same(path: &str, body: &str) -> Result<(), String> {
    if path == body {
        return Ok(());
    }
    Err(format!("The id from the path [{path}] does not match the id from the body [{body}]!"))
}
