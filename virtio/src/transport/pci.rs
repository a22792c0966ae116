//! virtio over PCI (virtio 1.2, 4.1), without legacy registers.
//!
//! Configuration space and the BAR's page are memory that KVM shows the guest read-only, as
//! the MMIO window is: only stores arrive. So reading the ISR status does not clear it;
//! without an interrupt pin no driver has to read it, and its configuration bit stays set
//! until a reset. The pending bits of MSI-X read as 0.
//! The BAR answers at its power-on address alone.

use super::pci_space::{
    ACCESS_DATA, COMMON, COMMON_SIZE, DEVICE, DEVICE_SIZE, ISR, NOTIFY, SPACE_SIZE, Space, TABLE,
    VECTORS,
};
use super::{Action, Registers, Window};
use crate::{Error, QueueConfig};

/// No vector is assigned (4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;
/// Bytes of an entry of the MSI-X table: address, data, control.
const ENTRY: usize = 16;
/// The bits of an entry that can be set: of its address, of its data, its mask.
const ENTRY_BITS: [u32; 4] = [!3, !0, !0, MASKED];
const MASKED: u32 = 1;
/// Where messages reach local APICs, and the bits that say so.
const APIC: u32 = 0xfee0_0000;
const APIC_BITS: u32 = 0xfff0_0000;

/// A message-signalled interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Address, lower half, in the local APICs' range; the upper half.
    pub address: [u32; 2],
    /// Data.
    pub data: u32,
}

/// A function's state beyond its registers, as saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciV1 {
    /// Configuration space, 256 bytes.
    pub space: Vec<u8>,
    /// The MSI-X table, four words an entry.
    pub table: Vec<u32>,
    /// The vector of configuration changes; 0xffff is none.
    pub config_vector: u16,
    /// The vector of each queue.
    pub queue_vectors: Vec<u16>,
}

/// One function: decodes stores, keeps its two pages.
#[derive(Debug)]
pub(super) struct Pci {
    window: Window,
    space: Space,
    table: [[u32; 4]; VECTORS],
    config_vector: u16,
    queue_vectors: Vec<u16>,
    device_id: u32,
    base: u32,
    config: usize,
}

/// Where a function is and what it is.
#[derive(Debug)]
pub struct Function {
    /// The page of its configuration space.
    pub space: Window,
    /// The page of its BAR.
    pub bar: Window,
    /// Guest address of that page.
    pub base: u32,
    /// The virtio device's type.
    pub device_id: u32,
}

impl Pci {
    /// A function at power-on with this many queues and bytes of device configuration.
    pub(super) fn new(function: Function, queues: usize, config: usize) -> Self {
        let Function { space, bar, base, device_id } = function;
        let pci = Self {
            space: Space::new(space, device_id, base, config),
            window: bar,
            table: [[0, 0, 0, MASKED]; VECTORS],
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            device_id,
            base,
            config,
        };
        pci.publish_table();
        pci
    }

    /// The BAR's page.
    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// The page of configuration space.
    pub(super) fn space(&self) -> &Window {
        self.space.window()
    }

    /// Back to power-on, for a reset of the machine.
    pub(super) fn power_cycle(&mut self) {
        let space = self.space.window().clone();
        self.space = Space::new(space, self.device_id, self.base, self.config);
        self.table = [[0, 0, 0, MASKED]; VECTORS];
        self.forget_vectors();
        self.publish_table();
    }

    /// A reset of the device leaves no vector assigned.
    pub(super) fn forget_vectors(&mut self) {
        self.config_vector = NO_VECTOR;
        self.queue_vectors.fill(NO_VECTOR);
    }

    /// The guest stored `data` at byte `at` of the BAR.
    pub(super) fn write(&mut self, registers: &mut Registers, at: usize, data: &[u8]) -> Action {
        if !self.space.decodes_memory() {
            return Action::Rejected;
        }
        self.write_bar(registers, at, data)
    }

    fn write_bar(&mut self, registers: &mut Registers, at: usize, data: &[u8]) -> Action {
        const COMMON_END: usize = COMMON + COMMON_SIZE;
        const DEVICE_END: usize = DEVICE + DEVICE_SIZE;
        const TABLE_END: usize = TABLE + ENTRY * VECTORS;
        match (at, data) {
            (COMMON..COMMON_END, _) => self.write_common(registers, at, data),
            (DEVICE..DEVICE_END, _) => Action::config_write(at - DEVICE, data),
            (NOTIFY, &[a, b] | &[a, b, 0, 0]) => Action::Notify(u16::from_le_bytes([a, b])),
            (TABLE..TABLE_END, _) => self.write_table(at - TABLE, data),
            _ => Action::Rejected,
        }
    }

    /// 4.1.3.1: a field is stored as a whole; one of 64 bits by its halves.
    fn write_common(&mut self, registers: &mut Registers, at: usize, data: &[u8]) -> Action {
        match (at, data) {
            (0x14, &[status]) => {
                let action = registers.set_status(status.into());
                if action == Action::Stop {
                    self.forget_vectors();
                }
                action
            }
            (_, &[a, b]) => self.write_half(registers, at, u16::from_le_bytes([a, b])),
            (_, &[a, b, c, d]) => {
                let value = u32::from_le_bytes([a, b, c, d]);
                match at {
                    0x00 => registers.select_device_features(value),
                    0x08 => registers.select_driver_features(value),
                    0x0c => return registers.set_driver_features(value).into(),
                    _ => return write_address(registers, at, value),
                }
                Action::None
            }
            _ => Action::Rejected,
        }
    }

    fn write_half(&mut self, registers: &mut Registers, at: usize, value: u16) -> Action {
        // A vector that there is not reads back as none (4.1.5.1.2.1).
        let vector = if usize::from(value) < VECTORS { value } else { NO_VECTOR };
        match at {
            0x10 => self.config_vector = vector,
            0x16 => registers.select_queue(value.into()),
            0x18 => return registers.configure_queue(|queue| queue.size = value.into()).into(),
            0x1a => match self.queue_vectors.get_mut(selected(registers)) {
                Some(own) => *own = vector,
                None => return Action::Rejected,
            },
            // Only 1 may be stored (4.1.4.3.2).
            0x1c if value == 1 => return registers.set_queue_ready(1),
            _ => return Action::Rejected,
        }
        Action::None
    }

    /// PCI 3.0, 6.8.2: words or pairs of them.
    fn write_table(&mut self, at: usize, data: &[u8]) -> Action {
        if !at.is_multiple_of(data.len().max(1)) || !matches!(data.len(), 4 | 8) {
            return Action::Rejected;
        }
        let words = self.table.as_flattened_mut().iter_mut().skip(at / 4);
        for (word, (bytes, place)) in words.zip(data.chunks_exact(4).zip(at / 4..)) {
            let bits = ENTRY_BITS.get(place % 4).copied().unwrap_or_default();
            let value = bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
            *word = value & bits;
        }
        self.publish_table();
        Action::None
    }

    /// The guest stored `data` at byte `at` of configuration space. A store into the access
    /// capability's data is one into the BAR, whether or not that decodes memory accesses.
    pub(super) fn write_space(
        &mut self,
        registers: &mut Registers,
        at: usize,
        data: &[u8],
    ) -> Action {
        const DATA_END: usize = ACCESS_DATA + 4;
        if !self.space.write(at, data) {
            return Action::Rejected;
        }
        match self.space.access() {
            Some((offset, length)) if at >= ACCESS_DATA && at + data.len() <= DATA_END => {
                let data = self.space.access_data();
                self.write_bar(registers, offset, data.get(..length).unwrap_or_default())
            }
            _ => Action::None,
        }
    }

    /// The message of each vector, where it is not masked and leads to a local APIC.
    pub(super) fn messages(&self) -> [Option<Message>; VECTORS] {
        let enabled = self.space.sends_messages();
        self.table.map(|[low, high, data, control]| {
            let apic = low & APIC_BITS == APIC && high == 0;
            let goes = enabled && apic && control & MASKED == 0;
            goes.then_some(Message { address: [low, high], data })
        })
    }

    /// Which vectors stand for used buffers, and which for a changed configuration: a bit
    /// each.
    pub(super) fn vectors(&self) -> [u8; 2] {
        let bit = |vector: &u16| 1u8.checked_shl((*vector).into()).unwrap_or(0);
        let used = self.queue_vectors.iter().map(bit).fold(0, |all, bit| all | bit);
        [used, bit(&self.config_vector)]
    }

    /// State beyond the registers.
    pub(super) fn save(&self) -> PciV1 {
        PciV1 {
            space: self.space.bytes().to_vec(),
            table: self.table.as_flattened().to_vec(),
            config_vector: self.config_vector,
            queue_vectors: self.queue_vectors.clone(),
        }
    }

    /// Takes over saved state, of which a driver could have stored everything.
    ///
    /// # Errors
    /// [`Error::State`], with the function as it was.
    pub(super) fn restore(&mut self, state: &PciV1) -> Result<(), Error> {
        let valid = |vector: &u16| usize::from(*vector) < VECTORS || *vector == NO_VECTOR;
        let all = state.queue_vectors.iter().chain([&state.config_vector]).all(valid);
        let counts = (state.queue_vectors.len(), state.table.len());
        if !all || counts != (self.queue_vectors.len(), 4 * VECTORS) {
            return Err(Error::State("MSI-X vectors"));
        }
        self.space.restore(&state.space)?;
        let bits = ENTRY_BITS.iter().cycle();
        let words = self.table.as_flattened_mut().iter_mut();
        words.zip(state.table.iter().zip(bits)).for_each(|(word, (saved, bits))| {
            *word = saved & bits;
        });
        self.config_vector = state.config_vector;
        self.queue_vectors.clone_from(&state.queue_vectors);
        self.publish_table();
        Ok(())
    }

    /// Shows the device's configuration.
    pub(super) fn publish_config(&self, config: &[u8]) {
        self.window.set_bytes(DEVICE, config);
    }

    fn publish_table(&self) {
        for (at, word) in (TABLE..).step_by(4).zip(self.table.as_flattened()) {
            self.window.set(at, *word);
        }
    }

    /// Writes every register that can change, and what the access capability reads.
    pub(super) fn publish(&mut self, registers: &Registers) {
        let state = registers.state();
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let queue = state.queues.get(selected(registers)).copied().unwrap_or_default();
        let QueueConfig { size, descriptors, available, used } = queue.config;
        let vector = self.queue_vectors.get(selected(registers)).copied().unwrap_or(NO_VECTOR);
        let generation = state.config_generation as u8;
        let words = [
            state.device_features_select,
            registers.device_features(),
            state.driver_features_select,
            registers.driver_features(),
            pair(self.config_vector, self.queue_vectors.len() as u16),
            pair(u16::from_le_bytes([state.status, generation]), state.queue_select as u16),
            pair(size as u16, vector),
            pair(queue.ready.into(), 0),
            descriptors as u32,
            (descriptors >> 32) as u32,
            available as u32,
            (available >> 32) as u32,
            used as u32,
            (used >> 32) as u32,
        ];
        for (at, word) in (COMMON..).step_by(4).zip(words) {
            self.window.set(at, word);
        }
        self.window.set(ISR, state.interrupt_status);
        if let Some((offset, length)) = self.space.access() {
            let mut data = [0; 4];
            self.window.load(offset as u64, data.get_mut(..length).unwrap_or_default());
            self.space.show_access_data(data);
        }
    }
}

fn selected(registers: &Registers) -> usize {
    registers.state().queue_select as usize
}

/// Addresses of the selected queue's parts (4.1.4.3).
fn write_address(registers: &mut Registers, at: usize, value: u32) -> Action {
    let known = matches!(at, 0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34);
    let accepted = known
        && registers.configure_queue(|queue| {
            let address = match at & !7 {
                0x20 => &mut queue.descriptors,
                0x28 => &mut queue.available,
                _ => &mut queue.used,
            };
            let shift = if at.is_multiple_of(8) { 0 } else { 32 };
            *address = *address & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
        });
    accepted.into()
}

const _: () = assert!(SPACE_SIZE <= super::PAGE_SIZE);
