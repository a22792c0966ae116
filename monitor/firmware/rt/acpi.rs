//! ACPI tables, as far as tiny guests look at them (ACPI 6.5, 5.2). A table
//! that is malformed fails the guest.

use crate::console::fail;
use crate::memory::bytes;

/// Bytes of the header that starts every table.
const HEADER: usize = 36;

/// Flags of a local APIC entry: CPU is usable.
const ENABLED: u32 = 1;

/// A little-endian number at an offset.
#[must_use]
pub fn u32_at(data: &[u8], at: usize) -> u32 {
    (0..4).fold(0, |n, i| n | u32::from(data[at + i]) << (8 * i))
}

/// A little-endian number at an offset.
#[must_use]
pub fn u64_at(data: &[u8], at: usize) -> u64 {
    u64::from(u32_at(data, at)) | u64::from(u32_at(data, at + 4)) << 32
}

/// The bytes of the table at `address`, its checksum verified.
#[must_use]
pub fn table_at(address: u64) -> &'static [u8] {
    // SAFETY: the address comes from another table or from the loader; it is
    // in the first 4 GiB, which is mapped, or the guest reports the exception.
    let header = unsafe { bytes(address, HEADER) };
    let len = u32_at(header, 4) as usize;
    if !(HEADER..1 << 20).contains(&len) {
        fail(format_args!("ACPI table at {address:#x} of {len} bytes"));
    }
    // SAFETY: as above; a table is as long as it says.
    let table = unsafe { bytes(address, len) };
    check(table, address);
    table
}

fn check(data: &[u8], address: u64) {
    if data.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)) != 0 {
        fail(format_args!("wrong checksum of the ACPI table at {address:#x}"));
    }
}

/// All tables that the root pointer leads to, the DSDT excepted.
pub fn tables(rsdp: u64) -> impl Iterator<Item = &'static [u8]> {
    let root = if rsdp == 0 {
        &[]
    } else {
        // SAFETY: the loader says that the root pointer is there.
        let root = unsafe { bytes(rsdp, 36) };
        if &root[..8] != b"RSD PTR " {
            fail(format_args!("no ACPI root pointer at {rsdp:#x}"));
        }
        check(&root[..20], rsdp);
        check(root, rsdp);
        &table_at(u64_at(root, 24))[HEADER..]
    };
    root.chunks_exact(8).map(|entry| table_at(u64_at(entry, 0)))
}

/// The table with a signature.
#[must_use]
pub fn find(rsdp: u64, signature: &[u8; 4]) -> Option<&'static [u8]> {
    tables(rsdp).find(|table| table.starts_with(signature))
}

/// The APIC ids of the usable CPUs in the MADT.
pub(crate) fn cpus(rsdp: u64) -> impl Iterator<Item = u32> {
    let mut rest = find(rsdp, b"APIC").map_or(&[][..], |madt| &madt[HEADER + 8..]);
    core::iter::from_fn(move || {
        while let [kind, len, ..] = *rest {
            let len = usize::from(len);
            if len < 2 || len > rest.len() {
                fail(format_args!("MADT entry of {len} bytes"));
            }
            let (entry, next) = rest.split_at(len);
            rest = next;
            match kind {
                0 if u32_at(entry, 4) & ENABLED != 0 => return Some(entry[3].into()),
                9 if u32_at(entry, 8) & ENABLED != 0 => return Some(u32_at(entry, 4)),
                _ => {}
            }
        }
        None
    })
}
