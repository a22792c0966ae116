//! Writes the boot marker, prints `first`, writes it again, prints `second` and
//! powers off: a guest to save, restore and save once more.
#![no_std]
#![no_main]

use rt::{Boot, memory, port, println};

const MARKER: u16 = 0x604;
const MARK: u8 = 123;

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    for word in ["first", "second"] {
        port::out8(MARKER, MARK);
        // SAFETY: RAM that nothing else in this program uses.
        unsafe { memory::bytes_mut(16 << 20, 64 << 10) }.fill(word.len() as u8);
        println(format_args!("{word}"));
    }
}
