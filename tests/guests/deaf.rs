//! Never reads its serial input. Works on without an exit until `ticks=N` of
//! the time-stamp counter have gone by (about a second if not given), then
//! powers off.
#![no_std]
#![no_main]

use rt::{Boot, fail, println, tsc};

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let begin = tsc();
    let ticks = boot.option("ticks").map_or(Ok(2_500_000_000), str::parse::<u64>);
    let Ok(ticks) = ticks else { fail(format_args!("ticks= is not a number")) };
    println(format_args!("deaf"));
    while tsc().wrapping_sub(begin) < ticks {
        core::hint::spin_loop();
    }
    println(format_args!("still here"));
}
