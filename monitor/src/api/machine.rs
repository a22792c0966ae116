//! The VM as the API wants it.

use std::path::Path;

use mote_virtio::rate::RateLimiter;

use super::running_vm::Vm;
use crate::config::SnapshotKind;
use crate::counts::Counts;
use crate::error::Error;
use crate::layout;
use crate::run::Machine;

const NO_FILES: &str = "Files cannot be opened while the VM runs: start Mote with --allow-path.";

impl Vm for Machine {
    fn is_paused(&self) -> bool {
        Machine::is_paused(self)
    }

    fn pause(&mut self) -> Result<(), Error> {
        Machine::pause(self)
    }

    fn resume(&mut self) {
        Machine::resume(self);
    }

    fn power_button(&mut self) -> Result<(), String> {
        match self.shared().interrupt(layout::POWER_BUTTON_GSI) {
            Ok(true) => Ok(()),
            Ok(false) => Err("The guest does not listen for its power button.".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn limit(&mut self, device: usize, limits: [Option<RateLimiter>; 2]) {
        self.shared().bus.devices().limit(device, limits);
    }

    fn resize(&mut self, device: usize) -> Result<(), String> {
        self.change_device(|devices| devices.resize(device))
    }

    fn change(&mut self, device: usize, path: Option<&Path>) -> Result<(), String> {
        if path.is_some() && !self.opens() {
            return Err(NO_FILES.to_owned());
        }
        self.change_device(|devices| devices.change(device, path))
    }

    fn save(&mut self, state: &Path, memory: &Path, kind: SnapshotKind) -> Result<(), String> {
        if !self.opens() {
            return Err(NO_FILES.to_owned());
        }
        self.save_to(state, memory, kind).map_err(|e| e.to_string())
    }

    fn metrics(&self, to: &mut Counts) {
        let shared = self.shared();
        shared.bus.devices().count(to);
        for (id, vcpu) in shared.vcpus().iter().enumerate() {
            to.add("vcpu", &id.to_string(), &vcpu.exits.counts());
        }
        let dropped = shared.bus.com1().output().dropped();
        to.add("uart", "", &[("dropped_bytes", dropped)]);
        to.add("bus", "", &[("unknown", shared.bus.unknown())]);
        for (stage, took) in shared.timings.stages() {
            let name: String = stage
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
                .collect();
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            to.gauge("start_us", &[(name.as_str(), us)]);
        }
    }
}
