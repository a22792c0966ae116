//! The boot firmware: what runs in a virtual machine that was given no kernel.
//!
//! It looks for an operating system on the drives, as a computer's firmware
//! does, loads its kernel and enters it. It is a guest program like any other:
//! all that is on a disk is parsed in here (`mote_firmware`), in ring 3, and
//! whatever a hostile image breaks, it breaks inside its own machine.
//!
//! The monitor loads it below 640 KiB and hands it lines of text as its
//! command line, in this order of boot:
//!
//! ```text
//! drive WINDOW cdrom|disk ID    a drive: the number of its register window
//! entry NAME                    the boot entry's number, title or identity
//! terminal                      somebody sits at the console
//! cdrom ID                      a CD-ROM drive that a CD's system is told of
//! ```
//!
//! Boot parameters (memory map, ACPI) are handed on to the kernel as they are.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "boot/clock.rs"]
mod clock;
#[path = "boot/drive.rs"]
mod drive;
#[path = "boot/heap.rs"]
mod heap;

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mote_firmware::boot::{Machine, Options, boot};
use mote_firmware::disk::{Cached, Disk};
use mote_firmware::kernel::{Entry, HIGH_RAM};
use mote_firmware::volume;
use rt::{Boot, Region, machine, memory, print, read_byte};

/// Kernel command line, where the monitor puts it as well.
const CMDLINE: u32 = 0x2_0000;
/// PVH's start information, as well.
const PVH_INFO: u32 = 0x6000;
/// The page that the monitor keeps over a reset, and that no memory map names.
const KEPT: u32 = 0xd_f000;
/// Most bytes of memory for the firmware's own data.
const HEAP: u64 = 16 << 20;

#[unsafe(no_mangle)]
fn main(params: &Boot) {
    let low = params.regions().find(|region| region.is_ram() && region.start == HIGH_RAM);
    let end = low.as_ref().map_or(0, Region::end);
    // At the end of low memory, where nothing is needed before a kernel runs.
    let heap = HEAP.min((end - HIGH_RAM.min(end)) / 4) & !4095;
    heap::give(end - heap, heap);
    let said = Said::parse(params.cmdline(), end - heap);
    let mut pc = Pc { ram_end: end - heap, khz: said.khz };
    let start = boot(&said.drives, &said.options, &mut pc);
    for window in &said.windows {
        rt::blk::reset(*window);
    }
    let Some(start) = start else {
        machine::give_up();
    };
    // SAFETY: the command line's place, which is used by nothing else; what
    // was read from there has been copied.
    let line = unsafe { memory::bytes_mut(CMDLINE.into(), start.cmdline.len() + 1) };
    if let Some((end, text)) = line.split_last_mut() {
        text.copy_from_slice(start.cmdline.as_bytes());
        *end = 0;
    }
    // SAFETY: the same holds for the page of the boot parameters.
    let page = unsafe { memory::bytes_mut(params.params(), 4096) };
    match start.entry {
        Entry::Linux(entry) => {
            start.complete(page, CMDLINE);
            // SAFETY: the firmware writes to none of the monitor's tables, and
            // all drives have been reset.
            unsafe { rt::enter(entry, params.params()) }
        }
        Entry::Pvh(entry) => {
            let info = start.pvh(page, PVH_INFO.into(), CMDLINE);
            // SAFETY: the place that the monitor has for it, up to the boot
            // parameters, is used by nothing else.
            let place = unsafe { memory::bytes_mut(PVH_INFO.into(), 4096) };
            place.iter_mut().zip(info).for_each(|(to, from)| *to = from);
            // SAFETY: as for `enter`.
            unsafe { rt::enter_pvh(entry, PVH_INFO) }
        }
    }
}

/// What the monitor said.
struct Said {
    drives: Vec<volume::Drive>,
    windows: Vec<u64>,
    options: Options,
    khz: u64,
}

impl Said {
    fn parse(text: &[u8], ram_end: u64) -> Self {
        let options = Options { ram_end, ..Options::default() };
        let (drives, windows) = (Vec::new(), Vec::new());
        let mut said = Self { drives, windows, options, khz: clock::tsc_khz() };
        for line in String::from_utf8_lossy(text).lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "drive" => said.drive(value),
                "entry" => said.options.entry = Some(value.to_string()),
                "terminal" => said.options.terminal = true,
                "cdrom" => said.options.cdroms.push(value.to_string()),
                _ => {}
            }
        }
        said
    }

    fn drive(&mut self, value: &str) {
        let mut fields = value.splitn(3, ' ');
        let number = fields.next().and_then(|number| number.parse::<u64>().ok());
        let (Some(number), Some(media)) = (number, fields.next()) else {
            return;
        };
        let disk = drive::Drive::start(number, self.khz);
        let disk = disk.map(|disk| Rc::new(Cached::new(disk)) as Rc<dyn Disk>);
        let id = fields.next().unwrap_or_default().to_string();
        self.windows.push(number);
        self.drives.push(volume::Drive { id, cdrom: media == "cdrom", disk });
    }
}

/// The machine that the firmware runs on.
struct Pc {
    ram_end: u64,
    khz: u64,
}

impl Machine for Pc {
    fn print(&mut self, text: &str) {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => print(format_args!("{line}\r\n")),
                None => print(format_args!("{line}")),
            }
        }
    }

    fn memory(&mut self, at: u64, len: u64) -> Option<&mut [u8]> {
        let end = at.checked_add(len)?;
        if at < HIGH_RAM || end > self.ram_end {
            return None;
        }
        // SAFETY: RAM by the memory map, above the firmware and below its
        // heap; the borrow of `self` makes it the only slice there.
        Some(unsafe { memory::bytes_mut(at, len as usize) })
    }

    fn kept(&mut self) -> &mut [u8] {
        // SAFETY: RAM that no memory map names and nothing else uses; the borrow of
        // `self` makes it the only slice there.
        unsafe { memory::bytes_mut(KEPT.into(), 4096) }
    }

    fn key(&mut self) -> Option<u8> {
        read_byte()
    }

    fn milliseconds(&mut self) -> u64 {
        rt::tsc() / self.khz
    }
}
