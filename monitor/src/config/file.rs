//! Firecracker's config file.
//!
//! Keys that Mote has no use for are refused with a reason where they would
//! change what the guest or the host sees, and accepted where they would not:
//! * `cache_type`: `Writeback` has every flush reach the disk, and so has
//!   `Unsafe`, which merely allows losing flushed data;
//! * `io_engine`: `Sync` and `Async` differ in how the host does the work.
//!
//! Mote's own are `media`, `cdrom_hint`, `on_enospc`, `mtu` and `poll_us`. The control
//! API takes the same entries one by one, and shows them.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::cmdline;
use super::drive::{OnNoSpace, check_id};
use super::limit::LimitEntry;
use super::machine::{check_cpus, check_memory};
use super::nic::{check_tap, parse_mac};
use super::{
    DEFAULT_MEMORY, Drive, HugePages, Media, Nic, POLL_US, TapSource, VmConfig, check_devices,
    check_poll, sort_drives,
};
use crate::error::{Error, os_message};

/// A config file larger than this, in bytes, is not one.
const MAX_CONFIG: u64 = 1 << 20;

/// Firecracker's config file, as far as Mote has its parts.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object", rename_all = "kebab-case")]
pub struct File {
    /// The kernel; without one the firmware boots.
    pub boot_source: Option<BootSource>,
    /// Memory and processors.
    pub machine_config: Option<MachineConfig>,
    /// Drives, in the guest's order but for the root device.
    pub drives: Vec<DriveEntry>,
    /// Network interfaces.
    pub network_interfaces: Vec<NicEntry>,
    /// Where the log goes; of use with the control API only.
    pub logger: Option<LoggerEntry>,
    /// Where metrics go; the same.
    pub metrics: Option<MetricsEntry>,
    #[serde(deserialize_with = "absent", skip_serializing)]
    balloon: (),
    #[serde(deserialize_with = "absent", skip_serializing)]
    cpu_config: (),
    #[serde(deserialize_with = "absent", skip_serializing)]
    entropy: (),
    #[serde(deserialize_with = "absent", skip_serializing)]
    memory_hotplug: (),
    #[serde(deserialize_with = "absent", skip_serializing)]
    mmds_config: (),
    #[serde(deserialize_with = "absent", skip_serializing)]
    pmem: (),
    #[serde(deserialize_with = "absent", skip_serializing)]
    vsock: (),
}

/// What Firecracker has and Mote has not: what Firecracker exports names each
/// of them, with nothing behind it.
fn absent<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::Null => Ok(()),
        serde_json::Value::Array(all) if all.is_empty() => Ok(()),
        _ => Err(serde::de::Error::custom("Mote has no such device")),
    }
}

/// `network-interfaces`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct NicEntry {
    /// Its name.
    pub iface_id: String,
    /// Its tap.
    pub host_dev_name: String,
    pub(super) guest_mac: Option<String>,
    pub(super) mtu: Option<u16>,
    pub(super) poll_us: Option<u64>,
    pub(super) rx_rate_limiter: Option<LimitEntry>,
    pub(super) tx_rate_limiter: Option<LimitEntry>,
}

/// `drives`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct DriveEntry {
    /// Its identity.
    pub drive_id: String,
    #[serde(default, deserialize_with = "super::some_path")]
    /// Its image; none is in a CD-ROM drive that was emptied.
    pub path_on_host: Option<PathBuf>,
    /// Whether it is the first drive and the kernel's `root=`.
    pub is_root_device: Option<bool>,
    #[serde(default)]
    pub(super) is_read_only: bool,
    #[serde(default)]
    /// What it takes.
    pub media: Media,
    cdrom_hint: Option<bool>,
    poll_us: Option<u64>,
    #[serde(default)]
    on_enospc: OnNoSpace,
    pub(super) rate_limiter: Option<LimitEntry>,
    cache_type: Option<CacheType>,
    io_engine: Option<IoEngine>,
    partuuid: Option<String>,
    socket: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
enum IoEngine {
    Sync,
    Async,
}

/// `boot-source`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct BootSource {
    /// The kernel.
    #[serde(default, deserialize_with = "super::some_path")]
    pub kernel_image_path: Option<PathBuf>,
    boot_args: Option<String>,
    /// The initial RAM disk.
    #[serde(default, deserialize_with = "super::some_path")]
    pub initrd_path: Option<PathBuf>,
}

/// `machine-config`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct MachineConfig {
    pub(super) vcpu_count: u64,
    pub(super) mem_size_mib: u64,
    #[serde(default)]
    pub(super) smt: bool,
    #[serde(default)]
    pub(super) track_dirty_pages: bool,
    #[serde(default)]
    pub(super) cpu_template: Usual,
    #[serde(default)]
    pub(super) huge_pages: HugePages,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: DEFAULT_MEMORY >> 20,
            smt: false,
            track_dirty_pages: false,
            cpu_template: Usual,
            huge_pages: HugePages::None,
        }
    }
}

/// The only value that Mote takes of a choice, Firecracker's usual one: `None`,
/// as a word or as null.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usual;

impl Serialize for Usual {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("None")
    }
}

impl<'de> Deserialize<'de> for Usual {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(from)?.as_deref() {
            None | Some("None") => Ok(Self),
            Some(_) => Err(serde::de::Error::custom("only None is supported")),
        }
    }
}

/// `logger`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct LoggerEntry {
    /// A file or a named pipe.
    #[serde(default, deserialize_with = "super::some_path")]
    pub log_path: Option<PathBuf>,
    /// The log level, one of Firecracker's.
    pub level: Option<String>,
    /// Whether lines say their level.
    #[serde(default)]
    pub show_level: bool,
    #[serde(default)]
    show_log_origin: bool,
    module: Option<String>,
}

/// `metrics`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub struct MetricsEntry {
    /// A file or a named pipe.
    #[serde(deserialize_with = "super::path")]
    pub metrics_path: PathBuf,
}

/// The key at fault, and why.
type Fault = (&'static str, String);

/// Reads a config file: JSON in Firecracker's names.
///
/// # Errors
/// The file cannot be read, is not JSON, or has an unknown or duplicate key, a
/// wrong type or a value out of range; the message names the key's path.
pub fn read_file(path: &Path) -> Result<VmConfig, Error> {
    let file = read_entries(path)?;
    let wrong = |(key, why)| Error::Config(path.into(), key, why);
    file.without_outputs().and_then(|()| file.config()).map_err(wrong)
}

/// The same, as it is written there.
///
/// # Errors
/// As [`read_file`], but for what several keys say together.
pub fn read_entries(path: &Path) -> Result<File, Error> {
    let unreadable = |e: std::io::Error| Error::Config(path.into(), String::new(), os_message(&e));
    let mut text = Vec::new();
    // A pipe is welcome, and a device that never ends comes to one.
    fs::File::open(path)
        .and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_CONFIG {
        let why = format!("more than {MAX_CONFIG} bytes are too many for a config file");
        return Err(Error::Config(path.into(), String::new(), why));
    }
    from_json(&text).map_err(|(key, why)| Error::Config(path.into(), key, why))
}

/// Parses the text of a config file.
///
/// # Errors
/// The path of the key at fault, and the fault.
pub fn parse(text: &[u8]) -> Result<VmConfig, (String, String)> {
    from_json::<File>(text)?.config()
}

/// Reads one value of JSON.
///
/// # Errors
/// The path of the key at fault, and the fault.
pub fn from_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, (String, String)> {
    let object = "a JSON object is expected";
    let first = text.trim_ascii().first();
    if first.is_none() {
        return Err((String::new(), format!("is empty: {object}")));
    }
    if first != Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() {
        return Err((String::new(), object.to_owned()));
    }
    let why = |e: &serde_json::Error| match e.classify() {
        serde_json::error::Category::Data => e.to_string(),
        _ => format!("is not JSON: {e}"),
    };
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|e| (e.path().to_string(), why(e.inner())))?;
    json.end().map_err(|e| (String::new(), why(&e)))?;
    Ok(value)
}

impl File {
    /// The VM that the entries describe.
    ///
    /// # Errors
    /// The path of the key at fault, and the fault.
    pub fn config(&self) -> Result<VmConfig, (String, String)> {
        self.apply(VmConfig::default())
    }

    /// The same on top of what the command line says.
    ///
    /// # Errors
    /// As [`config`](File::config).
    pub fn apply(&self, mut config: VmConfig) -> Result<VmConfig, (String, String)> {
        if let Some(boot) = &self.boot_source {
            config.kernel.clone_from(&boot.kernel_image_path);
            config.initrd.clone_from(&boot.initrd_path);
            config.cmdline.clone_from(&boot.boot_args);
            // As Firecracker does, of whose kernels many have no ACPI. Others
            // find the devices there first, and a second time in vain.
            config.cmdline_devices = config.kernel.is_some();
        }
        self.add_drives(&mut config)?;
        for (index, entry) in self.network_interfaces.iter().enumerate() {
            let nic = entry.nic().map_err(|(key, why)| {
                let path = format!("network-interfaces[{index}].{key}");
                (path, why)
            })?;
            config.nics.push(nic);
        }
        check_devices(&config.drives, &config.nics).map_err(|why| (".".to_owned(), why))?;
        if let Some(machine) = &self.machine_config {
            let at = |(key, why)| (format!("machine-config.{key}"), why);
            (config.cpus, config.memory) = machine.check().map_err(at)?;
            config.huge_pages = machine.huge_pages;
            config.track_dirty_pages = machine.track_dirty_pages;
        }
        Ok(config)
    }

    /// A VM that is not controlled over a socket has no log and no metrics.
    fn without_outputs(&self) -> Result<(), (String, String)> {
        let key = match (&self.logger, &self.metrics) {
            (Some(_), _) => "logger",
            (_, Some(_)) => "metrics",
            (None, None) => return Ok(()),
        };
        let why = "works only with --api-sock or --no-api, not with 'run'";
        Err((key.to_owned(), why.to_owned()))
    }

    /// Adds the drives. The root device comes first, and a kernel that is given
    /// is told so, as Firecracker does.
    fn add_drives(&self, config: &mut VmConfig) -> Result<(), (String, String)> {
        for (index, entry) in self.drives.iter().enumerate() {
            let at = |key: &str| format!("drives[{index}].{key}");
            let mut drive = entry.drive().map_err(|(key, why)| (at(key), why))?;
            drive.root = entry.is_root_device == Some(true);
            if drive.root && config.drives.iter().any(|drive| drive.root) {
                let why = "another drive is already the root device".to_owned();
                return Err((at("is_root_device"), why));
            }
            config.drives.push(drive);
        }
        sort_drives(&mut config.drives);
        let root = config.drives.first().filter(|drive| drive.root);
        if let Some(drive) = root.filter(|_| config.kernel.is_some() || config.cmdline.is_some()) {
            let mode = if drive.read_only { "ro" } else { "rw" };
            let cmdline = config.cmdline.as_deref();
            let cmdline = cmdline.unwrap_or(crate::config::DEFAULT_CMDLINE);
            let root = format!("root=/dev/vda {mode}");
            config.cmdline = Some(cmdline::insert(cmdline, &root));
        }
        Ok(())
    }
}

impl MachineConfig {
    /// vCPUs and bytes of memory.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub fn check(&self) -> Result<(u8, u64), Fault> {
        let cpus = check_cpus(self.vcpu_count).map_err(|why| ("vcpu_count", why))?;
        // A MiB count that wraps to 0 bytes must not be taken for one.
        let memory = self
            .mem_size_mib
            .checked_mul(1 << 20)
            .ok_or_else(|| "larger than any memory".to_owned())
            .and_then(check_memory)
            .map_err(|why| ("mem_size_mib", why))?;
        let pages = self.huge_pages.check(memory);
        pages.map_err(|why| ("mem_size_mib", why))?;
        if self.smt {
            let why = "Mote presents each vCPU as a separate core; use false";
            return Err(("smt", why.to_owned()));
        }
        Ok((cpus, memory))
    }
}

impl NicEntry {
    /// The interface that the entry describes.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub fn nic(&self) -> Result<Nic, Fault> {
        let tap = check_tap(&self.host_dev_name).map_err(|why| ("host_dev_name", why))?;
        let mac = self.guest_mac.as_deref().map(parse_mac).transpose();
        let poll = self.poll_us.map_or(Ok(POLL_US), check_poll);
        if self.mtu.is_some_and(|mtu| !(68..=65521).contains(&mtu)) {
            return Err(("mtu", "not 68 to 65521".to_owned()));
        }
        let limiter = |entry: &Option<LimitEntry>| LimitEntry::limiter_of(entry.as_ref());
        Ok(Nic {
            id: check_id(&self.iface_id).map_err(|why| ("iface_id", why))?,
            tap: TapSource::Name(tap),
            mac: mac.map_err(|why| ("guest_mac", why))?,
            mtu: self.mtu,
            poll_us: poll.map_err(|why| ("poll_us", why))?,
            rx_limiter: limiter(&self.rx_rate_limiter),
            tx_limiter: limiter(&self.tx_rate_limiter),
        })
    }
}

impl DriveEntry {
    /// The drive that the entry describes.
    ///
    /// # Errors
    /// The key at fault, and the fault.
    pub fn drive(&self) -> Result<Drive, Fault> {
        let id = check_id(&self.drive_id).map_err(|why| ("drive_id", why))?;
        if self.partuuid.is_some() {
            let why = "Mote does not parse disks; put root=PARTUUID=… into boot_args";
            return Err(("partuuid", why.to_owned()));
        }
        if self.socket.is_some() {
            let why = "Mote serves every drive itself, no vhost-user process; give a path_on_host";
            return Err(("socket", why.to_owned()));
        }
        let Some(path) = self.path_on_host.clone() else {
            return Err(("path_on_host", "a drive needs an image".to_owned()));
        };
        let poll = self.poll_us.map_or(Ok(POLL_US), check_poll);
        let mut drive = Drive::new(self.media, path, id);
        if let Some(hint) = self.cdrom_hint {
            if self.media != Media::CdRom {
                let why = "only a drive with the media 'cdrom' has one";
                return Err(("cdrom_hint", why.to_owned()));
            }
            drive.cdrom_hint = hint;
        }
        drive.read_only |= self.is_read_only;
        drive.poll_us = poll.map_err(|why| ("poll_us", why))?;
        drive.on_no_space = self.on_enospc;
        drive.limiter = LimitEntry::limiter_of(self.rate_limiter.as_ref());
        Ok(drive)
    }
}

#[cfg(test)]
#[path = "file_test.rs"]
mod file_test;
