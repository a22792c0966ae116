//! Starts every CPU, lets them all run without an exit, prints `N run` and
//! waits for a byte on the serial port: `r` resets the machine while they run,
//! anything else powers it off.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};
use rt::machine::Reset;
use rt::{Boot, fail, irq, machine, println, read_byte, smp};

static RUNNING: AtomicU32 = AtomicU32::new(1);
static TURNS: [AtomicU32; smp::MAX] = [const { AtomicU32::new(0) }; smp::MAX];

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let first = irq::apic_id();
    let others = boot.cpus().filter(|&id| id != first);
    for (index, id) in (1..).zip(others) {
        if let Err(error) = smp::start(id, index, run) {
            fail(format_args!("CPU {id} does not start: {error:?}"));
        }
        while TURNS[index].load(Ordering::Relaxed) == 0 {
            core::hint::spin_loop();
        }
    }
    println(format_args!("{} run", RUNNING.load(Ordering::Relaxed)));
    let command = loop {
        if let Some(byte) = read_byte() {
            break byte;
        }
    };
    if command == b'r' {
        machine::reset(Reset::Acpi);
    }
}

fn run(index: usize) {
    RUNNING.fetch_add(1, Ordering::Relaxed);
    loop {
        TURNS[index].fetch_add(1, Ordering::Relaxed);
        core::hint::spin_loop();
    }
}
