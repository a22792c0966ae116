//! What a VM is made of, from flags or from a config file.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, os_message};

/// The most vCPUs a VM may have.
pub const MAX_CPUS: u8 = 32;
/// The least memory a VM may have, in bytes: room for boot data and a kernel.
pub const MIN_MEMORY: u64 = 4 << 20;
const DEFAULT_MEMORY: u64 = 128 << 20;
/// A config file larger than this, in bytes, is not one.
const MAX_CONFIG: u64 = 1 << 20;

/// The most virtio devices a VM may have: their windows fill 64 KiB.
pub const MAX_DEVICES: usize = 16;
/// The most worker threads of a drive.
const MAX_THREADS: u64 = 16;
/// The longest identity of a drive, in bytes (virtio 1.2, 5.2.6).
const MAX_ID: usize = 20;

/// What a drive takes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// A disk in a raw image.
    #[default]
    Disk,
    /// A CD-ROM, which can only be read.
    CdRom,
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its identity, which the guest can read; at most 20 bytes.
    pub id: String,
    /// The image.
    pub path: PathBuf,
    /// What it is.
    pub media: Media,
    /// Open it to read only.
    pub read_only: bool,
    /// Make it with so many bytes if it is missing.
    pub create: Option<u64>,
    /// Bypass the host's page cache.
    pub direct: bool,
    /// Worker threads, 1 to 16.
    pub threads: u8,
}

impl Drive {
    /// A disk or CD-ROM at `path` with everything else as usual.
    pub fn new(media: Media, path: PathBuf, id: String) -> Self {
        Self {
            id,
            path,
            media,
            read_only: media == Media::CdRom,
            create: None,
            direct: false,
            threads: 1,
        }
    }
}

/// Where an interface's tap comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSource {
    /// The name of a TAP interface of the host.
    Name(String),
    /// A descriptor that was passed in.
    Fd(i32),
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name, for messages.
    pub id: String,
    /// What is behind it.
    pub tap: TapSource,
    /// Its MAC address; `None` for [one of its own](Nic::own_mac).
    pub mac: Option<[u8; 6]>,
    /// The MTU to tell the guest, in bytes.
    pub mtu: Option<u16>,
}

impl Nic {
    /// A locally administered MAC address that is the same at every start of
    /// the same tap on the same host.
    pub fn own_mac(&self) -> [u8; 6] {
        let host = rustix::system::uname();
        let tap = format!("{:?}", self.tap);
        // FNV-1a: good enough to tell a few machines apart.
        let hash = host.nodename().to_bytes().iter().chain(tap.as_bytes());
        let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        [2, a, b, c, d, e]
    }
}

/// Parses the value of `--net`: `tap=NAME` or `tap-fd=N`, then `,mac=…` and
/// `,mtu=…` as wanted.
///
/// # Errors
/// A text that says what is wrong, without naming the flag.
pub fn parse_net(text: &str, number: usize) -> Result<Nic, String> {
    let (mut tap, mut mac, mut mtu) = (None, None, None);
    for part in text.split(',') {
        let old = match part.split_once('=') {
            Some(("tap", name)) => tap.replace(TapSource::Name(check_tap(name)?)).is_some(),
            Some(("tap-fd", fd)) => {
                // Below that are standard input, output and error.
                let fd = fd.parse().ok().filter(|fd: &i32| *fd > 2);
                let fd = fd.ok_or_else(|| format!("'{part}': not a descriptor above 2"))?;
                tap.replace(TapSource::Fd(fd)).is_some()
            }
            Some(("mac", text)) => mac.replace(parse_mac(text)?).is_some(),
            Some(("mtu", text)) => {
                let size = text.parse().ok().filter(|mtu| (68..=65521).contains(mtu));
                let size = size.ok_or_else(|| format!("mtu={text}: not 68 to 65521"))?;
                mtu.replace(size).is_some()
            }
            _ => return Err(format!("'{part}' is none of tap=, tap-fd=, mac=, mtu=")),
        };
        if old {
            return Err(format!("'{part}': said twice"));
        }
    }
    let tap = tap.ok_or_else(|| "neither tap=NAME nor tap-fd=N".to_owned())?;
    let id = format!("net{number}");
    Ok(Nic { id, tap, mac, mtu })
}

/// Checks an interface's name: it becomes part of a path.
fn check_tap(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_graphic() && c != '/';
    if name.is_empty() || name.len() > 15 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("'{name}' is no interface name: 1 to 15 characters"));
    }
    Ok(name.to_owned())
}

/// Parses six hexadecimal bytes with colons between them.
fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("'{text}' is no MAC address such as 02:00:00:00:00:01");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = u8::from_str_radix(part.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
    }
    match (parts.next(), mac.first()) {
        (None, Some(first)) if first & 1 == 0 => Ok(mac),
        (None, _) => Err(format!("'{text}' is a multicast address")),
        _ => Err(wrong()),
    }
}

/// Parses the value of `--disk`: `PATH[,ro][,id=…][,size=8G,create][,direct]
/// [,threads=N]`. A path with a comma in it cannot be given this way.
///
/// # Errors
/// A text that says what is wrong, without naming the flag.
pub fn parse_disk(text: &str, number: usize) -> Result<Drive, String> {
    let mut parts = text.split(',');
    let path = parts.next().filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| "no path given".to_owned())?;
    let mut drive = Drive::new(Media::Disk, path.into(), format!("disk{number}"));
    let (mut size, mut create) = (None, false);
    for part in parts {
        match part.split_once('=') {
            None if part == "ro" => drive.read_only = true,
            None if part == "create" => create = true,
            None if part == "direct" => drive.direct = true,
            Some(("id", id)) => drive.id = check_id(id)?,
            Some(("size", text)) => size = Some(parse_size(text)?),
            Some(("threads", text)) => {
                let threads = text.parse().ok().filter(|n| (1..=MAX_THREADS).contains(n));
                let threads = threads.ok_or_else(|| format!("threads={text}: not 1 to 16"))?;
                // At most 16.
                drive.threads = threads as u8;
            }
            _ => {
                return Err(format!(
                    "'{part}' is none of ro, id=, size=, create, direct, threads="
                ));
            }
        }
    }
    match (size, create) {
        (Some(size), true) if size == 0 || !size.is_multiple_of(512) => {
            return Err(format!("size={size}: not whole sectors of 512 bytes"));
        }
        (Some(_), false) | (None, true) => {
            return Err("size= and create belong together".to_owned());
        }
        _ if create && drive.read_only => {
            return Err("a new disk that can only be read is of no use".to_owned());
        }
        _ => drive.create = size,
    }
    Ok(drive)
}

/// Checks a drive's identity.
fn check_id(id: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(plain) {
        return Err(format!(
            "'{id}' is no id: 1 to {MAX_ID} letters, digits, '-', '_', '.'"
        ));
    }
    Ok(id.to_owned())
}

/// Checks a set of devices: their number, and that no drive's identity is
/// there twice.
///
/// # Errors
/// A text that says what is wrong.
pub fn check_devices(drives: &[Drive], nics: &[Nic]) -> Result<(), String> {
    let count = drives.len() + nics.len();
    if count > MAX_DEVICES {
        return Err(format!("{count} devices; a VM has at most {MAX_DEVICES}"));
    }
    for (index, drive) in drives.iter().enumerate() {
        if drives
            .iter()
            .skip(index + 1)
            .any(|other| other.id == drive.id)
        {
            return Err(format!("two drives have the id '{}'", drive.id));
        }
    }
    Ok(())
}

/// Where the serial console goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialTo {
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(PathBuf),
    /// A new pseudo-terminal; its name is printed.
    Pty,
    /// A listening Unix socket, one client at a time.
    Socket(PathBuf),
    /// Nowhere.
    None,
}

/// What a guest's reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// The same VM starts again in place.
    Restart,
    /// The process ends.
    Exit,
}

/// Everything a VM is made of.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// The kernel file.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk, if any.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; `None` means Mote's default.
    pub cmdline: Option<String>,
    /// Drives, in the order in which the guest finds them.
    pub drives: Vec<Drive>,
    /// Network interfaces, behind the drives.
    pub nics: Vec<Nic>,
    /// Name the devices on the kernel's command line, for one without ACPI.
    pub cmdline_devices: bool,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// The serial console.
    pub serial: SerialTo,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Print where start-up time went when the VM ends.
    pub timings: bool,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            kernel: None,
            initrd: None,
            cmdline: None,
            drives: Vec::new(),
            nics: Vec::new(),
            cmdline_devices: false,
            memory: DEFAULT_MEMORY,
            cpus: 1,
            serial: SerialTo::Stdio,
            on_reset: OnReset::Restart,
            timings: false,
        }
    }
}

/// Parses a size: plain bytes, or a number with `K`, `M`, `G` or `T` (powers
/// of 1024, an optional `B` or `iB` behind them).
///
/// # Errors
/// A text that says what is wrong, without naming the flag.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("'{text}' is not a size; write 128M, 1G or plain bytes");
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| format!("'{text}' is larger than any memory"))
}

/// Checks a memory size in bytes.
///
/// # Errors
/// A text that says what is wrong, without naming the flag.
pub fn check_memory(bytes: u64) -> Result<u64, String> {
    if bytes < MIN_MEMORY {
        return Err(format!(
            "{bytes} bytes are too few; a guest needs at least 4M"
        ));
    }
    if !bytes.is_multiple_of(4096) {
        return Err(format!("{bytes} bytes are not a multiple of 4K"));
    }
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    let host = info
        .totalram
        .saturating_add(info.totalswap)
        .saturating_mul(unit);
    if bytes > host {
        return Err(format!(
            "{}M are more than the host has ({}M)",
            bytes >> 20,
            host >> 20
        ));
    }
    Ok(bytes)
}

/// Checks a number of vCPUs.
///
/// # Errors
/// A text that says what is wrong, without naming the flag.
pub fn check_cpus(cpus: u64) -> Result<u8, String> {
    u8::try_from(cpus)
        .ok()
        .filter(|n| (1..=MAX_CPUS).contains(n))
        .ok_or_else(|| format!("{cpus} vCPUs; a VM has 1 to {MAX_CPUS}"))
}

/// Parses the value of `--serial`.
///
/// # Errors
/// A text that says what is wrong, without naming the flag.
pub fn parse_serial(text: &str) -> Result<SerialTo, String> {
    match text.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(SerialTo::File(path.into())),
        Some(("socket", path)) if !path.is_empty() => Ok(SerialTo::Socket(path.into())),
        None if text == "stdio" => Ok(SerialTo::Stdio),
        None if text == "pty" => Ok(SerialTo::Pty),
        None if text == "none" => Ok(SerialTo::None),
        _ => Err(format!(
            "'{text}' is none of stdio, file:PATH, pty, socket:PATH, none"
        )),
    }
}

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
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DriveEntry {
    drive_id: String,
    path_on_host: PathBuf,
    #[serde(default)]
    is_root_device: bool,
    #[serde(default)]
    is_read_only: bool,
    #[serde(default)]
    media: Media,
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
        let at = |key: &str| format!("network-interfaces[{index}].{key}");
        let tap = check_tap(&entry.host_dev_name).map_err(|why| (at("host_dev_name"), why))?;
        let mac = entry.guest_mac.as_deref().map(parse_mac).transpose();
        if entry.mtu.is_some_and(|mtu| !(68..=65521).contains(&mtu)) {
            return Err((at("mtu"), "not 68 to 65521".to_owned()));
        }
        config.nics.push(Nic {
            id: check_id(&entry.iface_id).map_err(|why| (at("iface_id"), why))?,
            tap: TapSource::Name(tap),
            mac: mac.map_err(|why| (at("guest_mac"), why))?,
            mtu: entry.mtu,
        });
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

/// Adds the drives of a config file. The root device comes first, and the
/// kernel is told so, as Firecracker does.
fn add_drives(config: &mut VmConfig, entries: Vec<DriveEntry>) -> Result<(), (String, String)> {
    let mut root = None;
    for (index, entry) in entries.into_iter().enumerate() {
        let at = |key: &str| format!("drives[{index}].{key}");
        let id = check_id(&entry.drive_id).map_err(|why| (at("drive_id"), why))?;
        let mut drive = Drive::new(entry.media, entry.path_on_host, id);
        drive.read_only |= entry.is_read_only;
        if !entry.is_root_device {
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
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("128M", 128 << 20),
            ("128m", 128 << 20),
            ("1G", 1 << 30),
            ("2GiB", 2 << 30),
            ("3kb", 3 << 10),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "1X",
            "-1",
            "1.5G",
            "0x10",
            " 1M",
            "16777216T",
            "99999999999999999999",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_bounds() {
        for bytes in [0, 1, MIN_MEMORY - 4096, MIN_MEMORY + 1, 1 << 50, u64::MAX] {
            assert!(check_memory(bytes).is_err(), "{bytes}");
        }
        assert_eq!(check_memory(MIN_MEMORY), Ok(MIN_MEMORY));
    }

    /// A MiB count whose bytes wrap to 0 (Firecracker #6076), and its
    /// neighbours.
    #[test]
    fn mebibytes_do_not_wrap() {
        for mib in [0u64, 1 << 44, (1 << 44) + 128, u64::MAX] {
            let text = format!(r#"{{"machine-config":{{"vcpu_count":1,"mem_size_mib":{mib}}}}}"#);
            let (path, _) = parse(text.as_bytes()).unwrap_err();
            assert_eq!(path, "machine-config.mem_size_mib", "{mib}");
        }
    }

    #[test]
    fn bad_files_name_the_key() {
        for (text, path, word) in [
            (
                r#"{"boot-source":{"kernel":"x"}}"#,
                "boot-source.kernel",
                "unknown field",
            ),
            (r#"{"vsock":{}}"#, "vsock", "unknown field"),
            (
                r#"{"machine-config":{"vcpu_count":"1","mem_size_mib":128}}"#,
                "machine-config.vcpu_count",
                "invalid type",
            ),
            (
                r#"{"machine-config":{"vcpu_count":1,"vcpu_count":1,"mem_size_mib":128}}"#,
                "machine-config",
                "duplicate field",
            ),
            (
                r#"{"machine-config":{"vcpu_count":33,"mem_size_mib":128}}"#,
                "machine-config.vcpu_count",
                "1 to 32",
            ),
            (r#"{} x"#, "", "trailing"),
            ("", ".", "EOF"),
        ] {
            let (at, why) = parse(text.as_bytes()).unwrap_err();
            assert!(at.starts_with(path), "{text}: {at}");
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn disks() {
        let disk = parse_disk("a.img", 3).unwrap();
        assert_eq!(
            (disk.id.as_str(), disk.read_only, disk.threads),
            ("disk3", false, 1)
        );
        let disk = parse_disk("a,ro,id=x.1,direct,threads=16", 0).unwrap();
        assert!(disk.read_only && disk.direct);
        assert_eq!((disk.id.as_str(), disk.threads), ("x.1", 16));
        assert_eq!(
            parse_disk("a,size=8G,create", 0).unwrap().create,
            Some(8 << 30)
        );
        for text in [
            "",
            ",ro",
            "a,rw",
            "a,id=",
            "a,id=a b",
            "a,id=123456789012345678901",
            "a,threads=0",
            "a,threads=17",
            "a,size=8G",
            "a,create",
            "a,size=0,create",
            "a,size=513,create",
            "a,size=1M,create,ro",
            "a,size=x,create",
            "a,ro=1",
        ] {
            assert!(parse_disk(text, 0).is_err(), "{text}");
        }
        let many: Vec<Drive> = (0..=MAX_DEVICES)
            .map(|n| parse_disk("a", n).unwrap())
            .collect();
        assert!(check_devices(&many[1..], &[]).is_ok());
        assert!(check_devices(&many, &[]).is_err());
        assert!(check_devices(&[many[0].clone(), many[0].clone()], &[]).is_err());
    }

    #[test]
    fn nets() {
        let nic = parse_net("tap=vm0,mac=02:00:00:00:00:0a,mtu=9000", 1).unwrap();
        assert_eq!(nic.tap, TapSource::Name("vm0".to_owned()));
        assert_eq!((nic.mac, nic.mtu), (Some([2, 0, 0, 0, 0, 10]), Some(9000)));
        let nic = parse_net("tap-fd=7", 0).unwrap();
        assert_eq!(nic.tap, TapSource::Fd(7));
        assert_eq!(nic.own_mac(), nic.own_mac());
        assert_eq!(nic.own_mac()[0], 2);
        for text in [
            "",
            "vm0",
            "tap=",
            "tap=a/b",
            "tap=..",
            "tap=sixteen-letters-",
            "tap-fd=2",
            "tap-fd=x",
            "tap=a,tap=b",
            "tap=a,mac=1",
            "tap=a,mac=01:00:00:00:00:00",
            "tap=a,mtu=67",
            "tap=a,mac=02:00:00:00:00:00:00",
            "tap=a,mac=2:0:0:0:0:0",
            "tap=a,mtu=70000",
            "mtu=1500",
        ] {
            assert!(parse_net(text, 0).is_err(), "{text}");
        }
        let config =
            parse(br#"{"network-interfaces":[{"iface_id":"eth0","host_dev_name":"vm0"}]}"#);
        assert_eq!(config.unwrap().nics[0].id, "eth0");
    }

    #[test]
    fn drives_of_a_file() {
        let config = parse(
            br#"{"boot-source":{"boot_args":"quiet"},"drives":[
                 {"drive_id":"cd","path_on_host":"c.iso","media":"cdrom"},
                 {"drive_id":"root","path_on_host":"r.img","is_root_device":true}]}"#,
        )
        .unwrap();
        assert_eq!(config.cmdline.as_deref(), Some("quiet root=/dev/vda rw"));
        assert_eq!(config.drives[0].id, "root");
        assert!(config.drives[1].read_only && config.drives[1].media == Media::CdRom);
        for (text, path) in [
            (
                r#"{"drives":[{"drive_id":"a b","path_on_host":"x"}]}"#,
                "drives[0].drive_id",
            ),
            (
                r#"{"drives":[{"drive_id":"a","path_on_host":"x","media":"tape"}]}"#,
                "drives[0].media",
            ),
            (r#"{"drives":[{"drive_id":"a"}]}"#, "drives[0]"),
            (
                r#"{"drives":[{"drive_id":"a","path_on_host":"x","speed":1}]}"#,
                "drives[0].speed",
            ),
        ] {
            let (at, why) = parse(text.as_bytes()).unwrap_err();
            assert!(at.starts_with(path), "{text}: {at}: {why}");
        }
    }

    #[test]
    fn a_whole_file() {
        let config = parse(
            br#"{"boot-source":{"kernel_image_path":"k","boot_args":"quiet","initrd_path":"i"},
                 "machine-config":{"vcpu_count":2,"mem_size_mib":256}}"#,
        )
        .unwrap();
        assert_eq!(config.kernel, Some("k".into()));
        assert_eq!(config.initrd, Some("i".into()));
        assert_eq!(config.cmdline.as_deref(), Some("quiet"));
        assert_eq!((config.cpus, config.memory), (2, 256 << 20));
    }
}
