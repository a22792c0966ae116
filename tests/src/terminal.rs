//! A pseudo-terminal with a person at it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::hang;
use crate::tap::{self, Tap};
use crate::vm::LIMIT;

/// Everything that `stty` could change.
#[derive(Debug, PartialEq, Eq)]
pub struct Modes([u32; 4], Vec<u8>);

impl Modes {
    /// Whether keys are passed on one by one, unechoed and without signals,
    /// and output is left alone.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let [input, output, _, local] = self.0;
        let cooked = libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN;
        let mapped = libc::ICRNL | libc::INLCR | libc::IGNCR | libc::IXON | libc::ISTRIP;
        local & cooked == 0 && input & mapped == 0 && output & libc::OPOST == 0
    }
}

/// A pseudo-terminal; the program under test has its slave side.
pub struct Terminal {
    master: File,
    slave: OwnedFd,
    /// What the terminal shows.
    pub screen: Tap,
}

impl Terminal {
    /// Waits until it shows a text.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let came = self.screen.wait(LIMIT, |bytes: &[u8]| tap::count(bytes, text) > 0);
        assert!(came, "no {text:?} in {}\n{}", self.screen.text(), hang::state());
    }

    /// Opens a new one.
    ///
    /// # Panics
    /// The system has none left.
    #[must_use]
    pub fn open() -> Self {
        let (mut master, mut slave) = (-1, -1);
        // SAFETY: both pointers are to live locals; the others may be null.
        let result = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        for fd in [master, slave] {
            // SAFETY: a plain system call on a descriptor of ours.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // SAFETY: openpty has just opened both, and nobody else owns them.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let screen = Tap::new(master.try_clone().unwrap());
        Self { master, slave, screen }
    }

    /// Its path, for who opens it by that.
    ///
    /// # Panics
    /// There is no /proc.
    #[must_use]
    pub fn name(&self) -> String {
        let link = format!("/proc/self/fd/{}", self.slave.as_raw_fd());
        let path = std::fs::read_link(link).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Lets a command start as the leader of a session on this terminal, with
    /// all its standard descriptors on it.
    ///
    /// # Panics
    /// There are no descriptors left.
    pub fn attach(&self, command: &mut Command) {
        command
            .stdin(self.slave.try_clone().unwrap())
            .stdout(self.slave.try_clone().unwrap())
            .stderr(self.slave.try_clone().unwrap());
        // SAFETY: both calls may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
    }

    /// Types on the keyboard.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn keys(&mut self, keys: impl AsRef<[u8]>) {
        self.master.write_all(keys.as_ref()).unwrap();
    }

    /// The keyboard, for a typist on another thread.
    ///
    /// # Panics
    /// There are no descriptors left.
    #[must_use]
    pub fn keyboard(&self) -> File {
        self.master.try_clone().unwrap()
    }

    /// Gives the window another size.
    ///
    /// # Panics
    /// The terminal refuses.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: a descriptor of ours and a live local.
        let result =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// The device number of the side that programs have.
    ///
    /// # Panics
    /// The terminal is gone.
    #[must_use]
    pub fn device(&self) -> u64 {
        let slave = File::from(self.slave.try_clone().unwrap());
        slave.metadata().unwrap().rdev()
    }

    fn termios(&self) -> libc::termios {
        // SAFETY: termios is plain data, for which zeroes are a value.
        let mut modes = unsafe { std::mem::zeroed() };
        // SAFETY: a descriptor of ours and a live local.
        let result = unsafe { libc::tcgetattr(self.slave.as_raw_fd(), &raw mut modes) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        modes
    }

    /// The terminal's modes.
    ///
    /// # Panics
    /// The terminal is gone.
    #[must_use]
    pub fn modes(&self) -> Modes {
        let modes = self.termios();
        let flags = [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag];
        Modes(flags, modes.c_cc.to_vec())
    }

    /// Changes modes as a user's own settings would, so that a program which
    /// "restores" some default is found out. `tostop` stops background
    /// programs that write.
    ///
    /// # Panics
    /// The terminal refuses.
    pub fn personalise(&self, tostop: bool) {
        let mut modes = self.termios();
        modes.c_cc[libc::VINTR] = 7;
        modes.c_iflag |= libc::IXANY | libc::IUTF8;
        modes.c_lflag &= !libc::ECHOK;
        if tostop {
            modes.c_lflag |= libc::TOSTOP;
        }
        // SAFETY: a descriptor of ours and a live local.
        let result =
            unsafe { libc::tcsetattr(self.slave.as_raw_fd(), libc::TCSANOW, &raw const modes) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}
