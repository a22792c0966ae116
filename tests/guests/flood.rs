//! Writes to the serial port as fast as it can: 1 MB, or `bytes=N` (rounded up
//! to 16), as numbered lines of 16 bytes, then powers off.
#![no_std]
#![no_main]

use rt::{Boot, fail, machine, port};

const LINE: usize = 16;
const LINES: usize = 256;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let bytes = boot
        .option("bytes")
        .map_or(Ok(1_000_000), str::parse::<usize>);
    let Ok(bytes) = bytes else {
        fail(format_args!("bytes= is not a number"))
    };
    let mut left = bytes.div_ceil(LINE);
    let mut number = 0;
    while left > 0 {
        let mut block = [b'\n'; LINE * LINES];
        let count = left.min(LINES);
        for line in block.chunks_exact_mut(LINE).take(count) {
            digits(&mut line[..LINE - 1], number);
            number += 1;
        }
        port::out_bytes(machine::COM1, &block[..count * LINE]);
        left -= count;
    }
}

fn digits(text: &mut [u8], mut number: usize) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
