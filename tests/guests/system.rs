//! An operating system of one file that comes on a CD-ROM. Booted with
//! `do=install` it writes its initial RAM disk, the image of an installed
//! system, to the disk in window `disk=N` and resets the machine. Booted from
//! there (`do=run`) it says so, and powers off. `do=look` says what the boot
//! loader told it, `do=tail` prints its initial RAM disk from the byte `from=N` in hex,
//! `do=restart` only resets the machine.
#![no_std]
#![no_main]

use rt::blk::{Blk, SECTOR, Shared};
use rt::{Boot, fail, machine, println};

/// Ticks of the time-stamp counter: some seconds.
const TIMEOUT: u64 = 20_000_000_000;
/// Bytes of one write.
const STEP: usize = 1 << 20;

static mut SHARED: Shared = Shared::new();

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let cmdline = core::str::from_utf8(boot.cmdline()).unwrap_or("?");
    println(format_args!("cmdline: {cmdline}"));
    println(format_args!("initrd: {} bytes", boot.initrd().len()));
    match boot.option("do") {
        Some("install") => install(boot),
        Some("run") => println(format_args!("This is the installed system.")),
        Some("look") => look(boot),
        Some("tail") => tail(boot),
        Some("restart") => machine::reset(machine::Reset::Acpi),
        other => fail(format_args!("do={other:?}: nothing to do")),
    }
}

fn install(boot: &Boot) {
    let window = boot.option("disk").and_then(|number| number.parse().ok());
    let window = window.unwrap_or_else(|| fail(format_args!("disk=: which one?")));
    // SAFETY: the one reference to it, taken once.
    let shared = unsafe { &mut *(&raw mut SHARED) };
    let Ok(disk) = Blk::start(window, shared, TIMEOUT) else {
        fail(format_args!("there is no disk in window {window}"));
    };
    let image = boot.initrd();
    let mut sector = 0;
    for part in image.chunks(STEP) {
        let whole = part.len() / SECTOR * SECTOR;
        if whole != part.len() || disk.write(sector, part).is_err() {
            fail(format_args!("sector {sector} cannot be written"));
        }
        sector += (whole / SECTOR) as u64;
    }
    if disk.flush().is_err() {
        fail(format_args!("the disk cannot be flushed"));
    }
    println(format_args!("{sector} sectors installed"));
    machine::reset(machine::Reset::Acpi);
}

fn tail(boot: &Boot) {
    let from = boot.option("from").and_then(|number| number.parse().ok());
    let from = from.unwrap_or_else(|| fail(format_args!("from=: where?")));
    for part in boot.initrd().get(from..).unwrap_or_default().chunks(8) {
        let word = part.iter().fold(0, |word: u64, byte| word << 8 | u64::from(*byte));
        println(format_args!("tail: {word:0width$x}", width = 2 * part.len()));
    }
}

/// Sums of the initial RAM disk and of the memory map, to be compared.
fn look(boot: &Boot) {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let sum = boot.initrd().iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    println(format_args!("initrd sum: {sum:#x}"));
    for region in boot.regions() {
        println(format_args!("region {:#x} {:#x} {}", region.start, region.len, region.kind));
    }
    println(format_args!("rsdp: {:#x}, CPUs: {}", boot.rsdp(), boot.cpus().count()));
}
