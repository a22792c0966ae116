//! Waits for the power button, whose presses it prints, and then does as the
//! command line says: `then=off` powers off, `then=reset` resets, `then=go-on`
//! waits for the next press. With `deaf` it does not listen at all.
#![no_std]
#![no_main]

use rt::irq::{self, Trigger};
use rt::machine::{self, Reset};
use rt::{Boot, println};

/// The power button's line (see the DSDT).
const GSI: u32 = 5;
const VECTOR: u8 = 0x41;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    irq::enable_local();
    if boot.cmdline() != b"deaf" {
        irq::route(GSI, VECTOR, Trigger::Edge);
    }
    println(format_args!("ready"));
    for presses in 1.. {
        while irq::count(VECTOR) < presses {
            irq::wait();
        }
        println(format_args!("pressed"));
        match boot.option("then") {
            Some("off") => return,
            Some("reset") => machine::reset(Reset::Acpi),
            _ => {}
        }
    }
}
