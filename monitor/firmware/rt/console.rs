//! The serial console: COM1, polled.

use core::fmt::{self, Write};

use crate::machine::{COM1, give_up};
use crate::port;

/// Line status register, and its bit "a byte has been received".
const LINE_STATUS: u16 = COM1 + 5;
const DATA_READY: u8 = 1;

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The machine's transmitter is always ready: no look at the line
        // status, which would double the number of exits.
        port::out_bytes(COM1, text.as_bytes());
        Ok(())
    }
}

/// Prints on the serial port.
pub fn print(text: fmt::Arguments<'_>) {
    // What the console returns is Ok, and a Display that fails prints less.
    let _ = Console.write_fmt(text);
}

/// Prints a line on the serial port.
pub fn println(text: fmt::Arguments<'_>) {
    print(format_args!("{text}\n"));
}

/// Whether a byte from the serial port has arrived.
#[must_use]
pub fn has_byte() -> bool {
    port::in8(LINE_STATUS) & DATA_READY != 0
}

/// A byte from the serial port, if one has arrived.
#[must_use]
pub fn read_byte() -> Option<u8> {
    has_byte().then(|| port::in8(COM1))
}

/// Says what is wrong in a line that starts with `FAIL:`, and powers off.
pub fn fail(why: fmt::Arguments<'_>) -> ! {
    println(format_args!("FAIL: {why}"));
    give_up()
}
