//! A function to be cloned: fills 80 MiB, writes the boot marker, and once it
//! goes on touches 20 of them, in runs of four pages of which it reads one and
//! writes the next; then it prints `answer` and powers off. `only=r` or `only=w`
//! makes it read or write all of them, `spread=1` takes the runs from everywhere.
#![no_std]
#![no_main]

use rt::{Boot, memory, port, println};

const MARKER: u16 = 0x604;
const MARK: u8 = 123;
const PAGE: usize = 4096;
/// Where it has its memory.
const START: u64 = 16 << 20;
/// Bytes of it, and of each run.
const BYTES: usize = 80 << 20;
const RUN: usize = 4 * PAGE;
/// Runs in all, and how many of them are touched.
const RUNS: usize = BYTES / RUN;
const TOUCHED: usize = RUNS / 4;
/// From run to run; it has no divisor in common with their number.
const STEP: usize = 7919;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    // SAFETY: RAM that nothing else in this program uses.
    let all = unsafe { memory::bytes_mut(START, BYTES) };
    for (page, bytes) in all.chunks_mut(PAGE).enumerate() {
        bytes.fill(page as u8 | 1);
    }
    let only = boot.option("only");
    let step = boot.option("spread").map_or(1, |_| STEP);
    port::out8(MARKER, MARK);
    let mut sum = 0u64;
    for number in 0..TOUCHED {
        let run = number * step % RUNS * RUN;
        let writes = match only {
            Some("r") => false,
            Some("w") => true,
            _ => number % 2 == 1,
        };
        for page in all[run..run + RUN].chunks_mut(PAGE) {
            let word = core::hint::black_box(&mut page[64]);
            sum += u64::from(*word);
            if writes {
                *word ^= 1;
            }
        }
    }
    println(format_args!("answer {sum}"));
    port::out8(MARKER, MARK);
}
