//! Requests that configure a VM or change it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value};

use super::http::Response;
use super::log::{Level, Place};
use super::router::{Done, SerialEntry, State, VmPatch, Wanted, faulty, misread, same};
use super::running_vm::Vm;
use crate::config::{
    BootSource, DriveEntry, DrivePatch, File, LoggerEntry, MachineConfig, MetricsEntry, NicEntry,
    NicPatch, SerialTo,
};

impl State {
    /// Accepts a change if the resulting configuration is valid.
    fn accept(&mut self, file: File) -> Done {
        file.config().map_err(faulty)?;
        self.file = file;
        Ok(Response::done())
    }

    pub(super) fn put_boot(&mut self, entry: BootSource) -> Done {
        let Some(kernel) = &entry.kernel_image_path else {
            return Err("missing field `kernel_image_path`".to_owned());
        };
        // It is opened once more at the start; a mistake shows now.
        let initrd = entry.initrd_path.as_deref();
        let checked = self.files.check_kernel(kernel, initrd);
        checked.map_err(|e| e.to_string())?;
        let mut file = self.file.clone();
        file.boot_source = Some(entry);
        self.accept(file)
    }

    pub(super) fn put_machine(&mut self, entry: MachineConfig) -> Done {
        entry.check().map_err(faulty)?;
        self.file.machine_config = Some(entry);
        Ok(Response::done())
    }

    /// The machine as it is after a patch.
    pub(super) fn patched_machine(
        &self,
        patch: Map<String, Value>,
    ) -> Result<MachineConfig, String> {
        let entry = self.file.machine_config.clone().unwrap_or_default();
        let patched = entry.patched(patch).map_err(misread)?;
        patched.ok_or_else(|| "Empty PATCH request.".to_owned())
    }

    pub(super) fn put_drive(&mut self, id: &str, entry: DriveEntry) -> Done {
        same(id, &entry.drive_id)?;
        if entry.is_root_device.is_none() {
            return Err("missing field `is_root_device`".to_owned());
        }
        let drive = entry.drive().map_err(faulty)?;
        let checked = self.files.check_drive(&drive);
        checked.map_err(|e| e.to_string())?;
        let mut file = self.file.clone();
        match file.drives.iter_mut().find(|drive| drive.drive_id == id) {
            Some(old) => *old = entry,
            None => file.drives.push(entry),
        }
        self.accept(file)
    }

    pub(super) fn put_nic(&mut self, id: &str, entry: NicEntry) -> Done {
        same(id, &entry.iface_id)?;
        entry.nic().map_err(faulty)?;
        let mut file = self.file.clone();
        let mut nics = file.network_interfaces.iter_mut();
        match nics.find(|nic| nic.iface_id == id) {
            Some(old) => *old = entry,
            None => file.network_interfaces.push(entry),
        }
        self.accept(file)
    }

    pub(super) fn put_logger(&mut self, entry: &LoggerEntry) -> Done {
        let level = entry.level.as_deref().map(Level::parse).transpose();
        let level = level.map_err(|why| format!("level: {why}"))?;
        let path = entry.log_path.as_deref();
        let file = path.map(|path| self.append("log", path)).transpose()?;
        self.log.configure(file, level, entry.show_level);
        self.file.logger = Some(entry.clone());
        if self.options.allow.is_empty() && path.is_some() {
            let text = "Until the VM starts, any file can be opened that the user may open: \
                        there is no --allow-path.";
            self.log.line(Place::State, Level::Info, text);
        }
        Ok(Response::done())
    }

    pub(super) fn put_metrics(&mut self, entry: &MetricsEntry) -> Done {
        if self.metrics.number().is_some() {
            return Err("The metrics system was already initialized.".to_owned());
        }
        let file = self.append("metrics", &entry.metrics_path)?;
        self.metrics.write_to(file);
        self.file.metrics = Some(entry.clone());
        Ok(Response::done())
    }

    fn append(&self, what: &'static str, path: &Path) -> Result<fs::File, String> {
        let config = self.describe(&self.file)?;
        let file = self.files.append(what, path, &config);
        file.map_err(|e| e.to_string())
    }

    pub(super) fn put_serial(&mut self, entry: SerialEntry) -> Done {
        if entry.rate_limiter.is_some() {
            return Err("rate_limiter: Mote does not limit serial output.".to_owned());
        }
        self.serial = entry.serial_out_path.map(|path| SerialTo::File(path).into());
        Ok(Response::done())
    }

    pub(super) fn patch_vm(&mut self, patch: &VmPatch, vm: &mut dyn Vm) -> Done {
        let begin = Instant::now();
        let (name, text) = match patch.state {
            Wanted::Paused => {
                vm.pause().map_err(|e| e.to_string())?;
                ("pause_vm", "The VM was paused.")
            }
            Wanted::Resumed => {
                vm.resume();
                ("resume_vm", "The VM was resumed.")
            }
        };
        let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.metrics.latencies.insert(name, took);
        self.log.line(Place::State, Level::Info, text);
        Ok(Response::done())
    }

    pub(super) fn patch_drive(&mut self, id: &str, patch: &DrivePatch, vm: &mut dyn Vm) -> Done {
        same(id, &patch.drive_id)?;
        let device = self.position(|config| config.drives.iter().position(|d| d.id == id));
        let found = self.file.drives.iter_mut().find(|d| d.drive_id == id);
        let (Some(device), Some(entry)) = (device, found) else {
            return Err(format!("Invalid block device ID: {id}."));
        };
        if patch.eject && (patch.path_on_host.is_some() || !entry.is_cdrom()) {
            return Err("eject: only of a CD-ROM drive, and without path_on_host.".to_owned());
        }
        match patch.path_on_host.as_deref() {
            Some(path) if !entry.is_cdrom() && entry.path_on_host.as_deref() == Some(path) => {
                vm.resize(device)?
            }
            None if !patch.eject => {}
            path => {
                vm.change(device, path)?;
                entry.path_on_host = path.map(Path::to_path_buf);
            }
        }
        if let Some(limit) = &patch.rate_limiter {
            let limiter = entry.limit(limit);
            vm.limit(device, [Some(limiter), None]);
        }
        Ok(Response::done())
    }

    pub(super) fn patch_nic(&mut self, id: &str, patch: &NicPatch, vm: &mut dyn Vm) -> Done {
        same(id, &patch.iface_id)?;
        let device = self.position(|config| {
            let nic = config.nics.iter().position(|nic| nic.id == id);
            nic.map(|nic| nic + config.drives.len())
        });
        let mut nics = self.file.network_interfaces.iter_mut();
        let (Some(device), Some(entry)) = (device, nics.find(|nic| nic.iface_id == id)) else {
            return Err(format!("Invalid network interface ID: {id}."));
        };
        vm.limit(device, entry.limit(patch));
        Ok(Response::done())
    }
}
