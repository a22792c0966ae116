//! Firecracker's config file.
//!
//! Keys that Mote has no use for are refused with a reason where they would
//! change what the guest or the host sees, and accepted where they would not:
//! * `cache_type`: `Writeback` has every flush reach the disk, and so has
//!   `Unsafe`, which only permits to lose what was flushed;
//! * `io_engine`: `Sync` and `Async` differ in how the host does the work.
//!
//! Mote's own are `media`, `on_enospc`, `mtu` and `poll_us`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::drive::{OnNoSpace, check_id};
use super::limit::LimitEntry;
use super::machine::{check_cpus, check_memory};
use super::nic::{check_tap, parse_mac};
use super::{Drive, Media, Nic, POLL_US, TapSource, VmConfig, check_devices, check_poll};
use crate::error::{Error, os_message};

/// A config file larger than this, in bytes, is not one.
const MAX_CONFIG: u64 = 1 << 20;

/// Firecracker's config file, as far as Mote has its parts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    boot_source: Option<BootSource>,
    machine_config: Option<MachineConfig>,
    #[serde(default)]
    drives: Vec<DriveEntry>,
    #[serde(default)]
    network_interfaces: Vec<NicEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NicEntry {
    iface_id: String,
    host_dev_name: String,
    guest_mac: Option<String>,
    mtu: Option<u16>,
    poll_us: Option<u64>,
    rx_rate_limiter: Option<LimitEntry>,
    tx_rate_limiter: Option<LimitEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DriveEntry {
    drive_id: String,
    path_on_host: Option<PathBuf>,
    #[serde(default)]
    is_root_device: bool,
    #[serde(default)]
    is_read_only: bool,
    #[serde(default)]
    media: Media,
    poll_us: Option<u64>,
    #[serde(default)]
    on_enospc: OnNoSpace,
    rate_limiter: Option<LimitEntry>,
    #[serde(rename = "cache_type")]
    _cache_type: Option<CacheType>,
    #[serde(rename = "io_engine")]
    _io_engine: Option<IoEngine>,
    partuuid: Option<String>,
    socket: Option<String>,
}

#[derive(Debug, Deserialize)]
enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Debug, Deserialize)]
enum IoEngine {
    Sync,
    Async,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BootSource {
    kernel_image_path: Option<PathBuf>,
    boot_args: Option<String>,
    initrd_path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineConfig {
    vcpu_count: u64,
    mem_size_mib: u64,
    #[serde(default)]
    smt: bool,
    #[serde(default)]
    track_dirty_pages: bool,
}

/// Reads a config file: JSON in Firecracker's names.
///
/// # Errors
/// The file cannot be read, is not JSON, or has an unknown or duplicate key, a
/// wrong type or a value out of range; the message names the key's path.
pub fn read_file(path: &Path) -> Result<VmConfig, Error> {
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
    parse(&text).map_err(|(key, why)| Error::Config(path.into(), key, why))
}

/// Parses the text of a config file.
///
/// # Errors
/// The path of the key at fault and what is wrong with it.
pub fn parse(text: &[u8]) -> Result<VmConfig, (String, String)> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let file: File = serde_path_to_error::deserialize(&mut json)
        .map_err(|e| (e.path().to_string(), e.inner().to_string()))?;
    json.end().map_err(|e| (String::new(), e.to_string()))?;
    let mut config = VmConfig::default();
    if let Some(boot) = file.boot_source {
        config.kernel = boot.kernel_image_path;
        config.initrd = boot.initrd_path;
        config.cmdline = boot.boot_args;
    }
    add_drives(&mut config, file.drives)?;
    for (index, entry) in file.network_interfaces.into_iter().enumerate() {
        let nic = nic(entry).map_err(|(key, why)| {
            let path = format!("network-interfaces[{index}].{key}");
            (path, why)
        })?;
        config.nics.push(nic);
    }
    check_devices(&config.drives, &config.nics).map_err(|why| (".".to_owned(), why))?;
    if let Some(machine) = file.machine_config {
        let at = |key: &str| format!("machine-config.{key}");
        config.cpus = check_cpus(machine.vcpu_count).map_err(|why| (at("vcpu_count"), why))?;
        // A MiB count that wraps to 0 bytes must not be taken for one.
        config.memory = machine
            .mem_size_mib
            .checked_mul(1 << 20)
            .ok_or_else(|| "larger than any memory".to_owned())
            .and_then(check_memory)
            .map_err(|why| (at("mem_size_mib"), why))?;
        if machine.smt {
            let why = "Mote shows every vCPU as a core of its own; only false works";
            return Err((at("smt"), why.to_owned()));
        }
        if machine.track_dirty_pages {
            let why = "this version of Mote takes no snapshots; only false works";
            return Err((at("track_dirty_pages"), why.to_owned()));
        }
    }
    Ok(config)
}

/// The interface that an entry describes, or the key at fault and why.
fn nic(entry: NicEntry) -> Result<Nic, (&'static str, String)> {
    let tap = check_tap(&entry.host_dev_name).map_err(|why| ("host_dev_name", why))?;
    let mac = entry.guest_mac.as_deref().map(parse_mac).transpose();
    let poll = entry.poll_us.map_or(Ok(POLL_US), check_poll);
    if entry.mtu.is_some_and(|mtu| !(68..=65521).contains(&mtu)) {
        return Err(("mtu", "not 68 to 65521".to_owned()));
    }
    let limiter = |entry: Option<LimitEntry>| entry.unwrap_or_default().limiter();
    Ok(Nic {
        id: check_id(&entry.iface_id).map_err(|why| ("iface_id", why))?,
        tap: TapSource::Name(tap),
        mac: mac.map_err(|why| ("guest_mac", why))?,
        mtu: entry.mtu,
        poll_us: poll.map_err(|why| ("poll_us", why))?,
        rx_limiter: limiter(entry.rx_rate_limiter),
        tx_limiter: limiter(entry.tx_rate_limiter),
    })
}

/// The drive that an entry describes, or the key at fault and why.
fn drive(entry: DriveEntry) -> Result<Drive, (&'static str, String)> {
    let id = check_id(&entry.drive_id).map_err(|why| ("drive_id", why))?;
    if entry.partuuid.is_some() {
        let why = "Mote does not look into disks; put root=PARTUUID=… into boot_args";
        return Err(("partuuid", why.to_owned()));
    }
    if entry.socket.is_some() {
        let why = "Mote serves every drive itself, no vhost-user process; give a path_on_host";
        return Err(("socket", why.to_owned()));
    }
    let Some(path) = entry.path_on_host else {
        return Err(("path_on_host", "a drive needs an image".to_owned()));
    };
    let poll = entry.poll_us.map_or(Ok(POLL_US), check_poll);
    let mut drive = Drive::new(entry.media, path, id);
    drive.read_only |= entry.is_read_only;
    drive.poll_us = poll.map_err(|why| ("poll_us", why))?;
    drive.on_no_space = entry.on_enospc;
    drive.limiter = entry.rate_limiter.unwrap_or_default().limiter();
    Ok(drive)
}

/// Adds the drives of a config file. The root device comes first, and the
/// kernel is told so, as Firecracker does.
fn add_drives(config: &mut VmConfig, entries: Vec<DriveEntry>) -> Result<(), (String, String)> {
    let mut root = None;
    for (index, entry) in entries.into_iter().enumerate() {
        let at = |key: &str| format!("drives[{index}].{key}");
        let is_root = entry.is_root_device;
        let drive = drive(entry).map_err(|(key, why)| (at(key), why))?;
        if !is_root {
            config.drives.push(drive);
        } else if root.replace(drive).is_some() {
            let why = "there is a root device already".to_owned();
            return Err((at("is_root_device"), why));
        }
    }
    if let Some(drive) = root {
        let mode = if drive.read_only { "ro" } else { "rw" };
        let cmdline = config
            .cmdline
            .as_deref()
            .unwrap_or(crate::boot::DEFAULT_CMDLINE);
        config.cmdline = Some(format!("{cmdline} root=/dev/vda {mode}"));
        config.drives.insert(0, drive);
    }
    Ok(())
}

#[cfg(test)]
#[path = "file_test.rs"]
mod file_test;
