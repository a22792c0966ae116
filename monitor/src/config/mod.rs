//! What a VM is made of, from flags or from a config file.
//!
//! One file per topic: `drive`, `nic`, `limit` (their rate limits), `machine`
//! (memory and processors), `file`, which reads all of it from JSON, and `patch`,
//! changes of that.

/// Shared with the firmware, which completes what a medium says.
#[path = "../../firmware/src/cmdline.rs"]
pub mod cmdline;
mod drive;
mod file;
mod limit;
mod machine;
mod nic;
mod patch;
mod paths;
mod policy;

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::drive::{Drive, Media, OnNoSpace, options, parse_disk, sort_drives};
pub use self::file::{
    BootSource, DriveEntry, File, LoggerEntry, MachineConfig, MetricsEntry, NicEntry, from_json,
    parse, read_entries, read_file,
};
pub use self::limit::LimitEntry;
pub use self::machine::{MAX_CPUS, MIN_MEMORY, check_cpus, check_memory, parse_size};
pub use self::nic::{Nic, TapSource, parse_net};
pub use self::patch::{DrivePatch, NicPatch};
pub use self::paths::{check_path, check_socket};
pub(crate) use self::paths::{path, some_path};
pub use self::policy::{Mode, Policy, SnapshotKind};

/// The command line of a guest that was given none.
///
/// Every word saves a stock kernel a wait on a machine that has only what
/// this one has: `cryptomgr.notests` skips 0.9 s of crypto self-tests (they
/// test software, not this machine), `quiet` saves 18 µs a character, and the
/// others keep the kernel from probing hardware that is not there.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 quiet panic=-1 pci=off cryptomgr.notests \
     8250.nr_uarts=1 i8042.noaux i8042.nokbd tsc=reliable no_timer_check random.trust_cpu=on";

/// The most virtio devices a VM may have: their windows fill 64 KiB.
pub const MAX_DEVICES: usize = 16;
/// How long a worker busy-polls before it sleeps, in microseconds, by default.
pub const POLL_US: u16 = 50;
/// The longest time for that.
const MAX_POLL_US: u16 = 1000;
/// Default guest memory, in bytes.
const DEFAULT_MEMORY: u64 = 128 << 20;

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

/// The serial console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial {
    /// Where it goes.
    pub to: SerialTo,
    /// Appends to an existing file.
    pub append: bool,
    /// A slow reader holds the guest, and no output is dropped.
    pub hold: bool,
}

impl From<SerialTo> for Serial {
    fn from(to: SerialTo) -> Self {
        Self { to, append: false, hold: false }
    }
}

/// The pages that back guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum HugePages {
    /// The host's default.
    #[default]
    None,
    /// Transparent huge pages, where the host has free ones at first use.
    #[serde(skip)]
    Transparent,
    /// Pages of 2 MiB from the host's reserved pool.
    #[serde(rename = "2M")]
    Reserved,
}

impl HugePages {
    /// Checks that the memory is whole pages.
    ///
    /// # Errors
    /// The fault as text, without the name of the flag.
    pub fn check(self, memory: u64) -> Result<(), String> {
        match self {
            Self::Reserved if !memory.is_multiple_of(2 << 20) => {
                Err(format!("{memory} bytes are not a multiple of 2M"))
            }
            _ => Ok(()),
        }
    }
}

/// What virtio devices are attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bus {
    /// MMIO for a kernel that is given, PCI for what the firmware boots.
    #[default]
    Auto,
    /// virtio-mmio windows.
    Mmio,
    /// A PCI bus.
    Pci,
}

/// What a guest's reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// The same VM starts again in place.
    Restart,
    /// The process ends.
    Exit,
}

/// How long the pages that a restored guest touches are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until it writes the boot marker, again.
    Marker,
    /// For this time.
    Passed(Duration),
}

/// What follows a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// The VM resumes.
    #[default]
    Resume,
    /// The process ends.
    Exit,
}

/// A snapshot that a VM is restored from, instead of booting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The state file, which says how many processors there are.
    pub state: PathBuf,
    /// The memory file, or the socket of the process that serves missing pages over
    /// userfaultfd.
    pub memory: PathBuf,
    /// It is the socket.
    pub paged: bool,
    /// The file of the pages to load ahead of the guest, if it exists.
    pub working_set: Option<PathBuf>,
    /// Check all of the memory against its checksum.
    pub verify: bool,
    /// The VM starts paused.
    pub paused: bool,
}

/// Which drives a VM without a kernel boots from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BootFrom {
    /// CD-ROMs and then disks; after a reset of the guest's own disks first,
    /// as if the CD had been taken out: an installer's work is done then.
    #[default]
    Usual,
    /// CD-ROMs alone.
    CdRom,
    /// Disks alone.
    Disk,
    /// The drive with this identity alone.
    Drive(String),
}

/// Everything a VM is made of.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// The config file.
    pub config_file: Option<PathBuf>,
    /// A snapshot in the place of everything to boot from.
    pub restore: Option<Restore>,
    /// The kernel file.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk, if any.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; `None` means Mote's default.
    pub cmdline: Option<String>,
    /// Which drives to boot from if there is no kernel.
    pub boot: BootFrom,
    /// The entry to boot of those that a medium offers: its number from 1,
    /// its title or its identity.
    pub boot_entry: Option<String>,
    /// Drives, in the order in which the guest finds them.
    pub drives: Vec<Drive>,
    /// Network interfaces, behind the drives.
    pub nics: Vec<Nic>,
    /// What the devices are attached to.
    pub bus: Bus,
    /// Name the devices on the kernel's command line, for one without ACPI.
    pub cmdline_devices: bool,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Its pages.
    pub huge_pages: HugePages,
    /// Allocate all memory before the guest runs.
    pub prefault: bool,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// The serial console.
    pub serial: Serial,
    /// What a reset does; `None` means [restart](OnReset::Restart).
    pub on_reset: Option<OnReset>,
    /// How long a guest may take to shut down when a signal asks for the end.
    pub graceful: Option<Duration>,
    /// Its devices may be changed while it runs, by a control API.
    pub changes: bool,
    /// The directory for a snapshot, taken when the guest writes the boot marker.
    pub snapshot: Option<PathBuf>,
    /// Which memory the snapshot holds.
    pub kind: SnapshotKind,
    /// What follows it.
    pub then: Then,
    /// Track dirty pages, for diff snapshots.
    pub track_dirty_pages: bool,
    /// Record which pages the guest touches first, for later restores.
    pub record: Option<(PathBuf, Until)>,
    /// Print where start-up time went when the VM ends.
    pub timings: bool,
    /// A descriptor of `/dev/kvm` that the caller opened.
    pub kvm_fd: Option<RawFd>,
    /// A descriptor to write a line to when the guest is about to run.
    pub ready_fd: Option<RawFd>,
    /// How the process is confined.
    pub sandbox: Policy,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            config_file: None,
            restore: None,
            kernel: None,
            initrd: None,
            cmdline: None,
            boot: BootFrom::default(),
            boot_entry: None,
            drives: Vec::new(),
            nics: Vec::new(),
            bus: Bus::Auto,
            cmdline_devices: false,
            memory: DEFAULT_MEMORY,
            huge_pages: HugePages::None,
            prefault: false,
            cpus: 1,
            serial: SerialTo::Stdio.into(),
            on_reset: None,
            graceful: None,
            changes: false,
            snapshot: None,
            kind: SnapshotKind::Full,
            then: Then::Resume,
            track_dirty_pages: false,
            record: None,
            timings: false,
            kvm_fd: None,
            ready_fd: None,
            sandbox: Policy::default(),
        }
    }
}

impl VmConfig {
    /// Every file that is read, and what it is.
    pub fn inputs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let own = [
            ("config file", &self.config_file),
            ("kernel", &self.kernel),
            ("initrd", &self.initrd),
        ];
        let own = own.map(|(what, path)| (what, path.as_deref()));
        let saved = self.restore.as_ref().map_or([None; 3], |saved| {
            let set = saved.working_set.as_deref();
            [Some(&*saved.state), Some(&*saved.memory), set]
        });
        let saved = saved.map(|path| ("snapshot", path));
        let drives = self.drives.iter().map(|drive| match drive.media {
            Media::CdRom => ("CD-ROM", Some(&*drive.path)),
            Media::Disk => ("disk", Some(&*drive.path)),
        });
        let all = own.into_iter().chain(saved).chain(drives);
        all.filter_map(|(what, path)| Some((what, path?)))
    }

    /// Whether the devices are PCI functions.
    pub fn is_pci(&self) -> bool {
        match self.bus {
            Bus::Auto => self.kernel.is_none(),
            bus => bus == Bus::Pci,
        }
    }

    /// Checks that there is something to boot, and nothing said that has no
    /// meaning for it.
    ///
    /// # Errors
    /// The fault as text.
    pub fn check_boot(&self) -> Result<(), String> {
        if self.restore.is_some() {
            return Ok(());
        }
        let has = |media| self.drives.iter().any(|drive| drive.media == media);
        let words = self.cmdline.iter().flat_map(|text| text.split_whitespace());
        let devices = self.drives.len() + self.nics.len();
        if self.is_pci() && devices > 0 && words.into_iter().any(|word| word == "pci=off") {
            let why = "the kernel's command line has pci=off, which hides the devices of a PCI \
                       bus: remove it, or use --bus mmio";
            return Err(why.to_owned());
        }
        if self.kernel.is_some() {
            return match (&self.boot, &self.boot_entry) {
                (BootFrom::Usual, None) => Ok(()),
                _ => Err("--boot and --boot-entry cannot be combined with --kernel".to_owned()),
            };
        }
        if self.drives.is_empty() {
            let why = "nothing to boot; use --cdrom FILE, --disk PATH or --kernel FILE, \
                       or try 'mote demo'";
            return Err(why.to_owned());
        }
        if self.initrd.is_some() || self.cmdline.is_some() || self.cmdline_devices {
            let why = "--initrd, --cmdline and --cmdline-devices need --kernel: \
                       a medium has its own";
            return Err(why.to_owned());
        }
        match &self.boot {
            BootFrom::CdRom if !has(Media::CdRom) => Err("--boot: no CD-ROM is given".to_owned()),
            BootFrom::Disk if !has(Media::Disk) => Err("--boot: no disk is given".to_owned()),
            BootFrom::Drive(id) if !self.drives.iter().any(|drive| drive.id == *id) => {
                Err(format!("--boot: no drive '{id}' is given"))
            }
            _ => Ok(()),
        }
    }
}

/// Parses the value of `--serial`.
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn parse_serial(text: &str) -> Result<Serial, String> {
    let parts = options(text)?;
    let (to, words) = parts.split_first().map_or(("", &[][..]), |(to, words)| (to, words));
    let to = match to.split_once(':') {
        Some(("file", path)) => SerialTo::File(check_path(path)?),
        Some(("socket", path)) => SerialTo::Socket(check_socket(path)?),
        None if to == "stdio" => SerialTo::Stdio,
        None if to == "pty" => SerialTo::Pty,
        None if to == "none" => SerialTo::None,
        _ => return Err(format!("'{to}' is not one of stdio, file:PATH, pty, socket:PATH, none")),
    };
    let (mut append, mut hold) = (false, false);
    for word in words {
        match word.as_str() {
            "append" => append = true,
            "hold" => hold = true,
            _ => {
                let why = "is neither append nor hold; a comma in a path is written twice";
                return Err(format!("'{word}' {why}"));
            }
        }
    }
    if append && !matches!(to, SerialTo::File(_)) {
        return Err(format!("'{text}': only a file can be appended to"));
    }
    if hold && to == SerialTo::None {
        return Err(format!("'{text}': hold cannot be combined with none"));
    }
    Ok(Serial { to, append, hold })
}

/// Checks a set of devices: their number, and that no drive's identity and no
/// interface's tap is there twice.
///
/// # Errors
/// The fault as text.
pub fn check_devices(drives: &[Drive], nics: &[Nic]) -> Result<(), String> {
    let count = drives.len() + nics.len();
    if count > MAX_DEVICES {
        return Err(format!("{count} devices; a VM has at most {MAX_DEVICES}"));
    }
    for (index, drive) in drives.iter().enumerate() {
        if drives.iter().skip(index + 1).any(|other| other.id == drive.id) {
            return Err(format!("two drives have the id '{}'", drive.id));
        }
    }
    for (index, nic) in nics.iter().enumerate() {
        if nics.iter().skip(index + 1).any(|other| other.tap == nic.tap) {
            return Err("two interfaces have the same tap".to_owned());
        }
    }
    Ok(())
}

/// Checks that no descriptor that was passed in, `api` the API's among them, is
/// to be two things.
///
/// # Errors
/// A text that says which.
pub fn check_descriptors(config: &VmConfig, api: Option<RawFd>) -> Result<(), String> {
    let taps = config.nics.iter().map(|nic| match nic.tap {
        TapSource::Fd(fd) => ("tap-fd", Some(fd)),
        TapSource::Name(_) => ("tap-fd", None),
    });
    let own = [("--api-fd", api), ("--kvm-fd", config.kvm_fd), ("--ready-fd", config.ready_fd)];
    let mut seen: Vec<(&str, RawFd)> = Vec::new();
    for (what, fd) in own.into_iter().chain(taps) {
        let Some(fd) = fd else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, number)| *number == fd) {
            return Err(format!("{other} and {what} are both descriptor {fd}"));
        }
        seen.push((what, fd));
    }
    Ok(())
}

/// Checks for how many microseconds a worker may busy-poll.
fn check_poll(us: u64) -> Result<u16, String> {
    let within = u16::try_from(us).ok().filter(|us| *us <= MAX_POLL_US);
    within.ok_or_else(|| format!("{us}: not 0 to {MAX_POLL_US} microseconds"))
}

fn parse_poll(text: &str) -> Result<u16, String> {
    let us = text.parse().map_err(|_| format!("'{text}' is not a number"));
    check_poll(us?).map_err(|why| format!("poll_us={why}"))
}
