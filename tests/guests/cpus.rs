//! Starts every CPU that the ACPI tables name and prints the APIC ids that the
//! CPUs find themselves to have, sorted.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};
use rt::{Boot, fail, irq, print, println, smp};

const NONE: u32 = u32::MAX;

static IDS: [AtomicU32; smp::MAX] = [const { AtomicU32::new(NONE) }; smp::MAX];

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    report(0);
    let first = irq::apic_id();
    let others = boot.cpus().filter(|&id| id != first);
    for (index, id) in (1..).zip(others) {
        if let Err(error) = smp::start(id, index, report) {
            fail(format_args!("CPU {id} does not start: {error:?}"));
        }
        while IDS[index].load(Ordering::Acquire) == NONE {
            core::hint::spin_loop();
        }
    }
    let mut ids = [NONE; smp::MAX];
    for (id, slot) in IDS.iter().zip(&mut ids) {
        *slot = id.load(Ordering::Acquire);
    }
    ids.sort_unstable();
    let started = ids.iter().filter(|&&id| id != NONE).count();
    print(format_args!("{started} of {} cpus:", boot.cpus().count()));
    for id in ids.iter().filter(|&&id| id != NONE) {
        print(format_args!(" {id}"));
    }
    println(format_args!(""));
}

fn report(index: usize) {
    IDS[index].store(irq::apic_id(), Ordering::Release);
}
