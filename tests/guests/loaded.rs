//! A stand-in for an operating system's kernel: it prints the command line and the initial
//! RAM disks that a boot loader handed to it, and powers off.
#![no_std]
#![no_main]

use rt::{Boot, println};

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    println(format_args!("cmdline: {}", core::str::from_utf8(boot.cmdline()).unwrap_or("?")));
    // Each is a text that zeroes fill to a multiple of four bytes.
    for initrd in boot.initrd().split(|byte| *byte == 0).filter(|initrd| !initrd.is_empty()) {
        println(format_args!("initrd: {}", core::str::from_utf8(initrd).unwrap_or("?")));
    }
}
