//! Changes of entries, as the control API takes them.

use std::path::{Path, PathBuf};

use mote_virtio::rate::RateLimiter;
use serde::Deserialize;

use super::file::Usual;
use super::limit::LimitEntry;
use super::{DriveEntry, HugePages, MachineConfig, Media, NicEntry, VmConfig};

/// What `PATCH /machine-config` changes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct MachinePatch {
    vcpu_count: Option<u64>,
    mem_size_mib: Option<u64>,
    smt: Option<bool>,
    track_dirty_pages: Option<bool>,
    cpu_template: Option<Usual>,
    huge_pages: Option<HugePages>,
}

impl MachineConfig {
    /// That of a VM which exists.
    pub fn of(config: &VmConfig) -> Self {
        let mut entry = Self::default();
        entry.vcpu_count = config.cpus.into();
        entry.mem_size_mib = config.memory >> 20;
        entry.huge_pages = config.huge_pages;
        entry.track_dirty_pages = config.track_dirty_pages;
        entry
    }
}

impl MachinePatch {
    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        let choices = self.cpu_template.is_none() && self.huge_pages.is_none();
        let numbers = self.vcpu_count.is_none() && self.mem_size_mib.is_none();
        choices && numbers && self.smt.is_none() && self.track_dirty_pages.is_none()
    }

    /// Changes `config`.
    pub fn apply(&self, config: &mut MachineConfig) {
        let (cpus, memory) = (self.vcpu_count, self.mem_size_mib);
        config.vcpu_count = cpus.unwrap_or(config.vcpu_count);
        config.mem_size_mib = memory.unwrap_or(config.mem_size_mib);
        config.smt = self.smt.unwrap_or(config.smt);
        let track = self.track_dirty_pages;
        config.huge_pages = self.huge_pages.unwrap_or(config.huge_pages);
        config.track_dirty_pages = track.unwrap_or(config.track_dirty_pages);
    }
}

/// What `PATCH /drives/{id}` changes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct DrivePatch {
    /// Whose.
    pub drive_id: String,
    /// Another image, or once more the one that it has.
    #[serde(default, deserialize_with = "crate::config::some_path")]
    pub path_on_host: Option<PathBuf>,
    /// Buckets to replace.
    pub rate_limiter: Option<LimitEntry>,
    /// Empties a CD-ROM drive.
    #[serde(default)]
    pub eject: bool,
}

/// What `PATCH /network-interfaces/{id}` changes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct NicPatch {
    /// Whose.
    pub iface_id: String,
    /// Buckets of what the guest receives, to replace.
    pub rx_rate_limiter: Option<LimitEntry>,
    /// The same of what it sends.
    pub tx_rate_limiter: Option<LimitEntry>,
}

impl DriveEntry {
    /// Its image.
    pub fn path(&self) -> Option<&Path> {
        self.path_on_host.as_deref()
    }

    /// Another one, or none.
    pub fn set_path(&mut self, path: Option<PathBuf>) {
        self.path_on_host = path;
    }

    /// Whether its medium can be taken out.
    pub fn is_cdrom(&self) -> bool {
        self.media == Media::CdRom
    }

    /// Replaces buckets; returns all of them as they are then.
    pub fn limit(&mut self, patch: &LimitEntry) -> RateLimiter {
        replace(&mut self.rate_limiter, patch)
    }
}

impl NicEntry {
    /// An interface on a tap, and all else as usual.
    pub fn new(iface_id: String, host_dev_name: String) -> Self {
        Self {
            iface_id,
            host_dev_name,
            guest_mac: None,
            mtu: None,
            poll_us: None,
            rx_rate_limiter: None,
            tx_rate_limiter: None,
        }
    }

    /// Puts it on another tap.
    pub fn move_to(&mut self, host_dev_name: String) {
        self.host_dev_name = host_dev_name;
    }

    /// Replaces buckets; returns all of those of receiving and of sending that
    /// have changed.
    pub fn limit(&mut self, patch: &NicPatch) -> [Option<RateLimiter>; 2] {
        let (rx, tx) = (&patch.rx_rate_limiter, &patch.tx_rate_limiter);
        [
            rx.as_ref().map(|rx| replace(&mut self.rx_rate_limiter, rx)),
            tx.as_ref().map(|tx| replace(&mut self.tx_rate_limiter, tx)),
        ]
    }
}

fn replace(old: &mut Option<LimitEntry>, patch: &LimitEntry) -> RateLimiter {
    old.insert(LimitEntry::patched(old.as_ref(), patch)).limiter()
}
