//! Looks at memory when it is told to: `start=` and `bytes=` (in decimal) name
//! a range, in which a kernel made by `mote_tests::kernel` has its payload.
//! Without `bytes=` it is the initial RAM disk.
//!
//! Prints `ready` and obeys bytes from the serial port: `r` reads the range and
//! prints its FNV-1a hash, `w` writes into each of its pages, `x` executes its
//! first byte, `b` resets, `q` powers off.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use rt::machine::Reset;
use rt::{Boot, fail, machine, memory, paging, println, read_byte};

const PAGE: usize = 4096;
/// Page-table entries: the address in them, and "not executable".
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const NX: u64 = 1 << 63;
/// What one entry of a page directory maps.
const LARGE_PAGE: u64 = 2 << 20;

unsafe extern "C" {
    /// Page-directory-pointer table of the first 512 GiB (tables.s).
    #[link_name = "rt_pdpt"]
    safe static PDPT: [AtomicU64; 512];
}

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let number = |name| boot.option(name).map(str::parse::<u64>);
    let range = match (number("start"), number("bytes")) {
        (Some(Ok(start)), Some(Ok(bytes))) => {
            // SAFETY: RAM that nothing in this program uses.
            unsafe { memory::bytes_mut(start, bytes as usize) }
        }
        _ => {
            let disk = boot.initrd();
            // SAFETY: as above; `disk` is not looked at again.
            unsafe { memory::bytes_mut(disk.as_ptr() as u64, disk.len()) }
        }
    };
    println(format_args!("ready"));
    loop {
        match read_byte() {
            Some(b'r') => println(format_args!("hash {:016x}", hash(range))),
            Some(b'w') => {
                range.iter_mut().step_by(PAGE).for_each(|byte| *byte ^= 0xff);
                println(format_args!("written"));
            }
            Some(b'x') => execute(range.as_ptr() as u64),
            Some(b'b') => machine::reset(Reset::Acpi),
            Some(b'q') => return,
            _ => {}
        }
    }
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        // Read again each time it is asked for.
        let byte = core::hint::black_box(byte);
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Calls what is at `address`, in the first GiB.
fn execute(address: u64) -> ! {
    let directory = PDPT[0].load(Ordering::Relaxed) & ADDRESS;
    // SAFETY: the runtime's page directory of the first GiB: one page, mapped
    // one to one, and changed only here.
    let directory = unsafe { &*(directory as *const [AtomicU64; 512]) };
    directory[(address / LARGE_PAGE) as usize].fetch_and(!NX, Ordering::Relaxed);
    if paging::map(0, 0).is_err() {
        fail(format_args!("the page tables cannot be reloaded"));
    }
    // SAFETY: none: whatever happens, this program is not meant to go on.
    let code: extern "C" fn() -> ! = unsafe { core::mem::transmute(address as usize) };
    code()
}
