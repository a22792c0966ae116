//! A polling virtio-net driver that can also be told to misbehave.

use core::sync::atomic::{Ordering, fence};

use rt::window::Window;
use rt::{Mmio, fail, memory};

/// Entries in each queue.
pub const SIZE: u16 = 256;
pub const RX: usize = 0;
pub const TX: usize = 1;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

const VERSION_1: u64 = 1 << 32;
pub const MERGE: u64 = 1 << 15;
const STATUS: u32 = 0x70;
pub const NEEDS_RESET: u32 = 64;

/// Bytes in the header before each frame.
pub const HEADER: u32 = 12;

/// RAM that nothing else uses: a queue's descriptors, rings, and a table for
/// indirect ones; what is sent; what is received.
const BASE: u64 = 16 << 20;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
pub const TABLE: u64 = 0x4000;
pub const SEND: u64 = 24 << 20;
pub const RECEIVE: u64 = 32 << 20;
/// Bytes between the starts of two receive buffers.
pub const STRIDE: u64 = 0x1_0000;
/// What receive buffers hold before they are used.
pub const POISON: u8 = 0xa5;

/// Memory that the device changes.
pub fn volatile(at: u64, len: u64) -> Mmio {
    // SAFETY: RAM that only this driver uses.
    unsafe { Mmio::new(at, len) }
}

/// RAM of this program's, while the device does not own it.
pub fn bytes(at: u64, len: usize) -> &'static mut [u8] {
    // SAFETY: RAM that only this program's driver uses, one slice at a time.
    unsafe { memory::bytes_mut(at, len) }
}

/// One side of the device.
pub struct Ring {
    pub base: u64,
    sent: u16,
    seen: u16,
}

impl Ring {
    pub fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        describe(self.base + 16 * u64::from(index), address, len, flags, next);
    }

    /// Puts a chain into the ring without showing it.
    pub fn offer(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + 2 * u64::from(self.sent % SIZE);
        volatile(self.base + slot, 2).write16(0, head);
        self.sent = self.sent.wrapping_add(1);
    }

    /// Shows what was offered, and `more` that was not.
    pub fn show(&mut self, more: u16) {
        fence(Ordering::SeqCst);
        let index = volatile(self.base + AVAILABLE, 4);
        index.write16(2, self.sent.wrapping_add(more));
        fence(Ordering::SeqCst);
    }

    pub fn used(&self) -> u16 {
        volatile(self.base + USED, 4).read16(2)
    }

    /// The next used chain and how many of its bytes were written.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if self.used() == self.seen {
            return None;
        }
        fence(Ordering::SeqCst);
        let entry = volatile(self.base + USED + 4 + 8 * u64::from(self.seen % SIZE), 8);
        self.seen = self.seen.wrapping_add(1);
        let head = entry.read32(0);
        if head >= SIZE.into() {
            fail(format_args!("used entry {head}"));
        }
        Some((head as u16, entry.read32(4)))
    }
}

/// Writes a descriptor.
pub fn describe(at: u64, address: u64, len: u32, flags: u16, next: u16) {
    let descriptor = bytes(at, 16);
    descriptor[..8].copy_from_slice(&address.to_le_bytes());
    descriptor[8..12].copy_from_slice(&len.to_le_bytes());
    descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
    descriptor[14..].copy_from_slice(&next.to_le_bytes());
}

pub struct Net {
    pub window: Window,
    pub rings: [Ring; 2],
    /// Features that the driver asks for.
    pub wanted: u64,
    /// Bytes in a receive buffer.
    pub buffer: u32,
    /// Descriptors for each: all but the last have one byte.
    pub parts: u16,
    /// Nothing may be written behind the length that is said. A frame that
    /// does not fit and is dropped leaves its traces, so not with few buffers.
    pub strict: bool,
}

impl Net {
    pub fn new(wanted: u64, buffer: u32, parts: u16) -> Self {
        let ring = |number: u64| Ring { base: BASE + (number << 16), sent: 0, seen: 0 };
        Self {
            window: Window::new(0),
            rings: [ring(0), ring(1)],
            wanted: wanted | VERSION_1,
            buffer,
            parts,
            strict: true,
        }
    }

    fn expect(&self, what: &str, at: u32, value: u32) {
        let found = self.window.read32(at.into());
        if found != value {
            fail(format_args!("{what} is {found:#x}, not {value:#x}"));
        }
    }

    pub fn status(&self) -> u32 {
        self.window.read32(STATUS.into())
    }

    pub fn set_status(&self, status: u32) {
        self.window.write32(STATUS.into(), status);
    }

    /// Resets the device and negotiates, up to its queues.
    pub fn negotiate(&mut self) {
        if self.window.device() != 1 {
            fail(format_args!("there is no network interface"));
        }
        self.set_status(0);
        self.expect("the status after a reset", STATUS, 0);
        self.set_status(1);
        self.set_status(3);
        for half in [0, 1] {
            self.window.write32(0x14, half);
            let offered = self.window.read32(0x10);
            self.window.write32(0x24, half);
            self.window.write32(0x20, (self.wanted >> (32 * half)) as u32 & offered);
        }
        self.set_status(11);
        self.expect("the status with features", STATUS, 11);
        for ring in &mut self.rings {
            bytes(ring.base, 0x8000).fill(0);
            (ring.sent, ring.seen) = (0, 0);
        }
    }

    /// Gives the device a queue.
    pub fn give(&self, number: usize, size: u32, base: u64) {
        self.window.write32(0x30, number as u32);
        self.window.write32(0x38, size);
        for (register, offset) in [(0x80, 0), (0x90, AVAILABLE), (0xa0, USED)] {
            let at = base.wrapping_add(offset);
            self.window.write32(register, at as u32);
            self.window.write32(register + 4, (at >> 32) as u32);
        }
        self.window.write32(0x44, 1);
    }

    /// Brings the device up, without receive buffers.
    pub fn start(&mut self) {
        self.negotiate();
        for number in [RX, TX] {
            self.give(number, SIZE.into(), self.rings[number].base);
        }
        self.set_status(15);
        self.expect("the status of a running device", STATUS, 15);
    }

    /// Whether the device has taken a queue.
    pub fn has(&self, number: usize) -> bool {
        self.window.write32(0x30, number as u32);
        self.window.read32(0x44) & 1 == 1
    }

    pub fn kick(&self, queue: usize) {
        self.window.write32(0x50, queue as u32);
    }

    /// Bytes of the configuration space: MAC address, link status, and so on.
    pub fn link_is_up(&self) -> bool {
        self.window.read32(0x104) >> 16 & 1 == 1
    }

    fn receive_buffer(head: u16) -> u64 {
        RECEIVE + u64::from(head) * STRIDE
    }

    /// Puts a fresh receive buffer into the ring.
    pub fn supply(&mut self, head: u16) {
        self.supply_short(head, self.buffer);
    }

    /// The same, of which the device may only have `len` bytes.
    fn supply_short(&mut self, head: u16, len: u32) {
        let at = Self::receive_buffer(head);
        bytes(at, self.buffer as usize).fill(POISON);
        let ring = &mut self.rings[RX];
        let last = self.parts - 1;
        for part in 0..last {
            let index = head + part;
            ring.describe(index, at + u64::from(part), 1, WRITE | NEXT, index + 1);
        }
        let (at, len) = (at + u64::from(last), len - u32::from(last));
        ring.describe(head + last, at, len, WRITE, 0);
        ring.offer(head);
    }

    /// Fills the receive ring, but for its first `skip` entries.
    pub fn supply_all(&mut self, skip: u16) {
        // No buffer reaches beyond the last descriptor.
        let heads = (skip..=SIZE - self.parts).step_by(self.parts.into());
        heads.for_each(|head| self.supply(head));
        self.rings[RX].show(0);
        self.kick(RX);
    }

    /// Gives the device `count` buffers of `len` bytes.
    pub fn supply_some(&mut self, count: u16, len: u32) {
        (0..count).for_each(|head| self.supply_short(head, len));
        self.rings[RX].show(0);
        self.kick(RX);
    }

    /// Puts a received frame, without its header, to `SEND` and on, and its
    /// buffers back into the ring; returns its length. Everything that a
    /// device may not do to a buffer fails the guest.
    pub fn receive(&mut self) -> Option<usize> {
        let (first, len) = self.rings[RX].take()?;
        if len == 0 {
            // Too small for anything.
            return Some(0);
        }
        // The header was there before the frame was shown.
        let header: [u8; 12] = bytes(Self::receive_buffer(first), self.buffer as usize)
            .first_chunk()
            .copied()
            .unwrap_or([0; 12]);
        let merge = self.wanted & MERGE != 0;
        let mut left =
            if self.buffer >= HEADER { header[10] as u16 | (header[11] as u16) << 8 } else { 1 };
        if header[..10] != [0; 10] || left == 0 || (left > 1 && !merge) {
            fail(format_args!("header {header:?}"));
        }
        let (mut head, mut len, mut total) = (first, len, 0);
        loop {
            if len > self.buffer || len == 0 {
                fail(format_args!("{len} bytes in a buffer of {}", self.buffer));
            }
            let buffer = bytes(Self::receive_buffer(head), self.buffer as usize);
            let (frame, rest) = buffer.split_at(len as usize);
            if self.strict && rest.iter().any(|byte| *byte != POISON) {
                fail(format_args!("written behind the {len} bytes said"));
            }
            bytes(SEND + total, frame.len()).copy_from_slice(frame);
            total += u64::from(len);
            self.supply(head);
            left -= 1;
            if left == 0 {
                break;
            }
            // All buffers of a frame are shown at once.
            let Some(next) = self.rings[RX].take() else {
                fail(format_args!("a frame without its last {left} buffers"))
            };
            (head, len) = next;
        }
        self.rings[RX].show(0);
        self.kick(RX);
        Some((total - u64::from(HEADER)) as usize)
    }

    /// Sends the frame behind the header at `SEND`, cut into as many pieces
    /// as asked: the header in `cut`, the rest in some more.
    pub fn send(&mut self, len: usize, cut: u32) {
        bytes(SEND, HEADER as usize).fill(0);
        let total = HEADER + len as u32;
        let ring = &mut self.rings[TX];
        let (mut at, mut index) = (0, 0);
        while at < total {
            let piece = if index + 1 < cut { 1 } else { (total - at).div_ceil(2).max(64) };
            let piece = if cut == 1 { total } else { piece.min(total - at) };
            let last = at + piece == total;
            let next = index as u16 + 1;
            let flags = if last { 0 } else { NEXT };
            ring.describe(index as u16, SEND + u64::from(at), piece, flags, next);
            at += piece;
            index += 1;
        }
        ring.offer(0);
        ring.show(0);
        self.kick(TX);
        self.wait_sent();
    }

    /// Waits until a chain has been sent.
    pub fn wait_sent(&mut self) {
        let start = rt::tsc();
        loop {
            match self.rings[TX].take() {
                Some((_, 0)) => return,
                Some((_, len)) => fail(format_args!("{len} bytes written to what was sent")),
                None if rt::tsc() - start > 100_000_000_000 => {
                    fail(format_args!("a frame is not sent"))
                }
                None => core::hint::spin_loop(),
            }
        }
    }
}
