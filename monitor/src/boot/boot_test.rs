//! Kernels as they should be, and as they should not.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, GuestAddress};

use super::image::worth_mapping;
use super::{Cause, Source, check_cmdline};
use crate::host::memory::{self, GuestRam};
use crate::layout;
use crate::vm::regs::Entry;

/// A file in the system's temporary directory, gone with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mote-boot-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

fn load(ram: &GuestRam, kernel: &[u8], initrd: Option<&[u8]>) -> Result<Entry, String> {
    let kernel = Scratch::new(kernel);
    let initrd = initrd.map(Scratch::new);
    let initrd = initrd.as_ref().map(|file| file.0.as_path());
    let text = |e: crate::error::Error| e.to_string();
    let source = Source::open(&kernel.0, initrd, Some("quiet")).map_err(text)?;
    let loaded = source.load(ram, layout::ACPI_START, Cause::PowerOn).map_err(text)?;
    Ok(loaded.entry)
}

fn ram() -> GuestRam {
    memory::create(64 << 20).unwrap()
}

fn read(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// A segment: address, bytes in the file and their offset, bytes in memory.
type Part<'a> = (u64, &'a [u8], usize, u64);

/// An ELF kernel of the given segments; the first one's start is its entry.
fn elf(parts: &[Part]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&parts[0].0.to_le_bytes());
    file[32] = 64;
    file[54] = 56;
    file[56] = parts.len() as u8;
    for (address, bytes, offset, memory) in parts {
        let mut header = [0; 56];
        header[0] = 1;
        header[8..16].copy_from_slice(&(*offset as u64).to_le_bytes());
        header[24..32].copy_from_slice(&address.to_le_bytes());
        header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        header[40..48].copy_from_slice(&memory.to_le_bytes());
        file.extend_from_slice(&header);
    }
    for (_, bytes, offset, _) in parts {
        file.resize(file.len().max(offset + bytes.len()), 0);
        file[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
    file
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 7 + n / 4096) as u8 | 1).collect()
}

/// Segments that line up are mapped, others copied; the guest sees the same
/// bytes either way, and zeroes around them.
#[test]
fn segments_are_placed_whole() {
    let bytes = pattern(1_300_001);
    for (address, offset) in [
        (0x20_0000, 0x1000),   // lined up, page-aligned: mapped, tail copied
        (0x20_0123, 0x1123),   // lined up, not aligned: head and tail copied
        (0x20_0000, 0x1200),   // not lined up: copied
        (0x20_0fff, 0x1_1fff), // the last byte of a page first
    ] {
        let ram = ram();
        let file = elf(&[(address, &bytes, offset, bytes.len() as u64 + 9000)]);
        assert_eq!(load(&ram, &file, None), Ok(Entry::Linux64(address)));
        assert!(read(&ram, address, bytes.len()) == bytes, "{address:#x} {offset:#x}");
        assert!(read(&ram, address - 4096, 4096).iter().all(|b| *b == 0));
        let after = address + bytes.len() as u64;
        assert!(read(&ram, after, 9000).iter().all(|b| *b == 0));
    }
}

/// Small leftovers of a mapping in a block of 2 MiB are copied, so that the
/// block can become a huge page; nothing is left out or mapped twice.
#[test]
fn what_is_worth_mapping() {
    const M: u64 = 1 << 20;
    const K: u64 = 1 << 10;
    for (range, mapped) in [
        ((16 * M, 20 * M), (16 * M, 20 * M)),
        ((16 * M, 20 * M + 0x26634), (16 * M, 20 * M)),
        ((16 * M, 20 * M + 256 * K), (16 * M, 20 * M + 256 * K)),
        ((17 * M + 769 * K, 20 * M), (18 * M, 20 * M)),
        ((17 * M, 19 * M + 4095), (17 * M, 19 * M)),
        ((16 * M + 0x4e000, 18 * M + 0x3f000), (16 * M + 0x4e000, 18 * M)),
    ] {
        assert_eq!(worth_mapping(range.0, range.1), mapped, "{range:x?}");
    }
    for range in [(16 * M, 16 * M + 4096), (18 * M - 5, 18 * M), (5, 6)] {
        let (start, end) = worth_mapping(range.0, range.1);
        assert_eq!(start, end, "{range:x?}");
    }
}

/// What a Linux kernel's sections say is scratch space, or in between two of
/// them, is zero and its own; what it will write to is known.
#[test]
fn sections_of_linux_are_hints() {
    let mut bytes = pattern(6 << 20);
    let (base, offset) = (0x100_0000, 0x1000);
    // The note that says it is Linux lies in the first page.
    let note = [6, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0];
    bytes[..12].copy_from_slice(&note);
    bytes[12..20].copy_from_slice(b"Linux\0\0\0");
    let mut file = elf(&[(base, &bytes, offset, bytes.len() as u64), (0, &[], 0x1000, 0)]);
    file[64 + 56] = 4;
    file[64 + 56 + 32] = 20;
    let names = b"\0.text\0.rodata\0.init.scratch\0";
    let names_at = file.len();
    file.extend_from_slice(names);
    let table = file.len();
    // Name, type, flags, offset into the segment, bytes.
    let text = (1, 1, 6, 0x1000, 0x20_0000);
    let rodata = (7, 1, 2, 0x30_0000, 0x1000);
    let scratch = (15, 1, 3, 0x40_0000, 0x20_0000);
    for (name, kind, flags, at, size) in [text, rodata, scratch] {
        let mut header = [0; 64];
        header[0] = name;
        header[4] = kind;
        header[8] = flags;
        header[16..24].copy_from_slice(&u64::to_le_bytes(at));
        header[32..40].copy_from_slice(&u64::to_le_bytes(size));
        file.extend_from_slice(&header);
    }
    let mut header = [0; 64];
    header[4] = 3;
    header[24..32].copy_from_slice(&(names_at as u64).to_le_bytes());
    header[32..40].copy_from_slice(&(names.len() as u64).to_le_bytes());
    file.extend_from_slice(&header);
    file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
    file[58..64].copy_from_slice(&[64, 0, 4, 0, 3, 0]);

    let ram = ram();
    let kernel = Scratch::new(&file);
    let source = Source::open(&kernel.0, None, None).unwrap();
    let loaded = source.load(&ram, 0, Cause::PowerOn).unwrap();
    assert_eq!(loaded.written, [(base + 0x1000, 0x20_0000)]);
    let seen = read(&ram, base, bytes.len());
    let zero = |range: std::ops::Range<usize>| seen[range].iter().all(|b| *b == 0);
    assert!(seen[..0x20_1000] == bytes[..0x20_1000]);
    assert!(zero(0x20_1000..0x30_0000), "between two sections");
    // Between a section and scratch space of a segment that is read-only.
    assert!(seen[0x30_0000..0x30_1000] == bytes[0x30_0000..0x30_1000]);
    assert!(zero(0x40_0000..0x60_0000), "scratch space");
    // The same file is loaded as it is if it does not say that it is Linux.
    let mut other = file.clone();
    other[offset + 12] = b'l';
    let ram = self::ram();
    load(&ram, &other, None).unwrap();
    assert!(read(&ram, base + 64, bytes.len() - 64) == bytes[64..]);
}

/// A segment of no bytes may say that it lies anywhere.
#[test]
fn empty_segments_are_nowhere() {
    let code = pattern(100);
    let file = elf(&[(0x20_0000, &code, 0x1000, 100), (u64::MAX, &[], 0x1000, 0)]);
    let entry = load(&ram(), &file, Some(&[1; 5000]));
    assert_eq!(entry, Ok(Entry::Linux64(0x20_0000)));
}

/// A mapped kernel belongs to the guest: its writes never reach the file, and
/// power-on brings the file's bytes back.
#[test]
fn guest_writes_stay_in_the_guest() {
    let bytes = pattern(1 << 20);
    let file = elf(&[(0x20_0000, &bytes, 0x1000, bytes.len() as u64)]);
    let kernel = Scratch::new(&file);
    let source = Source::open(&kernel.0, None, None).unwrap();
    let ram = ram();
    source.load(&ram, 0, Cause::PowerOn).unwrap();
    ram.write_slice(&[0; 8192], GuestAddress(0x20_0000)).unwrap();
    assert!(fs::read(&kernel.0).unwrap() == file);
    ram.write_slice(b"kept", GuestAddress(layout::KEPT)).unwrap();
    memory::power_on(&ram).unwrap();
    assert_eq!(read(&ram, layout::KEPT, 5), *b"kept\0");
    assert!(read(&ram, 0x20_0000, bytes.len()) == bytes);
    assert_eq!(read(&ram, layout::CMDLINE, 1), [0]);
}

#[test]
fn bad_elf_files_are_refused_by_name() {
    let code = pattern(100);
    let good = elf(&[(0x20_0000, &code, 0x1000, 100)]);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", good[..40].to_vec()),
        ("truncated", good[..100].to_vec()),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("32-bit", with(4, &[1])),
        ("big-endian", with(5, &[2])),
        ("machine 183", with(18, &[183, 0])),
        ("object file", with(16, &[1])),
        ("position-independent", with(16, &[3])),
        ("core dump", with(16, &[4])),
        ("unknown size", with(54, &[32])),
        ("0 program headers", with(56, &[0, 0])),
        ("65535 program headers", with(56, &[0xff, 0xff])),
        ("truncated", with(32, &huge)),
        ("truncated", with(64 + 8, &huge)),
        ("truncated", with(64 + 32, &huge)),
        ("outside the guest's RAM", with(64 + 40, &huge)),
        ("outside the guest's RAM", with(64 + 24, &huge)),
        ("larger in the file", with(64 + 40, &[1, 0, 0])),
        ("nothing to load", with(64, &[0])),
        ("entry point", with(24, &[0, 0, 0x30])),
        ("outside the guest's RAM", elf(&[(0x7000, &code, 0x1000, 100)])),
        ("outside the guest's RAM", elf(&[(0x400_0000 - 50, &code, 0x1000, 100)])),
        (
            "overlap at 0x200050",
            elf(&[(0x20_0000, &code, 0x1000, 100), (0x20_0050, &code, 0x1000, 100)]),
        ),
        ("overlap", elf(&[(0x20_0000, &code, 0x1000, 0x2000), (0x20_1000, &code, 0x1000, 100)])),
    ];
    for (word, file) in cases {
        let error = load(&ram(), &file, None).unwrap_err();
        assert!(error.starts_with("kernel ") && error.contains(word), "{word}: {error}");
        assert!(!error.contains('\n'));
    }
}

/// ELF offsets behind the end must not become an endless loop
/// (CVE-2022-23523): every header byte takes every value, in bounded time.
#[test]
fn any_header_byte_is_survived() {
    let code = pattern(100);
    let good = elf(&[(0x20_0000, &code, 0x1000, 100), (0x30_0000, &code, 0x1000, 100)]);
    let ram = ram();
    for at in 0..64 + 2 * 56 {
        for value in [0, 1, 4, 0x7f, 0x80, 0xff] {
            let mut file = good.clone();
            file[at] = value;
            let _ = load(&ram, &file, None);
        }
    }
}

#[test]
fn a_pvh_note_decides_the_entry() {
    let code = pattern(100);
    let note = |name: &[u8; 4], kind: u32| {
        let mut note = Vec::new();
        // Another note first, with a name and description that need padding.
        for word in [5u32, 3, 1] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        note.extend_from_slice(b"Moss\0\0\0\0abc\0");
        for word in [4, 4, kind] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        note.extend_from_slice(name);
        note.extend_from_slice(&0x20_0010u32.to_le_bytes());
        note
    };
    let file = |note: &[u8]| {
        let mut file =
            elf(&[(0x20_0000, &code, 0x1000, 100), (0, note, 0x1800, note.len() as u64)]);
        file[64 + 56] = 4;
        file
    };
    assert_eq!(load(&ram(), &file(&note(b"Xen\0", 18)), None), Ok(Entry::Pvh(0x20_0010)));
    assert_eq!(load(&ram(), &file(&note(b"Xen\0", 17)), None), Ok(Entry::Linux64(0x20_0000)));
    assert_eq!(load(&ram(), &file(&note(b"GNU\0", 18)), None), Ok(Entry::Linux64(0x20_0000)));
    // Sizes that lead out of the note end the search.
    let mut broken = note(b"Xen\0", 18);
    broken[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(load(&ram(), &file(&broken), None), Ok(Entry::Linux64(0x20_0000)));
    // PVH start information is there, with its magic.
    let ram = ram();
    load(&ram, &file(&note(b"Xen\0", 18)), Some(b"initrd")).unwrap();
    assert_eq!(read(&ram, layout::PVH_INFO, 4), 0x336e_c578u32.to_le_bytes());
}

/// A bzImage of one setup sector with `payload` behind it.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1f4..0x1f8].copy_from_slice(&(payload.len().div_ceil(16) as u32).to_le_bytes());
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x234] = 1;
    file[0x236] = 1;
    file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x100_0000u32.to_le_bytes());
    file.extend_from_slice(payload);
    file
}

#[test]
fn bzimages_are_loaded_and_checked() {
    let payload = pattern(100_000);
    let good = bzimage(&payload);
    let ram = ram();
    assert_eq!(load(&ram, &good, Some(&[7; 5000])), Ok(Entry::Linux64(0x100_0200)));
    assert!(read(&ram, 0x100_0000, payload.len()) == payload);
    let zero_page = read(&ram, layout::ZERO_PAGE, 4096);
    assert_eq!(zero_page[0x1f1..0x1f8], good[0x1f1..0x1f8]);
    // The initrd lies at the top of memory, page-aligned, and is announced.
    assert_eq!(zero_page[0x218..0x21c], (0x400_0000u32 - 8192).to_le_bytes());
    assert_eq!(zero_page[0x21c..0x220], 5000u32.to_le_bytes());
    assert_eq!(read(&ram, 0x400_0000 - 8192, 5001), [[7; 5000].as_slice(), &[0]].concat());
    // Too little memory at the preferred address: it can be moved down.
    let small = memory::create(20 << 20).unwrap();
    assert_eq!(load(&small, &good, None), Ok(Entry::Linux64(layout::HIGH_RAM + 0x200)));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (word, file) in [
        ("truncated", good[..good.len() - 32].to_vec()),
        ("truncated", good[..1024].to_vec()),
        ("64-bit entry", with(0x236, &[0])),
        ("64-bit entry", with(0x206, &[5, 2])),
        ("needs", with(0x260, &[0xff; 4])),
        ("truncated", with(0x1f4, &[0xff; 4])),
    ] {
        let error = load(&ram, &file, None).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn what_is_no_kernel_is_called_by_its_name() {
    let mut iso = vec![0; 0x9000];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    let mut random = pattern(5000);
    random[0] = 0x90;
    for (bytes, word) in [
        (b"hello there\n".to_vec(), "a text file"),
        (b"#!/bin/sh\n".to_vec(), "a script"),
        (b"\x1f\x8b\x08\0".to_vec(), "a gzip file"),
        (b"QFI\xfb\0".to_vec(), "a qcow2 disk image"),
        (b"070701000".to_vec(), "a cpio archive"),
        (iso, "an ISO 9660 image"),
        (vec![0; 100], "full of zeroes"),
        (b"\x7f".to_vec(), "unknown kind"),
        (random, "unknown kind"),
    ] {
        let error = load(&ram(), &bytes, None).unwrap_err();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn files_that_are_none_are_refused() {
    let empty = Scratch::new(b"");
    let missing = std::env::temp_dir().join("mote-boot-test-missing");
    for (path, word) in [
        (empty.0.as_path(), "is empty"),
        (missing.as_path(), "no such file"),
        (std::env::temp_dir().as_path(), "is a directory"),
        ("/dev/null".as_ref(), "not a regular file"),
    ] {
        let error = Source::open(path, None, None).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn an_initrd_must_fit_behind_the_kernel() {
    let code = pattern(100);
    let kernel = elf(&[(0x20_0000, &code, 0x1000, 0x100_0000)]);
    let small = memory::create(20 << 20).unwrap();
    assert!(load(&small, &kernel, Some(&vec![1; 1 << 20])).is_ok());
    for size in [(2 << 20) + 1, 64 << 20] {
        let error = load(&small, &kernel, Some(&vec![1; size])).unwrap_err();
        assert!(error.starts_with("initrd ") && error.contains("leaves room"), "{error}");
    }
}

#[test]
fn command_lines_are_bounded() {
    assert!(check_cmdline(&"x".repeat(layout::CMDLINE_MAX)).is_ok());
    for text in ["x".repeat(layout::CMDLINE_MAX + 1), "x".repeat(5000), "a\0b".to_owned()] {
        assert!(check_cmdline(&text).unwrap_err().to_string().starts_with("--cmdline: "));
    }
}

/// RAM as the guest is told it is: nothing in the device hole, nothing twice.
#[test]
fn memory_maps_leave_the_hole_free() {
    for size in [64 << 20, 3 << 30, 3584 << 20, 5u64 << 30] {
        let ram = memory::create(size).unwrap();
        let map = super::kernel::e820(&ram);
        let usable: u64 = map.iter().filter(|e| e.2 == 1).map(|e| e.1).sum();
        let reserved = layout::HIGH_RAM - layout::LOW_RAM_END;
        assert_eq!(usable, size - reserved);
        assert!(map.is_sorted_by(|a, b| a.0 + a.1 <= b.0));
        let in_hole = |&(start, length, _): &(u64, u64, u32)| {
            start < layout::HOLE_END && start + length > layout::HOLE_START
        };
        assert!(!map.iter().any(in_hole));
    }
}
