//! How long it takes from exec until a restored guest has written a byte, and
//! until a restored function has its answer. See README.md. Nothing is asserted
//! about times; it fails only if a program that it runs fails.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use mote_tests::guest;

mod compiled;
mod smaps;
mod timed;
mod turns;

use compiled::build;
use turns::{Series, print};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo bench -p mote-tests --bench restore -- [OPTIONS]
  --mote PATH     the monitor (built beside this program if not given)
  --runs N        runs of each program (60)
  --warmups N     runs of each before those (5)
  --dir DIR       where to put the snapshots (the temporary directory)";

struct Options {
    mote: PathBuf,
    runs: usize,
    warmups: usize,
    dir: PathBuf,
}

fn main() -> ExitCode {
    let result = match options(env::args_os().skip(1)) {
        Ok(Some(options)) => measure(&options),
        Ok(None) => {
            println!("restore: not measured; `cargo bench` does that");
            Ok(())
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("restore: {error}");
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
        dir: env::temp_dir(),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.to_str() {
            Some("--bench") => asked = true, // given by `cargo bench`
            Some("--mote") => options.mote = value()?.into(),
            Some("--runs") => options.runs = number(&value()?)?.max(1),
            Some("--warmups") => options.warmups = number(&value()?)?,
            Some("--dir") => options.dir = value()?.into(),
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
    let dir = options.dir.join(format!("mote-restore-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = [128, 1024]
        .into_iter()
        .try_for_each(|mib| first_byte(&dir, &mote, mib, options))
        .and_then(|()| {
            let kinds = ["", "only=r", "only=w", "spread=1"];
            let mut all = kinds.into_iter();
            all.try_for_each(|kind| function(&dir, &mote, kind, options))
        })
        .and_then(|()| create(&dir, &mote, options.runs.min(20)))
        .and_then(|()| clones(&dir, &mote));
    fs::remove_dir_all(&dir)?;
    result
}

/// Runs a program that has to end well.
fn must(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    let failed = || format!("{} ended with {status}", command.get_program().display());
    status.success().then_some(()).ok_or_else(|| failed().into())
}

/// An empty directory.
fn fresh(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path)?;
    Ok(path)
}

fn first_byte(dir: &Path, mote: &Path, mib: u64, options: &Options) -> Result<()> {
    let floor = build(dir, "floor")?;
    let (resumed, raw, saved) = (guest("resumed"), dir.join("raw"), fresh(dir, "saved")?);
    must(Command::new(&floor).arg(&resumed).arg(&raw).arg(mib.to_string()))?;
    let memory = format!("{mib}M");
    let mut run = Command::new(mote);
    run.args(["run", "--memory", &memory, "--then", "exit", "--kernel"]);
    must(run.arg(&resumed).arg("--snapshot").arg(&saved))?;
    let mut all = vec![
        Series::new("floor", vec![floor.into(), "--restore".into(), raw.into()]),
        Series::new("mote", restore(mote, &saved)),
        Series::new("mote, no sandbox", {
            let mut command = restore(mote, &saved);
            command.push("--no-sandbox".into());
            command
        }),
    ];
    // To other users as well: a jail has its own.
    for name in ["state", "memory"] {
        fs::set_permissions(saved.join(name), fs::Permissions::from_mode(0o644))?;
    }
    let jailer = mote.with_file_name("mote-jailer");
    // SAFETY: a plain system call.
    if jailer.exists() && unsafe { libc::geteuid() } == 0 {
        all.push(Series::new("mote, jailed", jailed(&jailer, mote, &saved)));
    }
    turns::run(&mut all, options.warmups, options.runs)?;
    println!(
        "restore, {} runs each, by turns; {mib} MiB guest; µs\n{:<34}{:>9}{:>9}{:>9}{:>9}",
        options.runs, "", "median", "min", "max", "ratio"
    );
    print("exec to resumed byte", &all, |times| times.first_byte);
    print("exec to exit", &all, |times| times.exit);
    Ok(())
}

fn restore(mote: &Path, saved: &Path) -> Vec<OsString> {
    vec![mote.into(), "restore".into(), saved.into(), "--serial".into(), "stdio".into()]
}

/// The same in a jail with every namespace of its own, as another user.
fn jailed(jailer: &Path, mote: &Path, saved: &Path) -> Vec<OsString> {
    let mut command: Vec<OsString> = vec![jailer.into(), "--id".into(), "restore".into()];
    command.extend(["--uid", "10001", "--gid", "10001", "--exec-file"].map(OsString::from));
    command.push(mote.into());
    for name in ["state", "memory"] {
        command.extend(["--file".into(), saved.join(name).into()]);
    }
    command.push("--".into());
    command.extend(restore(mote, Path::new("/")).into_iter().skip(1));
    command
}

/// How long it takes to save a guest of which little, or much, has been touched.
fn create(dir: &Path, mote: &Path, runs: usize) -> Result<()> {
    let (start, saved) = (fresh(dir, "start")?, dir.join("saved"));
    let mut run = Command::new(mote);
    run.args(["run", "--memory", "4G", "--then", "exit", "--kernel"]);
    must(run.arg(guest("function")).arg("--snapshot").arg(&start))?;
    println!(
        "create, 4096 MiB guest, {runs} runs; µs from marker to exit\n{:<34}{:>9}{:>9}{:>9}{:>9}",
        "written MiB", "median", "min", "max", "per MiB"
    );
    // The runtime's own marker, and that of the guest, which has filled memory.
    for from in [None, Some(&start)] {
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            fresh(dir, "saved")?;
            let mut command = Command::new(mote);
            match from {
                None => command.args(["run", "--memory", "4G", "--kernel"]).arg(guest("function")),
                Some(from) => command.arg("restore").arg(from),
            };
            command.args(["--timings", "--then", "exit", "--snapshot"]);
            command.arg(&saved);
            let begin = Instant::now();
            let output = command.stdin(Stdio::null()).output()?;
            let took = begin.elapsed().as_micros();
            let said = String::from_utf8_lossy(&output.stderr);
            let marker = said.split_whitespace().find_map(|word| word.parse::<u128>().ok());
            times.push(took.saturating_sub(marker.ok_or("no boot marker")?));
        }
        times.sort_unstable();
        let written = fs::metadata(saved.join("memory"))?.blocks() as f64 / 2048.0;
        let (median, last) = (times[runs / 2], times[runs - 1]);
        println!(
            "{written:<34.1}{median:>9}{:>9}{last:>9}{:>9.0}",
            times[0],
            median as f64 / written
        );
    }
    Ok(())
}

/// Clones of one idle guest, that all live at the same time.
fn clones(dir: &Path, mote: &Path) -> Result<()> {
    const COUNT: usize = 100;
    let saved = fresh(dir, "saved")?;
    let mut run = Command::new(mote);
    run.args(["run", "--memory", "128M", "--then", "exit", "--kernel"]);
    must(run.arg(guest("idle")).arg("--snapshot").arg(&saved))?;
    let start = Instant::now();
    let mut all = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let clone = timed::spawn(&restore(mote, &saved))?;
        let output = clone.read()?;
        all.push(clone);
        output.ok_or("a clone printed nothing")?;
    }
    let took = start.elapsed();
    std::thread::sleep(Duration::from_millis(300));
    let usage = |clone: &timed::Program| smaps::usage(clone.pid, 128 << 20);
    let usages: std::io::Result<Vec<_>> = all.iter().map(usage).collect();
    all.into_iter().try_for_each(timed::Program::stop)?;
    let usages = usages?;
    let mean = |pick: fn(&smaps::Usage) -> u64| usages.iter().map(pick).sum::<u64>() / COUNT as u64;
    println!(
        "{COUNT} clones, one after the other: {:.0} a second; beyond the guest's memory, each: \
         {} KiB (of it written: {} KiB); process: {} KiB",
        COUNT as f64 / took.as_secs_f64(),
        mean(|usage| usage.pss),
        mean(|usage| usage.written),
        mean(|usage| usage.rss)
    );
    Ok(())
}

/// A function of 80 MiB that touches 20 once it goes on.
fn function(dir: &Path, mote: &Path, only: &str, options: &Options) -> Result<()> {
    let (start, saved) = (fresh(dir, "start")?, fresh(dir, "saved")?);
    let mut run = Command::new(mote);
    run.args(["run", "--memory", "128M", "--cmdline", only, "--then", "exit", "--kernel"]);
    must(run.arg(guest("function")).arg("--snapshot").arg(&start))?;
    let mut again = Command::new(mote);
    again.arg("restore").arg(&start).args(["--then", "exit"]);
    must(again.arg("--snapshot").arg(&saved))?;
    let mut first = Command::new(mote);
    must(first.arg("restore").arg(&saved).args(["--record", "marker"]))?;
    let mut all = [
        Series::new("without working set", {
            let mut command = restore(mote, &saved);
            command.push("--no-working-set".into());
            command
        }),
        Series::new("with it", restore(mote, &saved)),
    ];
    turns::run(&mut all, options.warmups, options.runs)?;
    println!(
        "function that touches 20 MiB {only}\n{:<34}{:>9}{:>9}{:>9}{:>9}",
        "", "median", "min", "max", "ratio"
    );
    print("exec to answer", &all, |times| times.first_byte);
    print("exec to exit", &all, |times| times.exit);
    Ok(())
}
