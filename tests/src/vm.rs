//! Runs the `mote` program as a user would, and never waits for it for ever.

use std::env;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::hang;
use crate::tap::{self, Tap};

/// Whatever takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Whether virtual machines can be run here; if not, the test is [skipped](skip).
///
/// # Panics
/// There is no `/dev/kvm`, and nothing may be skipped.
#[must_use]
pub fn have_kvm() -> bool {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &device {
        skip(&format!("/dev/kvm: {error}"));
    }
    device.is_ok()
}

/// Notes that the calling test is skipped, and why, in the file that
/// `MOTE_SKIPPED` names; `tests/run` shows it at the end.
///
/// # Panics
/// There is no `MOTE_SKIPPED`: nothing may be skipped.
pub fn skip(why: &str) {
    let Some(list) = env::var_os("MOTE_SKIPPED") else {
        panic!("{why} (set MOTE_SKIPPED=FILE to skip tests that cannot run here)");
    };
    let list = OpenOptions::new().append(true).create(true).open(list);
    let name = thread::current().name().unwrap_or("?").to_owned();
    let line = format!("{name}: {why}\n");
    list.unwrap().write_all(line.as_bytes()).unwrap();
}

/// The `mote` program: `MOTE_BIN`, or the one built beside this test.
///
/// # Panics
/// It has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    built("mote", "MOTE_BIN")
}

/// The `mote-jailer` program: `MOTE_JAILER_BIN`, or the one built beside this
/// test.
///
/// # Panics
/// It has not been built.
#[must_use]
pub fn jailer() -> PathBuf {
    built("mote-jailer", "MOTE_JAILER_BIN")
}

/// The `mote` program whose threads do as they are told (the feature `breakout`
/// of the monitor): `MOTE_BREAKOUT_BIN`, or the one in `target/breakout`.
///
/// # Panics
/// It has not been built.
#[must_use]
pub fn breakout() -> PathBuf {
    if let Some(path) = env::var_os("MOTE_BREAKOUT_BIN") {
        return std::path::absolute(path).unwrap();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/breakout");
    let path = root.join("x86_64-unknown-linux-gnu/debug/mote");
    let how = "cargo build -p mote --features breakout --target-dir target/breakout";
    assert!(path.exists(), "not there: {}; build it: {how}", path.display());
    path
}

fn built(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return std::path::absolute(path).unwrap();
    }
    let test = env::current_exe().unwrap();
    let path = test.parent().and_then(|deps| deps.parent());
    let path = path.unwrap().join(name);
    assert!(
        path.exists(),
        "there is no {}: build it first (cargo build --workspace), or set {variable}",
        path.display()
    );
    path
}

/// The command `mote ARGS…`, with nothing on its standard input.
///
/// # Panics
/// The program has not been built.
pub fn mote<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null());
    command
}

/// What virtio devices can be attached to: values of `--bus`.
pub const BUSES: [&str; 2] = ["mmio", "pci"];

/// The command `mote run` with a tiny guest of this project.
///
/// # Panics
/// The program has not been built.
pub fn tiny<S: AsRef<OsStr>>(guest: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = mote(["run", "--kernel"]);
    command.arg(crate::guest(guest)).args(args);
    command
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started, or it hangs.
pub fn run(command: &mut Command) -> End {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Vm::spawn(command).end()
}

/// Runs a command that must fail with `code` and one line with `words`.
///
/// # Panics
/// It does not.
#[track_caller]
pub fn refused(command: &mut Command, code: i32, words: &[&str]) -> End {
    let end = run(command);
    end.expect(code).complains(words);
    assert_eq!(end.err.lines().count(), 1, "{}", end.err);
    assert_eq!(end.out, "");
    end
}

/// Waits until something is so.
///
/// # Panics
/// It is not so within [`LIMIT`].
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < LIMIT, "in vain: {what}\n{}", hang::state());
        thread::sleep(Duration::from_millis(2));
    }
}

/// A `mote` process that runs; it is killed when the test ends.
pub struct Vm {
    child: Child,
    input: Option<ChildStdin>,
    /// Standard output, where it is a pipe.
    pub out: Tap,
    /// Standard error, where it is a pipe.
    pub err: Tap,
}

impl Vm {
    /// Starts a command with pipes as standard input, output and error.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(command)
    }

    /// Starts a command with the descriptors that it was given.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        hang::watch();
        // SAFETY: both calls may be made between fork and exec. A test that is
        // killed must not leave its VM behind, and whatever was left open in
        // the test's own process is not meant for it.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                let flag = libc::CLOSE_RANGE_CLOEXEC;
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, flag);
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap();
        Self {
            input: child.stdin.take(),
            out: child.stdout.take().map_or_else(Tap::closed, Tap::new),
            err: child.stderr.take().map_or_else(Tap::closed, Tap::new),
            child,
        }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to standard input.
    ///
    /// # Panics
    /// Nobody reads it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().unwrap();
        input.write_all(bytes.as_ref()).unwrap();
    }

    /// The writing end of standard input, for the caller to use or close.
    ///
    /// # Panics
    /// It is no pipe, or was taken already.
    pub fn take_input(&mut self) -> ChildStdin {
        self.input.take().unwrap()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call; the process is our child and has not
        // been waited for, so the id is its own.
        unsafe { libc::kill(self.pid().cast_signed(), signal) };
    }

    /// Waits until standard output has `text` in it `times` times.
    ///
    /// # Panics
    /// That does not happen.
    pub fn wait_for_times(&self, text: &str, times: usize) {
        let enough = |bytes: &[u8]| tap::count(bytes, text) >= times;
        let came = self.out.wait(LIMIT, enough);
        assert!(came, "no {text:?} ({times} times) in:\n{}", self.shown());
    }

    /// Waits until standard output has `text` in it.
    ///
    /// # Panics
    /// That does not happen.
    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    fn shown(&self) -> String {
        // The end of it: a guest may have printed a megabyte.
        let out = self.out.text();
        let at = out.ceil_char_boundary(out.len().saturating_sub(2000));
        format!(
            "--- stdout\n{}\n--- stderr\n{}\n--- processes\n{}",
            &out[at..],
            self.err.text(),
            hang::state()
        )
    }

    /// Whether the process has ended.
    ///
    /// # Panics
    /// The system does not tell.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// It does not come.
    #[must_use]
    pub fn end(mut self) -> End {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < LIMIT, "it hangs\n{}", self.shown());
            thread::sleep(Duration::from_millis(2));
        };
        // Somebody else may hold the other end of a pipe; then what is there
        // will do.
        for tap in [&self.out, &self.err] {
            tap.wait_for_end(Duration::from_secs(5));
        }
        End {
            code: status.code().unwrap_or(-status.signal().unwrap_or(0)),
            bytes: self.out.bytes(),
            out: self.out.text(),
            err: self.err.text(),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a `mote` process ended.
#[derive(Debug)]
pub struct End {
    /// Exit code; −N if signal N killed it.
    pub code: i32,
    /// Standard output.
    pub bytes: Vec<u8>,
    /// Standard output as text.
    pub out: String,
    /// Standard error as text.
    pub err: String,
}

impl End {
    /// Asserts the exit code.
    ///
    /// # Panics
    /// It is another one.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        let Self { out, err, .. } = self;
        let at = out.ceil_char_boundary(out.len().saturating_sub(2000));
        assert_eq!(self.code, code, "exit code\n--- stdout\n{}\n--- stderr\n{err}", &out[at..]);
        self
    }

    /// What is on standard error, line by line.
    #[must_use]
    pub fn complaints(&self) -> Vec<&str> {
        self.err.lines().collect()
    }

    /// Asserts that there is exactly one complaint, as a user should see it,
    /// and that it has all of `words` in it.
    ///
    /// # Panics
    /// There is none, or more, or something else.
    #[track_caller]
    pub fn complains(&self, words: &[&str]) -> &Self {
        let complaints = self.complaints();
        let [line] = complaints[..] else { panic!("not one line on stderr: {complaints:?}") };
        assert!(line.starts_with("mote: "), "{line}");
        for word in words {
            assert!(line.contains(word), "no {word:?} in {line:?}");
        }
        // What a failed assertion or a debug format would look like.
        for word in ["panicked", "unwrap", "Error {", "Some(", "(os error"] {
            assert!(!line.contains(word), "{line}");
        }
        self
    }
}
