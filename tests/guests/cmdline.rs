//! Prints the command line between markers, and the address, size and FNV-1a
//! hash of the initial RAM disk.
#![no_std]
#![no_main]

use rt::{Boot, machine, port, print, println};

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    print(format_args!("cmdline {} [", boot.cmdline().len()));
    port::out_bytes(machine::COM1, boot.cmdline());
    println(format_args!("]"));
    let disk = boot.initrd();
    println(format_args!(
        "initrd {:#x} {} {:016x}",
        disk.as_ptr() as u64 * u64::from(!disk.is_empty()),
        disk.len(),
        hash(disk)
    ));
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
