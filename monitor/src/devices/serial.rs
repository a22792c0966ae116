//! COM1: vm-superio's 16550A between the guest and the console.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mote_snapshot::SerialV1;
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, SerialState, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::host::console::Output;

/// Interrupt enable register (16550A), unless it is the divisor's high byte.
const INTERRUPT_ENABLE: u8 = 1;
/// Bit of the interrupt identification register: the transmitter takes bytes.
const THR_EMPTY: u8 = 1 << 1;
/// Line status register, and its bits that say that the transmitter takes bytes.
const LINE_STATUS: u8 = 5;
const TRANSMITTER_EMPTY: u8 = 3 << 5;
/// Line control register, and the bit that puts the divisor in place of data and interrupts.
const LINE_CONTROL: u8 = 3;
const DIVISOR_LATCH: u8 = 1 << 7;
/// Modem control register.
const MODEM_CONTROL: u8 = 4;
/// Its bit that connects the transmitter to the receiver.
const LOOPBACK: u8 = 1 << 4;
/// Line status register: there is a byte to read.
const DATA_READY: u8 = 1;
/// Bytes that the receiver holds.
const FIFO: usize = 64;

/// The interrupt line: an edge for each trigger.
#[derive(Debug)]
pub struct Line(pub Arc<EventFd>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the main thread when it may read more input.
#[derive(Debug)]
pub struct RoomForInput {
    wanted: AtomicBool,
    wake: Arc<EventFd>,
}

impl RoomForInput {
    fn tell(&self) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            // The counter is far from full, so this cannot fail.
            let _ = self.wake.write(1);
        }
    }
}

impl SerialEvents for RoomForInput {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.tell();
    }
}

/// The serial port.
pub struct Com1 {
    uart: Serial<Line, RoomForInput, Output>,
    wake: Arc<EventFd>,
    /// The guest has read that the transmitter is full.
    held: bool,
}

impl Com1 {
    /// A port at power-on.
    pub fn new(line: EventFd, output: Output, wake: Arc<EventFd>) -> Self {
        Self::on_line(Arc::new(line), output, wake)
    }

    fn on_line(line: Arc<EventFd>, output: Output, wake: Arc<EventFd>) -> Self {
        let events = RoomForInput { wanted: AtomicBool::new(false), wake: Arc::clone(&wake) };
        Self { uart: Serial::with_events(Line(line), events, output), wake, held: false }
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u8) -> u8 {
        let value = self.uart.read(offset);
        if offset != LINE_STATUS || !self.uart.writer().is_full() {
            return value;
        }
        self.held = true;
        value & !TRANSMITTER_EMPTY
    }

    /// Tells a guest that was held that there is room for output again, if so. While its
    /// divisor latch is open, there is no register of interrupts: then when it closes that.
    pub fn release(&mut self) {
        let latch = self.uart.read(LINE_CONTROL) & DIVISOR_LATCH != 0;
        if self.held && !latch && !self.uart.writer().is_full() {
            self.held = false;
            // Rewriting the register raises enabled interrupts that are due.
            let enabled = self.uart.read(INTERRUPT_ENABLE);
            let _ = self.uart.write(INTERRUPT_ENABLE, enabled);
        }
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u8, value: u8) {
        let before = self.uart.writer().waiting();
        // Output never fails, and the interrupt's counter cannot overflow.
        let _ = self.uart.write(offset, value);
        if offset == MODEM_CONTROL && value & LOOPBACK == 0 {
            self.uart.events().tell();
        }
        if offset == LINE_CONTROL {
            self.release();
        }
        if !before && self.uart.writer().waiting() {
            let _ = self.wake.write(1);
        }
    }

    /// Bytes of input that the guest has room for: none in loopback, as its
    /// driver tests the port then. Without room, the main thread is woken
    /// as soon as there is some.
    pub fn room(&mut self) -> usize {
        let loopback = self.uart.read(MODEM_CONTROL) & LOOPBACK != 0;
        let room = if loopback { 0 } else { self.uart.fifo_capacity() };
        self.uart.events().wanted.store(room == 0, Ordering::Release);
        room
    }

    /// The interrupt line.
    pub fn line(&self) -> &EventFd {
        &self.uart.interrupt_evt().0
    }

    /// Hands input to the guest, at most [`Com1::room`] bytes.
    pub fn input(&mut self, bytes: &[u8]) {
        // More than there is room for is lost, as on a wire.
        let _ = self.uart.enqueue_raw_bytes(bytes);
    }

    /// The console's output side.
    pub fn output(&mut self) -> &mut Output {
        self.uart.writer_mut()
    }

    /// Registers, interrupt state and received bytes.
    pub fn save(&self) -> SerialV1 {
        let state = self.uart.state();
        // Elsewhere nothing holds it.
        let released = if self.held { THR_EMPTY } else { 0 };
        SerialV1 {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification | released,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            input: state.in_buffer,
            typed: Vec::new(),
        }
    }

    /// Takes over a saved state; the console stays connected. An interrupt
    /// that was due is raised again: the guest may wait for it to continue
    /// sending.
    ///
    /// # Errors
    /// More bytes than the receiver holds.
    pub fn restore(&mut self, saved: &SerialV1) -> Result<(), String> {
        let [low, high, enable, identification, line_control, status, modem, modem_status, scratch] =
            saved.registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control,
            // The saved input decides whether data is ready.
            line_status: status & !DATA_READY | u8::from(!saved.input.is_empty()),
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: saved.input.clone(),
        };
        let wrong = "serial port: more input than it holds".to_owned();
        if saved.input.len() > FIFO {
            return Err(wrong);
        }
        let line = Line(Arc::clone(&self.uart.interrupt_evt().0));
        let events = RoomForInput { wanted: AtomicBool::new(false), wake: Arc::clone(&self.wake) };
        let output = std::mem::replace(self.uart.writer_mut(), Output::nowhere());
        self.uart = Serial::from_state(&state, line, events, output).map_err(|_| wrong)?;
        Ok(())
    }

    /// Back to power-on; the console stays connected.
    pub fn reset(&mut self) {
        let line = Arc::clone(&self.uart.interrupt_evt().0);
        let output = std::mem::replace(self.uart.writer_mut(), Output::nowhere());
        *self = Self::on_line(line, output, Arc::clone(&self.wake));
    }
}

/// Typed bytes that the guest has no room for yet.
#[derive(Debug, Default)]
pub struct TypedAhead {
    bytes: VecDeque<u8>,
    /// When the guest last took some.
    taken: Option<Instant>,
    lost: u64,
}

impl TypedAhead {
    /// Bytes of input that are kept; further input is lost.
    pub const MOST: usize = mote_snapshot::MAX_TYPED;
    /// How long a guest may read nothing before console input is read all the same, so that
    /// the user can leave.
    const READ_TIMEOUT: Duration = Duration::from_secs(1);

    /// Whether the guest has been given everything.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How long `more` bytes are not to be read: there is no room, and the guest
    /// is making some.
    pub fn waits(&self, more: usize) -> Option<Duration> {
        let left = Self::READ_TIMEOUT.checked_sub(self.taken?.elapsed())?;
        (self.bytes.len() + more > Self::MOST).then_some(left)
    }

    /// Bytes that there was no room for.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What the guest has not been given.
    pub fn save(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }

    /// Takes over saved input.
    pub fn restore(saved: &[u8]) -> Self {
        Self { bytes: saved.iter().take(Self::MOST).copied().collect(), ..Self::default() }
    }

    /// Takes a typed byte.
    pub fn push(&mut self, byte: u8) {
        if self.bytes.len() < Self::MOST {
            self.bytes.push_back(byte);
        } else {
            self.lost += 1;
        }
    }

    /// Gives the guest as much as it has room for. If that is not all, the
    /// port wakes the main thread when there is room again.
    pub fn hand_over(&mut self, com1: &mut Com1) {
        if self.bytes.is_empty() {
            return;
        }
        let count = com1.room().min(self.bytes.len());
        if count > 0 {
            self.taken = Some(Instant::now());
        }
        let bytes: Vec<u8> = self.bytes.drain(..count).collect();
        com1.input(&bytes);
        if !self.bytes.is_empty() {
            // Asked while the guest cannot make room: the wake-up will come.
            com1.room();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    fn port() -> (Com1, UnixStream, EventFd, Arc<EventFd>) {
        let (near, far) = UnixStream::pair().unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let com1 = Com1::new(
            line.try_clone().unwrap(),
            Output::to(Arc::new(near.into())),
            Arc::clone(&wake),
        );
        (com1, far, line, wake)
    }

    #[test]
    fn bytes_go_out_and_come_in() {
        let (mut com1, mut far, line, _) = port();
        com1.write(0, b'!');
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [b'!']);
        com1.write(1, 1);
        com1.input(b"ab");
        assert_eq!(line.read().unwrap(), 1);
        assert_eq!(
            (com1.read(5) & 1, com1.read(0), com1.read(0), com1.read(5) & 1),
            (1, b'a', b'b', 0)
        );
    }

    /// The serial input buffer never grows beyond its FIFO (CVE-2020-27173),
    /// and the main thread is notified when the guest has made room.
    #[test]
    fn input_is_bounded() {
        let (mut com1, _far, _line, wake) = port();
        loop {
            let room = com1.room();
            if room == 0 {
                break;
            }
            com1.input(&vec![b'x'; room]);
        }
        com1.input(&[b'y'; 4096]);
        assert!(wake.read().is_err());
        let mut got = 0;
        while com1.read(5) & 1 == 1 {
            assert_eq!(com1.read(0), b'x');
            got += 1;
        }
        assert_eq!(got, 64);
        assert_eq!(wake.read().unwrap(), 1);
    }

    /// A driver that tests the port in loopback during input loses no input and misses
    /// no wake-up.
    #[test]
    fn loopback_keeps_what_is_typed() {
        let (mut com1, _far, _line, wake) = port();
        let mut typed = TypedAhead::default();
        com1.write(4, 0x10);
        (0..100).for_each(|key| typed.push(key));
        typed.hand_over(&mut com1);
        com1.write(0, b'?');
        assert_eq!((com1.read(0), com1.read(5) & 1), (b'?', 0));
        typed.hand_over(&mut com1);
        let _ = wake.read();
        com1.write(4, 0);
        for key in 0..100 {
            if com1.read(5) & 1 == 0 {
                assert_eq!(wake.read().unwrap(), 1, "no wake-up for room");
                typed.hand_over(&mut com1);
            }
            assert_eq!(com1.read(0), key);
        }
        assert!(typed.is_empty());
    }

    /// A driver that checks the status waits, and gets an interrupt when there is room, also
    /// after a restore; one that does not check loses bytes.
    #[test]
    fn a_slow_reader_holds_the_guest() {
        let (mut com1, mut far, line, _) = port();
        com1.output().hold();
        com1.write(1, 2);
        let mut sent: u64 = 0;
        while com1.read(2) & 0xf == 2 && com1.read(5) & 0x60 == 0x60 {
            let _ = line.read();
            com1.write(0, b'x');
            sent += 1;
        }
        let _ = (line.read(), com1.read(2));
        com1.release();
        assert!(line.read().is_err(), "woken without room");
        let (mut other, _far, elsewhere, _) = port();
        other.restore(&com1.save()).unwrap();
        assert!(elsewhere.read().is_ok(), "held for good");
        far.set_nonblocking(true).unwrap();
        let mut got = vec![0; 1 << 20];
        let mut taken = 0;
        while com1.output().waiting() {
            taken += far.read(&mut got).unwrap_or(0);
            com1.output().drain();
        }
        taken += far.read(&mut got).unwrap_or(0);
        // While the divisor's registers are there, the interrupt's are not.
        com1.write(3, 0x83);
        com1.release();
        assert_eq!(com1.read(1), 0, "the divisor has changed");
        com1.write(3, 3);
        assert!(line.read().is_ok(), "not woken for room");
        assert_eq!((com1.read(2) & 0xf, com1.read(5) & 0x60), (2, 0x60));
        assert_eq!((taken as u64, com1.output().dropped()), (sent, 0));
        let regardless = || com1.write(0, b'y');
        std::iter::repeat_with(regardless).take(1 << 20).for_each(drop);
        assert!(com1.output().dropped() > 0);
    }

    #[test]
    fn a_reset_forgets_registers_and_keeps_the_console() {
        let (mut com1, mut far, _line, _) = port();
        com1.write(7, 0x55);
        com1.input(b"typed too early");
        com1.reset();
        assert_eq!((com1.read(7), com1.read(5) & 1), (0, 0));
        com1.write(0, b'?');
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [b'?']);
    }

    /// A guest that waits for the interrupt after a byte sent, or has yet to
    /// read its input, continues after a restore (Firecracker #5730).
    #[test]
    fn a_saved_port_continues_in_another_machine() {
        let (mut com1, _far, line, _) = port();
        // Receiver's and transmitter's interrupts, a divisor, scratch.
        for (register, value) in [(3, 0x83), (0, 12), (1, 3), (3, 3), (7, 0x5a), (1, 3), (4, 8)] {
            com1.write(register, value);
        }
        com1.write(0, b'x');
        com1.input(b"ab");
        assert!(line.read().is_ok());
        let saved = com1.save();
        let (mut other, mut far, line, _) = port();
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        assert!(line.read().is_ok(), "no interrupt to continue");
        assert_eq!(other.read(2) & 0xf, com1.read(2) & 0xf);
        assert_eq!((other.read(7), other.read(0), other.read(0)), (0x5a, b'a', b'b'));
        other.write(0, b'y');
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!((byte, line.read().is_ok()), ([b'y'], true));
    }

    /// Any registers are harmless, and no more is received than there is room.
    #[test]
    fn hostile_states_are_harmless() {
        for value in 0..=255 {
            let (mut com1, _far, _line, _) = port();
            let saved = SerialV1 { registers: [value; 9], ..SerialV1::default() };
            com1.restore(&saved).unwrap();
            assert_eq!(com1.save().registers[5] & 1, 0);
            (0..8).for_each(|register| {
                com1.read(register);
                com1.write(register, !value);
            });
        }
        let (mut com1, _far, _line, _) = port();
        let saved = SerialV1 { input: vec![0; 65], ..SerialV1::default() };
        com1.restore(&saved).unwrap_err();
    }
}
