//! ELF kernels: Linux's vmlinux and unikernels that are entered as one.

use alloc::vec;
use alloc::vec::Vec;

use super::{HIGH_RAM, Kernel, Load};
use crate::Error;
use crate::bytes::{le16, le32, le64, u8};
use crate::disk::File;

const DAMAGED: Error = Error::Damaged("ELF file");
/// Program headers that a kernel may have; Linux has five.
const MAX_SEGMENTS: u16 = 64;
const PT_LOAD: u32 = 1;

/// The kernel in `file`, which is an ELF file.
pub(super) fn open(file: &File, head: &[u8], ram_end: u64) -> Result<Kernel, Error> {
    let (class, order, kind, machine) = (u8(head, 4), u8(head, 5), le16(head, 16), le16(head, 18));
    if (class, order, kind, machine) != (2, 1, 2, 62) {
        return Err(Error::Unsupported(
            "an ELF file that is no kernel for x86-64",
        ));
    }
    let count = le16(head, 56);
    if le16(head, 54) != 56 || !(1..=MAX_SEGMENTS).contains(&count) {
        return Err(DAMAGED);
    }
    let mut table = vec![0; usize::from(count) * 56];
    file.read(le64(head, 32), &mut table)?;
    let mut loads: Vec<Load> = Vec::new();
    let headers = table
        .chunks_exact(56)
        .filter(|header| le32(header, 0) == PT_LOAD);
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
        loads.push(Load {
            at,
            file: file.slice(le64(header, 8), in_file)?,
            zeroes,
        });
    }
    loads.sort_by_key(|load| load.at);
    let span = |load: &Load| load.at..load.at + load.file.len() + load.zeroes;
    let overlap = loads.windows(2).any(|pair| match pair {
        [a, b] => span(a).end > b.at,
        _ => false,
    });
    let entry = le64(head, 24);
    if overlap || !loads.iter().any(|load| span(load).contains(&entry)) {
        return Err(DAMAGED);
    }
    Ok(Kernel {
        kind: "ELF",
        end: loads.last().map_or(0, |load| span(load).end),
        loads,
        entry,
        header: None,
        initrd_max: u32::MAX.into(),
        cmdline_max: 2047,
    })
}
