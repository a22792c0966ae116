//! Numbers and texts inside raw structures. Bytes beyond the end read as 0:
//! what is parsed is read in its full size first.

use alloc::string::String;

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let field = bytes.iter().skip(at).take(size).rev();
    field.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A byte.
pub(crate) fn u8(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// A little-endian number of 2 bytes.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    number(bytes, at, 2) as u16
}

/// A little-endian number of 4 bytes.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at, 4) as u32
}

/// A little-endian number of 8 bytes.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    number(bytes, at, 8)
}

/// `len` bytes from `at`, fewer at the end.
pub(crate) fn part(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.get(..len).unwrap_or(rest)
}

/// A text without the blanks and NULs that fill its field.
pub(crate) fn text(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(field);
    let end = text.find('\0').unwrap_or(text.len());
    let text = text.get(..end).unwrap_or_default();
    String::from(text.trim_end())
}
