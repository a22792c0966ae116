//! Rings a disk's doorbell a million times for nothing: with an empty queue,
//! with chains that no driver may build, with numbers of queues that do not
//! exist, resetting the disk every ten thousand times. Then it prints `ready`
//! and sleeps until a `q` comes from the serial port.
#![no_std]
#![no_main]

#[path = "bench/driver.rs"]
#[allow(dead_code, reason = "some of it is for benchmarks")]
mod driver;

use driver::{Device, NEXT, Ring, WRITE, describe};
use rt::{Boot, fail, println};

const RING: u64 = 16 << 20;
const KICKS: u32 = 1_000_000;
const PER_RESET: u32 = 10_000;

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    let mut broken = 0;
    for round in 0..KICKS / PER_RESET {
        let mut ring = Ring::new(RING);
        let device = Device::start(2, 0, &[&ring]);
        match round % 4 {
            0 => {}
            // A chain that runs in a circle.
            1 => {
                describe(ring.descriptor(0), RING, 16, NEXT, 0);
                ring.offer(0);
            }
            // One outside the table.
            2 => ring.offer(9999),
            // One that is read after it was written.
            _ => {
                describe(ring.descriptor(0), RING, 16, NEXT | WRITE, 1);
                describe(ring.descriptor(1), RING, 16, 0, 0);
                ring.offer(0);
            }
        }
        ring.publish(&device, 0);
        for kick in 0..PER_RESET {
            device.ring(kick.wrapping_mul(0x9e37_79b9) >> (kick % 32));
        }
        // Its worker may not have had a processor yet.
        while round % 4 != 0 && !device.needs_reset() {
            core::hint::spin_loop();
        }
        broken += u32::from(device.needs_reset());
        if ring.take().is_some() {
            fail(format_args!("a bad chain was used"));
        }
    }
    println(format_args!("{broken} times broken"));
    driver::ready();
    while driver::order().0 != b'q' {}
}
