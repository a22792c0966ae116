//! Snapshot requests and their preconditions.

use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::http::Response;
use super::log::{Level, Place};
use super::router::{Done, State, TOO_EARLY, TOO_LATE, Verdict};
use super::running_vm::Vm;
use crate::config::{NicEntry, Restore, SnapshotKind, check_socket};

/// `PUT /snapshot/create`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct CreateEntry {
    #[serde(deserialize_with = "crate::config::path")]
    snapshot_path: PathBuf,
    #[serde(deserialize_with = "crate::config::path")]
    mem_file_path: PathBuf,
    #[serde(default)]
    snapshot_type: SnapshotType,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum SnapshotType {
    Diff,
    #[default]
    Full,
}

/// `PUT /snapshot/load`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct LoadEntry {
    #[serde(deserialize_with = "crate::config::path")]
    snapshot_path: PathBuf,
    #[serde(default, deserialize_with = "crate::config::some_path")]
    mem_file_path: Option<PathBuf>,
    mem_backend: Option<Backend>,
    #[serde(default, deserialize_with = "crate::config::some_path")]
    working_set_path: Option<PathBuf>,
    #[serde(default)]
    resume_vm: bool,
    #[serde(default)]
    network_overrides: Vec<NetworkOverride>,
    #[serde(default)]
    track_dirty_pages: bool,
    #[serde(default)]
    enable_diff_snapshots: bool,
    vsock_override: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Backend {
    backend_type: BackendType,
    #[serde(deserialize_with = "crate::config::path")]
    backend_path: PathBuf,
}

#[derive(Deserialize, PartialEq, Eq)]
enum BackendType {
    File,
    Uffd,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct NetworkOverride {
    iface_id: String,
    host_dev_name: String,
}

impl State {
    /// Saves the VM that runs, which must be paused.
    pub(super) fn create(&mut self, entry: &CreateEntry, vm: Option<&mut dyn Vm>) -> Done {
        let vm = vm.ok_or(TOO_EARLY)?;
        if !vm.is_paused() {
            return Err("The VM must be paused before a snapshot of it is taken.".to_owned());
        }
        let begin = Instant::now();
        let (kind, name) = match entry.snapshot_type {
            SnapshotType::Full => (SnapshotKind::Full, "full_create_snapshot"),
            SnapshotType::Diff => (SnapshotKind::Difference, "diff_create_snapshot"),
        };
        vm.save(&entry.snapshot_path, &entry.mem_file_path, kind)?;
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        let latencies = &mut self.metrics.latencies;
        latencies.insert(name, took);
        let text = "A snapshot was taken.";
        self.log.line(Place::State, Level::Info, text);
        Ok(Response::done())
    }

    /// The VM that is to be restored from a snapshot, with the drives and interfaces
    /// that have been described.
    pub(super) fn load(&mut self, entry: LoadEntry, runs: bool) -> Result<Verdict, String> {
        if runs {
            return Err(TOO_LATE.to_owned());
        }
        if self.file.boot_source.is_some() || self.file.machine_config.is_some() {
            let why = "Loading a microVM snapshot not allowed after configuring boot-specific \
                       resources.";
            return Err(why.to_owned());
        }
        if entry.vsock_override.is_some() {
            return Err("vsock_override: Mote has no vsock device.".to_owned());
        }
        let (memory, paged) = match (entry.mem_file_path, entry.mem_backend) {
            (Some(path), None) => (path, false),
            (None, Some(backend)) => {
                let paged = backend.backend_type == BackendType::Uffd;
                (backend.backend_path, paged)
            }
            _ => return Err("Give one of mem_file_path and mem_backend.".to_owned()),
        };
        if paged && entry.working_set_path.is_some() {
            return Err("working_set_path: not with the backend Uffd.".to_owned());
        }
        if paged {
            check_socket(&memory).map_err(|why| format!("backend_path: {why}"))?;
        }
        let mut file = self.file.clone();
        for new in entry.network_overrides {
            let mut nics = file.network_interfaces.iter_mut();
            match nics.find(|nic| nic.iface_id == new.iface_id) {
                Some(nic) => nic.host_dev_name = new.host_dev_name,
                None => {
                    let mut nic = NicEntry::default();
                    (nic.iface_id, nic.host_dev_name) = (new.iface_id, new.host_dev_name);
                    file.network_interfaces.push(nic);
                }
            }
        }
        let mut config = self.describe(&file)?;
        config.restore = Some(Restore {
            state: entry.snapshot_path,
            memory,
            paged,
            working_set: entry.working_set_path,
            verify: false,
            paused: !entry.resume_vm,
        });
        config.track_dirty_pages = entry.track_dirty_pages || entry.enable_diff_snapshots;
        Ok(Verdict::Start(Box::new((config, file))))
    }
}
