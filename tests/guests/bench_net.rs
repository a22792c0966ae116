//! Sends or receives frames as fast as it can, polling, and says how long it
//! took. For each line `KIND BYTES DEPTH COUNT` from the serial port: `t` sends
//! COUNT frames of BYTES, `T` the same as TCP segments for the host to cut,
//! from DEPTH buffers in turn; `r` receives COUNT frames of BYTES into DEPTH
//! buffers of 2 KiB, `R` into such of 4 KiB, several a frame. It prints
//! `took CYCLES DOORBELLS`; `q` powers off. It sleeps in between, and no buffer
//! to receive into is with the device then.
#![no_std]
#![no_main]

#[path = "bench/driver.rs"]
#[allow(dead_code, reason = "some of it is for disks")]
mod driver;

use driver::{Device, RING_LEN, Ring, SIZE, WRITE, describe};
use rt::{Boot, fail, memory, tsc};

const RX: u64 = 16 << 20;
const TX: u64 = RX + RING_LEN;
const BUFFERS: u64 = 32 << 20;
const BUFFER_SPACE: u64 = 64 << 20;
/// Pauses after a look in vain: about a microsecond.
const RESTS: u32 = 32;

/// CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF.
const FEATURES: u64 = 1 | 1 << 1 | 1 << 7 | 1 << 11 | 1 << 15;
const HEADER: u64 = 12;
/// A header that leaves checksum and segments of 1448 bytes to the host.
const SEGMENTS: [u8; HEADER as usize] = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
/// Ethernet to nobody here, IPv4, TCP: enough for the host to cut it up.
const TCP: [u8; 54] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
    0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
    0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0, // TCP
];
/// An Ethernet type that nobody listens to (local experiments).
const OTHER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    let (rx, tx) = (Ring::new(RX), Ring::new(TX));
    let device = Device::start(1, FEATURES, &[&rx, &tx]);
    // Every page is there before the first measurement.
    bytes(BUFFERS, BUFFER_SPACE as usize).fill(0x5a);
    let mut net = Net { rx, tx, device };
    driver::ready();
    loop {
        let (kind, [len, depth, count, _]) = driver::order();
        if kind == b'q' {
            return;
        }
        if depth == 0 || depth > SIZE.into() || len < 64 || (HEADER + len) * depth > BUFFER_SPACE {
            fail(format_args!("{depth} buffers of {len} bytes"));
        }
        let kicks = net.rx.kicks + net.tx.kicks;
        let begin = match kind {
            b't' => net.send(len, depth, count, false),
            b'T' => net.send(len, depth, count, true),
            b'r' => net.receive(len, 2048, depth, count),
            _ => net.receive(len, 4096, depth, count),
        };
        driver::answer(tsc() - begin, net.rx.kicks + net.tx.kicks - kicks);
    }
}

fn bytes(at: u64, len: usize) -> &'static mut [u8] {
    // SAFETY: RAM that only this program's driver uses, one slice at a time,
    // and not while the device owns it.
    unsafe { memory::bytes_mut(at, len) }
}

/// Between two looks at a queue. Its memory and maybe its processor's other
/// half are the device's too: a look in vain is not repeated at once.
fn rest(in_vain: bool) {
    for _ in 0..if in_vain { RESTS } else { 1 } {
        core::hint::spin_loop();
    }
}

struct Net {
    rx: Ring,
    tx: Ring,
    device: Device,
}

impl Net {
    /// Sends frames; returns when it began.
    fn send(&mut self, len: u64, depth: u64, count: u64, segments: bool) -> u64 {
        let space = (HEADER + len).next_multiple_of(64);
        for slot in 0..depth {
            let at = BUFFERS + slot * space;
            let header = if segments { SEGMENTS } else { [0; HEADER as usize] };
            bytes(at, HEADER as usize).copy_from_slice(&header);
            if segments {
                let frame = bytes(at + HEADER, TCP.len());
                frame.copy_from_slice(&TCP);
                frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
            } else {
                bytes(at + HEADER, OTHER.len()).copy_from_slice(&OTHER);
            }
            describe(self.tx.descriptor(slot as u16), at, (HEADER + len) as u32, 0, 0);
        }
        let begin = tsc();
        let (mut sent, mut left) = (0, count);
        while sent < depth.min(count) {
            self.tx.offer(sent as u16);
            sent += 1;
        }
        self.tx.publish(&self.device, 1);
        while left > 0 {
            let before = left;
            while let Some((slot, _)) = self.tx.take() {
                left -= 1;
                if sent < count {
                    self.tx.offer(slot);
                    sent += 1;
                }
            }
            self.tx.publish(&self.device, 1);
            rest(left == before);
        }
        begin
    }

    /// Receives frames that are there already; returns when it began.
    fn receive(&mut self, len: u64, buffer: u64, depth: u64, count: u64) -> u64 {
        let mut filled = 0;
        let all = count * (HEADER + len).div_ceil(buffer);
        for slot in 0..depth {
            let at = BUFFERS + slot * buffer;
            describe(self.rx.descriptor(slot as u16), at, buffer as u32, WRITE, 0);
        }
        let begin = tsc();
        let (mut given, mut bytes) = (0, 0);
        while given < depth.min(all) {
            self.rx.offer(given as u16);
            given += 1;
        }
        self.rx.publish(&self.device, 0);
        while filled < all {
            let before = filled;
            while let Some((slot, written)) = self.rx.take() {
                filled += 1;
                bytes += u64::from(written);
                if given < all {
                    self.rx.offer(slot);
                    given += 1;
                }
            }
            self.rx.publish(&self.device, 0);
            rest(filled == before);
        }
        if bytes != count * (HEADER + len) {
            fail(format_args!("{bytes} bytes came in {count} frames of {len}"));
        }
        begin
    }
}
