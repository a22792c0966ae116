//! Sends every byte from the serial port back, polling; Ctrl-D powers off.
#![no_std]
#![no_main]

use rt::{Boot, machine, port, println, read_byte};

const CTRL_D: u8 = 4;

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    println(format_args!("ready"));
    loop {
        match read_byte() {
            Some(CTRL_D) => return,
            Some(byte) => port::out8(machine::COM1, byte),
            None => {}
        }
    }
}
