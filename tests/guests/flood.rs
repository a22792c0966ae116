//! Writes to the serial port as fast as it can: 1 MB, or `bytes=N` (rounded up
//! to 16), as numbered lines of 16 bytes, then powers off. With `wait` it sends a line
//! when the port says that it may, and sleeps until the port's interrupt otherwise.
#![no_std]
#![no_main]

use rt::irq::{self, Trigger};
use rt::{Boot, fail, machine, port};

const VECTOR: u8 = 0x40;
const LINE: usize = 16;
const LINES: usize = 256;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let bytes = boot.option("bytes").map_or(Ok(1_000_000), str::parse::<usize>);
    let Ok(bytes) = bytes else { fail(format_args!("bytes= is not a number")) };
    let waits = boot.cmdline().ends_with(b" wait");
    if waits {
        irq::route(machine::COM1_GSI, VECTOR, Trigger::Edge);
        port::out8(machine::COM1 + 4, 0b1011);
        port::out8(machine::COM1 + 1, 1 << 1);
    }
    let mut left = bytes.div_ceil(LINE);
    let mut number = 0;
    while left > 0 {
        let mut block = [b'\n'; LINE * LINES];
        let count = left.min(LINES);
        for line in block.chunks_exact_mut(LINE).take(count) {
            digits(&mut line[..LINE - 1], number);
            number += 1;
        }
        let lines = &block[..count * LINE];
        if waits {
            lines.chunks(LINE).for_each(send);
        } else {
            port::out_bytes(machine::COM1, lines);
        }
        left -= count;
    }
}

/// Sends a line as a driver does: the transmitter holds 16 bytes.
fn send(line: &[u8]) {
    loop {
        // Acknowledges the interrupt; the next one is due when there is room.
        let _ = port::in8(machine::COM1 + 2);
        if port::in8(machine::COM1 + 5) & 1 << 5 != 0 {
            return port::out_bytes(machine::COM1, line);
        }
        irq::wait();
    }
}

fn digits(text: &mut [u8], mut number: usize) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
