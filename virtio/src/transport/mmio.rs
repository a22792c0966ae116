//! virtio over MMIO, version 2 (virtio 1.2, 4.2).
//!
//! The window is memory that KVM shows the guest read-only: a load costs no
//! exit and runs no code here. Only stores arrive, and after each the page is
//! brought up to date before the guest goes on.
//!
//! Two stores usually do not arrive either, because KVM turns them into
//! eventfds: the doorbell, and the acknowledge **of value 1** (the used-buffer
//! bit), which has nothing to do. An acknowledge of the config bit has to
//! arrive as a store: taken from an eventfd later, it could clear a bit that
//! was set for the next change.

use virtio_bindings::virtio_mmio as reg;

use super::{Registers, Transition, Window};
use crate::Error;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "Mote".
const VENDOR: u32 = 0x6574_6f4d;
const CONFIG: usize = reg::VIRTIO_MMIO_CONFIG as usize;
/// Most bytes of configuration space.
const CONFIG_MAX: usize = 256;

/// What the owner has to do after a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    None,
    /// Start the device with [`Registers::activation`]; if it refuses,
    /// call [`MmioTransport::set_needs_reset`].
    Start,
    /// Stop and reset the device, then call [`MmioTransport::finish_reset`];
    /// until then every store is ignored.
    Stop,
    /// Stop the selected queue of the device for good, then call
    /// [`MmioTransport::finish_queue_stop`].
    StopQueue,
    /// A doorbell that was not an eventfd: let a worker look at this queue.
    Notify(u16),
    /// Give bytes to the device's configuration space.
    ConfigWrite {
        /// First byte in the configuration space.
        offset: usize,
        /// The bytes, the first `len` of them.
        data: [u8; 8],
        /// How many: 1, 2, 4 or 8.
        len: usize,
    },
}

/// One device's window: decodes stores, keeps the page.
#[derive(Debug)]
pub struct MmioTransport {
    registers: Registers,
    window: Window,
    device_id: u32,
    config: Vec<u8>,
    rejected: u64,
}

impl MmioTransport {
    /// A transport at power-on, with its page filled in.
    ///
    /// # Errors
    /// [`Error::DeviceShape`] for more than 256 bytes of configuration.
    pub fn new(
        window: Window,
        registers: Registers,
        device_id: u32,
        config: Vec<u8>,
    ) -> Result<Self, Error> {
        if config.len() > CONFIG_MAX {
            return Err(Error::DeviceShape);
        }
        let transport = Self { registers, window, device_id, config, rejected: 0 };
        transport.publish_constant();
        transport.publish_config();
        transport.publish();
        Ok(transport)
    }

    /// The registers behind the window.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The page the guest reads.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Stores that no driver may make, ignored.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// The guest stored `data` at byte `offset` of the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let action = if at >= CONFIG {
            self.write_config(at - CONFIG, data)
        } else {
            // 4.2.2.2: registers take aligned 32-bit stores only; no register
            // is at an unaligned place.
            <[u8; 4]>::try_from(data)
                .ok()
                .and_then(|bytes| self.write_register(at as u32, u32::from_le_bytes(bytes)))
        };
        if action.is_none() {
            self.rejected = self.rejected.saturating_add(1);
        }
        self.publish();
        action.unwrap_or(Action::None)
    }

    /// `None` if the store is not one a driver may make.
    fn write_register(&mut self, at: u32, value: u32) -> Option<Action> {
        let registers = &mut self.registers;
        let accepted = match at {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => {
                registers.select_device_features(value);
                true
            }
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => {
                registers.select_driver_features(value);
                true
            }
            reg::VIRTIO_MMIO_DRIVER_FEATURES => registers.set_driver_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => {
                registers.select_queue(value);
                true
            }
            // No shared memory regions: every one of them has length -1.
            reg::VIRTIO_MMIO_SHM_SEL => true,
            reg::VIRTIO_MMIO_QUEUE_READY => return act(registers.set_queue_ready(value)),
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => return self.notify(value),
            reg::VIRTIO_MMIO_INTERRUPT_ACK => {
                registers.acknowledge(value);
                true
            }
            reg::VIRTIO_MMIO_STATUS => return act(registers.set_status(value)),
            _ => self.write_queue_register(at, value),
        };
        accepted.then_some(Action::None)
    }

    fn write_queue_register(&mut self, at: u32, value: u32) -> bool {
        self.registers.configure_queue(|queue| match at {
            reg::VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut queue.available, value),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut queue.available, value),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut queue.used, value),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut queue.used, value),
            _ => {}
        }) && is_queue_register(at)
    }

    fn notify(&self, value: u32) -> Option<Action> {
        let queue = u16::try_from(value).ok()?;
        let queues = &self.registers.state().queues;
        let ready = queues.get(usize::from(queue)).is_some_and(|q| q.ready);
        (ready && self.registers.is_healthy()).then_some(Action::Notify(queue))
    }

    fn write_config(&self, offset: usize, bytes: &[u8]) -> Option<Action> {
        let end = offset.checked_add(bytes.len())?;
        if end > self.config.len() || !matches!(bytes.len(), 1 | 2 | 4 | 8) {
            return None;
        }
        let mut data = [0; 8];
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
        let len = bytes.len();
        Some(Action::ConfigWrite { offset, data, len })
    }

    /// Ends a reset: power-on registers, page up to date.
    pub fn finish_reset(&mut self) {
        self.registers.finish_reset();
        self.publish();
    }

    /// Ends the stop of the selected queue: only now does the page say so.
    pub fn finish_queue_stop(&mut self) {
        self.registers.finish_queue_stop();
        self.publish();
    }

    /// The device cannot go on. True: raise the interrupt.
    #[must_use]
    pub fn set_needs_reset(&mut self) -> bool {
        let interrupt = self.registers.set_needs_reset();
        self.publish();
        interrupt
    }

    /// Shows the driver a new configuration space of the same length; true if
    /// it is active and the change is `news` to it: raise the interrupt.
    ///
    /// A driver reads what is larger than a word in several loads, between two of
    /// the generation. Nothing that is stored word by word can have these differ
    /// for all that see parts of both: while the guest runs, only a single word
    /// may change.
    #[must_use]
    pub fn set_config(&mut self, config: &[u8], news: bool) -> bool {
        if config == self.config || config.len() != self.config.len() {
            return false;
        }
        self.config = config.to_vec();
        self.publish_config();
        self.registers.next_generation();
        let interrupt = news && self.registers.config_changed();
        self.publish();
        interrupt
    }

    /// Takes over saved registers, see [`Registers::restore`], and the
    /// configuration space as the guest saw it then.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn restore(&mut self, state: &super::RegistersV1, config: &[u8]) -> Result<(), Error> {
        if config.len() != self.config.len() {
            return Err(Error::State("configuration space"));
        }
        self.registers.restore(state)?;
        self.config = config.to_vec();
        self.publish_config();
        self.publish();
        Ok(())
    }

    /// The configuration space as the guest sees it.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    fn publish_constant(&self) {
        let constants = [
            (reg::VIRTIO_MMIO_MAGIC_VALUE, MAGIC),
            (reg::VIRTIO_MMIO_VERSION, VERSION),
            (reg::VIRTIO_MMIO_DEVICE_ID, self.device_id),
            (reg::VIRTIO_MMIO_VENDOR_ID, VENDOR),
            (reg::VIRTIO_MMIO_SHM_LEN_LOW, u32::MAX),
            (reg::VIRTIO_MMIO_SHM_LEN_HIGH, u32::MAX),
            (reg::VIRTIO_MMIO_SHM_BASE_LOW, u32::MAX),
            (reg::VIRTIO_MMIO_SHM_BASE_HIGH, u32::MAX),
        ];
        for (at, value) in constants {
            self.window.set(at as usize, value);
        }
    }

    fn publish_config(&self) {
        self.window.set_bytes(CONFIG, &self.config);
    }

    /// Writes every register that can change: seven stores are cheaper than
    /// knowing which did.
    fn publish(&self) {
        let registers = &self.registers;
        let state = registers.state();
        let values = [
            (reg::VIRTIO_MMIO_DEVICE_FEATURES, registers.device_features()),
            (reg::VIRTIO_MMIO_QUEUE_NUM_MAX, registers.queue_size_max()),
            (reg::VIRTIO_MMIO_QUEUE_READY, u32::from(registers.queue_ready())),
            (reg::VIRTIO_MMIO_INTERRUPT_STATUS, state.interrupt_status),
            (reg::VIRTIO_MMIO_STATUS, u32::from(state.status)),
            (reg::VIRTIO_MMIO_CONFIG_GENERATION, state.config_generation),
        ];
        for (at, value) in values {
            self.window.set(at as usize, value);
        }
    }
}

/// What the owner has to do; `None` if the driver may not make the store.
fn act(transition: Transition) -> Option<Action> {
    match transition {
        Transition::None => Some(Action::None),
        Transition::Start => Some(Action::Start),
        Transition::Stop => Some(Action::Stop),
        Transition::StopQueue => Some(Action::StopQueue),
        Transition::Rejected => None,
    }
}

fn is_queue_register(at: u32) -> bool {
    matches!(
        at,
        reg::VIRTIO_MMIO_QUEUE_NUM
            | reg::VIRTIO_MMIO_QUEUE_DESC_LOW
            | reg::VIRTIO_MMIO_QUEUE_DESC_HIGH
            | reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW
            | reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH
            | reg::VIRTIO_MMIO_QUEUE_USED_LOW
            | reg::VIRTIO_MMIO_QUEUE_USED_HIGH
    )
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address >> 32 << 32 | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = u64::from(value) << 32 | u64::from(*address as u32);
}
