//! Guest memory as the devices see it.

use vm_memory::{
    Address, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    Permissions, VolatileMemory, VolatileSlice,
};

/// The guest's RAM. Regions are contiguous ranges of RAM; two regions should
/// not touch each other, because a ring or an indirect table has to lie in one.
pub type Memory = GuestMemoryMmap;

/// A checked piece of guest memory. The guest may change its bytes at any
/// time, so it can only be copied or handed to the kernel, never referenced.
pub type GuestSlice<'m> = VolatileSlice<'m>;

/// The slice `addr..addr + len` if it lies in one region.
pub(crate) fn slice(mem: &Memory, addr: u64, len: usize) -> Option<GuestSlice<'_>> {
    let region = mem.find_region(GuestAddress(addr))?;
    let offset = addr.checked_sub(region.start_addr().raw_value())?;
    VolatileMemory::get_slice(&**region, usize::try_from(offset).ok()?, len).ok()
}

/// Hands every piece of `addr..addr + len` to `push`: one, or several where
/// the range runs over regions that touch. `None` if a byte is not RAM.
pub(crate) fn gather<'m>(
    mem: &'m Memory,
    addr: u64,
    len: usize,
    push: &mut impl FnMut(GuestSlice<'m>) -> Option<()>,
) -> Option<()> {
    if let Some(whole) = slice(mem, addr, len) {
        return push(whole);
    }
    let pieces =
        GuestMemory::get_slices(mem, GuestAddress(addr), len, Permissions::ReadWrite).ok()?;
    for piece in pieces {
        push(piece.ok()?)?;
    }
    Some(())
}
