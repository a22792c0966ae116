//! A descriptor chain, read once, checked, as slices of guest memory
//! (virtio 1.2, 2.7.5).

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::VolatileMemory;

use crate::memory::{self, GuestSlice, Memory};
use crate::{Dirty, Error};

const DESCRIPTOR_SIZE: usize = 16;
const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// The greatest queue size a device here may have. Also the most pieces the
/// kernel takes in one vector, so that a chain always fits one system call.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// Most slices in a chain: a descriptor is one, or a few where it runs over
/// regions of RAM that touch. The same as the kernel's limit on one vector.
const MAX_SLICES: usize = MAX_QUEUE_SIZE as usize;

/// The buffers of one request: device-readable slices, then device-writable
/// ones. A worker keeps one and fills it again for each request, so that a
/// request costs no allocation.
#[derive(Debug)]
pub struct Chain<'m> {
    head: u16,
    /// The slices not yet consumed: `first..split` readable, `split..` writable.
    slices: Vec<GuestSlice<'m>>,
    first: usize,
    split: usize,
    readable_len: u32,
    writable_len: u32,
}

/// Where a chain's descriptors are, and what the driver may put in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'m> {
    pub(crate) mem: &'m Memory,
    pub(crate) descriptors: GuestSlice<'m>,
    pub(crate) size: u16,
    pub(crate) indirect: bool,
    pub(crate) dirty: Option<&'m Dirty>,
}

/// One descriptor, each of its halves loaded from guest memory once.
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(table: &GuestSlice<'_>, index: u16, entries: u16) -> Result<Self, Error> {
        let error = Error::DescriptorIndex(index);
        if index >= entries {
            return Err(error);
        }
        let at = usize::from(index) * DESCRIPTOR_SIZE;
        let addr = table.get_ref::<u64>(at).map_err(|_| error.clone())?.load();
        let rest = table.get_ref::<u64>(at + 8).map_err(|_| error)?.load();
        // Little-endian: len, then flags, then next, from the lowest byte up.
        let rest = u64::from_le(rest);
        Ok(Self {
            addr: u64::from_le(addr),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl Default for Chain<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'m> Chain<'m> {
    /// An empty chain with room for every usual request.
    #[must_use]
    pub fn new() -> Self {
        Self {
            head: 0,
            slices: Vec::with_capacity(64),
            first: 0,
            split: 0,
            readable_len: 0,
            writable_len: 0,
        }
    }

    /// The number by which the driver knows this chain.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What is left of the buffers the device may only read.
    #[must_use]
    pub fn readable(&self) -> &[GuestSlice<'m>] {
        self.slices.get(self.first..self.split).unwrap_or(&[])
    }

    /// What is left of the buffers the device may write.
    #[must_use]
    pub fn writable(&self) -> &[GuestSlice<'m>] {
        self.slices.get(self.split..).unwrap_or(&[])
    }

    /// Bytes in [`readable`](Self::readable).
    #[must_use]
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes in [`writable`](Self::writable).
    #[must_use]
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// Reads the chain that starts at `head`, following at most one indirect
    /// table and at most as many descriptors as the queue has.
    pub(crate) fn load(&mut self, table: &Table<'m>, head: u16) -> Result<(), Error> {
        self.clear(head);
        let mut descriptors = table.descriptors;
        let mut entries = table.size;
        let mut indirect_allowed = table.indirect;
        let mut index = head;
        let mut left = table.size;
        loop {
            let descriptor = Descriptor::read(&descriptors, index, entries)?;
            if descriptor.has(INDIRECT) {
                let error = Error::IndirectTable(descriptor.len);
                if !indirect_allowed || descriptor.has(NEXT) {
                    return Err(error);
                }
                entries = table_entries(descriptor.len, table.size).ok_or(error)?;
                descriptors = memory::slice(table.mem, descriptor.addr, descriptor.len as usize)
                    .ok_or(Error::BufferAddress(descriptor.addr))?;
                indirect_allowed = false;
                index = 0;
                continue;
            }
            left = left.checked_sub(1).ok_or(Error::ChainTooLong)?;
            self.push(table, &descriptor)?;
            if !descriptor.has(NEXT) {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn clear(&mut self, head: u16) {
        self.head = head;
        self.slices.clear();
        self.first = 0;
        self.split = 0;
        self.readable_len = 0;
        self.writable_len = 0;
    }

    fn push(&mut self, table: &Table<'m>, descriptor: &Descriptor) -> Result<(), Error> {
        if descriptor.len == 0 {
            return Err(Error::ZeroLength);
        }
        let writable = descriptor.has(WRITE);
        if !writable && self.writable_len != 0 {
            return Err(Error::ReadableAfterWritable);
        }
        // 2.7.5.2: a chain has at most 2^32 bytes in total.
        self.readable_len
            .checked_add(self.writable_len)
            .and_then(|sum| sum.checked_add(descriptor.len))
            .ok_or(Error::ChainTooLarge)?;
        let slices = &mut self.slices;
        let gathered =
            memory::gather(table.mem, descriptor.addr, descriptor.len as usize, &mut |s| {
                (slices.len() < MAX_SLICES).then(|| slices.push(s))
            });
        gathered.ok_or(Error::BufferAddress(descriptor.addr))?;
        if writable {
            self.writable_len += descriptor.len;
            if let Some(dirty) = table.dirty {
                dirty.mark(descriptor.addr, descriptor.len.into());
            }
        } else {
            self.readable_len += descriptor.len;
            self.split = self.slices.len();
        }
        Ok(())
    }

    /// Copies the next `out.len()` readable bytes and consumes them; false,
    /// with nothing consumed, if there are fewer.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> bool {
        if (self.readable_len as usize) < out.len() {
            return false;
        }
        let mut done = 0;
        for slice in self.readable() {
            done += slice.copy_to(out.get_mut(done..).unwrap_or_default());
        }
        self.skip(done)
    }

    /// Consumes `n` readable bytes; false, with nothing consumed, if there
    /// are fewer.
    pub(crate) fn skip(&mut self, n: usize) -> bool {
        let Some(left) = u32::try_from(n).ok().and_then(|n| self.readable_len.checked_sub(n))
        else {
            return false;
        };
        let mut rest = n;
        while rest != 0 {
            let Some(slice) = self.slices.get_mut(self.first) else {
                return false;
            };
            let now = rest.min(slice.len());
            match slice.offset(now) {
                Ok(tail) if !tail.is_empty() => *slice = tail,
                _ => self.first += 1,
            }
            rest -= now;
        }
        self.readable_len = left;
        true
    }

    /// Splits off the very last writable byte.
    pub(crate) fn take_last_byte(&mut self) -> Option<GuestSlice<'m>> {
        self.writable_len = self.writable_len.checked_sub(1)?;
        let last = self.slices.last_mut()?;
        let (rest, byte) = last.split_at(last.len().checked_sub(1)?).ok()?;
        if rest.is_empty() {
            self.slices.pop();
        } else {
            *last = rest;
        }
        Some(byte)
    }
}

/// Copies `bytes` to the front of `slices`; returns how many fitted.
pub(crate) fn scatter(slices: &[GuestSlice<'_>], bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for slice in slices {
        let n = rest.len().min(slice.len());
        let (now, later) = rest.split_at(n);
        slice.copy_from(now);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    bytes.len() - rest.len()
}

/// Descriptors in an indirect table of `len` bytes, if that is a length a
/// driver may use: whole descriptors, at least one, at most the queue's size.
fn table_entries(len: u32, queue_size: u16) -> Option<u16> {
    let entries = len / DESCRIPTOR_SIZE as u32;
    let whole = len.is_multiple_of(DESCRIPTOR_SIZE as u32);
    let entries = u16::try_from(entries).ok()?;
    (whole && entries > 0 && entries <= queue_size).then_some(entries)
}
