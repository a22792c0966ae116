//! Fills memory, writes the boot marker in the middle of a line, and shows that
//! all is as it was: `hash H` before and `again H` behind it. Then it obeys bytes
//! from the serial port, woken by interrupts: `m` writes the marker again and
//! prints the hash, `w` and `z` change words all over memory, `d` reads the disk's next
//! sector, `q` powers off, any other is answered by `got`. With a disk it
//! writes a sector before the marker, and reads it behind it. `g` prints its generation
//! ID and how often it was told of another one.
#![no_std]
#![no_main]

use rt::blk::{Blk, Shared};
use rt::irq::{self, Trigger};
use rt::{Boot, Region, fail, machine, paging, port, print, println, read_byte};

const VECTOR: u8 = 0x40;
/// The generation ID and its interrupt (see the DSDT).
const GENERATION: *const u128 = 0xf_f000 as *const u128;
const GENERATION_GSI: u32 = 6;
const GENERATION_VECTOR: u8 = 0x41;
/// COM1's interrupt enable and modem control registers; see `echo_irq`.
const INTERRUPT_ENABLE: u16 = machine::COM1 + 1;
const RECEIVED: u8 = 1;
const MODEM_CONTROL: u16 = machine::COM1 + 4;
const OPEN: u8 = 0b1011;
const MARKER: u16 = 0x604;
const MARK: u8 = 123;
/// From here up nothing is the program's or the loader's.
const FREE: u64 = 4 << 20;
/// Bytes between two words that are written.
const STRIDE: usize = 1 << 20;
/// Ticks that a disk may take.
const TIMEOUT: u64 = 100_000_000_000;

static mut SHARED: Shared = Shared::new();

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    for region in boot.regions().filter(Region::is_ram) {
        if paging::map(region.start, region.len).is_err() {
            fail(format_args!("{:#x} cannot be mapped", region.start));
        }
    }
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    irq::route(GENERATION_GSI, GENERATION_VECTOR, Trigger::Edge);
    port::out8(MODEM_CONTROL, OPEN);
    port::out8(INTERRUPT_ENABLE, RECEIVED);
    for address in words(boot) {
        *word(address) = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    let disk = boot.option("disk").map(|_| {
        // SAFETY: the one place that takes it.
        let shared = unsafe { &mut *(&raw mut SHARED) };
        Blk::start(0, shared, TIMEOUT).unwrap_or_else(|_| fail(format_args!("no disk")))
    });
    let mut sector = [0x5a; 512];
    if let Some(disk) = &disk {
        if disk.write(7, &sector).is_err() {
            fail(format_args!("the disk cannot be written"));
        }
    }
    println(format_args!("hash {:016x}", hash(boot)));
    print(format_args!("half a"));
    port::out8(MARKER, MARK);
    println(format_args!(" line"));
    println(format_args!("again {:016x}", hash(boot)));
    if let Some(disk) = &disk {
        sector.fill(0);
        if disk.read(7, &mut sector).is_err() || sector != [0x5a; 512] {
            fail(format_args!("the disk does not answer as before"));
        }
        println(format_args!("disk ok"));
    }
    let mut turn = 0;
    loop {
        irq::wait();
        while let Some(byte) = read_byte() {
            match byte {
                b'm' => {
                    port::out8(MARKER, MARK);
                    println(format_args!("marked {:016x}", hash(boot)));
                }
                b'g' => {
                    // SAFETY: in the first GiB, which is mapped; nobody writes it while this guest runs.
                    let id = unsafe { GENERATION.read_volatile() };
                    let told = irq::count(GENERATION_VECTOR);
                    println(format_args!("generation {id:032x} told {told}"));
                }
                b'w' | b'z' => {
                    for address in words(boot) {
                        let old = *word(address);
                        *word(address) = if byte == b'w' { old.wrapping_mul(3) } else { 0 };
                    }
                    println(format_args!("changed {:016x}", hash(boot)));
                }
                b'd' => {
                    let Some(disk) = &disk else { continue };
                    let done = disk.read(turn, &mut sector);
                    turn += 1;
                    println(format_args!("sector {} {}", sector[0], done.is_ok()));
                }
                b'q' => return,
                _ => println(format_args!("got {byte}")),
            }
        }
    }
}

/// Addresses all over memory.
fn words(boot: &Boot) -> impl Iterator<Item = u64> + use<> {
    let free = |region: Region| (region.start.max(FREE)..region.end()).step_by(STRIDE);
    boot.regions().filter(Region::is_ram).flat_map(free)
}

fn word(address: u64) -> &'static mut u64 {
    // SAFETY: RAM that the memory map offers, `main` has mapped and nothing
    // else uses; no two of these references live at the same time.
    unsafe { &mut *(address as *mut u64) }
}

fn hash(boot: &Boot) -> u64 {
    words(boot).fold(0xcbf2_9ce4_8422_2325, |hash, address| {
        let word = core::hint::black_box(*word(address));
        (hash ^ word).wrapping_mul(0x100_0000_01b3)
    })
}
