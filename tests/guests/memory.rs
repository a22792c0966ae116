//! Prints the memory map and proves that the RAM in it is there: the first and
//! the last word of each region can be written, all at the same time (so none
//! is another's mirror), and was zero before.
#![no_std]
#![no_main]

use rt::{Boot, Region, fail, paging, println};

/// The runtime leaves the first page out, to catch null pointers.
const NULL_END: u64 = 0x1000;

/// Zero, if the loader cleared what the file does not cover.
static BSS: [u64; 2048] = [0; 2048];

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    if core::hint::black_box(&BSS).iter().any(|&word| word != 0) {
        fail(format_args!("the program's uninitialised data is not zero"));
    }
    for region in boot.regions() {
        println(format_args!("region {:#x} {:#x} {}", region.start, region.len, region.kind));
        if region.is_ram() && paging::map(region.start, region.len).is_err() {
            fail(format_args!("{:#x} cannot be mapped", region.start));
        }
    }
    for address in words(boot) {
        let word = word(address);
        if *word != 0 {
            fail(format_args!("{address:#x} holds {word:#x}"));
        }
        *word = pattern(address);
    }
    for address in words(boot) {
        let word = *word(address);
        if word != pattern(address) {
            fail(format_args!("{address:#x} holds {word:#x}, another address was written"));
        }
    }
    println(format_args!("memory ok {} words", words(boot).count()));
}

/// Addresses of the first and the last word of each region of RAM, those in
/// the initial RAM disk left out.
fn words(boot: &Boot) -> impl Iterator<Item = u64> + use<> {
    let disk = boot.initrd().as_ptr_range();
    boot.regions()
        .filter(Region::is_ram)
        .flat_map(|region| [region.start.max(NULL_END), region.end() - 8])
        .filter(move |&address| !disk.contains(&(address as *const u8)))
}

fn word(address: u64) -> &'static mut u64 {
    // SAFETY: RAM that the memory map offers and `main` has mapped; neither
    // the program nor what the loader tells it lies at either end of a region,
    // and no two of these references live at the same time.
    unsafe { &mut *(address as *mut u64) }
}

fn pattern(address: u64) -> u64 {
    address ^ 0xa5a5_5a5a_c3c3_3c3c
}
