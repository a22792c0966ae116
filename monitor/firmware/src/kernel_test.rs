//! Kernels as they should be, and as they should not.

use alloc::rc::Rc;
use std::vec::Vec;

use super::{Entry, Kernel};
use crate::Error;
use crate::disk::{Extent, File};
use crate::testing::Image;

const RAM: u64 = 64 << 20;

fn open(content: Vec<u8>, ram_end: u64) -> Result<Kernel, Error> {
    let len = content.len() as u64;
    let mut file = File::new(Rc::new(Image(content)));
    file.push(Extent { at: Some(0), len })?;
    Kernel::open(&file, ram_end)
}

/// A bzImage of one setup sector and 100,000 bytes.
fn bzimage() -> Vec<u8> {
    let mut file = std::vec![0; 1024 + 100_000];
    file[0x1f1] = 1;
    file[0x1f4..0x1f8].copy_from_slice(&6250u32.to_le_bytes());
    file[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x230..0x237].copy_from_slice(&[0, 0, 0x20, 0, 1, 21, 1]);
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x100_0000u32.to_le_bytes());
    file
}

/// An ELF file of segments: address, bytes in the file, bytes in memory.
fn elf(segments: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut file = std::vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&segments[0].0.to_le_bytes());
    file[32] = 64;
    file[54] = 56;
    file[56] = segments.len() as u8;
    for (address, in_file, in_memory) in segments {
        let mut header = [0; 56];
        header[0] = 1;
        for (at, value) in [(8, 0x1000), (24, *address), (32, *in_file), (40, *in_memory)] {
            header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        file.extend_from_slice(&header);
    }
    file.resize(0x1000, 0);
    file.resize(0x1000 + segments.iter().map(|s| s.1 as usize).max().unwrap(), 7);
    file
}

fn with(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn bzimages_lie_where_they_prefer() {
    let kernel = open(bzimage(), RAM).unwrap();
    let load = &kernel.loads[0];
    assert_eq!(
        (load.at, load.file.len(), kernel.entry.address()),
        (0x100_0000, 100_000, 0x100_0200)
    );
    assert_eq!((kernel.end, kernel.cmdline_max), (0x200_0000, 2047));
    assert_eq!(kernel.header.as_ref().unwrap().len(), 0x202 + 0x6a - 0x1f1);
    // The initrd lies as high as it may.
    assert_eq!(kernel.place_initrd(5000, RAM), Ok(RAM - 8192));
    assert_eq!(kernel.place_initrd(5000, 4 << 30), Ok((2 << 30) - 8192));
    assert!(kernel.place_initrd(RAM - 0x200_0000 + 1, RAM).is_err());
    assert!(kernel.place_initrd(u64::MAX, RAM).is_err());
    // Where there is no room it is moved down, if it can be.
    assert_eq!(open(bzimage(), 20 << 20).unwrap().entry, Entry::Linux(0x20_0200));
    for (file, ram) in [
        (with(bzimage(), 0x234, &[0]), 20 << 20),
        (bzimage(), 17 << 20),
        (with(bzimage(), 0x236, &[0]), RAM),
        (with(bzimage(), 0x206, &[5, 2]), RAM),
        (with(bzimage(), 0x260, &[0xff; 4]), RAM),
        (with(bzimage(), 0x258, &[0xff; 8]), 1 << 20),
        (bzimage()[..1024].to_vec(), RAM),
        (bzimage()[..1024 + 99_000].to_vec(), RAM),
    ] {
        assert!(open(file, ram).is_err());
    }
}

#[test]
fn elf_files_lie_where_they_say() {
    let kernel = open(elf(&[(0x20_0000, 100, 5000), (0x10_0000, 10, 10)]), RAM).unwrap();
    assert_eq!((kernel.entry.address(), kernel.end), (0x20_0000, 0x20_0000 + 5000));
    let loads: Vec<_> = kernel.loads.iter().map(|l| (l.at, l.file.len(), l.zeroes)).collect();
    assert_eq!(loads, [(0x10_0000, 10, 0), (0x20_0000, 100, 4900)]);
    let good = || elf(&[(0x20_0000, 100, 5000)]);
    for file in [
        elf(&[(0xf_f000, 100, 5000)]),
        elf(&[(RAM - 100, 100, 101)]),
        elf(&[(u64::MAX - 10, 100, 100)]),
        elf(&[(0x20_0000, 101, 100)]),
        elf(&[(0x20_0000, 100, 5000), (0x20_0800, 10, 10)]),
        elf(&[(0x20_0000, 0, 0)]),
        with(good(), 4, &[1]),
        with(good(), 18, &[183]),
        with(good(), 16, &[3]),
        with(good(), 24, &[0, 0, 0x30]),
        with(good(), 32, &[0xff; 8]),
        with(good(), 54, &[55]),
        with(good(), 56, &[0]),
        with(good(), 56, &[0xff; 2]),
        with(good(), 64 + 8, &[0xff; 8]),
        good()[..0x1050].to_vec(),
    ] {
        assert!(open(file, RAM).is_err());
    }
}

#[test]
fn what_is_no_kernel_is_named() {
    for (content, name) in [
        (with(std::vec![0; 4096], 0, b"MZ"), "UEFI"),
        (with(std::vec![0; 512], 510, &[0x55, 0xaa]), "BIOS"),
        (std::vec![0; 10], "not a kernel"),
        (Vec::new(), "not a kernel"),
    ] {
        let error = open(content, RAM).err().unwrap();
        assert!(std::format!("{error}").contains(name), "{error}");
    }
}

#[test]
fn a_note_asks_for_pvh() {
    let mut note = Vec::new();
    for word in [5u32, 3, 1] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Moss\0\0\0\0abc\0");
    for word in [4u32, 4, 18] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0\x10\0\x20\0");
    let file = |note: &[u8]| {
        let mut file = elf(&[(0x20_0000, 100, 100), (0, note.len() as u64, 0)]);
        file[64 + 56] = 4;
        file[0x1000..0x1000 + note.len()].copy_from_slice(note);
        file
    };
    let entry = |note: &[u8]| open(file(note), RAM).map(|kernel| kernel.entry);
    assert_eq!(entry(&note), Ok(Entry::Pvh(0x20_0010)));
    assert_eq!(entry(&note[..note.len() - 20]), Ok(Entry::Linux(0x20_0000)));
    // Sizes beyond the notes end them; an entry outside the kernel is none.
    assert_eq!(entry(&with(note.clone(), 0, &[0xff; 4])), Ok(Entry::Linux(0x20_0000)));
    assert_eq!(entry(&with(note.clone(), 4, &[0xff; 4])), Ok(Entry::Linux(0x20_0000)));
    let last = note.len() - 1;
    assert!(entry(&with(note, last, &[0x7f])).is_err());
}
