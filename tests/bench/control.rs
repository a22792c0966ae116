//! What the control API costs: until its socket accepts, until a VM that one
//! client describes prints its first byte, and in memory. See README.md. Nothing
//! is asserted about times; it fails only if a program that it runs fails.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use mote_tests::guest;
use serde_json::json;

mod compiled;
mod smaps;
#[allow(dead_code, reason = "whose end is of no interest here")]
mod timed;

use compiled::build;
use timed::Program;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: cargo bench -p mote-tests --bench control -- [--runs N]";
/// Memory of the guest in MiB.
const MEMORY: u64 = 128;

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let (mut asked, mut runs) = (false, 60);
    while let Some(word) = words.next() {
        match (word.as_str(), &mut words) {
            ("--bench", _) => asked = true, // given by `cargo bench`
            ("--runs", rest) => match rest.next().and_then(|count| count.parse().ok()) {
                Some(count) => runs = count,
                None => return usage(),
            },
            _ => return usage(),
        }
    }
    if !asked {
        println!("control: not measured; `cargo bench` does that");
        return ExitCode::SUCCESS;
    }
    let folder = env::temp_dir().join(format!("mote-control-{}", std::process::id()));
    let result = fs::create_dir(&folder).map_err(Into::into).and_then(|()| measure(&folder, runs));
    let _ = fs::remove_dir_all(&folder);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Where everything is.
struct Place<'a> {
    mote: PathBuf,
    socket: PathBuf,
    folder: &'a Path,
}

fn measure(folder: &Path, runs: usize) -> Result<()> {
    let place = Place {
        mote: env::current_exe()?.with_file_name("../mote").canonicalize()?,
        socket: folder.join("socket"),
        folder,
    };
    fs::write(folder.join("disk"), vec![0; 1 << 20])?;
    let listen = build(folder, "listen")?;
    let floor = build(folder, "floor")?;
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..runs + 5 {
        let socket = place.socket.clone();
        let (accepts, program) = until_accepts(&[listen.clone().into(), socket.into()], &place)?;
        program.stop()?;
        let began = timed::run_timed(&[floor.clone().into(), guest("hello").into()])?;
        let (mote_accepts, program) = until_accepts(&place.api(), &place)?;
        let configured = place.configure(&program, "hello")?;
        program.stop()?;
        if round >= 5 {
            let row = [accepts, mote_accepts, began.first_byte, configured];
            times.iter_mut().zip(row).for_each(|(all, time)| all.push(time));
        }
    }
    let [accepts, mote_accepts, began, configured] = times.map(median);
    println!("{runs} runs each, by turns; {MEMORY} MiB guest; µs\n");
    println!("exec to a socket that accepts   C program {accepts:>8.0}");
    let more = mote_accepts - accepts;
    println!("                                mote      {mote_accepts:>8.0}   {more:+.0}");
    println!("exec to first byte              floor     {began:>8.0}");
    let ratio = configured / began;
    println!("six requests to first byte      mote      {configured:>8.0}   ratio {ratio:.2}");
    let without = place.memory(&place.run())?;
    let (_, program) = until_accepts(&place.api(), &place)?;
    place.configure(&program, "idle")?;
    let with = place.usage(program)?;
    let more = with as i64 - without as i64;
    println!("memory beyond the guest's, idle: {without} KiB, with the API {with} KiB ({more:+})");
    Ok(())
}

/// Microseconds until a program's socket accepts.
fn until_accepts(command: &[OsString], place: &Place) -> Result<(f64, Program)> {
    let _ = fs::remove_file(&place.socket);
    let program = timed::spawn(command)?;
    let begin = Instant::now();
    loop {
        if UnixStream::connect(&place.socket).is_ok() {
            return Ok((program.since_start(), program));
        }
        if begin.elapsed() > Duration::from_secs(10) {
            return Err(format!("{}: nobody listens", command[0].display()).into());
        }
        thread::sleep(Duration::from_micros(10));
    }
}

impl Place<'_> {
    fn api(&self) -> Vec<OsString> {
        vec![self.mote.clone().into(), "--api-sock".into(), self.socket.clone().into()]
    }

    fn run(&self) -> Vec<OsString> {
        let words = ["run", "--serial", "stdio", "--memory"].map(OsString::from);
        let mut command = vec![self.mote.clone().into()];
        command.extend(words);
        command.extend([format!("{MEMORY}M").into(), "--kernel".into()]);
        command.push(guest("idle").into());
        command.extend(["--disk".into(), self.folder.join("disk").into()]);
        command
    }

    /// Describes a VM in six requests and starts it; microseconds from the first
    /// of them to the guest's first byte.
    fn configure(&self, program: &Program, name: &str) -> Result<f64> {
        let disk = self.folder.join("disk");
        let requests = [
            ("PUT", "/logger", json!({"level": "Warning"})),
            ("PUT", "/machine-config", json!({"vcpu_count": 1, "mem_size_mib": MEMORY})),
            ("PUT", "/boot-source", json!({"kernel_image_path": guest(name)})),
            (
                "PUT",
                "/drives/root",
                json!({"drive_id": "root", "is_root_device": false, "path_on_host": disk}),
            ),
            ("PATCH", "/machine-config", json!({"vcpu_count": 1})),
            ("PUT", "/actions", json!({"action_type": "InstanceStart"})),
        ];
        let mut stream = UnixStream::connect(&self.socket)?;
        let begin = Instant::now();
        for (method, path, body) in requests {
            let body = body.to_string();
            let length = body.len();
            let text = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(text.as_bytes())?;
            let mut answer = [0; 4096];
            let count = stream.read(&mut answer)?;
            if !answer.starts_with(b"HTTP/1.1 204") {
                let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
                return Err(format!("{method} {path}: {answer}").into());
            }
        }
        program.read()?.ok_or("the guest printed nothing")?;
        Ok(begin.elapsed().as_nanos() as f64 / 1e3)
    }

    fn memory(&self, command: &[OsString]) -> Result<u64> {
        let program = timed::spawn(command)?;
        program.read()?.ok_or("the guest printed nothing")?;
        self.usage(program)
    }

    /// KiB beyond the guest's memory of a VM that has been idle for a moment.
    fn usage(&self, program: Program) -> Result<u64> {
        thread::sleep(Duration::from_millis(300));
        let usage = smaps::usage(program.pid, MEMORY << 20);
        program.stop()?;
        Ok(usage?.pss)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
