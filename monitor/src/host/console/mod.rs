//! The serial console's far end: a terminal, a file, a pseudo-terminal or a
//! socket.

mod escape;
mod output;
mod terminal;

use std::fs;
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{SocketFlags, accept_with};
use rustix::pty;

pub use self::escape::{Escape, HELP, Typed};
pub use self::output::Output;
use self::terminal::Keyboard;
pub use self::terminal::restore;

use crate::config::{Serial, SerialTo, VmConfig};
use crate::error::{Error, os_message, printable};
use crate::host::files::{self, New};
use crate::timings::Timings;

/// Where input comes from and how.
#[derive(Debug)]
pub struct Console {
    input: Option<Arc<OwnedFd>>,
    /// What the serial port writes to, for waiting on it.
    output: Option<Arc<OwnedFd>>,
    listener: Option<UnixListener>,
    /// The file whose bytes output replaces, and how many they are.
    replaces: Option<(PathBuf, u64)>,
    /// The file that has no name so far.
    new: Option<New>,
    /// The socket's name, as long as it can be removed.
    path: Option<PathBuf>,
    /// The escape key, when a person types on a terminal.
    pub escape: Option<Escape>,
    /// That person's keyboard.
    keyboard: Option<Keyboard>,
    /// The other end of a pseudo-terminal: while it is open the console does
    /// not hang up when clients come and go.
    _slave: Option<OwnedFd>,
}

/// Opens the console: where input is read, and where output goes, each line
/// behind the time that `clock` tells.
///
/// # Errors
/// The file, socket or pseudo-terminal cannot be made.
pub fn open(config: &VmConfig, clock: Option<&Arc<Timings>>) -> Result<(Console, Output), Error> {
    let mut console = Console {
        new: None,
        replaces: None,
        input: None,
        output: None,
        listener: None,
        path: None,
        escape: None,
        keyboard: None,
        _slave: None,
    };
    let mut output = match &config.serial.to {
        SerialTo::None => Output::nowhere(),
        SerialTo::Stdio => {
            refuse_input(config)?;
            stdio(&mut console)
        }
        SerialTo::File(path) => {
            let output = files::Output {
                what: "serial file",
                path,
                append: config.serial.append,
                mode: 0o666,
            };
            let (file, new) = output.open_later(config)?;
            console.new = new;
            let found = file.metadata();
            let found = found.map_err(|e| Error::file(output.what, path, &e))?;
            let replaces = found.is_file() && !output.append && console.new.is_none();
            console.replaces = replaces.then(|| (path.clone(), found.len()));
            console.send_to(Arc::new(file.into()))
        }
        SerialTo::Pty => {
            let (master, slave, name) = pseudo_terminal().map_err(|e| Error::System("pty", e))?;
            say(&format!("mote: serial console on {name}\n"));
            let master = Arc::new(master);
            console.input = Some(Arc::clone(&master));
            console._slave = Some(slave);
            console.send_to(master)
        }
        SerialTo::Socket(path) => {
            let failed = |e: std::io::Error| {
                let why = match e.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        "already exists: remove it, or name another".to_owned()
                    }
                    _ => os_message(&e),
                };
                Error::Input("serial socket", path.clone(), why)
            };
            remove_dead(path);
            let listener = UnixListener::bind(path).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            console.listener = Some(listener);
            console.path = Some(path.clone());
            Output::nowhere()
        }
    };
    output.tell_time(clock.cloned());
    // If a reader exists or can connect.
    if config.serial.hold && (console.output.is_some() || console.listener.is_some()) {
        output.hold();
    }
    Ok((console, output))
}

/// Whether a person uses the console, who sees output and types.
pub fn has_person(serial: &Serial) -> bool {
    serial.to == SerialTo::Stdio
        && std::io::stdin().is_terminal()
        && std::io::stdout().is_terminal()
}

/// Says something on standard error, in one piece, for others may write there
/// too. A missing reader or a closed descriptor must not affect the VM.
pub fn say(text: &str) {
    let stderr = rustix::stdio::stderr();
    // A pipe that can be written to has room for a page, and a line is less.
    if output::ready(stderr, output::STALL_TIMEOUT_MS) {
        let _ = rustix::io::write(stderr, text.as_bytes());
    }
}

/// Says what went wrong, on one line without control characters: paths and ids are
/// in it.
pub fn complain(error: &Error) {
    say(&format!("mote: {}\n", printable(&error.to_string())));
}

/// Refuses a standard output that a shell has put on a file which the VM reads.
fn refuse_input(config: &VmConfig) -> Result<(), Error> {
    let Ok(copy) = rustix::stdio::stdout().try_clone_to_owned() else {
        return Ok(());
    };
    match fs::File::from(copy).metadata() {
        Ok(found) if found.is_file() => {
            let path = Path::new("/dev/stdout");
            files::refuse_input("standard output", path, &found, config)
        }
        _ => Ok(()),
    }
}

fn stdio(console: &mut Console) -> Output {
    let stdin = std::io::stdin();
    let output = match reopen(rustix::stdio::stdout()) {
        Ok(fd) => console.send_to(Arc::new(fd)),
        // Closed from the start: output is discarded.
        Err(_) => Output::nowhere(),
    };
    // Input that no person types passes unchanged. Closed input is no input.
    console.input = stdin.as_fd().try_clone_to_owned().ok().map(Arc::new);
    if stdin.is_terminal() {
        console.escape = Some(Escape::default());
        console.keyboard = Some(Keyboard::open());
    }
    output
}

/// Opens standard output once more, without blocking: the flag belongs to the
/// open file, which others (a shell) share with us. Where that cannot be done
/// (no /proc, a socket) a copy is used, and written to with care.
fn reopen(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let kind = rustix::fs::fstat(fd)?.st_mode & libc::S_IFMT;
    if matches!(kind, libc::S_IFIFO | libc::S_IFCHR)
        && let Ok(own) = rustix::fs::open("/proc/self/fd/1", flags, Mode::empty())
    {
        return Ok(own);
    }
    fd.try_clone_to_owned()
}

/// Removes a socket without a listener: a sandboxed VM cannot remove its own.
pub fn remove_dead(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: std::io::Error| matches!(e.kind(), std::io::ErrorKind::ConnectionRefused);
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        // If that fails, binding says why.
        let _ = fs::remove_file(path);
    }
}

fn pseudo_terminal() -> std::io::Result<(OwnedFd, OwnedFd, String)> {
    let flags = pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC;
    let master = pty::openpt(flags)?;
    pty::grantpt(&master)?;
    pty::unlockpt(&master)?;
    let name = pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&name, flags, Mode::empty())?;
    let mut modes = rustix::termios::tcgetattr(&slave)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes)?;
    fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
    Ok((master, slave, name.to_string_lossy().into_owned()))
}

impl Console {
    /// Where bytes for the guest come from, if anywhere: a keyboard, not while
    /// a shell or another job has it.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.opened_input().filter(|_| !self.is_away())
    }

    /// The same, whether or not this process has the keyboard.
    pub fn opened_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(|fd| fd.as_fd())
    }

    /// Whether there is a keyboard that is not ours now. Nothing tells when it is
    /// again: a shell continues only stopped jobs.
    pub fn is_away(&self) -> bool {
        self.keyboard.as_ref().is_some_and(|keyboard| !keyboard.ours)
    }

    /// Takes the keyboard if it is ours by now, or leaves it to whose it is.
    pub fn look_after_keyboard(&mut self) {
        if let Some(keyboard) = &mut self.keyboard {
            keyboard.update();
        }
    }

    /// Tells a person who begins how to leave.
    pub fn greet(&self) {
        let ours = self.keyboard.as_ref().is_some_and(|keyboard| keyboard.ours);
        if ours && std::io::stderr().is_terminal() {
            say("mote: Ctrl-A x leaves, Ctrl-A h shows all keys\r\n");
        }
    }

    /// The socket on which a client may come, unless one is there.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        match (&self.listener, &self.input) {
            (Some(listener), None) => Some(listener.as_fd()),
            _ => None,
        }
    }

    /// Whether clients come and go.
    pub fn serves_clients(&self) -> bool {
        self.listener.is_some()
    }

    /// What output goes to, to wait until it can be written to.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(|fd| fd.as_fd())
    }

    /// The file that still has to get its name, if it is a new one.
    pub fn take_new(&mut self) -> Option<New> {
        self.new.take()
    }

    /// Empties the file that output goes to, once nothing else can be refused,
    /// and says so.
    ///
    /// # Errors
    /// It cannot be emptied.
    pub fn begin(&mut self) -> Result<(), Error> {
        let (Some((path, bytes)), Some(to)) = (self.replaces.take(), &self.output) else {
            return Ok(());
        };
        let emptied = rustix::fs::ftruncate(to, 0);
        emptied.map_err(|e| Error::file("serial file", &path, &e.into()))?;
        if bytes > 0 {
            let path = printable(&path.to_string_lossy());
            say(&format!(
                "mote: serial file {path}: {bytes} bytes are replaced; ',append' keeps them\n"
            ));
        }
        Ok(())
    }

    fn send_to(&mut self, fd: Arc<OwnedFd>) -> Output {
        self.output = Some(Arc::clone(&fd));
        Output::to(fd)
    }

    /// Lets a client in; returns what output goes to from now on.
    pub fn accept(&mut self) -> Option<Arc<OwnedFd>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = accept_with(self.listener.as_ref()?, flags).ok()?;
        // One number for all, which the sandbox knows.
        let client = Arc::new(client);
        self.output = Some(Arc::clone(&client));
        self.input = Some(Arc::clone(&client));
        Some(client)
    }

    /// From now on nothing can be removed by its name: a socket stays, and
    /// the next VM that wants its name takes it.
    pub fn confine(&mut self) {
        self.path = None;
    }

    /// Input has ended or broken. A socket waits for its next client; tells
    /// whether output has lost its reader, too.
    pub fn hang_up(&mut self) -> bool {
        self.input = None;
        if self.listener.is_some() {
            self.output = None;
        }
        self.listener.is_some()
    }
}

impl Console {
    /// Removes the socket and gives the terminal its modes back.
    pub fn close(&mut self) {
        self.listener = None;
        if let Some(path) = self.path.take() {
            // We created it; it may have been removed meanwhile.
            let _ = fs::remove_file(path);
        }
        restore();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.close();
    }
}
