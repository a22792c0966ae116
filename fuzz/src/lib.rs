//! What the fuzz targets share: guest memory, a driver, backends, and an
//! independent reading of what a device may write.

pub mod backend;
#[path = "../../virtio/src/driver.rs"]
pub mod driver;
pub mod firmware;
pub mod machine;
pub mod oracle;
pub mod tap;

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::OnceLock;

use arbitrary::{Result, Unstructured};
use mote_virtio::Memory;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of guest memory, from address 0.
pub const RAM: usize = 0x2_0000;
/// A second region, after a hole.
pub const HIGH: u64 = 0x10_0000;
/// Bytes in it.
pub const HIGH_LEN: usize = 0x1000;
/// Where queues end and data begins.
pub const DATA: u64 = 0x8000;

/// The guest's memory: one for the process, zeroed by [`clear`].
pub fn ram() -> &'static Memory {
    static MEMORY: OnceLock<&'static Memory> = OnceLock::new();
    MEMORY.get_or_init(|| driver::memory(&[(0, RAM), (HIGH, HIGH_LEN)]))
}

/// Fills the guest's memory with `byte`.
pub fn clear(byte: u8) {
    fill(0, RAM, byte);
    let high = GuestAddress(HIGH);
    ram().write_slice(&[byte; HIGH_LEN], high).unwrap();
}

/// Fills `len` bytes of the guest's low memory.
pub fn fill(addr: u64, len: usize, byte: u8) {
    let mut bytes = Snapshot::buffer();
    bytes.0[..len].fill(byte);
    ram().write_slice(&bytes[..len], GuestAddress(addr)).unwrap();
}

/// A copy of the guest's low memory. Its buffer is used again: a sanitizer
/// makes large allocations dear.
pub struct Snapshot(Vec<u8>);

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Snapshot {
    fn buffer() -> Self {
        let buffer = BUFFERS.with(|buffers| buffers.borrow_mut().pop());
        Self(buffer.unwrap_or_else(|| vec![0; RAM]))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        BUFFERS.with(|buffers| buffers.borrow_mut().push(buffer));
    }
}

impl Deref for Snapshot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The guest's low memory now.
pub fn snapshot() -> Snapshot {
    let mut bytes = Snapshot::buffer();
    ram().read_slice(&mut bytes.0, GuestAddress(0)).unwrap();
    bytes
}

/// Changes some bytes of guest memory below `end`.
pub fn poke(u: &mut Unstructured<'_>, end: u64) -> Result<()> {
    let at = u.int_in_range(0..=end - 16)?;
    let len = u.int_in_range(1..=16)?;
    let bytes = u.bytes(len.min(u.len()))?;
    ram().write_slice(bytes, GuestAddress(at)).unwrap();
    Ok(())
}

/// A number at an edge, or any.
pub fn edge(u: &mut Unstructured<'_>) -> Result<u64> {
    let edges = [
        0,
        1,
        2,
        511,
        512,
        513,
        RAM as u64 - 1,
        RAM as u64,
        HIGH,
        HIGH + HIGH_LEN as u64 - 1,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX - 1,
        u64::MAX,
    ];
    match u.int_in_range(0..=15)? {
        14 => u.arbitrary::<u32>().map(u64::from),
        15 => u.arbitrary(),
        i => Ok(edges[i]),
    }
}
