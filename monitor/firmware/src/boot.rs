//! From drives to a kernel that lies in memory: what is booted, and why what
//! is not booted was refused.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Error;
use crate::bytes::{le64, part, u8};
use crate::cmdline;
use crate::config::{self, Entry, uki};
use crate::disk::{Disk, File, array};
use crate::eltorito;
use crate::environment::Environment;
use crate::hint;
use crate::kernel::{self, Kernel};
pub use crate::machine::{Machine, Options};
use crate::machine::{TITLE, say, short};
use crate::menu::{Choice, choose};
use crate::volume::{Drive, Path, Volumes};

/// Reasons that are told of one drive.
const MAX_NOTES: usize = 16;

/// Offsets into the boot parameters (Linux, Documentation/arch/x86/zero-page.rst).
const HEADER: usize = 0x1f1;
const LOADER: usize = 0x210;
const RAMDISK: usize = 0x218;
const RAMDISK_LEN: usize = 0x21c;
const CMDLINE: usize = 0x228;

/// A kernel that lies in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Start {
    /// How it is entered.
    pub entry: kernel::Entry,
    /// Its command line.
    pub cmdline: String,
    /// The setup header that its boot parameters get.
    pub header: Option<Vec<u8>>,
    /// Where its initial RAM disk lies, and bytes of it.
    pub initrd: Option<(u64, u64)>,
}

impl Start {
    /// Completes boot parameters, which say what memory there is; the command
    /// line has its place already.
    pub fn complete(&self, params: &mut [u8], cmdline_at: u32) {
        let mut put = |at: usize, bytes: &[u8]| {
            let place = params.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
            if let Some(place) = place {
                place.copy_from_slice(bytes);
            }
        };
        if let Some(header) = &self.header {
            put(HEADER, header);
        }
        let (at, len) = self.initrd.unwrap_or_default();
        // 0xff: a boot loader without a number of its own.
        put(LOADER, &[0xff]);
        put(RAMDISK, &(at as u32).to_le_bytes());
        put(RAMDISK_LEN, &(len as u32).to_le_bytes());
        put(CMDLINE, &cmdline_at.to_le_bytes());
    }
}

/// `XEN_HVM_START_MAGIC_VALUE`.
const PVH_MAGIC: u32 = 0x336e_c578;
/// Bytes of PVH's start information, and of its one module.
const PVH_INFO: u64 = 56;
const PVH_MODULE: u64 = 32;
/// The memory map and the root of ACPI in the boot parameters.
const RSDP: usize = 0x70;
const MAP_LEN: usize = 0x1e8;
const MAP: usize = 0x2d0;

impl Start {
    /// PVH's start information to lie at `at`: what boot parameters say,
    /// written down in another form (Xen, public/arch-x86/hvm/start_info.h).
    pub fn pvh(&self, params: &[u8], at: u64, cmdline_at: u32) -> Vec<u8> {
        let mut info = Vec::new();
        let entries = u32::from(u8(params, MAP_LEN)).min(128);
        let modules = u32::from(self.initrd.is_some());
        for word in [PVH_MAGIC, 1, 0, modules] {
            info.extend(word.to_le_bytes());
        }
        let module_at = at + PVH_INFO;
        let map_at = module_at + PVH_MODULE;
        for address in [module_at, cmdline_at.into(), le64(params, RSDP), map_at] {
            info.extend(address.to_le_bytes());
        }
        info.extend(u64::from(entries).to_le_bytes());
        let (initrd, len) = self.initrd.unwrap_or_default();
        for number in [initrd, len, 0, 0] {
            info.extend(number.to_le_bytes());
        }
        for entry in part(params, MAP, 20 * entries as usize).chunks_exact(20) {
            info.extend_from_slice(entry);
            info.extend([0; 4]);
        }
        info
    }
}

/// Boots the first drive that can be: `None` if there is none, which has been
/// told on the console by then.
pub fn boot(drives: &[Drive], options: &Options, machine: &mut dyn Machine) -> Option<Start> {
    let mut volumes = Volumes::default();
    volumes.environment = Environment::parse(machine.kept());
    // Why something of a drive is not booted.
    let mut notes: Vec<(usize, String)> = Vec::new();
    let (mut disks, mut cdroms) = (0, 0);
    for (index, drive) in drives.iter().enumerate() {
        let (name, number) = if drive.cdrom { ("cd", &mut cdroms) } else { ("hd", &mut disks) };
        let device = format!("{name}{number}");
        volumes.add(index, drive, &device, &mut |note| notes.push((index, note)));
        *number += 1;
    }
    let mut clean = true;
    for (index, drive) in drives.iter().enumerate() {
        for volume in 0..volumes.list.len() {
            let Some(found) = volumes.list.get(volume).filter(|found| found.drive == index) else {
                continue;
            };
            let place = format!("{} ({})", found.device, found.fs.name());
            let count = notes.len();
            let mut note = |why: &str| notes.push((index, format!("{place}: {why}")));
            let Some(config) = config::find(&mut volumes, volume, &mut |why| note(&why)) else {
                if notes.len() == count {
                    notes.push((index, format!("{place}: no boot configuration")));
                }
                continue;
            };
            let entry = match choose(&config, drive, options, machine) {
                Choice::Entry(number) => config.entries.get(number),
                Choice::Missing => None,
                Choice::End => {
                    say(machine, "mote: nothing is booted: Ctrl-C was pressed in the menu\n");
                    return None;
                }
            };
            let Some(entry) = entry else {
                note(&format!("{}: no such entry", config.source));
                continue;
            };
            for (_, refused) in notes.iter().skip(count).take(MAX_NOTES) {
                say(machine, &format!("mote: {}: {refused}\n", drive.id));
            }
            say(machine, &format!("mote: {}: {}\n", drive.id, short(&entry.title, TITLE)));
            let start = open(&volumes, entry, drive, options).and_then(|system| {
                let start = load(&system, options.ram_end, machine, &mut clean);
                let kernel = entry.kernel.as_ref().map_or("", |kernel| &kernel.path);
                start.map_err(|why| format!("{kernel}: {why}"))
            });
            match start {
                Ok(start) => {
                    let saves = [&config.saves[..], &entry.saves].concat();
                    volumes.environment.save(saves, machine.kept());
                    return Some(start);
                }
                Err(why) => {
                    let why = format!(
                        "{place}: {}: {}: {why}",
                        config.source,
                        short(&entry.title, TITLE)
                    );
                    say(machine, &format!("mote: {}: {why}\n", drive.id));
                    notes.push((index, why));
                }
            }
        }
    }
    tell(drives, &notes, options, machine);
    None
}

/// Whether a medium has code for a PC's firmware: an active partition behind a
/// master boot record with code, or El Torito's boot record (El Torito 1.0, 2.0).
fn has_loader(disk: &dyn Disk) -> bool {
    let mbr = array::<512>(disk, 0).is_ok_and(|raw| {
        let states = [446, 462, 478, 494].map(|at| u8(&raw, at));
        part(&raw, 510, 2) == [0x55, 0xaa]
            && u8(&raw, 0) != 0
            && states.iter().all(|state| matches!(state, 0 | 0x80))
            && states.contains(&0x80)
    });
    mbr || eltorito::catalog(disk).is_some()
}

/// Says what was looked at and why it was refused.
fn tell(drives: &[Drive], notes: &[(usize, String)], options: &Options, machine: &mut dyn Machine) {
    let what = match &options.entry {
        Some(name) => format!("no entry '{}' to boot", short(name, TITLE)),
        None => "nothing to boot".to_string(),
    };
    say(machine, &format!("mote: there is {what}\n"));
    for (index, drive) in drives.iter().enumerate() {
        for (_, note) in notes.iter().filter(|note| note.0 == index).take(MAX_NOTES) {
            say(machine, &format!("  {}: {note}\n", drive.id));
        }
        if drive.disk.as_ref().is_ok_and(|disk| has_loader(&**disk)) {
            let why = "its own boot loader cannot run here: that needs a BIOS or UEFI";
            say(machine, &format!("  {}: {why}\n", drive.id));
        }
    }
    if drives.is_empty() {
        say(machine, "  no drive to boot from\n");
    }
}

/// What an entry boots.
struct System {
    kernel: File,
    initrds: Vec<File>,
    /// What follows the initial RAM disks.
    hint: Vec<u8>,
    cmdline: String,
}

/// Opens an entry's kernel and initial RAM disks, or those of a unified image.
fn open(
    volumes: &Volumes,
    entry: &Entry,
    drive: &Drive,
    options: &Options,
) -> Result<System, String> {
    if let Some(flaw) = &entry.flaw {
        return Err(flaw.clone());
    }
    let at = |path: &Path, why: Error| format!("{}: {why}", path.path);
    let path = entry.kernel.as_ref().ok_or("no kernel")?;
    let mut cmdline = entry.cmdline.clone();
    let (kernel, mut initrds) = match uki::open(volumes, path).map_err(|why| at(path, why))? {
        Some(unified) => {
            if cmdline.is_empty() {
                cmdline = unified.cmdline;
            }
            cmdline = format!("{}{}", cmdline.trim_end(), unified.more);
            (unified.kernel, unified.initrds)
        }
        None => (volumes.open(path).map_err(|why| at(path, why))?, Vec::new()),
    };
    for path in &entry.initrds {
        initrds.push(volumes.open(path).map_err(|why| at(path, why))?);
    }
    // A kernel without an initial RAM disk gets none.
    let told = drive.cdrom && !options.cdroms.is_empty() && !initrds.is_empty();
    let hint = if told { hint::archive(&options.cdroms, &drive.id) } else { Vec::new() };
    Ok(System { kernel, initrds, hint, cmdline })
}

/// Puts a system's kernel and initial RAM disks into memory.
fn load(
    system: &System,
    ram_end: u64,
    machine: &mut dyn Machine,
    clean: &mut bool,
) -> Result<Start, Error> {
    let kernel = Kernel::open(&system.kernel, ram_end)?;
    let cmdline = with_console(&system.cmdline);
    if cmdline.len() > kernel.cmdline_max {
        return Err(Error::TooLarge("command line"));
    }
    // Each begins at a multiple of 4 bytes, as the kernel expects.
    let hint = system.hint.len() as u64;
    let lens = system.initrds.iter().map(File::len).chain([hint]);
    let len = lens.fold(0, |sum: u64, len| sum.saturating_add(len).saturating_add(3) & !3);
    let begins = match len {
        0 => None,
        len => Some((kernel.place_initrd(len, ram_end)?, len)),
    };
    let was_clean = core::mem::replace(clean, false);
    for load in &kernel.loads {
        read(&load.file, load.at, machine)?;
        if !was_clean {
            // Memory is zero after power-on; a kernel that failed was here.
            let rest = machine.memory(load.at + load.file.len(), load.zeroes);
            rest.ok_or(Error::NoRoom("kernel", load.zeroes))?.fill(0);
        }
    }
    if let Some((mut at, _)) = begins {
        for initrd in &system.initrds {
            read(initrd, at, machine)?;
            at += initrd.len();
            let pad = at.next_multiple_of(4) - at;
            let padding = machine.memory(at, pad);
            padding.ok_or(Error::NoRoom("initrd", pad))?.fill(0);
            at += pad;
        }
        let end = machine.memory(at, hint).ok_or(Error::NoRoom("initrd", hint))?;
        end.copy_from_slice(&system.hint);
    }
    Ok(Start { entry: kernel.entry, cmdline, header: kernel.header, initrd: begins })
}

/// Reads a file to an address.
fn read(file: &File, at: u64, machine: &mut dyn Machine) -> Result<(), Error> {
    let memory = machine.memory(at, file.len());
    file.read(0, memory.ok_or(Error::NoRoom("kernel or initrd", file.len()))?)
}

/// Adds the serial console, the only one of the machine, unless it is there.
fn with_console(cmdline: &str) -> String {
    const CONSOLE: &str = "console=ttyS0";
    let there = |word: &str| {
        let rest = word.strip_prefix(CONSOLE);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
    };
    let mut words = cmdline.split_whitespace().take_while(|word| *word != "--");
    if words.any(there) {
        return cmdline.to_string();
    }
    cmdline::insert(cmdline, CONSOLE)
}

#[cfg(test)]
#[path = "boot_test.rs"]
mod boot_test;
