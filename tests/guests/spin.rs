//! Works for ever without an exit: what ends it must come from outside.
#![no_std]
#![no_main]

use rt::{Boot, println};

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    println(format_args!("spin"));
    loop {
        core::hint::spin_loop();
    }
}
