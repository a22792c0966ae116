//! The other side of a queue, for tests and fuzz targets: a driver that does
//! what it is told, right or wrong.

#![allow(dead_code, missing_docs, unreachable_pub)]

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A descriptor as the driver writes it: address, length, flags, next.
pub type Raw = (u64, u32, u16, u16);

/// Guest memory that lives as long as the test process.
pub fn memory(ranges: &[(u64, usize)]) -> &'static GuestMemoryMmap {
    let ranges: Vec<_> = ranges.iter().map(|(a, n)| (GuestAddress(*a), *n)).collect();
    Box::leak(Box::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()))
}

/// A driver of one split queue of up to 256 entries at `base`: table, then
/// rings, each on its own page.
pub struct Driver<'m> {
    pub mem: &'m GuestMemoryMmap,
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub next_available: u16,
    pub next_used: u16,
    free: Vec<u16>,
    heads: Vec<Vec<u16>>,
}

impl<'m> Driver<'m> {
    /// Bytes of guest memory from `base` on that a driver takes.
    pub const SPACE: u64 = 0x4000;

    pub fn new(mem: &'m GuestMemoryMmap, base: u64, size: u16) -> Self {
        let driver = Self {
            mem,
            size,
            descriptors: base,
            available: base + 0x1000,
            used: base + 0x2000,
            next_available: 0,
            next_used: 0,
            free: (0..size).rev().collect(),
            heads: vec![Vec::new(); usize::from(size)],
        };
        let zeroes = vec![0; Self::SPACE as usize];
        mem.write_slice(&zeroes, GuestAddress(base)).unwrap();
        driver
    }

    pub fn put<const N: usize>(&self, addr: u64, bytes: [u8; N]) {
        self.mem.write_slice(&bytes, GuestAddress(addr)).unwrap();
    }

    pub fn get<const N: usize>(&self, addr: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub fn get_u16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.get(addr))
    }

    /// Writes one descriptor of the table at `table`.
    pub fn descriptor_at(&self, table: u64, index: u16, raw: Raw) {
        let at = table + 16 * u64::from(index);
        self.put(at, raw.0.to_le_bytes());
        self.put(at + 8, raw.1.to_le_bytes());
        self.put(at + 12, raw.2.to_le_bytes());
        self.put(at + 14, raw.3.to_le_bytes());
    }

    pub fn descriptor(&self, index: u16, raw: Raw) {
        self.descriptor_at(self.descriptors, index, raw);
    }

    /// Builds a chain of `(address, length, writable)` and returns its head;
    /// `None` if the table is full. It is not made available.
    pub fn build(&mut self, buffers: &[(u64, u32, bool)]) -> Option<u16> {
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return None;
        }
        let slots = self.free.split_off(self.free.len() - buffers.len());
        for (i, (addr, len, writable)) in buffers.iter().enumerate() {
            let next = slots.get(i + 1);
            let flags = if *writable { WRITE } else { 0 } | next.map_or(0, |_| NEXT);
            let next = next.copied().unwrap_or(0);
            self.descriptor(slots[i], (*addr, *len, flags, next));
        }
        let head = slots[0];
        self.heads[usize::from(head)] = slots;
        Some(head)
    }

    /// Builds a chain whose descriptors are in an indirect table at `table`.
    pub fn build_indirect(&mut self, table: u64, buffers: &[(u64, u32, bool)]) -> Option<u16> {
        let head = self.build(&[(table, 16 * buffers.len() as u32, false)])?;
        self.descriptor(head, (table, 16 * buffers.len() as u32, INDIRECT, 0));
        for (i, (addr, len, writable)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.descriptor_at(table, i as u16, (*addr, *len, flags, i as u16 + 1));
        }
        Some(head)
    }

    /// Puts `head` into the available ring and moves the index.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        self.put(self.available + 4 + 2 * slot, head.to_le_bytes());
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available_index(self.next_available);
    }

    pub fn set_available_index(&self, index: u16) {
        self.put(self.available + 2, index.to_le_bytes());
    }

    /// Builds and offers.
    pub fn send(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.build(buffers).unwrap();
        self.offer(head);
        head
    }

    /// The next used entry, if there is one: head and length.
    pub fn poll(&mut self) -> Option<(u16, u32)> {
        if self.get_u16(self.used + 2) == self.next_used {
            return None;
        }
        let at = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let head = u32::from_le_bytes(self.get(at)) as u16;
        let len = u32::from_le_bytes(self.get(at + 4));
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(slots) = self.heads.get_mut(usize::from(head)) {
            self.free.append(slots);
        }
        Some((head, len))
    }

    /// All used entries.
    pub fn drain(&mut self) -> Vec<(u16, u32)> {
        std::iter::from_fn(|| self.poll()).collect()
    }

    /// Tells the device not to interrupt (or to) by the flag.
    pub fn set_no_interrupt(&self, value: bool) {
        self.put(self.available, u16::from(value).to_le_bytes());
    }

    pub fn set_used_event(&self, index: u16) {
        let at = self.available + 4 + 2 * u64::from(self.size);
        self.put(at, index.to_le_bytes());
    }

    pub fn available_event(&self) -> u16 {
        self.get_u16(self.used + 4 + 8 * u64::from(self.size))
    }

    pub fn used_flags(&self) -> u16 {
        self.get_u16(self.used)
    }
}
