//! Triple-faults.
#![no_std]
#![no_main]

use rt::{Boot, println, triple_fault};

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    println(format_args!("triple"));
    triple_fault()
}
