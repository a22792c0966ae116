//! ELF kernels: Linux's vmlinux and unikernels that are entered as one.

use alloc::vec;
use alloc::vec::Vec;

use super::image::{Entry, HIGH_RAM, Kernel, Load};
use crate::Error;
use crate::bytes::{le16, le32, le64, part, u8};
use crate::disk::File;

const DAMAGED: Error = Error::Damaged("ELF file");
/// Program headers that a kernel may have; Linux has five.
const MAX_SEGMENTS: u16 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Bytes of notes that are searched for the PVH entry point.
const MAX_NOTES: u64 = 64 << 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry point.
const PHYS32_ENTRY: u32 = 18;

/// The kernel in `file`, which is an ELF file.
pub(super) fn open(file: &File, head: &[u8], ram_end: u64) -> Result<Kernel, Error> {
    let (class, order, kind, machine) = (u8(head, 4), u8(head, 5), le16(head, 16), le16(head, 18));
    if (class, order, kind, machine) != (2, 1, 2, 62) {
        return Err(Error::Unsupported("an ELF file that is no kernel for x86-64"));
    }
    let count = le16(head, 56);
    if le16(head, 54) != 56 || !(1..=MAX_SEGMENTS).contains(&count) {
        return Err(DAMAGED);
    }
    let mut table = vec![0; usize::from(count) * 56];
    file.read(le64(head, 32), &mut table)?;
    let mut loads: Vec<Load> = Vec::new();
    let headers = table.chunks_exact(56).filter(|header| le32(header, 0) == PT_LOAD);
    for header in headers.filter(|header| le64(header, 40) > 0) {
        let (in_file, in_memory) = (le64(header, 32), le64(header, 40));
        let at = le64(header, 24);
        let zeroes = in_memory.checked_sub(in_file).ok_or(DAMAGED)?;
        let end = at.checked_add(in_memory).ok_or(DAMAGED)?;
        if at < HIGH_RAM {
            return Err(Error::Unsupported("a kernel that lies below 1 MiB"));
        }
        if end > ram_end {
            return Err(Error::NoRoom("kernel", end));
        }
        loads.push(Load { at, file: file.slice(le64(header, 8), in_file)?, zeroes });
    }
    loads.sort_by_key(|load| load.at);
    let span = |load: &Load| load.at..load.at + load.file.len() + load.zeroes;
    let overlap = loads.windows(2).any(|pair| match pair {
        [a, b] => span(a).end > b.at,
        _ => false,
    });
    let entry = match pvh(file, &table)? {
        Some(entry) => Entry::Pvh(entry),
        None => Entry::Linux(le64(head, 24)),
    };
    let mut inside = loads.iter().map(span);
    if overlap || !inside.any(|span| span.contains(&entry.address())) {
        return Err(DAMAGED);
    }
    Ok(Kernel {
        end: loads.last().map_or(0, |load| span(load).end),
        loads,
        entry,
        header: None,
        initrd_max: u32::MAX.into(),
        cmdline_max: 2047,
    })
}

/// The PVH entry point in the notes of a file with these program headers.
fn pvh(file: &File, table: &[u8]) -> Result<Option<u32>, Error> {
    let headers = table.chunks_exact(56);
    for header in headers.filter(|header| le32(header, 0) == PT_NOTE) {
        let len = le64(header, 32).min(MAX_NOTES);
        let notes = file.slice(le64(header, 8), len)?.head(len as usize)?;
        let mut rest = notes.as_slice();
        while rest.len() >= 12 {
            let (name, value) = (le32(rest, 0) as usize, le32(rest, 4) as usize);
            // Both are padded to 4 bytes; sizes beyond the notes end them.
            let value_at = 12 + name.min(rest.len()).next_multiple_of(4);
            if le32(rest, 8) == PHYS32_ENTRY && part(rest, 12, name) == b"Xen\0" && value >= 4 {
                return Ok(Some(le32(rest, value_at)));
            }
            let next = value_at + value.min(rest.len()).next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
    Ok(None)
}
