//! Guest memory: anonymous pages, with kernel and initrd mapped over them.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::mm::{self, MapFlags, ProtFlags};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    GuestRegionMmap, MmapRegion,
};

use crate::config::HugePages;
use crate::error::{Error, os_message};
use crate::layout::{HOLE_END, HOLE_START, KEPT};

/// The guest's memory.
pub type GuestRam = GuestMemoryMmap<()>;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// RAM as address ranges `(start, length)`: below the device hole, and the
/// rest from 4 GiB.
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= HOLE_START {
        vec![(0, size)]
    } else {
        vec![(0, HOLE_START), (HOLE_END, size - HOLE_START)]
    }
}

/// Reserves `size` bytes of guest memory; pages come with their first use.
///
/// # Errors
/// The host has no room for that much address space.
pub fn create(size: u64) -> Result<GuestRam, Error> {
    reserve_all(size, HugePages::None)
}

/// The same of pages of another size: reserved ones are there from the
/// beginning, or it fails.
///
/// # Errors
/// The host has no room for that much address space, or too few huge pages.
pub fn reserve_all(size: u64, pages: HugePages) -> Result<GuestRam, Error> {
    let failed = |cause: String| {
        let of = match pages {
            HugePages::Reserved => " in huge pages of 2M (vm.nr_hugepages)",
            _ => "",
        };
        let mib = size >> 20;
        Error::Host(format!("cannot reserve {mib}M of guest memory{of}: {cause}"))
    };
    let (mut regions, mut mappings) = (Vec::with_capacity(2), Vec::with_capacity(2));
    for (start, length) in ranges(size) {
        let length = usize::try_from(length).map_err(|e| failed(e.to_string()))?;
        let host = reserve(length, pages).map_err(|e| failed(os_message(&e)))?;
        mappings.push(Mapping(host, length));
        if pages == HugePages::Transparent {
            // SAFETY: the range was just mapped, and no byte of it changes.
            unsafe { mm::madvise(host.cast(), length, mm::Advice::LinuxHugepage) }
                .map_err(|e| failed(os_message(&e.into())))?;
        }
        if start == 0 {
            keep_small(host, length);
        }
        let builder = MmapRegionBuilder::new(length)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: the range was just mapped, is this long, and stays mapped
        // until the process ends.
        let builder = unsafe { builder.with_raw_mmap_pointer(host) };
        let region: MmapRegion<()> = builder.build().map_err(|e| failed(e.to_string()))?;
        let region = GuestRegionMmap::new(region, GuestAddress(start))
            .ok_or_else(|| failed("address overflow".to_owned()))?;
        regions.push(region);
    }
    let ram = GuestRam::from_regions(regions).map_err(|e| failed(e.to_string()))?;
    mappings.into_iter().for_each(mem::forget);
    Ok(ram)
}

/// Gives all of it back to the host.
///
/// # Safety
/// The memory has no users left, by address or through KVM.
pub unsafe fn release(ram: &GuestRam) {
    for region in ram.iter() {
        drop(Mapping(region.as_ptr(), region.len() as usize));
    }
}

/// A mapping that is unmapped unless it is forgotten.
struct Mapping(*mut u8, usize);

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the creator guarantees that the range has no users left. A failed
        // munmap leaks the range and cannot be reported.
        let _ = unsafe { mm::munmap(self.0.cast(), self.1) };
    }
}

/// Maps `length` bytes of anonymous memory at a multiple of 2 MiB, where the
/// host can back guest memory with huge pages: KVM maps one for the guest only
/// if host and guest address lie alike in theirs.
fn reserve(length: usize, pages: HugePages) -> io::Result<*mut u8> {
    const HUGE: usize = 2 << 20;
    let map = |length: usize| {
        let flags = match pages {
            // Without a reservation a guest could meet an empty pool.
            HugePages::Reserved => MapFlags::HUGETLB | MapFlags::HUGE_2MB,
            _ => MapFlags::NORESERVE,
        };
        let flags = flags | MapFlags::PRIVATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches
        // nothing that exists.
        unsafe {
            mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)
        }
    };
    let start = map(length)?;
    if start.addr().is_multiple_of(HUGE) {
        // Linux 6.7 and later align large mappings by themselves.
        return Ok(start.cast());
    }
    // SAFETY: the mapping is ours and not yet shared.
    unsafe { mm::munmap(start, length) }?;
    let start = map(length + HUGE)?;
    let skip = start.addr().next_multiple_of(HUGE) - start.addr();
    let (aligned, rest) = (start.wrapping_byte_add(skip), HUGE - skip);
    if skip > 0 {
        // SAFETY: the part before the aligned range is ours and unused.
        unsafe { mm::munmap(start, skip) }?;
    }
    if rest > 0 {
        // SAFETY: so is the part behind it.
        unsafe { mm::munmap(aligned.wrapping_byte_add(length), rest) }?;
    }
    Ok(aligned.cast())
}

/// Keeps the start of memory from becoming a huge page: a few of its pages are
/// used to boot, and many guests never use another. Failing is harmless.
fn keep_small(host: *mut u8, length: usize) {
    const LOW: usize = 2 << 20;
    let advice = mm::Advice::LinuxNoHugepage;
    // SAFETY: the range lies in a mapping that was just made, and no byte of
    // it changes.
    let _ = unsafe { mm::madvise(host.cast(), length.min(LOW), advice) };
}

/// Puts `length` bytes of `file` from `offset` at guest address `address`,
/// as private pages: guest writes stay in the guest, clean pages are shared by
/// every VM that maps the same file.
///
/// Address and offset must be page-aligned, and the file must have the bytes
/// (the caller checks its length). The last page is zero behind the file's end,
/// but keeps the file's bytes behind `length`.
///
/// # Errors
/// The range does not lie in guest memory, or the file cannot be mapped (as on
/// some file systems): the caller copies instead.
pub fn map_file(
    ram: &GuestRam,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    if !address.is_multiple_of(PAGE) || !offset.is_multiple_of(PAGE) || length == 0 {
        return Err(invalid());
    }
    let length = length.checked_next_multiple_of(PAGE).ok_or_else(invalid)?;
    let length = usize::try_from(length).map_err(|_| invalid())?;
    let slice = ram.get_slice(GuestAddress(address), length).map_err(|_| invalid())?;
    let host = slice.ptr_guard_mut();
    // SAFETY: the range is `length` bytes inside one mapping that this process
    // made for guest memory and never accesses but through volatile accessors,
    // so replacing its pages breaks no reference; nothing else lives there.
    let mapped = unsafe {
        mm::mmap(
            host.as_ptr().cast(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            file,
            offset,
        )
    };
    mapped.map(|_| ()).map_err(io::Error::from)
}

/// Copies `length` bytes of `file` from `offset` to guest address `address`.
///
/// # Errors
/// The file ends too early or cannot be read, or the range is not in RAM.
pub fn copy_file(
    ram: &GuestRam,
    address: u64,
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    if length == 0 {
        return Ok(());
    }
    let slice = ram.get_slice(GuestAddress(address), length).map_err(io::Error::other)?;
    let mut done = 0;
    while done < length {
        let rest = slice.offset(done).map_err(io::Error::other)?;
        let at = libc::off_t::try_from(offset + done as u64)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let host = rest.ptr_guard_mut();
        // SAFETY: the rest lies in guest memory, to which no code holds references;
        // the kernel may write there as the guest itself may.
        let read = unsafe { libc::pread(file.as_raw_fd(), host.as_ptr().cast(), rest.len(), at) };
        match usize::try_from(read) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Zeroes `length` bytes at `address`.
///
/// # Errors
/// The range is not in RAM.
pub fn zero(ram: &GuestRam, address: u64, length: u64) -> io::Result<()> {
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    const ZEROES: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < length {
        let part = (length - done).min(ZEROES.len());
        let at = GuestAddress(address + done as u64);
        let zeroes = ZEROES.get(..part).unwrap_or_default();
        ram.write_slice(zeroes, at).map_err(io::Error::other)?;
        done += part;
    }
    Ok(())
}

/// Gives the guest private pages in a mapped range before it writes to
/// them, which saves it two exits for each: the page is not read first, then
/// copied, then mapped again. An optimisation: failing is harmless.
pub fn prepare_writes(ram: &GuestRam, address: u64, length: usize) {
    advise(ram, address, length, mm::Advice::LinuxPopulateWrite);
}

/// Maps pages of files before the guest reads them. An optimisation, too.
pub fn prepare_reads(ram: &GuestRam, address: u64, length: usize) {
    advise(ram, address, length, mm::Advice::LinuxPopulateRead);
}

/// Asks for huge pages where the host has some. An optimisation, too.
pub fn prefer_huge(ram: &GuestRam, address: u64, length: u64) {
    advise(ram, address, length as usize, mm::Advice::LinuxHugepage);
}

/// Takes all of a guest's memory now, or maps the files that it is in to be read:
/// no page of it is missing then.
///
/// # Errors
/// The host has too little, or is older than Linux 5.14.
pub fn prefault(ram: &GuestRam, write: bool) -> Result<(), Error> {
    let advice = match write {
        true => mm::Advice::LinuxPopulateWrite,
        false => mm::Advice::LinuxPopulateRead,
    };
    for region in ram.iter() {
        let (host, length) = (region.as_ptr(), region.len() as usize);
        // SAFETY: the range is guest memory, and no byte of it changes.
        let done = unsafe { mm::madvise(host.cast(), length, advice) };
        done.map_err(|e| Error::Host(format!("--prefault: {}", os_message(&e.into()))))?;
    }
    Ok(())
}

/// Tells the kernel what to expect of a range: it may fail, and changes no byte.
fn advise(ram: &GuestRam, address: u64, length: usize, advice: mm::Advice) {
    let start = address / PAGE * PAGE;
    let length = (address - start) as usize + length;
    if let Ok(slice) = ram.get_slice(GuestAddress(start), length) {
        let host = slice.ptr_guard_mut();
        // SAFETY: none of the advice given here changes a byte; the range is
        // guest memory and begins with a page.
        let _ = unsafe { mm::madvise(host.as_ptr().cast(), slice.len(), advice) };
    }
}

/// Gives every page back: anonymous memory reads as zero again, mapped files as they are on
/// disk.
///
/// # Errors
/// The kernel refuses, which it has no reason to.
pub fn give_back(ram: &GuestRam) -> io::Result<()> {
    for region in ram.iter() {
        let slice = region.as_volatile_slice().map_err(io::Error::other)?;
        let host = slice.ptr_guard_mut();
        // SAFETY: the range is the mapping of a live memory region; dropping
        // its pages is intended, and no code holds references into it.
        unsafe { mm::madvise(host.as_ptr().cast(), slice.len(), mm::Advice::LinuxDontNeed) }?;
    }
    Ok(())
}

/// Makes memory what it is after power-on, but for [`KEPT`].
///
/// # Errors
/// As [`give_back`].
pub fn power_on(ram: &GuestRam) -> io::Result<()> {
    let (kept, mut page, mut now) = (GuestAddress(KEPT), [0; 4096], [0; 4096]);
    ram.read_slice(&mut page, kept).map_err(io::Error::other)?;
    give_back(ram)?;
    ram.read_slice(&mut now, kept).map_err(io::Error::other)?;
    match now == page {
        true => Ok(()),
        false => ram.write_slice(&page, kept).map_err(io::Error::other),
    }
}

/// Unmaps what start-up has touched of the program's own code and constants,
/// most of which a running VM never needs again: half of what its process
/// occupies. The rest comes back from the page cache at its next use.
pub fn forget_program() {
    unsafe extern "C" {
        // From the linker: the first byte of the program, and the first behind
        // its code.
        static __executable_start: u8;
        static etext: u8;
    }
    let (start, end) = (&raw const __executable_start, &raw const etext);
    let length = end.addr() - start.addr();
    // SAFETY: the range is the program's file, mapped only to be read and
    // executed: its pages come back as they were. Failing is harmless.
    let _ = unsafe { mm::madvise(start.cast_mut().cast(), length, mm::Advice::LinuxDontNeed) };
}

/// Whether `[address, address + length)` lies in one range of RAM.
pub fn contains(ram: &GuestRam, address: u64, length: u64) -> bool {
    ram.find_region(GuestAddress(address)).is_some_and(|region| {
        let end = address.checked_add(length);
        end.is_some_and(|end| end <= region.start_addr().0 + region.len())
    })
}

/// First address behind low RAM.
pub fn low_end(ram: &GuestRam) -> u64 {
    ram.find_region(GuestAddress(0)).map_or(0, |region| region.len())
}

/// Start and length of RAM from 4 GiB up, if there is any.
pub fn high_range(ram: &GuestRam) -> Option<(u64, u64)> {
    ram.find_region(GuestAddress(HOLE_END)).map(|region| (HOLE_END, region.len()))
}
