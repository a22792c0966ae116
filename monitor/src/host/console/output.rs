//! Serial output: written at once where it can be, kept in a bounded buffer
//! where it cannot, and never a reason for the guest to wait for long.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::error::os_message;
use crate::timings::Timings;

/// Bytes that are kept for a reader that is slow or not there yet.
const BUFFER: usize = 64 << 10;
/// Fill level at which a held guest has to wait: a driver may send several bytes after it
/// has seen the transmitter empty, and the rest has room for them.
const HELD: usize = BUFFER / 2;
/// How long a full buffer may hold up the guest before bytes are dropped, in
/// ms; then nothing waits until the reader has taken something.
pub(super) const STALL_TIMEOUT_MS: i64 = 100;

/// What writing to the far end needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The open file does not block.
    NonBlocking,
    /// A socket: each call says that it must not block.
    Socket,
    /// It may block: ask first, and write a single byte, for which there is
    /// room then.
    Blocking,
    /// A regular file: there is no asking.
    File,
}

/// The far end of the serial port's transmitter.
#[derive(Debug)]
pub struct Output {
    to: Option<(Arc<OwnedFd>, Kind)>,
    /// The reader has gone for good. Only who [disconnects](Output::disconnect)
    /// closes the descriptor: a vCPU, which may have noticed, must not.
    gone: bool,
    pending: VecDeque<u8>,
    /// A slow reader holds the guest.
    hold: bool,
    /// The reader has not taken a byte for [`STALL_TIMEOUT_MS`].
    stalled: bool,
    dropped: u64,
    /// Lost bytes while a reader was connected.
    lost: u64,
    /// Why nothing can be written any more, unless the reader has left.
    error: Cell<Option<Errno>>,
    /// The clock of the lines' time stamps, if they have any.
    clock: Option<Arc<Timings>>,
    /// A line begins.
    fresh: bool,
}

impl Output {
    /// Output that is kept until a reader connects.
    pub fn nowhere() -> Self {
        Self {
            to: None,
            gone: false,
            pending: VecDeque::new(),
            hold: false,
            stalled: true,
            dropped: 0,
            lost: 0,
            error: Cell::new(None),
            clock: None,
            fresh: true,
        }
    }

    /// Output to an open file of any kind.
    pub fn to(fd: Arc<OwnedFd>) -> Self {
        let mut output = Self::nowhere();
        output.connect(fd);
        output
    }

    /// Sends pending and new output to `fd` from now on.
    pub fn connect(&mut self, fd: Arc<OwnedFd>) {
        let mode = rustix::fs::fstat(&fd).map_or(0, |stat| stat.st_mode) & libc::S_IFMT;
        let flags = rustix::fs::fcntl_getfl(&fd);
        let kind = match mode {
            libc::S_IFREG => Kind::File,
            libc::S_IFSOCK => Kind::Socket,
            _ if flags.is_ok_and(|f| f.contains(rustix::fs::OFlags::NONBLOCK)) => Kind::NonBlocking,
            _ => Kind::Blocking,
        };
        self.send_to(fd, kind);
    }

    /// The same for a socket's client, of whose descriptor nothing need be
    /// asked.
    pub fn connect_client(&mut self, fd: Arc<OwnedFd>) {
        self.send_to(fd, Kind::Socket);
    }

    fn send_to(&mut self, fd: Arc<OwnedFd>, kind: Kind) {
        self.to = Some((fd, kind));
        self.gone = false;
        self.stalled = false;
        self.drain();
    }

    /// From now on a slow reader, or none, holds the guest.
    pub fn hold(&mut self) {
        self.hold = true;
    }

    /// Whether the guest has to wait. For a reader who does not come back it
    /// would do so for good.
    pub fn is_full(&self) -> bool {
        let awaited = self.to.is_none() || !self.gone;
        self.hold && awaited && self.pending.len() >= HELD
    }

    /// Number of the descriptor that output goes to, if it goes anywhere.
    pub fn number(&self) -> Option<RawFd> {
        self.to.as_ref().map(|(fd, _)| fd.as_raw_fd())
    }

    /// The reader has gone; output is kept for the next one.
    pub fn disconnect(&mut self) {
        self.to = None;
        self.stalled = true;
    }

    /// The same, but for closing it.
    fn lose(&mut self) {
        self.gone = true;
        self.stalled = true;
    }

    /// Bytes that were lost because no reader took them.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a reader misses lost output.
    fn is_heard(&self) -> bool {
        self.to.is_some() && (!self.gone || self.error.get().is_some())
    }

    /// How many bytes a connected reader has lost so far, and why; after
    /// [`finish`](Self::finish) pending output is lost, too.
    pub fn lost(&self) -> Option<(u64, String)> {
        let pending = if self.is_heard() { self.pending.len() } else { 0 };
        let lost = self.lost + pending as u64;
        let slow = || "the reader was too slow".to_owned();
        let why = self.error.get().map_or_else(slow, |e| os_message(&e.into()));
        (lost > 0).then_some((lost, why))
    }

    /// Whether bytes are pending that a reader could take.
    pub fn waiting(&self) -> bool {
        self.waiting_for().is_some()
    }

    /// What to wait for until it can be written to, if bytes are pending.
    fn waiting_for(&self) -> Option<BorrowedFd<'_>> {
        match &self.to {
            Some((fd, _)) if !self.gone && !self.pending.is_empty() => Some(fd.as_fd()),
            _ => None,
        }
    }

    /// Writes pending output, as far as possible without waiting.
    pub fn drain(&mut self) {
        while !self.pending.is_empty() {
            let (part, _) = self.pending.as_slices();
            match self.try_write(part) {
                Some(0) => return,
                Some(written) => {
                    self.pending.drain(..written);
                    self.stalled = false;
                }
                None => return self.lose(),
            }
        }
    }

    /// From now on each line begins with the time that `clock` tells.
    pub fn tell_time(&mut self, clock: Option<Arc<Timings>>) {
        self.clock = clock;
    }

    /// Takes a byte from the transmitter. When that leaves it
    /// [waiting](Output::waiting), the caller has to call [`Output::drain`] later.
    pub fn put(&mut self, byte: u8) {
        if self.fresh
            && let Some(clock) = &self.clock
        {
            let ms = clock.elapsed().as_secs_f64() * 1e3;
            format!("{ms:8.3} ms  ").bytes().for_each(|b| self.push(b));
        }
        self.fresh = byte == b'\n';
        self.push(byte);
    }

    fn push(&mut self, byte: u8) {
        if self.pending.is_empty() {
            match self.try_write(&[byte]) {
                Some(0) => {}
                Some(_) => return,
                None => self.lose(),
            }
        }
        if self.pending.len() >= BUFFER {
            self.make_room();
        }
        self.pending.push_back(byte);
    }

    /// Waits for the reader within bounds, and drops the oldest byte if that
    /// was in vain.
    fn make_room(&mut self) {
        if !self.stalled
            && let Some(fd) = self.waiting_for()
        {
            self.stalled = !ready(fd, STALL_TIMEOUT_MS);
            self.drain();
        }
        if self.pending.len() >= BUFFER {
            self.pending.pop_front();
            self.dropped += 1;
            self.lost += u64::from(self.is_heard());
        }
    }

    /// Gives pending bytes a last, bounded chance before the process ends.
    pub fn finish(&mut self) {
        /// However steadily a slow reader reads, unless it holds the guest: then
        /// it is what one byte may take.
        const LIMIT: Duration = Duration::from_secs(2);
        let mut start = Instant::now();
        while (!self.stalled || self.hold)
            && start.elapsed() < LIMIT
            && let Some(fd) = self.waiting_for()
        {
            self.stalled = !ready(fd, STALL_TIMEOUT_MS);
            let before = self.pending.len();
            self.drain();
            if self.hold && self.pending.len() < before {
                start = Instant::now();
            }
        }
    }

    /// Writes without waiting: `Some(0)` if it would have to, `None` if the
    /// reader has gone for good.
    fn try_write(&self, bytes: &[u8]) -> Option<usize> {
        let (fd, kind) = self.to.as_ref().filter(|_| !self.gone)?;
        let result = match kind {
            Kind::NonBlocking | Kind::File => rustix::io::write(fd, bytes),
            Kind::Socket => send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Kind::Blocking if ready(fd.as_fd(), 0) => rustix::io::write(fd, bytes.get(..1)?),
            Kind::Blocking => Ok(0),
        };
        match result {
            Ok(written) => Some(written),
            Err(Errno::AGAIN | Errno::INTR) => Some(0),
            Err(error) => {
                // Of a reader who left nothing is lost.
                if *kind == Kind::File || error == Errno::NOSPC {
                    self.error.set(Some(error));
                }
                None
            }
        }
    }
}

impl io::Write for Output {
    /// Never fails and never takes less than everything: a UART does not know
    /// whether anybody listens.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.put(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether `fd` can be written to within `timeout` ms.
pub(super) fn ready(fd: BorrowedFd<'_>, timeout: i64) -> bool {
    let timeout = Timespec { tv_sec: 0, tv_nsec: timeout * 1_000_000 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    fn put_all(output: &mut Output, bytes: impl IntoIterator<Item = u8>) {
        bytes.into_iter().for_each(|byte| output.put(byte));
    }

    /// A reader that never reads costs a bounded buffer and a bounded time,
    /// and finds the newest bytes when it wakes up.
    #[test]
    fn a_reader_that_never_reads_costs_nothing() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut output = Output::to(Arc::new(near.into()));
        let sent = 1 << 20;
        put_all(&mut output, (0..sent).map(|n: u32| (n / 4096) as u8));
        assert_eq!(output.pending.len(), BUFFER);
        assert!(output.pending.capacity() <= 2 * BUFFER);
        let dropped = output.dropped();
        assert!(dropped > 0);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            all
        });
        output.stalled = false;
        output.finish();
        drop(output);
        let all = reader.join().unwrap();
        assert_eq!(all.len() as u64, u64::from(sent) - dropped);
        assert_eq!(all.last(), Some(&(((sent - 1) / 4096) as u8)));
    }

    /// A reader that keeps up loses nothing, at any volume.
    #[test]
    fn a_reader_that_reads_gets_everything() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            all
        });
        let mut output = Output::to(Arc::new(near.into()));
        let sent: Vec<u8> = (0..1u32 << 20).map(|n| ((n * 31) >> 3) as u8).collect();
        put_all(&mut output, sent.iter().copied());
        output.finish();
        assert_eq!(output.dropped(), 0);
        drop(output);
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn a_reader_that_has_gone_is_survived() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut output = Output::to(Arc::new(near.into()));
        drop(far);
        put_all(&mut output, std::iter::repeat_n(b'x', 3 * BUFFER));
        assert_eq!(output.pending.len(), BUFFER);
        assert!(output.waiting_for().is_none());
        // The next client gets the rest.
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        output.connect(Arc::new(near.into()));
        let mut some = [0; 16];
        assert_eq!(far.read(&mut some).unwrap(), 16);
    }
}
