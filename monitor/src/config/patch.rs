//! Changes of entries, as the control API takes them.

use std::path::PathBuf;

use mote_virtio::rate::RateLimiter;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::limit::LimitEntry;
use super::{DriveEntry, MachineConfig, Media, NicEntry, VmConfig, from_json};

impl MachineConfig {
    /// That of a VM which exists.
    pub fn of(config: &VmConfig) -> Self {
        Self {
            vcpu_count: config.cpus.into(),
            mem_size_mib: config.memory >> 20,
            huge_pages: config.huge_pages,
            track_dirty_pages: config.track_dirty_pages,
            ..Self::default()
        }
    }

    /// The same with the keys that a patch has; `None` if it has none.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub fn patched(&self, patch: Map<String, Value>) -> Result<Option<Self>, (String, String)> {
        let mut patch: Map<_, _> =
            patch.into_iter().filter(|(_, value)| !value.is_null()).collect();
        if patch.is_empty() {
            return Ok(None);
        }
        // Of the keys that both have, the patch's stay.
        if let Ok(Value::Object(own)) = serde_json::to_value(self) {
            for (key, value) in own {
                patch.entry(key).or_insert(value);
            }
        }
        from_json(Value::Object(patch).to_string().as_bytes()).map(Some)
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
