//! A guest that works when told to, and the same work done beside it by this
//! program: what both benchmarks of the devices share.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use mote_tests::Vm;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a benchmark of a device is told.
pub struct Options {
    pub mote: PathBuf,
    /// Measurements of each case, on either side.
    pub runs: usize,
    /// Only cases with this in their name.
    pub only: String,
    /// More for the `--disk` or `--net` flag.
    pub device: String,
    /// QEMU's microvm in place of the monitor.
    pub qemu: bool,
    pub extra: Vec<OsString>,
}

/// What makes QEMU start quickly and without anything that the guest does not
/// use. Some hosts refuse what its processor would promise of their mitigations.
const QEMU: [&str; 14] = [
    "-M",
    "microvm,accel=kvm,rtc=off,pit=off,pic=off",
    "-cpu",
    "host,-arch-capabilities",
    "-global",
    "virtio-mmio.force-legacy=false",
    "-nodefaults",
    "-no-user-config",
    "-nographic",
    "-serial",
    "stdio",
    "-object",
    "iothread,id=io",
    "-kernel",
];

impl Options {
    pub fn wants(&self, case: &Case) -> bool {
        case.name.contains(&self.only)
    }

    /// From the command line; `None` if this is not a benchmark run.
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>> {
        const USAGE: &str = "\
usage: cargo bench -p mote-tests --bench NAME -- [OPTIONS] [-- ARGUMENTS OF `mote run`]
  --mote PATH      the monitor (built beside this program if not given)
  --runs N         measurements of each case on either side (15)
  --only TEXT      only cases with this in their name
  --device TEXT    more for the device's flag, such as poll_us=0
  --qemu           QEMU's microvm in place of the monitor (arguments are QEMU's)";
        let mut asked = false;
        let mut options = Self {
            mote: env::current_exe()?.with_file_name("../mote"),
            runs: 15,
            only: String::new(),
            device: String::new(),
            qemu: false,
            extra: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().and_then(|v| v.into_string().ok());
            match argument.to_str() {
                Some("--bench") => asked = true, // given by `cargo bench`
                Some("--mote") => options.mote = value().ok_or(USAGE)?.into(),
                Some("--runs") => options.runs = value().ok_or(USAGE)?.parse::<usize>()?.max(1),
                Some("--only") => options.only = value().ok_or(USAGE)?,
                Some("--device") => options.device = format!(",{}", value().ok_or(USAGE)?),
                Some("--qemu") => options.qemu = true,
                Some("--") => options.extra.extend(arguments.by_ref()),
                _ => return Err(USAGE.into()),
            }
        }
        let mote = options.mote.canonicalize();
        options.mote = mote.map_err(|e| format!("{}: {e}", options.mote.display()))?;
        // `cargo test --all-targets` runs benchmarks too, without that flag.
        Ok(asked.then_some(options))
    }
}

/// What is done, as the guest takes it: a kind, bytes, a depth, how often.
pub struct Case {
    pub name: &'static str,
    pub kind: char,
    pub bytes: u64,
    pub depth: u64,
    pub count: u64,
}

pub const fn case(name: &'static str, kind: char, bytes: u64, depth: u64, count: u64) -> Case {
    Case { name, kind, bytes, depth, count }
}

/// A benchmark's `main`.
pub fn main(name: &str, measure: impl FnOnce(&Options) -> Result<()>) -> ExitCode {
    let result = match Options::parse(env::args_os().skip(1)) {
        Ok(Some(options)) => measure(&options),
        Ok(None) => {
            println!("{name}: not measured; `cargo bench` does that");
            Ok(())
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A benchmark guest (`tests/guests/bench/driver.rs`), which sleeps until it
/// is told what to do.
pub struct Guest {
    vm: Vm,
    ends: bool,
    ticks_per_us: f64,
    answers: usize,
}

impl Guest {
    /// Starts the guest `name` with a device: `flag` and its value. A
    /// descriptor to be passed on is number 3 there.
    pub fn start(
        name: &str,
        [flag, value]: [&str; 2],
        passed: Option<OwnedFd>,
        options: &Options,
    ) -> Self {
        let mut command = Command::new("sh");
        // It travels as standard error, which is not closed on the way.
        match passed {
            Some(fd) => command.args(["-c", "exec \"$@\" 3>&2 2>&1"]).stderr(fd),
            None => command.args(["-c", "exec \"$@\""]).stderr(Stdio::inherit()),
        };
        command.arg("sh");
        let (device, guest) = (&options.device, mote_tests::guest(name));
        if options.qemu {
            command.arg("qemu-system-x86_64").args(QEMU).arg(guest);
            let (back, front) = match flag {
                "--disk" => (
                    [
                        "-drive".into(),
                        format!("if=none,id=back,format=raw,file.locking=off,file={value}"),
                    ],
                    format!("virtio-blk-device,iothread=io,drive=back{device}"),
                ),
                _ => (
                    ["-netdev", "tap,id=back,vhost=off,fd=3"].map(String::from),
                    format!("virtio-net-device,netdev=back{device}"),
                ),
            };
            command.args(back).args(["-device", &front]);
        } else {
            command.arg(&options.mote).args(["run", "--kernel"]).arg(guest);
            command.args([flag, &format!("{value}{device}")]);
        }
        command.args(&options.extra);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let vm = Vm::spawn(&mut command);
        vm.wait_for("ready\n");
        Self { vm, ends: !options.qemu, ticks_per_us: ticks_per_us(), answers: 0 }
    }

    /// Tells it what to do; [`answer`](Self::answer) waits for the end of it.
    fn tell(&mut self, order: &str) {
        self.vm.send(format!("{order}\n"));
    }

    /// Microseconds by the guest's own clock, and its doorbells.
    fn answer(&mut self) -> Result<(f64, u64)> {
        self.answers += 1;
        self.vm.wait_for_times("took ", self.answers);
        let text = loop {
            // The line may be on its way still.
            let text = self.vm.out.text();
            if text.ends_with('\n') {
                break text;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let line = text.lines().last().unwrap_or_default();
        let mut numbers = line.split(' ').skip(1).map(str::parse::<u64>);
        let mut number = || numbers.next().ok_or_else(|| text.clone());
        let (ticks, kicks) = (number()??, number()??);
        Ok((ticks as f64 / self.ticks_per_us, kicks))
    }

    /// Has the guest and this program do the same by turns, `prepare` before
    /// each, and prints what it took.
    pub fn measure(
        &mut self,
        case: &Case,
        runs: usize,
        prepare: impl Fn() -> Result<()>,
        mut host: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        let mut row = Row::default();
        let order = format!("{} {} {} {}", case.kind, case.bytes, case.depth, case.count);
        // The first round is for warming up.
        for round in 0..=runs {
            let (mut host_us, mut guest_us, mut kicks) = (0.0, 0.0, 0);
            for turn in 0..2 {
                prepare()?;
                if (round + turn) % 2 == 0 {
                    host_us = host()?;
                } else {
                    (guest_us, kicks) = self.ask(&order)?;
                }
            }
            if round != 0 {
                row.host.push(host_us / case.count as f64);
                row.guest.push(guest_us / case.count as f64);
                row.kicks += kicks;
            }
        }
        row.print(case.name, case.count);
        Ok(())
    }

    fn ask(&mut self, order: &str) -> Result<(f64, u64)> {
        self.tell(order);
        self.answer()
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        if !self.ends {
            // It has no port for that.
            self.vm.signal(libc::SIGTERM);
            let _ = self.vm.end();
            return Ok(());
        }
        self.tell("q");
        let end = self.vm.end();
        if end.code == 0 && !end.out.contains("FAIL") {
            return Ok(());
        }
        Err(format!("the guest ended with {}: {}", end.code, end.out).into())
    }
}

/// The rate of the time-stamp counter, which guest and host share.
fn ticks_per_us() -> f64 {
    // SAFETY: reads a counter, which every x86-64 processor has.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let (begin, first) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(100));
    (ticks() - first) as f64 / (begin.elapsed().as_nanos() as f64 / 1e3)
}

/// What came out of one case, in microseconds a request.
#[derive(Default)]
struct Row {
    host: Vec<f64>,
    guest: Vec<f64>,
    kicks: u64,
}

pub fn print_head(runs: usize) {
    println!("{runs} runs each, by turns; µs a request; doorbells in a thousand requests");
    println!(
        "{:<26}{:>9}{:>9}{:>7}{:>18}{:>8}",
        "", "host", "guest", "ratio", "[of quartiles]", "bells"
    );
}

impl Row {
    /// Prints medians, their ratio, and how far it may be off: the ratios of
    /// the guest's quartiles to the host's median.
    fn print(mut self, name: &str, count: u64) {
        let sorted = |values: &mut Vec<f64>| values.sort_by(f64::total_cmp);
        sorted(&mut self.host);
        sorted(&mut self.guest);
        let host = median(&self.host);
        let at = |quarter: usize| self.guest[(self.guest.len() - 1) * quarter / 4] / host;
        let guest = median(&self.guest);
        let bells = self.kicks as f64 * 1000.0 / (count * self.guest.len() as u64) as f64;
        println!(
            "{name:<26}{host:>9.2}{guest:>9.2}{:>7.2}{:>18}{bells:>8.1}",
            guest / host,
            format!("[{:.2} {:.2}]", at(1), at(3)),
        );
    }
}

fn median(sorted: &[f64]) -> f64 {
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// Ordinary memory, as the guest's is, from the start of a page: the kernel
/// copies to elsewhere at a third of the speed.
pub fn memory(len: usize) -> Result<&'static mut [u8]> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the new mapping, which nobody else knows and nobody unmaps.
    let memory = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), len) };
    memory.fill(0x5a);
    Ok(memory)
}
