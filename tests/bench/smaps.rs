//! What a monitor's process occupies beside the guest's memory.

use std::fs;
use std::io;

/// Sums over all mappings but the guest's RAM, in KiB.
#[derive(Default)]
pub struct Usage {
    /// Proportional share: private pages, and a part of what is shared.
    pub pss: u64,
    /// Pages that were written, which no other process can share. (Not
    /// `Private_Dirty`, which counts a file's pages that the host has yet to
    /// write to its disk.)
    pub written: u64,
    /// Resident pages of the whole process, the guest's touched RAM included.
    pub rss: u64,
}

#[derive(Default)]
struct Mapping {
    start: u64,
    end: u64,
    pss: u64,
    written: u64,
    rss: u64,
}

/// Reads `/proc/PID/smaps`. `ram` is the size of the guest's memory in bytes.
pub fn usage(pid: libc::pid_t, ram: u64) -> io::Result<Usage> {
    let mappings = parse(&fs::read_to_string(format!("/proc/{pid}/smaps"))?);
    let guest = guest_ram(&mappings, ram)
        .ok_or_else(|| io::Error::other("no mapping of the size of the guest's memory"))?;
    let mut usage = Usage::default();
    for (i, mapping) in mappings.iter().enumerate() {
        usage.rss += mapping.rss;
        if !guest.contains(&i) {
            usage.pss += mapping.pss;
            usage.written += mapping.written;
        }
    }
    Ok(usage)
}

/// The guest's RAM is one anonymous mapping, but where a kernel's segments are
/// mapped from their file over it, it is a row of adjacent mappings: what counts
/// is that they add up to exactly the size of the RAM.
fn guest_ram(mappings: &[Mapping], ram: u64) -> Option<std::ops::Range<usize>> {
    (0..mappings.len()).find_map(|first| {
        let start = mappings[first].start;
        let mut end = start;
        for (i, mapping) in mappings.iter().enumerate().skip(first) {
            if mapping.start != end {
                return None;
            }
            end = mapping.end;
            if end - start >= ram {
                return (end - start == ram).then_some(first..i + 1);
            }
        }
        None
    })
}

fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        if let Some((start, end)) = range(name) {
            mappings.push(Mapping { start, end, ..Mapping::default() });
            continue;
        }
        let value = words.next().and_then(|word| word.parse::<u64>().ok());
        if let (Some(mapping), Some(kib)) = (mappings.last_mut(), value) {
            match name {
                "Rss:" => mapping.rss = kib,
                "Pss:" => mapping.pss = kib,
                "Anonymous:" => mapping.written = kib,
                _ => {}
            }
        }
    }
    mappings
}

fn range(word: &str) -> Option<(u64, u64)> {
    let (start, end) = word.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}
