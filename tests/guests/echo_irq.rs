//! Sends every byte from the serial port back and sleeps in between, woken by
//! the port's interrupt; Ctrl-D powers off. A byte that waits without raising
//! the interrupt is a failure. With `late` on the command line the interrupt is
//! turned on only when the first byte is there already: a 16550 raises it then.
#![no_std]
#![no_main]

use rt::irq::{self, Trigger};
use rt::{Boot, fail, has_byte, machine, port, println, read_byte, tsc};

const CTRL_D: u8 = 4;
const VECTOR: u8 = 0x40;

/// COM1's interrupt enable register, and "a byte has been received".
const INTERRUPT_ENABLE: u16 = machine::COM1 + 1;
const RECEIVED: u8 = 1;
/// COM1's modem control register: DTR, RTS, and OUT2, which lets interrupts out
/// of the chip.
const MODEM_CONTROL: u16 = machine::COM1 + 4;
const OPEN: u8 = 0b1011;

/// Time-stamp ticks that an interrupt may take: a good part of a second, as the
/// host may be busy.
const TIMEOUT: u64 = 1_000_000_000;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let late = boot.cmdline() == b"late";
    while late && !has_byte() {}
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    port::out8(MODEM_CONTROL, OPEN);
    port::out8(INTERRUPT_ENABLE, RECEIVED);
    println(format_args!("ready"));
    loop {
        let before = irq::count(VECTOR);
        if has_byte() {
            expect_interrupt(before);
        } else {
            irq::wait();
        }
        while let Some(byte) = read_byte() {
            if byte == CTRL_D {
                println(format_args!("\ninterrupts ok"));
                return;
            }
            port::out8(machine::COM1, byte);
        }
    }
}

fn expect_interrupt(before: u32) {
    let begin = tsc();
    irq::enable();
    while irq::count(VECTOR) == before {
        if tsc().wrapping_sub(begin) > TIMEOUT {
            fail(format_args!("a byte waits without an interrupt"));
        }
        core::hint::spin_loop();
    }
    irq::disable();
}
