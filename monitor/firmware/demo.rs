//! What `mote demo` runs: a machine that introduces itself and ends.
#![no_std]
#![no_main]

use rt::{Boot, machine, port, println};

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    println(format_args!("Hello from a virtual machine of your own."));
    println(format_args!(
        "  memory  {} MiB",
        (boot.ram() + (1 << 19)) >> 20
    ));
    for region in boot.regions().filter(rt::Region::is_ram) {
        println(format_args!(
            "          {:#011x} to {:#011x}",
            region.start,
            region.end() - 1
        ));
    }
    println(format_args!("  vCPUs   {}", boot.cpus().count()));
    match port::in32(machine::BOOT_MARKER) {
        u32::MAX => {}
        us => println(format_args!(
            "  start   {us} us from exec to the first instruction in here"
        )),
    }
    println(format_args!("Powering off."));
}
