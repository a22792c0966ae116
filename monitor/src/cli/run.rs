//! `mote run` and `mote restore`.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;
use mote_snapshot::working_set::WORKING_SET;

use super::flags::{
    Asked, MAX_GRACE, argument, descriptor, landlock, named, number, on_reset, once, path, policy,
    seccomp, seconds, text,
};
use crate::config::{
    self, BootFrom, Bus, Drive, HugePages, Media, Mode, Nic, OnNoSpace, OnReset, Restore,
    SnapshotKind, Then, Until, VmConfig,
};
use crate::error::Error;

/// `mote run --help`.
pub const RUN_HELP: &str = "\
Boot a virtual machine from a CD-ROM, a disk or a kernel file.

Usage: mote run --cdrom FILE --disk PATH,size=8G,create [OPTIONS]
       mote run --disk PATH [OPTIONS]
       mote run --kernel FILE [OPTIONS]
       mote run --config FILE [OPTIONS]

Options:
  --kernel FILE    Kernel: vmlinux (ELF), bzImage, or an ELF with a PVH note
  --initrd FILE    Initial RAM disk
  --disk PATH[,ro][,id=ID][,size=8G,create][,direct][,threads=N][,poll_us=N]
             [,bw=10M][,ops=1000][,block-size=N]
                   A disk in a raw image or on a block device; may be given
                   more than once. bw and ops limit its bytes and requests per
                   second. Blocks have 512 bytes, whatever the host's have. A
                   comma in PATH is written twice
  --cdrom PATH     A CD-ROM image, opened read-only. The guest finds CD-ROMs
                   after all disks
  --net tap=NAME[,mac=MAC][,mtu=BYTES][,poll_us=N][,bw=10M][,ops=1000]
                   A network interface on a host's TAP, or tap-fd=N. bw
                   and ops limit bytes and frames per second in each direction,
                   or in one: rx-bw, rx-ops, tx-bw, tx-ops
  --boot WHAT      Boot only from this: cdrom, disk or a drive's id  [default:
                   CD-ROMs, then disks; after the guest's reset, disks first]
  --boot-entry E   Boot this entry of the boot menu, or end with code 8: its
                   number, title, id, place (1>2) or a title's unique beginning
  --no-cdrom-hint  Do not tell a system that boots from a CD-ROM which drives
                   are CD-ROMs (by udev rules behind its initial RAM disks)
  --cmdline TEXT   Kernel command line, instead of Mote's default
  --cmdline-devices  Name the devices on it, for kernels without ACPI
  --bus WHAT       Attach devices by mmio, by pci, or auto: mmio with --kernel,
                   else pci                              [default: auto]
  --memory SIZE    Guest memory: 128M, 1G, plain bytes   [default: 128M]
  --hugepages WHAT Back guest memory with 2 MiB pages: thp (transparent, where
                   the host has them) or 2M (the reserved pool)
  --prefault       Allocate all guest memory before the guest runs
  --cpus N         vCPUs, 1 to 32                        [default: 1]
  --serial WHERE   stdio, file:PATH, pty, socket:PATH or none  [default: stdio].
                   A file is replaced, unless it is file:PATH,append. With ,hold
                   output waits for a slow reader; without, it is lost
  --on-enospc WHAT When the host's disk is full: pause guest writes until there
                   is space, or fail them (error)         [default: pause]
  --on-reset WHAT  restart in place, or exit with code 7  [default: restart]
  --graceful SECONDS  On SIGTERM press the guest's ACPI power button, and end
                   the VM after SECONDS, or if it has no driver for the button;
                   a second signal ends it at once
  --snapshot DIR   When the guest writes the boot marker, save the VM into the
                   directory DIR, which is made if it is missing
  --then WHAT      After that: resume or exit             [default: resume]
  --config FILE    Read Firecracker's config JSON; flags take precedence
  --seccomp WHAT   On a disallowed system call: kill the VM, or only log the
                   call (for debugging)                   [default: kill]
  --require-landlock N  Start only if the kernel has Landlock ABI N or later
  --no-sandbox     Turn the sandbox off; for debugging only
  --kvm-fd N       /dev/kvm is descriptor N, opened by the caller
  --ready-fd N     Write a line to descriptor N when the guest is about to run
  --timings        Print at the end where start-up time went, in microseconds
  -h, --help       Show this help

On a terminal, Ctrl-A x leaves the VM and Ctrl-A h shows the other keys.
";

/// `mote restore --help`.
pub const RESTORE_HELP: &str = "\
Restore a VM from a snapshot, any number of times from the same one: guest
memory is mapped from its file copy-on-write.

Usage: mote restore DIR [OPTIONS]

Give disks, CD-ROMs and network interfaces again: as many, in the same order,
with the same ids. Their files and taps may differ.

Options:
  --hugepages 2M   Copy memory into the reserved pool of huge pages: clones
                   share none of it, and no working set is used
  --prefault       Map all memory before the guest resumes
  --uffd SOCKET    Have the process that listens there serve memory: it gets a
                   userfaultfd and is asked for pages, as Firecracker does it
  --verify         Check the memory file's checksum first
  --disk, --cdrom, --net, --serial, --on-enospc, --graceful, --seccomp,
  --require-landlock, --no-sandbox, --kvm-fd, --ready-fd, --timings
                   As for 'mote run'
  --snapshot DIR, --then WHAT  As for 'mote run'
  --diff           Save only the pages changed since the snapshot that is
                   restored; 'mote merge' combines both into a full one
  --record WHEN    Record which pages the guest touches until it writes the boot
                   marker ('marker') or for a number of seconds ('2', '0.5'):
                   later restores load these pages ahead of the guest
  --no-working-set Do not load the recorded pages ahead
  -h, --help       Show this help

The guest's own reset ends it with code 7.
";

/// The flags of `run`, before the config file has filled what they left out.
#[derive(Default)]
struct Flags {
    file: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    drives: Vec<Drive>,
    nics: Vec<Nic>,
    cmdline_devices: bool,
    bus: Option<Bus>,
    cmdline: Option<String>,
    boot: Option<BootFrom>,
    boot_entry: Option<String>,
    no_cdrom_hint: bool,
    memory: Option<u64>,
    huge_pages: Option<HugePages>,
    prefault: bool,
    cpus: Option<u8>,
    serial: Option<config::Serial>,
    on_reset: Option<OnReset>,
    on_no_space: Option<OnNoSpace>,
    graceful: Option<Duration>,
    directory: Option<PathBuf>,
    restore: Option<Restore>,
    verify: bool,
    uffd: Option<PathBuf>,
    diff: bool,
    snapshot: Option<PathBuf>,
    then: Option<Then>,
    record: Option<Until>,
    no_working_set: bool,
    timings: bool,
    kvm_fd: Option<RawFd>,
    ready_fd: Option<RawFd>,
    seccomp: Option<Mode>,
    no_sandbox: bool,
    landlock: Option<u32>,
}

impl Flags {
    /// How many drives of one kind there are.
    fn count(&self, media: Media) -> usize {
        self.drives.iter().filter(|d| d.media == media).count()
    }
}

pub(super) fn parse(mut parser: lexopt::Parser, restore: bool) -> Result<Asked<VmConfig>, Error> {
    let (mut flags, mut seen) = (Flags::default(), Vec::new());
    while let Some(arg) = parser.next()? {
        let flag = match arg {
            Short('h') | Long("help") if restore => return Ok(Asked::Text(RESTORE_HELP)),
            Short('h') | Long("help") => return Ok(Asked::Text(RUN_HELP)),
            Value(path) if restore => {
                if flags.directory.replace(argument(path)?).is_some() {
                    let why = "one snapshot only: DIR is given twice";
                    return Err(Error::Arguments(why.to_owned()));
                }
                continue;
            }
            Long(name) => name.to_owned(),
            other => return Err(other.unexpected().into()),
        };
        if !["disk", "cdrom", "net"].contains(&flag.as_str()) {
            once(&mut seen, &flag)?;
        }
        match flag.as_str() {
            "kernel" => flags.kernel = Some(path(&flag, &mut parser)?),
            "initrd" => flags.initrd = Some(path(&flag, &mut parser)?),
            "config" => flags.file = Some(path(&flag, &mut parser)?),
            "boot" => flags.boot = Some(boot_from(text(&mut parser)?)),
            "boot-entry" => {
                let entry = config::check_boot_entry(text(&mut parser)?);
                flags.boot_entry = Some(named(&flag, entry)?);
            }
            "no-cdrom-hint" => flags.no_cdrom_hint = true,
            "cmdline" => flags.cmdline = Some(text(&mut parser)?),
            "memory" => {
                let size = config::parse_size(&text(&mut parser)?).and_then(config::check_memory);
                flags.memory = Some(named(&flag, size)?);
            }
            "cpus" => {
                let cpus = number(&text(&mut parser)?).and_then(config::check_cpus);
                flags.cpus = Some(named(&flag, cpus)?);
            }
            "serial" => {
                let to = config::parse_serial(&text(&mut parser)?);
                flags.serial = Some(named(&flag, to)?);
            }
            "bus" => {
                let bus = bus(&text(&mut parser)?);
                flags.bus = Some(named(&flag, bus)?);
            }
            "on-reset" => {
                let what = on_reset(&text(&mut parser)?);
                flags.on_reset = Some(named(&flag, what)?);
            }
            "on-enospc" => {
                let what = on_no_space(&text(&mut parser)?);
                flags.on_no_space = Some(named(&flag, what)?);
            }
            "disk" => {
                let number = flags.count(Media::Disk);
                let disk = config::parse_disk(&text(&mut parser)?, number);
                flags.drives.push(named(&flag, disk)?);
            }
            "cdrom" => {
                let id = format!("cdrom{}", flags.count(Media::CdRom));
                let drive = Drive::new(Media::CdRom, path(&flag, &mut parser)?, id);
                flags.drives.push(drive);
            }
            "net" => {
                let nic = config::parse_net(&text(&mut parser)?, flags.nics.len());
                flags.nics.push(named(&flag, nic)?);
            }
            "cmdline-devices" => flags.cmdline_devices = true,
            "graceful" => {
                let time = number(&text(&mut parser)?).and_then(seconds);
                flags.graceful = Some(named(&flag, time)?);
            }
            _ => process_flag(&mut flags, &flag, &mut parser, restore)?,
        }
    }
    match restore {
        true => merge_restore(flags),
        false => merge(flags).map(Asked::For),
    }
}

/// A flag that is about the process and not the machine.
fn process_flag(
    flags: &mut Flags,
    flag: &str,
    parser: &mut lexopt::Parser,
    restore: bool,
) -> Result<(), Error> {
    match flag {
        "timings" => flags.timings = true,
        "verify" if restore => flags.verify = true,
        "prefault" => flags.prefault = true,
        "hugepages" => {
            let pages = huge_pages(&text(parser)?, restore);
            flags.huge_pages = Some(named(flag, pages)?);
        }
        "uffd" if restore => {
            let socket = config::check_socket(parser.value()?);
            flags.uffd = Some(named(flag, socket)?);
        }
        "diff" if restore => flags.diff = true,
        "record" if restore => {
            let until = until(&text(parser)?);
            flags.record = Some(named(flag, until)?);
        }
        "no-working-set" if restore => flags.no_working_set = true,
        "snapshot" => flags.snapshot = Some(path(flag, parser)?),
        "then" => {
            let what = then(&text(parser)?);
            flags.then = Some(named(flag, what)?);
        }
        "kvm-fd" | "ready-fd" => {
            let number = number(&text(parser)?).and_then(descriptor);
            let to = if flag == "kvm-fd" { &mut flags.kvm_fd } else { &mut flags.ready_fd };
            *to = Some(named(flag, number)?);
        }
        "no-sandbox" => flags.no_sandbox = true,
        "seccomp" => {
            let what = seccomp(&text(parser)?);
            flags.seccomp = Some(named(flag, what)?);
        }
        "require-landlock" => {
            let least = number(&text(parser)?).and_then(landlock);
            flags.landlock = Some(named(flag, least)?);
        }
        _ => return Err(Long(flag).unexpected().into()),
    }
    Ok(())
}

/// What is in the snapshot cannot be chosen again.
fn merge_restore(mut flags: Flags) -> Result<Asked<VmConfig>, Error> {
    let chosen = [
        ("kernel", flags.kernel.is_some()),
        ("initrd", flags.initrd.is_some()),
        ("cmdline", flags.cmdline.is_some()),
        ("cmdline-devices", flags.cmdline_devices),
        ("bus", flags.bus.is_some()),
        ("boot", flags.boot.is_some()),
        ("boot-entry", flags.boot_entry.is_some()),
        ("no-cdrom-hint", flags.no_cdrom_hint),
        ("memory", flags.memory.is_some()),
        ("cpus", flags.cpus.is_some()),
        ("config", flags.file.is_some()),
        ("on-reset", flags.on_reset.is_some()),
    ];
    if let Some((flag, _)) = chosen.into_iter().find(|(_, given)| *given) {
        return Err(Error::Usage(format!("--{flag}: not for 'mote restore'")));
    }
    let directory = flags.directory.take();
    let none = || Error::Arguments("no snapshot given".to_owned());
    let directory = directory.ok_or_else(none)?;
    let verify = flags.verify;
    let record = flags.record.map(|until| (directory.clone(), until));
    if record.is_some() && flags.snapshot.is_some() {
        return Err(Error::Usage("--record: not with --snapshot".to_owned()));
    }
    if flags.diff && flags.snapshot.is_none() {
        return Err(Error::Usage("--diff: only with --snapshot".to_owned()));
    }
    let pager = flags.uffd.take();
    let paged = pager.is_some();
    let alone = [
        ("record", record.is_some()),
        ("verify", verify),
        ("hugepages", flags.huge_pages.is_some()),
    ];
    if let Some((flag, _)) = alone.into_iter().find(|(_, given)| paged && *given) {
        return Err(Error::Usage(format!("--{flag}: not with --uffd")));
    }
    let working_set = record.is_none() && !flags.no_working_set && !paged;
    flags.restore = Some(Restore {
        state: directory.join(mote_snapshot::STATE),
        memory: pager.unwrap_or_else(|| directory.join(mote_snapshot::MEMORY)),
        paged,
        working_set: working_set.then(|| directory.join(WORKING_SET)),
        verify,
        paused: false,
    });
    Ok(Asked::For(VmConfig { record, ..merge(flags)? }))
}

fn merge(flags: Flags) -> Result<VmConfig, Error> {
    let base = match &flags.file {
        Some(file) => config::read_file(file)?,
        None => VmConfig::default(),
    };
    let mut drives = base.drives;
    drives.extend(flags.drives);
    config::sort_drives(&mut drives);
    if let Some(what) = flags.on_no_space {
        drives.iter_mut().for_each(|drive| drive.on_no_space = what);
    }
    if flags.no_cdrom_hint {
        drives.iter_mut().for_each(|drive| drive.cdrom_hint = false);
    }
    let mut nics = base.nics;
    nics.extend(flags.nics);
    config::check_devices(&drives, &nics).map_err(Error::Usage)?;
    if flags.then.is_some() && flags.snapshot.is_none() {
        return Err(Error::Usage("--then: only with --snapshot".to_owned()));
    }
    if flags.cmdline_devices && flags.bus == Some(Bus::Pci) {
        let why = "--cmdline-devices cannot be combined with --bus pci, which names its devices";
        return Err(Error::Usage(why.to_owned()));
    }
    let sandbox = policy(flags.no_sandbox, flags.seccomp, flags.landlock)?;
    let kernel = flags.kernel.or(base.kernel);
    if flags.no_cdrom_hint && kernel.is_some() {
        let why = "--no-cdrom-hint cannot be combined with --kernel, which gets no hint";
        return Err(Error::Usage(why.to_owned()));
    }
    let config = VmConfig {
        config_file: flags.file,
        drives,
        nics,
        bus: flags.bus.unwrap_or_default(),
        cmdline_devices: flags.cmdline_devices || base.cmdline_devices,
        restore: flags.restore,
        kernel,
        initrd: flags.initrd.or(base.initrd),
        cmdline: flags.cmdline.or(base.cmdline),
        boot: flags.boot.unwrap_or_default(),
        boot_entry: flags.boot_entry,
        memory: flags.memory.unwrap_or(base.memory),
        huge_pages: flags.huge_pages.unwrap_or(base.huge_pages),
        prefault: flags.prefault,
        cpus: flags.cpus.unwrap_or(base.cpus),
        serial: flags.serial.unwrap_or(base.serial),
        on_reset: flags.on_reset.unwrap_or(base.on_reset),
        graceful: flags.graceful,
        changes: false,
        kind: match flags.diff {
            true => SnapshotKind::Difference,
            false => SnapshotKind::Full,
        },
        track_dirty_pages: flags.diff || base.track_dirty_pages,
        snapshot: flags.snapshot,
        then: flags.then.unwrap_or_default(),
        record: None,
        timings: flags.timings,
        kvm_fd: flags.kvm_fd,
        ready_fd: flags.ready_fd,
        sandbox,
    };
    config.check_boot().map_err(Error::Usage)?;
    let pages = config.huge_pages.check(config.memory);
    named("hugepages", pages)?;
    config::check_descriptors(&config).map_err(Error::Usage)?;
    Ok(config)
}

fn boot_from(text: String) -> BootFrom {
    match text.as_str() {
        "cdrom" => BootFrom::CdRom,
        "disk" => BootFrom::Disk,
        _ => BootFrom::Drive(text),
    }
}

fn bus(text: &str) -> Result<Bus, String> {
    match text {
        "auto" => Ok(Bus::Auto),
        "mmio" => Ok(Bus::Mmio),
        "pci" => Ok(Bus::Pci),
        _ => Err(format!("'{text}' is neither auto, mmio nor pci")),
    }
}

fn until(text: &str) -> Result<Until, String> {
    let wrong = || format!("'{text}' is neither marker nor seconds, such as 2 or 0.5");
    if text == "marker" {
        return Ok(Until::Marker);
    }
    let seconds = text.parse::<f64>().map_err(|_| wrong())?;
    let known = seconds > 0.0 && seconds <= MAX_GRACE as f64;
    known.then(|| Until::Passed(Duration::from_secs_f64(seconds))).ok_or_else(wrong)
}

fn huge_pages(text: &str, restore: bool) -> Result<HugePages, String> {
    match text {
        "2M" => Ok(HugePages::Reserved),
        "thp" if restore => Err("a snapshot is mapped in small pages, or copied (2M)".to_owned()),
        "thp" => Ok(HugePages::Transparent),
        _ => Err(format!("'{text}' is neither thp nor 2M")),
    }
}

fn then(text: &str) -> Result<Then, String> {
    match text {
        "resume" => Ok(Then::Resume),
        "exit" => Ok(Then::Exit),
        _ => Err(format!("'{text}' is neither resume nor exit")),
    }
}

fn on_no_space(text: &str) -> Result<OnNoSpace, String> {
    match text {
        "pause" => Ok(OnNoSpace::Pause),
        "error" => Ok(OnNoSpace::Error),
        _ => Err(format!("'{text}' is neither pause nor error")),
    }
}
