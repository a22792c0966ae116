//! How fast a guest reads and writes a disk, beside this program doing the same
//! to the same file. See README.md. Nothing is asserted about times.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

mod beside;

use beside::{Case, Guest, Options, Result, case};

/// Bytes of the disk.
const SIZE: u64 = 128 << 20;

const CASES: [Case; 13] = [
    case("4K random read, depth 1", 'r', 4096, 1, 4096),
    case("4K random read, depth 2", 'r', 4096, 2, 4096),
    case("4K random read, depth 4", 'r', 4096, 4, 8192),
    case("4K random read, depth 8", 'r', 4096, 8, 8192),
    case("4K random read, depth 16", 'r', 4096, 16, 16384),
    case("4K random read, depth 32", 'r', 4096, 32, 16384),
    case("4K random read, depth 64", 'r', 4096, 64, 16384),
    case("4K random write, depth 1", 'w', 4096, 1, 4096),
    case("4K random write, depth 8", 'w', 4096, 8, 8192),
    case("4K random write, depth 32", 'w', 4096, 32, 16384),
    case("1M read, depth 4", 'R', 1 << 20, 4, 256),
    case("1M write, depth 4", 'W', 1 << 20, 4, 256),
    case("4K write + flush", 'f', 4096, 1, 64),
];

fn main() -> ExitCode {
    beside::main("block", measure)
}

fn measure(options: &Options) -> Result<()> {
    let dir = env::temp_dir().join(format!("mote-block-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = measure_in(&dir, options);
    fs::remove_dir_all(&dir)?;
    result
}

fn measure_in(dir: &Path, options: &Options) -> Result<()> {
    let path = dir.join("disk");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(SIZE)?;
    let path = path.to_str().ok_or("the directory has no name in UTF-8")?;
    let mut guest = Guest::start("bench_block", ["--disk", path], None, options);
    let mut host =
        Host { file, buffers: beside::memory(8 << 20)?, state: 0x2545_f491_4f6c_dd1d, next: 0 };
    beside::print_head(options.runs);
    for case in CASES.iter().filter(|case| options.wants(case)) {
        host.rewrite(case.bytes)?;
        guest.measure(case, options.runs, || Ok(()), || host.work(case))?;
    }
    guest.stop()
}

/// This program as one that uses the file.
struct Host {
    file: File,
    buffers: &'static mut [u8],
    state: u64,
    next: u64,
}

impl Host {
    /// Fills the file again in pieces as large as a request: how large a page
    /// cache's pieces are decides what a small write into them costs.
    fn rewrite(&self, piece: u64) -> Result<()> {
        // The guest is asleep: it does not see the file shrink.
        self.file.set_len(0)?;
        let piece = usize::try_from(piece)?;
        let data = self.buffers.get(..piece).ok_or("a large piece")?;
        for offset in (0..SIZE).step_by(piece) {
            self.file.write_all_at(data, offset)?;
        }
        self.file.sync_all()?;
        Ok(())
    }

    fn place(&mut self, random: bool, len: u64) -> u64 {
        let places = SIZE / len;
        if random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            return self.state % places * len;
        }
        self.next = (self.next + 1) % places;
        self.next * len
    }

    /// Does what the guest does, one request after the other, each of `depth`
    /// buffers in turn; returns microseconds.
    fn work(&mut self, case: &Case) -> Result<f64> {
        let len = usize::try_from(case.bytes)?;
        let random = case.kind.is_ascii_lowercase();
        let begin = Instant::now();
        for number in 0..case.count {
            let at = self.place(random, case.bytes);
            let start = usize::try_from(number % case.depth)? * len;
            let buffer = self.buffers.get_mut(start..start + len);
            let buffer = buffer.ok_or("too few buffers")?;
            match case.kind.to_ascii_lowercase() {
                'r' => self.file.read_exact_at(buffer, at)?,
                _ => self.file.write_all_at(buffer, at)?,
            }
            if case.kind == 'f' {
                self.file.sync_data()?;
            }
        }
        Ok(begin.elapsed().as_nanos() as f64 / 1e3)
    }
}
