//! How long a virtual machine takes to start and to end, and what it occupies
//! beside the guest's memory. See README.md. Nothing is asserted about times;
//! it fails only if a program that it runs fails.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use mote_tests::{guest, kernel};

mod compiled;
mod smaps;
mod timed;
mod turns;

use compiled::build;
use turns::{Series, print};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo bench -p mote-tests --bench startup -- [OPTIONS] [-- ARGUMENTS OF `mote run`]
  --mote PATH     the monitor (built beside this program if not given)
  --runs N        runs of each program (60)
  --warmups N     runs of each before those (5)
  --memory MIB    memory of the guest (128)";

/// Size of the large kernel: that of a distribution's vmlinux.
const LARGE: usize = 44 << 20;

struct Options {
    mote: PathBuf,
    runs: usize,
    warmups: usize,
    memory: u64,
    extra: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match options(env::args_os().skip(1)) {
        Ok(Some(options)) => measure(&options),
        Ok(None) => {
            println!("startup: not measured; `cargo bench` does that");
            Ok(())
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("startup: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` if this is not a benchmark run.
fn options(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>> {
    let mut asked = false;
    let mut options = Options {
        mote: env::current_exe()?.with_file_name("../mote"),
        runs: 60,
        warmups: 5,
        memory: 128,
        extra: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.to_str() {
            Some("--bench") => asked = true, // given by `cargo bench`
            Some("--mote") => options.mote = value()?.into(),
            Some("--runs") => options.runs = number(&value()?)?.max(1),
            Some("--warmups") => options.warmups = number(&value()?)?,
            Some("--memory") => options.memory = number(&value()?)? as u64,
            Some("--") => options.extra.extend(arguments.by_ref()),
            _ => return Err(USAGE.into()),
        }
    }
    // `cargo test --all-targets` runs benchmarks too, without that flag.
    Ok(asked.then_some(options))
}

fn number(text: &OsString) -> Result<usize> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{}: not a number", text.display()).into())
}

fn measure(options: &Options) -> Result<()> {
    let mote = options.mote.canonicalize();
    let mote = mote.map_err(|e| format!("{}: {e}", options.mote.display()))?;
    let dir = env::temp_dir().join(format!("mote-startup-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = measure_in(&dir, &mote, options);
    fs::remove_dir_all(&dir)?;
    result
}

fn measure_in(dir: &Path, mote: &Path, options: &Options) -> Result<()> {
    let floor = build(dir, "floor")?;
    let hello = guest("hello");
    let large = dir.join("vmlinux");
    fs::write(&large, kernel::with_payload(&hello, LARGE)?)?;
    let series = Series::new;
    let all = [
        series("floor", vec![floor.into(), hello.clone().into()]),
        series("mote", run(mote, &hello, options)),
        series("mote, 44 MiB kernel", run(mote, &large, options)),
        series("mote, no sandbox", {
            let mut command = run(mote, &hello, options);
            command.push("--no-sandbox".into());
            command
        }),
    ];
    let mut all = Vec::from(all);
    let jailer = mote.with_file_name("mote-jailer");
    // SAFETY: a plain system call.
    if jailer.exists() && unsafe { libc::geteuid() } == 0 {
        all.push(series("mote, jailed", jailed(&jailer, mote, &hello, options)));
    }
    turns::run(&mut all, options.warmups, options.runs)?;
    println!(
        "{} runs each, by turns; {} MiB guest; µs\n{:<34}{:>9}{:>9}{:>9}{:>9}",
        options.runs, options.memory, "", "median", "min", "max", "ratio"
    );
    print("exec to first byte", &all, |times| times.first_byte);
    print("exec to exit", &all, |times| times.exit);
    print_memory(&run(mote, &guest("idle"), options), options.memory)
}

fn run(mote: &Path, kernel: &Path, options: &Options) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec![mote.into(), "run".into()];
    command.extend(["--kernel".into(), kernel.into()]);
    command.extend(["--memory".into(), format!("{}M", options.memory).into()]);
    command.extend(["--serial".into(), "stdio".into()]);
    command.extend(options.extra.iter().cloned());
    command
}

/// The same in a jail with every namespace of its own, as another user.
fn jailed(jailer: &Path, mote: &Path, kernel: &Path, options: &Options) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec![jailer.into(), "--id".into(), "startup".into()];
    command.extend(["--uid", "10001", "--gid", "10001", "--exec-file"].map(OsString::from));
    command.extend([mote.into(), "--file".into()]);
    let mut file = OsString::from(kernel);
    file.push(",as=kernel");
    command.extend([file, "--".into()]);
    command.extend(run(mote, Path::new("/kernel"), options).into_iter().skip(1));
    command
}

/// Lets a guest idle and looks at the monitor's mappings. What the kernel holds
/// for a virtual machine (vCPUs, page tables) is not in there.
fn print_memory(command: &[OsString], memory: u64) -> Result<()> {
    let program = timed::spawn(command)?;
    let output = program.read();
    thread::sleep(Duration::from_millis(300));
    let usage = smaps::usage(program.pid, memory << 20);
    program.stop()?;
    output?.ok_or("mote: the idle guest printed nothing")?;
    let usage = usage?;
    println!(
        "memory beyond the guest's, idle: {} KiB (of it written: {} KiB); process: {} KiB",
        usage.pss, usage.written, usage.rss
    );
    Ok(())
}
