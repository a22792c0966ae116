//! Keeps a disk busy, as fast as it can be polled, and says how long it took.
//! For each line `KIND BYTES DEPTH COUNT` from the serial port it does COUNT
//! requests of BYTES, DEPTH at a time, each depth with a buffer of its own, and
//! prints `took CYCLES DOORBELLS`. KIND is `r` or `w` (random places), `R` or `W`
//! (one after the other), `f` (random writes, each followed by a flush); `q`
//! powers off. It sleeps in between.
#![no_std]
#![no_main]

#[path = "bench/driver.rs"]
#[allow(dead_code, reason = "some of it is for others")]
mod driver;

use driver::{Device, INDIRECT, NEXT, RING_LEN, Ring, WRITE, describe};
use rt::{Boot, fail, memory, tsc};

const RING: u64 = 16 << 20;
/// One request's header, status and indirect table, a cache line each.
const REQUESTS: u64 = RING + RING_LEN;
const REQUEST_LEN: u64 = 0x100;
const STATUS: u64 = 0x40;
const TABLE: u64 = 0x80;
const BUFFERS: u64 = 32 << 20;
const MAX_DEPTH: u64 = 64;
const BUFFER_SPACE: u64 = 64 << 20;

const FLUSH_FEATURE: u64 = 1 << 9;
const READ: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    let ring = Ring::new(RING);
    let device = Device::start(2, FLUSH_FEATURE, &[&ring]);
    // Every page is there before the first measurement.
    bytes(BUFFERS, BUFFER_SPACE as usize).fill(0x5a);
    let mut disk =
        Disk { ring, device, sectors: device.config(), state: 0x2545_f491_4f6c_dd1d, next: 0 };
    driver::ready();
    loop {
        let (kind, [len, depth, count, _]) = driver::order();
        if kind == b'q' {
            return;
        }
        if depth == 0 || depth > MAX_DEPTH || len * depth > BUFFER_SPACE || len == 0 {
            fail(format_args!("{depth} buffers of {len} bytes"));
        }
        let kicks = disk.ring.kicks;
        let begin = tsc();
        match kind {
            b'f' => disk.write_and_flush(len, count),
            _ => disk.work(kind, len, depth, count),
        }
        driver::answer(tsc() - begin, disk.ring.kicks - kicks);
    }
}

fn bytes(at: u64, len: usize) -> &'static mut [u8] {
    // SAFETY: RAM that only this program's driver uses, one slice at a time,
    // and not while the device owns it.
    unsafe { memory::bytes_mut(at, len) }
}

struct Disk {
    ring: Ring,
    device: Device,
    sectors: u64,
    state: u64,
    next: u64,
}

impl Disk {
    /// Where the next request goes, in sectors.
    fn place(&mut self, random: bool, len: u64) -> u64 {
        let places = self.sectors * 512 / len;
        if random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            return self.state % places * (len / 512);
        }
        self.next = (self.next + 1) % places;
        self.next * (len / 512)
    }

    /// Builds the chain of request `slot`; only its sector changes afterwards.
    fn prepare(&mut self, slot: u64, kind: u32, len: u64) {
        let at = REQUESTS + slot * REQUEST_LEN;
        bytes(at, 8).copy_from_slice(&u64::from(kind).to_le_bytes());
        describe(at + TABLE, at, 16, NEXT, 1);
        let (mut count, data) = (1, if kind == READ { WRITE } else { 0 });
        if len > 0 {
            describe(at + TABLE + 16, BUFFERS + slot * len, len as u32, NEXT | data, 2);
            count = 2;
        }
        describe(at + TABLE + 16 * count, at + STATUS, 1, WRITE, 0);
        let table = 16 * (count as u32 + 1);
        describe(self.ring.descriptor(slot as u16), at + TABLE, table, INDIRECT, 0);
    }

    fn submit(&mut self, slot: u64, sector: u64) {
        let at = REQUESTS + slot * REQUEST_LEN;
        bytes(at + 8, 8).copy_from_slice(&sector.to_le_bytes());
        self.ring.offer(slot as u16);
    }

    /// Looks for a request that is done, and that it was done well.
    fn done(&mut self) -> Option<u64> {
        let (slot, _) = self.ring.take()?;
        let slot = u64::from(slot);
        let status = bytes(REQUESTS + slot * REQUEST_LEN + STATUS, 1);
        if core::mem::replace(&mut status[0], 0xff) != 0 {
            fail(format_args!("a request failed"));
        }
        Some(slot)
    }

    fn work(&mut self, kind: u8, len: u64, depth: u64, count: u64) {
        let write = kind.eq_ignore_ascii_case(&b'w');
        let random = kind.is_ascii_lowercase();
        let (mut sent, mut left) = (0, count);
        while sent < depth.min(count) {
            self.prepare(sent, if write { OUT } else { READ }, len);
            let sector = self.place(random, len);
            self.submit(sent, sector);
            sent += 1;
        }
        self.ring.publish(&self.device, 0);
        while left > 0 {
            while let Some(slot) = self.done() {
                left -= 1;
                if sent < count {
                    let sector = self.place(random, len);
                    self.submit(slot, sector);
                    sent += 1;
                }
            }
            self.ring.publish(&self.device, 0);
            core::hint::spin_loop();
        }
    }

    fn write_and_flush(&mut self, len: u64, count: u64) {
        self.prepare(0, OUT, len);
        self.prepare(1, FLUSH, 0);
        for _ in 0..count {
            let sector = self.place(true, len);
            for (slot, sector) in [(0, sector), (1, 0)] {
                self.submit(slot, sector);
                self.ring.publish(&self.device, 0);
                while self.done().is_none() {
                    core::hint::spin_loop();
                }
            }
        }
    }
}
