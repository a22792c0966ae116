//! A disk and a tap in memory, with faults to order.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use mote_virtio::GuestSlice;
use mote_virtio::blk::{ReadAt, WriteAt};
use mote_virtio::net::{Offload, Tap};

/// Which fault the next calls meet; 0 for none.
#[derive(Default)]
pub struct Fault(AtomicU8);

impl Fault {
    pub fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::Relaxed);
    }

    pub fn is(&self, fault: u8) -> bool {
        self.0.load(Ordering::Relaxed) == fault
    }
}

pub const NO_SPACE: u8 = 1;
pub const IO_ERROR: u8 = 2;
pub const SHORT: u8 = 3;
pub const UNSUPPORTED: u8 = 4;
pub const BUSY: u8 = 5;
pub const DOWN: u8 = 6;

/// Copies all of `slices` out.
pub fn collect(slices: &[GuestSlice<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for slice in slices {
        let at = bytes.len();
        bytes.resize(at + slice.len(), 0);
        slice.copy_to(&mut bytes[at..]);
    }
    bytes
}

fn spread(bytes: &[u8], slices: &[GuestSlice<'_>]) -> usize {
    let mut rest = bytes;
    for slice in slices {
        let n = rest.len().min(slice.len());
        slice.copy_from(&rest[..n]);
        rest = &rest[n..];
    }
    bytes.len() - rest.len()
}

/// A disk that may never grow.
#[derive(Default)]
pub struct Disk {
    pub bytes: Mutex<Vec<u8>>,
    pub fault: Fault,
}

impl Disk {
    pub fn new(sectors: usize) -> Arc<Self> {
        Arc::new(Self {
            // Never the poison of the targets, which is 0xa5.
            bytes: Mutex::new((0..sectors * 512).map(|i| (i % 97) as u8).collect()),
            fault: Fault::default(),
        })
    }

    fn fail(&self) -> io::Result<()> {
        if self.fault.is(IO_ERROR) {
            return Err(io::Error::other("fault"));
        }
        Ok(())
    }
}

/// The disk as a backend: a handle, so that the target keeps one too.
pub struct Handle(pub Arc<Disk>);

impl ReadAt for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, to: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        self.0.fail()?;
        assert!(to.len() <= 1024, "a vector the kernel refuses");
        let bytes = self.0.bytes.lock().unwrap();
        let wanted: usize = to.iter().map(|slice| slice.len()).sum();
        assert!(wanted > 0 && wanted.is_multiple_of(512));
        let end = offset as usize + wanted;
        assert!(end <= bytes.len(), "a read past the medium");
        let end = if self.0.fault.is(SHORT) { end - 1 } else { end };
        Ok(spread(&bytes[offset as usize..end], to))
    }
}

impl WriteAt for Handle {
    fn write_at(&self, from: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
        self.0.fail()?;
        if self.0.fault.is(NO_SPACE) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(from.len() <= 1024, "a vector the kernel refuses");
        let mut data = collect(from);
        if self.0.fault.is(SHORT) {
            data.truncate(data.len().div_ceil(2));
        }
        let mut bytes = self.0.bytes.lock().unwrap();
        let end = offset as usize + data.len();
        assert!(end <= bytes.len(), "a write past the medium");
        bytes[offset as usize..end].copy_from_slice(&data);
        Ok(data.len())
    }

    fn flush(&self) -> io::Result<()> {
        self.0.fail()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.0.fault.is(UNSUPPORTED) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.write_zeroes(offset, len, true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _may_unmap: bool) -> io::Result<()> {
        self.0.fail()?;
        if self.0.fault.is(NO_SPACE) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.0.bytes.lock().unwrap();
        bytes[offset as usize..(offset + len) as usize].fill(0);
        Ok(())
    }
}

/// A tap.
#[derive(Default)]
pub struct Wire {
    pub incoming: Mutex<VecDeque<Vec<u8>>>,
    pub sent: Mutex<Vec<Vec<u8>>>,
    pub fault: Fault,
}

impl Wire {
    fn fail(&self) -> io::Result<()> {
        if self.fault.is(IO_ERROR) {
            return Err(io::Error::from_raw_os_error(22));
        }
        if self.fault.is(DOWN) {
            return Err(io::Error::from_raw_os_error(77));
        }
        Ok(())
    }
}

/// The tap as a backend.
pub struct WireHandle(pub Arc<Wire>);

impl Tap for WireHandle {
    fn read_frame(&self, to: &[GuestSlice<'_>], overflow: &mut [u8]) -> io::Result<Option<usize>> {
        self.0.fail()?;
        assert!(to.len() < 1024, "a vector the kernel refuses");
        let Some(frame) = self.0.incoming.lock().unwrap().pop_front() else {
            return Ok(None);
        };
        let n = spread(&frame, to);
        let rest = frame[n..].len().min(overflow.len());
        overflow[..rest].copy_from_slice(&frame[n..n + rest]);
        Ok(Some(n + rest))
    }

    fn write_frame(&self, start: &[u8], from: &[GuestSlice<'_>]) -> io::Result<Option<usize>> {
        self.0.fail()?;
        assert!(from.len() < 1024, "a vector the kernel refuses");
        if self.0.fault.is(BUSY) {
            return Ok(None);
        }
        let mut frame = start.to_vec();
        frame.extend(collect(from));
        let len = frame.len();
        self.0.sent.lock().unwrap().push(frame);
        Ok(Some(len))
    }

    fn is_up(&self) -> bool {
        !self.0.fault.is(DOWN)
    }

    fn set_offload(&self, _offload: Offload) -> io::Result<()> {
        self.0.fail()
    }
}
