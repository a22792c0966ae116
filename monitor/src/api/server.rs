//! The socket of the API and its connections. Nothing here ever waits: what a
//! client sends is kept up to a limit until it is a request, what it is sent
//! until it reads, and a client that does neither delays no other.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown};
use rustix::process::umask;

use super::http::{self, CONTINUE, Parsed, Request, Response};
use crate::error::{Error, os_message};
use crate::host::console;
use crate::run::SnapshotWriter;
use crate::sandbox::{self, Slot};

/// First and last number of the connections' descriptors, in a row that the
/// sandbox knows, where 256 may be open: see [`sandbox::number`]. A further
/// connection closes the one that has been idle for longest: clients that keep
/// connections open cannot lock others out.
const ROW: (RawFd, RawFd) = (192, 207);
/// Bytes that are read from a connection in one go.
const READ: usize = 4096;
/// Bytes of answers that may wait for a client before its next request does.
const UNSENT: usize = 64 << 10;
/// Bytes that a client may still send after a mistake, which are thrown
/// away: a client that is cut off would not read the error.
const DISCARD: usize = 1 << 20;

/// Answers requests.
pub type Handler<'a> = dyn FnMut(&Request) -> Response + 'a;

/// The socket and its connections.
#[derive(Debug)]
pub struct Server {
    listener: Option<OwnedFd>,
    connections: Vec<Connection>,
    max_body: usize,
    /// Counts what happens, to know who has been quiet.
    turn: u64,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// It was asked to send this request's body (100 Continue).
    continued: bool,
    /// After the last answer: how much more may come until it is closed.
    closing: Option<usize>,
    /// The client sends no more.
    ended: bool,
    /// Turn of the last event.
    last: u64,
}

impl Server {
    /// A server that listens on a new socket with these permissions, for requests
    /// with bodies of at most `max_body` bytes.
    ///
    /// # Errors
    /// The socket cannot be made, or a server listens there already.
    pub fn bind(path: &Path, mode: u32, max_body: usize) -> Result<Self, Error> {
        let failed = |e: io::Error| {
            let why = match e.kind() {
                io::ErrorKind::AddrInUse => "already exists: remove it, or name another".to_owned(),
                _ => os_message(&e),
            };
            Error::Input("API socket", path.into(), why)
        };
        console::remove_dead(path);
        // From its first moment on: there is one thread, and it makes nothing else.
        let before = umask(Mode::from_raw_mode(0o777 & !mode));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(failed)?;
        Self::listen(listener.into(), max_body)
    }

    /// The same on a listening socket that the caller made.
    ///
    /// # Errors
    /// The descriptor is not a listening socket, or RLIMIT_NOFILE is too low.
    pub fn inherit(number: RawFd, max_body: usize) -> Result<Self, Error> {
        // SAFETY: the caller says that it is ours.
        let listener = unsafe { OwnedFd::from_raw_fd(number) };
        if rustix::net::sockopt::socket_acceptconn(&listener) != Ok(true) {
            let why = format!("--api-fd: {number} is not a listening socket");
            return Err(Error::Usage(why));
        }
        Self::listen(listener, max_body)
    }

    fn listen(listener: OwnedFd, max_body: usize) -> Result<Self, Error> {
        rustix::io::ioctl_fionbio(&listener, true)
            .and_then(|()| rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC))
            .map_err(|e| Error::System("API socket", e.into()))?;
        check_row()?;
        Ok(Self { listener: Some(listener), ..Self::silent(max_body) })
    }

    /// No socket at all.
    pub fn silent(max_body: usize) -> Self {
        Self { listener: None, connections: Vec::new(), max_body, turn: 0 }
    }

    /// Numbers of its descriptors, now and later.
    pub fn slots(&self) -> Vec<(Slot, RawFd)> {
        let Some(listener) = &self.listener else {
            return Vec::new();
        };
        vec![
            (Slot::ApiListener, listener.as_raw_fd()),
            (Slot::ApiFirst, *row().start()),
            (Slot::ApiLast, *row().end()),
        ]
    }

    /// What to wait for.
    pub fn waits<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let Some(listener) = &self.listener else {
            return;
        };
        fds.push(PollFd::new(listener, PollFlags::IN));
        for connection in &self.connections {
            let flags = connection.waits_for();
            fds.push(PollFd::new(&connection.socket, flags));
        }
    }

    /// Serves what has happened, in the order of [`waits`](Server::waits).
    pub fn serve(&mut self, happened: &[PollFlags], handle: &mut Handler<'_>) {
        let Some((listener, connections)) = happened.split_first() else {
            return;
        };
        let mut flags = connections.iter();
        let (turn, max_body) = (self.turn + 1, self.max_body);
        self.turn = turn;
        self.connections.retain_mut(|connection| {
            let flags = flags.next().copied().unwrap_or(PollFlags::empty());
            if flags.is_empty() {
                return true;
            }
            connection.last = turn;
            connection.serve(flags, max_body, handle)
        });
        if !listener.is_empty() {
            self.accept();
        }
    }

    /// Sends what can be sent at once, before the process ends.
    pub fn finish(&mut self) {
        for connection in &mut self.connections {
            // The process ends; what cannot be sent now is lost.
            let _ = connection.flush();
        }
    }

    /// Lets one client in; the next one at the next turn.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Some(Ok(client)) = self.listener.as_ref().map(|l| accept_with(l, flags)) else {
            return;
        };
        if self.connections.len() >= row().count() {
            let quiet = self.connections.iter().enumerate();
            if let Some((index, _)) = quiet.min_by_key(|(_, connection)| connection.last) {
                self.connections.swap_remove(index);
            }
        }
        let taken = |number| {
            let mut all = self.connections.iter();
            all.any(|connection| connection.socket.as_raw_fd() == number)
        };
        let Some(number) = row().find(|number| !taken(*number)) else {
            return;
        };
        let Ok(socket) = sandbox::renumber(client, number) else {
            return;
        };
        self.connections.push(Connection {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            continued: false,
            closing: None,
            ended: false,
            last: self.turn,
        });
    }
}

/// Numbers of the connections' descriptors: with few, one at least.
fn row() -> RangeInclusive<RawFd> {
    let first = sandbox::number(ROW.0);
    first..=(sandbox::number(ROW.1 + 1) - 1).max(first)
}

/// Whether the row of connections can be used.
fn check_row() -> Result<(), Error> {
    // SAFETY: a plain system call, which fails for a closed descriptor.
    let open = |number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    let mut others = SnapshotWriter::slots().map(|(_, number)| number);
    let few = SnapshotWriter::slots().any(|(_, number)| number >= sandbox::number(256));
    match few || row().any(open) || others.any(open) {
        true => Err(sandbox::crowded()),
        false => Ok(()),
    }
}

impl Connection {
    fn waits_for(&self) -> PollFlags {
        let unsent = self.output.len() - self.sent;
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::OUT, unsent > 0);
        flags.set(PollFlags::IN, unsent < UNSENT && !self.ended);
        flags
    }

    /// Moves bytes and answers requests; tells whether the connection stays.
    fn serve(&mut self, flags: PollFlags, max_body: usize, handle: &mut Handler<'_>) -> bool {
        if flags.contains(PollFlags::ERR) {
            return false;
        }
        let receives = flags.intersects(PollFlags::IN | PollFlags::HUP);
        if receives && self.receive().is_err() {
            return false;
        }
        loop {
            let before = self.input.len();
            self.answer(max_body, handle);
            if self.flush().is_err() {
                return false;
            }
            // A client that has ended its side may still read.
            if self.sent < self.output.len() {
                return true;
            }
            if self.ended || self.closing == Some(0) {
                return false;
            }
            if self.input.len() == before || self.closing.is_some() {
                return true;
            }
        }
    }

    fn receive(&mut self) -> Result<(), Errno> {
        let mut bytes = [0; READ];
        let (received, _) = match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            other => other?,
        };
        self.ended = received == 0;
        if let Some(left) = &mut self.closing {
            *left = left.saturating_sub(received);
        } else {
            self.input.extend_from_slice(bytes.get(..received).unwrap_or_default());
        }
        Ok(())
    }

    /// Answers the requests that have come, as long as the answers are read.
    fn answer(&mut self, max_body: usize, handle: &mut Handler<'_>) {
        while self.closing.is_none() && self.output.len() - self.sent < UNSENT {
            match http::parse(&self.input, max_body) {
                Parsed::Part(waits) => {
                    if waits && !std::mem::replace(&mut self.continued, true) {
                        self.output.extend_from_slice(CONTINUE);
                    }
                    return;
                }
                Parsed::Whole(request, used) => {
                    self.input.drain(..used);
                    self.continued = false;
                    handle(&request).write(&mut self.output, request.keep);
                    if !request.keep {
                        self.close(0);
                    }
                }
                Parsed::Bad(why) => {
                    Response::fault(&why).write(&mut self.output, false);
                    self.close(DISCARD);
                }
            }
        }
    }

    /// Whatever still comes is of no interest.
    fn close(&mut self, discard: usize) {
        self.closing = Some(discard);
        self.input = Vec::new();
    }

    fn flush(&mut self) -> Result<(), Errno> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, rest, flags) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // Most connections are quiet most of the time, and cost nothing then.
        self.output = Vec::new();
        self.sent = 0;
        if self.closing.is_some() {
            // The client sees that nothing more comes; one that has gone does not.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
        Ok(())
    }
}
