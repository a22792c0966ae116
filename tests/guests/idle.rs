//! Says so and halts for good: what a virtual machine costs that does nothing.
#![no_std]
#![no_main]

use rt::{Boot, halt, println};

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    println(format_args!("idle"));
    halt()
}
