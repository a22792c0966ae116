//! The serial port and the console's buffers on both of its sides: a guest
//! that writes and reads registers as it likes, a person who types, a reader
//! who is slow, goes away and comes back. Compared with a model of the wire:
//! what goes in comes out, in order, or is counted as dropped; and nobody
//! who has something to say is left asleep.
#![no_main]

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote::devices::serial::{Com1, TypedAhead};
use mote::host::console::{Escape, Output, Typed};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of output that are kept for a slow reader.
const KEPT: usize = 64 << 10;
const FIFO: usize = 64;
const LOOPBACK: u8 = 1 << 4;
const DLAB: u8 = 1 << 7;

/// The far end of the transmitter.
enum Reader {
    /// A pipe or a socket.
    Stream(OwnedFd),
    /// A file, which needs no reader.
    File(OwnedFd),
}

impl Reader {
    /// A reader of one of the kinds, and what writes to it.
    fn new(kind: u8) -> (Self, OwnedFd) {
        let pipe = |flags| {
            let (near, far) = pipe_with(flags | PipeFlags::CLOEXEC).unwrap();
            fcntl_setpipe_size(&near, 4096).unwrap();
            let flags = rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(&near, flags).unwrap();
            (Self::Stream(near), far)
        };
        match kind {
            0 => pipe(PipeFlags::NONBLOCK),
            1 => pipe(PipeFlags::empty()),
            2 => {
                let kind = (AddressFamily::UNIX, SocketType::STREAM);
                let (near, far) = socketpair(kind.0, kind.1, SocketFlags::NONBLOCK, None).unwrap();
                (Self::Stream(near), far)
            }
            _ => {
                let file = memfd_create("out", MemfdFlags::CLOEXEC).unwrap();
                (Self::File(file.try_clone().unwrap()), file)
            }
        }
    }

    /// Takes at most `most` bytes; of a file, all that is new.
    fn take(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let count = match self {
            Self::Stream(fd) => rustix::io::read(fd, &mut bytes).unwrap_or(0),
            Self::File(_) => 0,
        };
        bytes.truncate(count);
        bytes
    }

    /// Everything that is there.
    fn take_all(&self) -> Vec<u8> {
        if let Self::File(file) = self {
            let size = rustix::fs::fstat(file).unwrap().st_size;
            let mut bytes = vec![0; size as usize];
            assert_eq!(rustix::io::pread(file, &mut bytes, 0), Ok(bytes.len()));
            return bytes;
        }
        let mut all = Vec::new();
        loop {
            let some = self.take(4096);
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }
}

struct Machine {
    com1: Com1,
    typed: TypedAhead,
    escape: Escape,
    wake: Arc<EventFd>,
    line: EventFd,
    reader: Option<Reader>,
    // The model.
    control: u8,
    modem: u8,
    /// What the guest has to find in its receiver.
    fifo: VecDeque<u8>,
    /// What was typed and has not reached the receiver.
    ahead: VecDeque<u8>,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Machine {
    fn new(kind: u8) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (wake, line) = (Arc::new(event()), event());
        let (reader, output) = match kind {
            4 => (None, Output::nowhere()),
            kind => {
                let (reader, writer) = Reader::new(kind);
                (Some(reader), Output::to(writer.into()))
            }
        };
        Self {
            com1: Com1::new(line.try_clone().unwrap(), output, Arc::clone(&wake)),
            typed: TypedAhead::default(),
            escape: Escape::default(),
            wake,
            line,
            reader,
            control: 3,
            modem: 8,
            fifo: VecDeque::new(),
            ahead: VecDeque::new(),
            sent: Vec::new(),
            received: Vec::new(),
        }
    }

    /// No more than this is in the port's buffer.
    fn pending(&mut self) -> usize {
        let dropped = self.com1.output().dropped() as usize;
        self.sent.len() - self.received.len() - dropped
    }

    fn write(&mut self, offset: u8, value: u8) {
        self.com1.write(offset, value);
        match offset {
            0 if self.control & DLAB != 0 => {}
            0 if self.modem & LOOPBACK != 0 => {
                if self.fifo.len() < FIFO {
                    self.fifo.push_back(value);
                }
            }
            0 => self.sent.push(value),
            3 => self.control = value,
            4 => self.modem = value,
            _ => {}
        }
    }

    fn read(&mut self, offset: u8) -> u8 {
        let value = self.com1.read(offset);
        match offset {
            0 if self.control & DLAB == 0 => {
                assert_eq!(value, self.fifo.pop_front().unwrap_or_default());
            }
            3 => assert_eq!(value, self.control),
            4 => assert_eq!(value, self.modem),
            5 => assert_eq!(value & 1 == 1, !self.fifo.is_empty()),
            _ => {}
        }
        value
    }

    /// More bytes than are kept if nobody reads. Else fewer: the port would
    /// wait for the reader, which takes real time and has a unit test.
    fn flood(&mut self) {
        let count = if self.reader.is_none() { KEPT + 100 } else { 600 };
        if self.reader.is_some() && self.pending() + count >= KEPT {
            return;
        }
        for n in 0..count {
            self.write(0, (n / 251) as u8);
        }
    }

    fn type_ahead(&mut self, keys: &[u8]) {
        for key in keys {
            match self.escape.feed(*key) {
                Typed::Byte(byte) => {
                    self.typed.push(byte);
                    if self.ahead.len() < TypedAhead::MOST {
                        self.ahead.push_back(byte);
                    }
                }
                Typed::Help | Typed::Leave | Typed::Nothing => {}
            }
        }
        self.hand_over();
    }

    /// What the main thread does when it wakes up.
    fn hand_over(&mut self) {
        let _ = self.wake.read();
        let (asked, room) = (self.com1.room(), FIFO - self.fifo.len());
        assert!(asked == room || (asked == 0 && self.modem & LOOPBACK != 0));
        self.typed.hand_over(&mut self.com1);
        if self.modem & LOOPBACK == 0 {
            while self.fifo.len() < FIFO
                && let Some(byte) = self.ahead.pop_front()
            {
                self.fifo.push_back(byte);
            }
        }
        assert_eq!(self.typed.is_empty(), self.ahead.is_empty());
    }

    fn output(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u.int_in_range(0..=3)? {
            0 => self.com1.output().drain(),
            1 => {
                let most = u.int_in_range(1..=5000)?;
                let some = self.reader.as_ref().map(|reader| reader.take(most));
                self.received.extend(some.unwrap_or_default());
            }
            2 => self.hang_up(u.arbitrary()?),
            _ => {
                let kind = u.int_in_range(0..=3)?;
                self.hang_up(true);
                self.connect(kind);
            }
        }
        Ok(())
    }

    /// The reader takes what is there and goes. The monitor may be told, or
    /// find out by itself.
    fn hang_up(&mut self, told: bool) {
        if let Some(reader) = &self.reader {
            if matches!(reader, Reader::File(_)) && !told {
                return;
            }
            self.received.extend(reader.take_all());
        }
        if told {
            self.com1.output().disconnect();
        }
        self.reader = None;
    }

    fn connect(&mut self, kind: u8) {
        // What may block is written byte by byte, two system calls each.
        let kind = if kind == 1 && self.pending() > 2000 { 0 } else { kind };
        let (reader, writer) = Reader::new(kind);
        self.reader = Some(reader);
        self.com1.output().connect(writer.into());
    }

    fn check(&mut self) {
        let waiting = self.com1.output().waiting();
        assert!(!waiting || self.pending() > 0);
        // Beyond what is kept there is what the reader's pipe or socket holds.
        assert!(self.pending() <= KEPT + (256 << 10));
    }

    /// A guest that behaves, with a person who reads, gets everything that
    /// has not been dropped; it does so by what it is told, not by looking.
    fn end(&mut self) {
        self.write(3, 3);
        self.write(4, 0xb);
        self.read(2);
        self.write(1, 0);
        let _ = self.line.read();
        self.write(1, 1);
        let told = self.line.read().is_ok();
        assert_eq!(told, !self.fifo.is_empty(), "the interrupt line");
        loop {
            if self.wake.read().is_ok() {
                self.hand_over();
            }
            if self.read(5) & 1 == 0 {
                break;
            }
            self.read(0);
        }
        assert!(self.typed.is_empty(), "input was left behind");
        if self.reader.is_none() {
            self.connect(3);
        }
        loop {
            let waiting = self.com1.output().waiting();
            let some = self.reader.as_ref().unwrap().take_all();
            let file = matches!(self.reader, Some(Reader::File(_)));
            let stuck = waiting && some.is_empty();
            assert!(!stuck || !file, "a file makes nobody wait");
            self.received.extend(&some);
            if file || (!waiting && some.is_empty()) {
                break;
            }
            self.com1.output().drain();
        }
        let dropped = self.com1.output().dropped() as usize;
        assert_eq!(self.received.len() + dropped, self.sent.len());
        let mut sent = self.sent.iter();
        let in_order = self.received.iter().all(|byte| sent.any(|s| s == byte));
        assert!(in_order, "output in another order");
        assert!(dropped > 0 || self.received == self.sent);
    }

    fn reset(&mut self) {
        self.com1.reset();
        (self.control, self.modem) = (3, 8);
        self.fifo.clear();
        let _ = self.wake.read();
        for (offset, value) in [(1, 0), (2, 0xc1), (3, 3), (4, 8), (5, 0x60), (7, 0)] {
            assert_eq!(self.com1.read(offset), value, "register {offset}");
        }
        self.hand_over();
    }
}

fn run(u: &mut Unstructured<'_>, mut flooded: bool) -> Result<()> {
    let mut machine = Machine::new(u.int_in_range(0..=4)?);
    let mut steps = 0;
    while !u.is_empty() && steps < 500 {
        steps += 1;
        match u.int_in_range(0..=15)? {
            0..=3 => machine.write(u.int_in_range(0..=7)?, u.arbitrary()?),
            4..=5 => machine.write(0, u.arbitrary()?),
            6 => machine.write(4, *u.choose(&[0, 0xb, LOOPBACK])?),
            7 => {
                machine.read(u.int_in_range(0..=9)?);
            }
            8 => {
                for _ in 0..u.int_in_range(1..=80)? {
                    machine.read(0);
                }
            }
            9 => {
                let len = u.int_in_range(1..=200)?;
                let keys = u.bytes(len.min(u.len()))?;
                machine.type_ahead(keys);
            }
            10 => machine.hand_over(),
            11..=13 => machine.output(u)?,
            14 if !flooded => {
                flooded = true;
                machine.flood();
            }
            14 => {}
            _ => machine.reset(),
        }
        machine.check();
    }
    machine.end();
    Ok(())
}

/// As the monitor does: a reader that has gone is an error of the write.
fn ignore_sigpipe() {
    // SAFETY: changes the disposition of one signal; there is one thread.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

fuzz_target!(init: ignore_sigpipe(), |data: &[u8]| {
    // A flood takes as long as a hundred inputs without: few may have one, and
    // not all that descend from one that had.
    let hash = data
        .iter()
        .fold(0u8, |hash, byte| hash.wrapping_mul(31) ^ byte);
    let _ = run(&mut Unstructured::new(data), hash % 64 != 0);
});
