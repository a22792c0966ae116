//! How fast a guest sends and receives frames, beside this program doing the
//! same on the same tap. See README.md. Needs root, for the tap. Nothing is
//! asserted about times.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;

mod beside;
mod wire;

use beside::{Case, Guest, Options, Result, case};
use wire::{Tap, Wire};

const CASES: [Case; 6] = [
    case("TX 64 B", 't', 64, 128, 8192),
    case("TX 1500 B", 't', 1514, 128, 8192),
    case("TX 64 KiB", 'T', 65535, 64, 2048),
    case("RX 64 B", 'r', 64, 256, 4096),
    case("RX 1500 B", 'r', 1514, 256, 4096),
    case("RX 64 KiB, 4 KiB buffers", 'R', 65535, 256, 512),
];

fn main() -> ExitCode {
    beside::main("net", measure)
}

fn measure(options: &Options) -> Result<()> {
    let tap = Tap::new(&format!("motebench{}", std::process::id() % 100_000))?;
    let wire = Wire::new(&tap)?;
    let passed = tap.file.try_clone()?;
    let mut guest = Guest::start("bench_net", ["--net", "tap-fd=3"], Some(passed), options);
    let mut host = Host { tap: tap.file, buffers: beside::memory(8 << 20)? };
    beside::print_head(options.runs);
    for case in CASES.iter().filter(|case| options.wants(case)) {
        // What is received is there before it is asked for.
        let prepare = || match case.kind {
            'r' | 'R' => wire.fill(case.bytes as usize, case.count as usize),
            _ => Ok(()),
        };
        guest.measure(case, options.runs, prepare, || host.work(case))?;
    }
    guest.stop()
}

/// This program as one that uses the tap.
struct Host {
    tap: OwnedFd,
    buffers: &'static mut [u8],
}

impl Host {
    /// Does what the guest does, one frame after the other, from or to as much
    /// memory in turn; returns microseconds.
    fn work(&mut self, case: &Case) -> Result<f64> {
        let send = case.kind.eq_ignore_ascii_case(&'t');
        let [bytes, depth, count] = [case.bytes, case.depth, case.count].map(|n| n as usize);
        let len = wire::HEADER + bytes;
        let (space, buffers) = match case.kind {
            'R' => (17 * 4096, depth / 17),
            'r' => (2048, depth),
            _ => (len.next_multiple_of(64), depth),
        };
        if send {
            for buffer in self.buffers.chunks_mut(space).take(buffers) {
                wire::write_frame(buffer, bytes);
            }
        }
        let fd = self.tap.as_raw_fd();
        let begin = Instant::now();
        for number in 0..count {
            let start = number % buffers * space;
            let buffer = self.buffers.get_mut(start..start + space);
            let buffer = buffer.ok_or("too few buffers")?;
            let moved = if send {
                // SAFETY: the buffer is longer than a frame.
                unsafe { libc::write(fd, buffer.as_ptr().cast(), len) }
            } else {
                wire::read_pieces(fd, buffer, if case.kind == 'R' { 4096 } else { space })
            };
            if usize::try_from(moved).ok() != Some(len) {
                let cause = io::Error::last_os_error();
                return Err(format!("{}: {moved} of {len} bytes: {cause}", case.name).into());
            }
        }
        Ok(begin.elapsed().as_nanos() as f64 / 1e3)
    }
}
