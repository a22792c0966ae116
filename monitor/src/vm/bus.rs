//! What answers when the guest touches an I/O port or an address without RAM.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use mote_virtio::Unpoisoned as _;

use crate::devices::rtc::Rtc;
use crate::devices::serial::Com1;
use crate::devices::{Devices, Stored};
use crate::error::Error;
use crate::layout;
use crate::layout::{RESET_VALUE, S5};

use super::ioapic::IoApic;

/// The i8042 command that pulses the reset line.
const I8042_RESET: u8 = 0xfe;
/// The value that makes a write to the boot marker one.
const MARKER: u8 = 123;
/// What the boot firmware writes when it gives up.
const NOTHING_TO_BOOT: u8 = 1;
/// As a word at the boot marker's port: soft off of QEMU's machines, whose sleep control
/// register is there.
const QEMU_OFF: [u8; 2] = [0, 0x20];
/// ACPI sleep control register: sleep enable (ACPI 6.5, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;

/// What a guest asked of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Soft off (ACPI S5).
    PowerOff,
    /// Reset by the ACPI register or the i8042.
    Reset,
    /// The boot firmware found nothing to boot, and gives up.
    NothingToBoot,
    /// The boot marker was written.
    Marker,
    /// An interrupt's message has changed: KVM's routes must follow.
    Routes,
}

/// All devices that the guest reaches by an exit.
pub struct Bus {
    com1: Mutex<Com1>,
    devices: Devices,
    rtc: Rtc,
    ioapic: Mutex<IoApic>,
    /// Whether the boot marker was written.
    marked: AtomicBool,
    unknown: AtomicU64,
}

impl Bus {
    /// The devices at power-on; the I/O APIC has a pin for each of them.
    pub fn new(com1: Com1, devices: Devices) -> Self {
        let pins = layout::FIRST_DEVICE_GSI as usize + devices.windows().mmio().len();
        Self {
            devices,
            rtc: Rtc::default(),
            com1: Mutex::new(com1),
            ioapic: Mutex::new(IoApic::new(pins)),
            marked: AtomicBool::new(false),
            unknown: AtomicU64::new(0),
        }
    }

    /// The virtio devices.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The serial port.
    pub fn com1(&self) -> MutexGuard<'_, Com1> {
        self.com1.lock().unpoisoned()
    }

    /// The clock chip.
    pub fn rtc(&self) -> &Rtc {
        &self.rtc
    }

    /// The I/O APIC.
    pub fn ioapic(&self) -> MutexGuard<'_, IoApic> {
        self.ioapic.lock().unpoisoned()
    }

    /// Notes that the boot marker was written; tells whether it was for the
    /// first time, which is the one that counts.
    pub fn note_marker(&self) -> bool {
        !self.marked.swap(true, Ordering::Relaxed)
    }

    /// Whether the boot marker was written.
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    /// Accesses that met no device.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    fn miss(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads `data.len()` bytes from `port`. Wide accesses reach the ports
    /// behind it byte by byte, as on a PC.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        for (offset, byte) in (0u16..).zip(data) {
            *byte = self.port_read_byte(port.wrapping_add(offset));
        }
    }

    fn port_read_byte(&self, port: u16) -> u8 {
        const COM1_END: u16 = layout::COM1 + 7;
        match port {
            layout::COM1..=COM1_END => self.com1().read((port - layout::COM1) as u8),
            layout::RTC_DATA => self.rtc.read(),
            // No keyboard, no data, ready for the one command there is.
            layout::I8042_COMMAND => 0,
            layout::SLEEP_CONTROL | layout::SLEEP_STATUS | layout::RESET => 0,
            _ => {
                self.miss();
                0xff
            }
        }
    }

    /// Writes to `port`, with wide accesses taken apart as in a read.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<Request> {
        if (port, data) == (layout::BOOT_MARKER, &QEMU_OFF) {
            return Some(Request::PowerOff);
        }
        let mut request = None;
        for (offset, byte) in (0u16..).zip(data) {
            request = self.port_write_byte(port.wrapping_add(offset), *byte).or(request);
        }
        request
    }

    fn port_write_byte(&self, port: u16, value: u8) -> Option<Request> {
        const COM1_END: u16 = layout::COM1 + 7;
        match (port, value) {
            (layout::COM1..=COM1_END, _) => {
                self.com1().write((port - layout::COM1) as u8, value);
                None
            }
            (layout::RTC_SELECT, _) => {
                self.rtc.select(value);
                None
            }
            (layout::SLEEP_CONTROL, _) => {
                let off = value & SLEEP_ENABLE != 0 && value >> 2 & 7 == S5;
                off.then_some(Request::PowerOff)
            }
            (layout::RESET, RESET_VALUE) | (layout::I8042_COMMAND, I8042_RESET) => {
                Some(Request::Reset)
            }
            (layout::BOOT_MARKER, MARKER) => Some(Request::Marker),
            (layout::FIRMWARE_STATUS, NOTHING_TO_BOOT) => Some(Request::NothingToBoot),
            (
                layout::RTC_DATA | layout::I8042_COMMAND | layout::SLEEP_STATUS | layout::RESET,
                _,
            ) => None,
            _ => {
                self.miss();
                None
            }
        }
    }

    /// Reads from an address that is not RAM.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (address.checked_sub(layout::IOAPIC), data.first_chunk_mut::<4>()) {
            (Some(offset), Some(register)) if offset < layout::IOAPIC_SIZE => {
                *register = self.ioapic().read(offset).to_le_bytes();
            }
            _ => self.miss(),
        }
    }

    /// Writes to an address that is not RAM.
    ///
    /// # Errors
    /// KVM refuses the doorbell of a device that the guest starts.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> Result<Option<Request>, Error> {
        let stored = self.devices.write(address, data)?;
        let ioapic = address.checked_sub(layout::IOAPIC).filter(|at| *at < layout::IOAPIC_SIZE);
        let changed = match (stored, ioapic, data.first_chunk::<4>()) {
            (Stored::Messages, ..) => true,
            (Stored::Done, ..) => false,
            (Stored::Nowhere, Some(offset), Some(value)) => {
                self.ioapic().write(offset, u32::from_le_bytes(*value))
            }
            (Stored::Nowhere, ..) => {
                self.miss();
                false
            }
        };
        Ok(changed.then_some(Request::Routes))
    }

    /// Back to power-on.
    pub fn reset(&self) {
        let mut ioapic = self.ioapic();
        *ioapic = IoApic::new(ioapic.pins());
        drop(ioapic);
        self.devices.reset();
        self.rtc.select(0);
        self.com1().reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::console::Output;
    use std::sync::Arc;
    use vmm_sys_util::eventfd::EventFd;

    fn bus() -> Bus {
        let fd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Bus::new(Com1::new(fd(), Output::nowhere(), Arc::new(fd())), Devices::default())
    }

    #[test]
    fn the_machine_can_be_ended() {
        let bus = bus();
        assert_eq!(bus.port_write(0x600, &[5 << 2 | 1 << 5]), Some(Request::PowerOff));
        assert_eq!(bus.port_write(0x602, &[6]), Some(Request::Reset));
        assert_eq!(bus.port_write(0x64, &[0xfe]), Some(Request::Reset));
        assert_eq!(bus.port_write(0x604, &[123]), Some(Request::Marker));
        assert_eq!(bus.port_write(0x604, &[0, 0x20]), Some(Request::PowerOff));
        assert_eq!(bus.port_write(0x608, &[1]), Some(Request::NothingToBoot));
        for (port, value) in
            [(0x600, 5 << 2), (0x600, 1 << 5), (0x602, 1), (0x64, 0xd1), (0x604, 0)]
        {
            assert_eq!(bus.port_write(port, &[value]), None);
        }
    }

    /// At any port, width and value, only existing devices answer.
    #[test]
    fn nothing_else_is_there() {
        let bus = bus();
        let known = |port: u16| matches!(port, 0x3f8..=0x3ff | 0x64 | 0x71 | 0x600..=0x602);
        for port in 0..=0xffff {
            for width in [1, 2, 4] {
                let mut data = [0; 4];
                bus.port_read(port, &mut data[..width]);
                for (offset, byte) in (0..).zip(&data[..width]) {
                    let at = port.wrapping_add(offset);
                    assert!(known(at) || *byte == 0xff, "{at:#x} reads {byte:#x}");
                }
            }
            if !known(port) {
                assert_eq!(bus.port_write(port, &[0xfe]), None);
            }
        }
        for address in [0xd000_0000, 0xfebf_ffff, 0xfec0_1000, 0xfed0_0000, u64::MAX - 3] {
            let mut data = [0; 8];
            for width in [1, 2, 4, 8] {
                bus.mmio_read(address, &mut data[..width]);
                assert!(data[..width].iter().all(|b| *b == 0xff));
                assert_eq!(bus.mmio_write(address, &data[..width]).unwrap(), None);
            }
        }
        assert!(bus.unknown() > 0);
    }
}
