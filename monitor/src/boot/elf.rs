//! ELF kernels: Linux's vmlinux and unikernels, mapped where they line up.

use super::image::Image;
use super::kernel::Kernel;
use crate::error::Error;
use crate::host::memory::{self, GuestRam};
use crate::vm::regs::Entry;

/// Program headers a kernel may have; Linux has five.
const MAX_SEGMENTS: u16 = 64;
/// Bytes of notes that are searched for the PVH entry point.
const MAX_NOTES: u64 = 64 << 10;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Section headers that are looked at; Linux has about 80.
const MAX_SECTIONS: u16 = 256;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
/// Bytes of section names that are looked at; Linux has 400.
const MAX_NAMES: u64 = 4 << 10;
/// Linux's room for early scratch data, which it expects nothing in; the file
/// holds 4 MiB of zeroes for it.
const SCRATCH: &[u8] = b".init.scratch\0";
/// Data that Linux overwrites when it gives it back after its start.
const DISCARDED: [&[u8]; 2] = [b".init.data\0", b".data..percpu\0"];
const PF_W: u32 = 2;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry point.
const PHYS32_ENTRY: u32 = 18;

/// A program header (ELF-64, `Elf64_Phdr`).
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    /// Where it is linked to run.
    linked: u64,
    /// Where it is loaded.
    address: u64,
    file_size: u64,
    memory_size: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Loads an ELF kernel; all of it is checked before memory is touched.
pub(super) fn load(ram: &GuestRam, image: &Image, head: &[u8]) -> Result<Kernel, Error> {
    let Some(head) = head.first_chunk::<64>() else {
        return Err(image.refuse("is truncated"));
    };
    check_header(head).map_err(|why| image.refuse(why))?;
    let segments = segments(image, head)?;
    let mut end = 0;
    for segment in segments.iter().filter(|s| s.kind == PT_LOAD) {
        end = check_segment(ram, image, segment)?.max(end);
    }
    if end == 0 {
        return Err(image.refuse("is an ELF file with nothing to load"));
    }
    check_overlaps(image, &segments)?;
    let notes = notes(image, &segments)?;
    let entry = match notes.pvh {
        Some(entry) => Entry::Pvh(entry),
        None => Entry::Linux64(u64_at(head, 24).unwrap_or(0)),
    };
    check_entry(image, &segments, entry)?;
    let mut sections = Sections::default();
    if notes.linux {
        sections.read(image, head, &segments);
    }
    // From the end: a kernel's last segment is a large one that is mapped, and
    // copying a few bytes next to it first would clear a huge page for nothing.
    let loaded = |s: &&Segment| s.kind == PT_LOAD && s.memory_size > 0;
    for segment in segments.iter().rev().filter(loaded) {
        place(ram, image, segment, &sections.zeroes)?;
    }
    Ok(Kernel { entry, written: sections.written, end, header: None })
}

fn check_header(head: &[u8; 64]) -> Result<(), String> {
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let (machine, kind) = (u16_at(head, 18).unwrap_or(0), u16_at(head, 16).unwrap_or(0));
    let why = match (byte(4), byte(5), machine, kind, u16_at(head, 54)) {
        (2, 1, 62, 2, Some(56)) => return Ok(()),
        (2, 1, 62, 2, _) => "has ELF program headers of unknown size",
        (2, 1, 62, 1, _) => "is an ELF object file, not a linked kernel",
        (2, 1, 62, 3, _) => "is a position-independent ELF program; a kernel has fixed addresses",
        (2, 1, 62, 4, _) => "is an ELF core dump, not a kernel",
        (2, 1, 62, ..) => "is an ELF file of unknown type",
        (2, 1, ..) => {
            return Err(format!("is an ELF file for machine {machine}, not x86-64 (62)"));
        }
        (2, ..) => "is a big-endian ELF file; it cannot run on x86-64",
        _ => "is a 32-bit ELF file; a 64-bit one is needed",
    };
    Err(why.to_owned())
}

fn segments(image: &Image, head: &[u8; 64]) -> Result<Vec<Segment>, Error> {
    let count = u16_at(head, 56).unwrap_or(0);
    if count == 0 || count > MAX_SEGMENTS {
        return Err(image.refuse(format!("has {count} program headers, not 1 to {MAX_SEGMENTS}")));
    }
    let mut table = vec![0; usize::from(count) * 56];
    let offset = u64_at(head, 32).unwrap_or(0);
    if offset.checked_add(table.len() as u64).is_none_or(|end| end > image.len) {
        return Err(image.refuse("is truncated"));
    }
    image.read(offset, &mut table)?;
    let parse = |raw: &[u8]| {
        Some(Segment {
            kind: u32_at(raw, 0)?,
            flags: u32_at(raw, 4)?,
            offset: u64_at(raw, 8)?,
            linked: u64_at(raw, 16)?,
            address: u64_at(raw, 24)?,
            file_size: u64_at(raw, 32)?,
            memory_size: u64_at(raw, 40)?,
        })
    };
    Ok(table.chunks_exact(56).filter_map(parse).collect())
}

/// Checks one loadable segment and returns its end.
fn check_segment(ram: &GuestRam, image: &Image, segment: &Segment) -> Result<u64, Error> {
    let in_file = segment.offset.checked_add(segment.file_size);
    if in_file.is_none_or(|end| end > image.len) {
        return Err(image.refuse("is truncated"));
    }
    if segment.file_size > segment.memory_size {
        return Err(image.refuse("has a segment larger in the file than in memory"));
    }
    let (start, size) = (segment.address, segment.memory_size);
    if size > 0 && (start < image.lowest || !memory::contains(ram, start, size)) {
        let last = start.saturating_add(size - 1);
        return Err(image.refuse(format!(
            "has a segment at {start:#x}-{last:#x}, outside the guest's RAM from 1M up"
        )));
    }
    // An empty one is nowhere, whatever it says.
    Ok(if size > 0 { start + size } else { 0 })
}

fn check_overlaps(image: &Image, segments: &[Segment]) -> Result<(), Error> {
    let mut spans: Vec<(u64, u64)> = segments
        .iter()
        .filter(|s| s.kind == PT_LOAD && s.memory_size > 0)
        .map(|s| (s.address, s.address + s.memory_size))
        .collect();
    spans.sort_unstable();
    let mut last_end = 0;
    for (start, end) in spans {
        if start < last_end {
            return Err(image.refuse(format!("has segments that overlap at {start:#x}")));
        }
        last_end = end;
    }
    Ok(())
}

/// An entry point outside every segment would run zeroes.
fn check_entry(image: &Image, segments: &[Segment], entry: Entry) -> Result<(), Error> {
    let at = match entry {
        Entry::Linux64(at) => at,
        Entry::Pvh(at) => u64::from(at),
    };
    let inside =
        |s: &&Segment| s.kind == PT_LOAD && (s.address..s.address + s.memory_size).contains(&at);
    match segments.iter().find(inside) {
        Some(_) => Ok(()),
        None => Err(image.refuse(format!("has its entry point {at:#x} outside its segments"))),
    }
}

/// What a kernel says of itself in ELF notes.
#[derive(Default)]
struct Notes {
    /// The PVH entry point.
    pvh: Option<u32>,
    /// It is Linux.
    linux: bool,
}

fn notes(image: &Image, segments: &[Segment]) -> Result<Notes, Error> {
    let mut found = Notes::default();
    for segment in segments.iter().filter(|s| s.kind == PT_NOTE) {
        let size = segment.file_size.min(MAX_NOTES);
        let end = segment.offset.checked_add(segment.file_size);
        if end.is_none_or(|end| end > image.len) {
            return Err(image.refuse("is truncated"));
        }
        let mut notes = vec![0; usize::try_from(size).unwrap_or(0)];
        image.read(segment.offset, &mut notes)?;
        // A note that leads out of the segment ends the search there.
        let _ = found.read(&notes);
    }
    Ok(found)
}

impl Notes {
    /// Walks notes: name size, description size, type, name and description,
    /// both padded to four bytes. Each turn moves at least 12 bytes on.
    fn read(&mut self, mut notes: &[u8]) -> Option<()> {
        loop {
            let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
            let size = usize::try_from(u32_at(notes, 4)?).ok()?;
            let kind = u32_at(notes, 8)?;
            let name_end = name_size.checked_next_multiple_of(4)?.checked_add(12)?;
            let end = size.checked_next_multiple_of(4)?.checked_add(name_end)?;
            match notes.get(12..)?.get(..name_size)? {
                b"Xen\0" if kind == PHYS32_ENTRY && size >= 4 => {
                    self.pvh = u32_at(notes, name_end);
                }
                b"Linux\0" => self.linux = true,
                _ => {}
            }
            notes = notes.get(end..)?;
        }
    }
}

/// Puts a segment into memory but for the ranges of it that are `zeroes`.
/// Memory is fresh, so these are zero already, as is all behind the file's
/// part.
fn place(
    ram: &GuestRam,
    image: &Image,
    segment: &Segment,
    zeroes: &[(u64, u64)],
) -> Result<(), Error> {
    let end = segment.address + segment.file_size;
    let mut from = segment.address;
    // A run of zeroes that reaches into the next segment does not count.
    let inside = |zero: &&(u64, u64)| zero.0 >= segment.address && zero.0 + zero.1 <= end;
    for &(start, length) in zeroes.iter().filter(inside) {
        if start >= from {
            let offset = segment.offset + (from - segment.address);
            image.place(ram, from, offset, start - from)?;
            from = start + length;
        }
    }
    let offset = segment.offset + (from - segment.address);
    image.place(ram, from, offset, end - from)
}

/// Sections of a Linux kernel that boot faster when they are known, as guest
/// physical ranges. Only hints: a kernel without section headers, or with odd
/// ones, has none.
#[derive(Default)]
struct Sections {
    /// Large pieces of code, which Linux patches while it boots, and of data
    /// that it only boots with.
    written: Vec<(u64, u64)>,
    /// Large pieces of zeroes that the file holds for what lies behind them,
    /// in ascending order: such as `.bss`, or from code to constants. Linux
    /// fills them itself, and mapped they cost an exit and a copy for each
    /// page then.
    zeroes: Vec<(u64, u64)>,
    /// All others.
    contents: Vec<(u64, u64)>,
    /// End of the section before, if the guest may not write there.
    constant_end: Option<u64>,
}

impl Sections {
    fn read(&mut self, image: &Image, head: &[u8; 64], segments: &[Segment]) {
        let count = u16_at(head, 60).unwrap_or(0).min(MAX_SECTIONS);
        let offset = u64_at(head, 40).unwrap_or(0);
        let mut table = vec![0; usize::from(count) * 64];
        if u16_at(head, 58) != Some(64) || image.read(offset, &mut table).is_err() {
            return;
        }
        let names = u16_at(head, 62).unwrap_or(0);
        let names = table.chunks_exact(64).nth(names.into());
        let names = names.and_then(|header| read_names(image, header));
        for header in table.chunks_exact(64) {
            self.add(header, segments, names.as_deref().unwrap_or_default());
        }
        self.settle();
    }

    /// Headers need not be in order: what lies between two may be a third.
    fn settle(&mut self) {
        let contents = std::mem::take(&mut self.contents);
        let overlap = |a: &(u64, u64), b: &(u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
        self.zeroes.retain(|zero| !contents.iter().any(|content| overlap(zero, content)));
        self.zeroes.sort_unstable();
    }

    fn add(&mut self, header: &[u8], segments: &[Segment], names: &[u8]) -> Option<()> {
        let (name, kind) = (u32_at(header, 0)?, u32_at(header, 4)?);
        let flags = u64_at(header, 8)?;
        let (linked, size) = (u64_at(header, 16)?, u64_at(header, 32)?);
        if flags & SHF_ALLOC == 0 {
            return None;
        }
        let place = |s: &Segment| {
            let skip = linked.checked_sub(s.linked)?;
            let fits = s.kind == PT_LOAD && size <= s.file_size.checked_sub(skip)?;
            fits.then(|| (s.address + skip, s.flags & PF_W != 0))
        };
        let (address, writable) = segments.iter().find_map(place)?;
        let gap = self.constant_end.and_then(|end| Some((end, address.checked_sub(end)?)));
        self.constant_end = (!writable).then_some(address + size);
        let name = names.get(name as usize..).unwrap_or_default();
        let discarded = || DISCARDED.iter().any(|discarded| name.starts_with(discarded));
        let section = (address, size);
        let large = |(_, size): &(u64, u64)| *size >= super::image::WORTH_MAPPING;
        self.zeroes.extend(gap.filter(large).filter(|_| !writable));
        if kind == SHT_NOBITS || name.starts_with(SCRATCH) {
            self.zeroes.extend(Some(section).filter(large));
            return Some(());
        }
        self.contents.push(section);
        if flags & SHF_EXECINSTR != 0 || discarded() {
            self.written.extend(Some(section).filter(large));
        }
        Some(())
    }
}

/// Reads the names of all sections, of which `header` is one.
fn read_names(image: &Image, header: &[u8]) -> Option<Vec<u8>> {
    let (offset, size) = (u64_at(header, 24)?, u64_at(header, 32)?);
    let mut names = vec![0; size.min(MAX_NAMES) as usize];
    image.read(offset, &mut names).ok()?;
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1 << 10;
    const START: u64 = 16 << 20;

    fn segment(address: u64, size: u64) -> Segment {
        Segment {
            kind: PT_LOAD,
            flags: 5,
            offset: 0,
            linked: address,
            address,
            file_size: size,
            memory_size: size,
        }
    }

    /// Sections of constants, by address and size.
    fn zeroes(segments: &[Segment], sections: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut found = Sections::default();
        for (address, size) in sections {
            let mut header = [0; 64];
            header[4] = 1;
            header[8] = SHF_ALLOC as u8;
            header[16..24].copy_from_slice(&address.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            found.add(&header, segments, &[]).unwrap();
        }
        found.settle();
        found.zeroes
    }

    #[test]
    fn nothing_is_left_out_between_sections_in_disorder() {
        let whole = [segment(START, 2048 * K)];
        let (first, last) = ((START, 4 * K), (START + 1024 * K, 4 * K));
        let gap = (START + 4 * K, 1020 * K);
        assert_eq!(zeroes(&whole, &[first, last]), [gap]);
        let between = (START + 512 * K, 4 * K);
        assert_eq!(zeroes(&whole, &[first, last, between]), []);
    }

    /// Two segments of code and constants, with room between them.
    #[test]
    fn what_lies_between_segments_is_no_part_of_one() {
        let bytes = vec![7; 512 << 10];
        let image = Image::embedded("kernel", &bytes).unwrap();
        let ram = memory::create(32 << 20).unwrap();
        let first = segment(START, 512 * K);
        let second = segment(START + 1024 * K, 4 * K);
        let zeroes = zeroes(&[first, second], &[(START, 4 * K), (second.address, 4 * K)]);
        assert_eq!(zeroes, [(START + 4 * K, 1020 * K)]);
        place(&ram, &image, &first, &zeroes).unwrap();
        let mut seen = vec![0; bytes.len()];
        vm_memory::Bytes::read_slice(&ram, &mut seen, vm_memory::GuestAddress(START)).unwrap();
        assert!(seen == bytes);
    }
}
