//! Kernels made for a test out of a tiny guest.

use std::fs;
use std::io;
use std::path::Path;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PAGE: usize = 4096;

/// Where the payload goes, as in an x86-64 vmlinux.
const PAYLOAD: u64 = 16 << 20;
/// Zeroed memory behind the payload's last segment.
const BSS: u64 = 3 << 20;

/// Segment flags: read and execute, read, read and write.
const FLAGS: [u32; 3] = [5, 4, 6];

/// An ELF file of `size` bytes that starts like `guest` and has the rest of
/// those bytes as page-aligned segments of noise from 16 MiB up: for whoever
/// loads it, a kernel of that size, which runs as the tiny guest. The last
/// segment ends in the middle of a page and has a BSS, as a vmlinux has.
///
/// # Errors
/// The guest cannot be read, is no ELF file as the project builds them, or is
/// larger than `size`.
pub fn with_payload(guest: &Path, size: usize) -> io::Result<Vec<u8>> {
    let small = fs::read(guest)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a guest's ELF file");
    let count = usize::from(small.get(56).copied().ok_or_else(invalid)?);
    let headers = HEADER + (count + FLAGS.len()) * PROGRAM_HEADER;
    let start = small.len().next_multiple_of(PAGE);
    // The guest's segments stay where they are in the file.
    let first = number(&small, HEADER + 8).ok_or_else(invalid)?;
    if !small.starts_with(b"\x7fELF") || headers as u64 > first || size < start + 16 * PAGE {
        return Err(invalid());
    }
    let mut kernel = small;
    kernel[56] = (count + FLAGS.len()) as u8;
    kernel[40..48].fill(0); // no section headers
    kernel[58..64].fill(0);
    let mut at = start;
    let share = ((size - start) / FLAGS.len()).next_multiple_of(PAGE);
    for (i, flags) in FLAGS.into_iter().enumerate() {
        let last = i == FLAGS.len() - 1;
        let len = if last { size - at - PAGE / 3 } else { share };
        let address = PAYLOAD + (at - start) as u64;
        let bss = if last { BSS } else { 0 };
        let header = program_header(flags, at as u64, address, [len as u64, len as u64 + bss]);
        let slot = HEADER + (count + i) * PROGRAM_HEADER;
        kernel[slot..slot + PROGRAM_HEADER].copy_from_slice(&header);
        at += len;
    }
    kernel.resize(start, 0);
    noise(&mut kernel, size);
    Ok(kernel)
}

fn program_header(flags: u32, offset: u64, address: u64, sizes: [u64; 2]) -> Vec<u8> {
    let mut header = Vec::with_capacity(PROGRAM_HEADER);
    header.extend(1u32.to_le_bytes()); // PT_LOAD
    header.extend(flags.to_le_bytes());
    for field in [offset, address, address, sizes[0], sizes[1], PAGE as u64] {
        header.extend(field.to_le_bytes());
    }
    header
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    field.try_into().ok().map(u64::from_le_bytes)
}

/// Appends bytes that no file system stores as holes, up to `size`.
fn noise(bytes: &mut Vec<u8>, size: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest;

    const PT_LOAD: u8 = 1;

    #[test]
    fn payload_is_page_aligned_and_fills_the_file() {
        let size = 1 << 20;
        let kernel = with_payload(&guest("hello"), size).unwrap();
        assert_eq!(kernel.len(), size);
        let hello = fs::read(guest("hello")).unwrap();
        assert_eq!(kernel[24..32], hello[24..32], "same entry point");
        assert_eq!(kernel[PAGE..PAGE + 16], hello[PAGE..PAGE + 16], "same code");
        let count = usize::from(kernel[56]);
        assert_eq!(count, usize::from(hello[56]) + FLAGS.len());
        let mut end = 0;
        for i in 0..count {
            let header = HEADER + i * PROGRAM_HEADER;
            if kernel[header] != PT_LOAD {
                continue;
            }
            let [offset, address, file, memory] =
                [8, 24, 32, 40].map(|at| number(&kernel, header + at).unwrap());
            assert_eq!(offset % PAGE as u64, 0);
            assert_eq!(address % PAGE as u64, 0);
            assert!(memory >= file);
            assert!(address >= end, "segments overlap");
            assert!(offset + file <= size as u64);
            end = address + memory;
        }
    }

    #[test]
    fn what_is_no_guest_is_refused() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(with_payload(&manifest, 1 << 20).is_err());
        assert!(with_payload(&guest("hello"), 100).is_err());
    }
}
