//! Sends every byte from the serial port back, woken by the port's interrupt;
//! Ctrl-D prints whether interrupts came in and powers off.
#![no_std]
#![no_main]

use rt::irq::{self, Trigger};
use rt::{Boot, fail, machine, port, println, read_byte};

const CTRL_D: u8 = 4;
const VECTOR: u8 = 0x40;

/// COM1's interrupt enable register, and "a byte has been received".
const INTERRUPT_ENABLE: u16 = machine::COM1 + 1;
const RECEIVED: u8 = 1;
/// COM1's modem control register: DTR, RTS, and OUT2, which lets interrupts out
/// of the chip.
const MODEM_CONTROL: u16 = machine::COM1 + 4;
const OPEN: u8 = 0b1011;

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
    port::out8(MODEM_CONTROL, OPEN);
    port::out8(INTERRUPT_ENABLE, RECEIVED);
    println(format_args!("ready"));
    loop {
        let before = irq::count(VECTOR);
        while let Some(byte) = read_byte() {
            if byte == CTRL_D {
                return finish();
            }
            port::out8(machine::COM1, byte);
        }
        while irq::count(VECTOR) == before {
            irq::wait();
        }
    }
}

fn finish() {
    match irq::count(VECTOR) {
        0 => fail(format_args!("bytes came in without an interrupt")),
        _ => println(format_args!("\ninterrupts ok")),
    }
}
