//! A device's registers behind its bus: what is the same for all buses.

use super::mmio::Mmio;
use super::pci::{Function, Message, Pci, PciV1};
use super::pci_space::VECTORS;
use super::{Action, Registers, RegistersV1, Window};
use crate::Error;

/// Most bytes of configuration space.
const CONFIG_MAX: usize = 256;

/// How a driver reaches the registers.
#[derive(Debug)]
enum Bus {
    Mmio(Mmio),
    Pci(Box<Pci>),
}

/// One device's registers and configuration space: takes stores, keeps what the
/// guest reads up to date.
#[derive(Debug)]
pub struct Transport {
    registers: Registers,
    bus: Bus,
    config: Vec<u8>,
    rejected: u64,
}

impl Transport {
    /// A transport over MMIO (virtio 1.2, 4.2) at power-on, with its page filled in.
    ///
    /// # Errors
    /// [`Error::DeviceShape`] for more than 256 bytes of configuration.
    pub fn mmio(
        window: Window,
        registers: Registers,
        device_id: u32,
        config: Vec<u8>,
    ) -> Result<Self, Error> {
        Self::new(Bus::Mmio(Mmio::new(window, device_id)), registers, config)
    }

    /// A transport over PCI (virtio 1.2, 4.1) at power-on, with its pages filled in.
    ///
    /// # Errors
    /// [`Error::DeviceShape`] for more than 256 bytes of configuration.
    pub fn pci(function: Function, registers: Registers, config: Vec<u8>) -> Result<Self, Error> {
        let queues = registers.state().queues.len();
        let pci = Pci::new(function, queues, config.len());
        Self::new(Bus::Pci(Box::new(pci)), registers.sized(), config)
    }

    fn new(bus: Bus, registers: Registers, config: Vec<u8>) -> Result<Self, Error> {
        if config.len() > CONFIG_MAX {
            return Err(Error::DeviceShape);
        }
        let mut transport = Self { registers, bus, config, rejected: 0 };
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
        match &self.bus {
            Bus::Mmio(mmio) => mmio.window(),
            Bus::Pci(pci) => pci.window(),
        }
    }

    /// The page of PCI configuration space.
    #[must_use]
    pub fn space(&self) -> Option<&Window> {
        match &self.bus {
            Bus::Mmio(_) => None,
            Bus::Pci(pci) => Some(pci.space()),
        }
    }

    /// The messages of the function's MSI-X vectors; `None` where one is masked or the
    /// device has an interrupt line.
    #[must_use]
    pub fn messages(&self) -> [Option<Message>; VECTORS] {
        match &self.bus {
            Bus::Mmio(_) => [None; VECTORS],
            Bus::Pci(pci) => pci.messages(),
        }
    }

    /// Which interrupts to raise for used buffers, and which for a changed configuration: a
    /// bit each. An MMIO device has one for both.
    #[must_use]
    pub fn vectors(&self) -> [u8; 2] {
        match &self.bus {
            Bus::Mmio(_) => [1, 1],
            Bus::Pci(pci) => pci.vectors(),
        }
    }

    /// Stores that no driver may make, ignored.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// The guest stored `data` at byte `offset` of the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let before = self.messages();
        let action = match &mut self.bus {
            Bus::Mmio(mmio) => mmio.write(&mut self.registers, at, data),
            Bus::Pci(pci) => pci.write(&mut self.registers, at, data),
        };
        self.finish(action, before)
    }

    /// The guest stored `data` at byte `offset` of the function's PCI configuration space.
    pub fn write_space(&mut self, offset: u64, data: &[u8]) -> Action {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let before = self.messages();
        let action = match &mut self.bus {
            Bus::Mmio(_) => Action::Rejected,
            Bus::Pci(pci) => pci.write_space(&mut self.registers, at, data),
        };
        self.finish(action, before)
    }

    /// Checks an action and shows what the store has changed.
    fn finish(&mut self, action: Action, before: [Option<Message>; VECTORS]) -> Action {
        self.publish();
        let accepted = match action {
            Action::Rejected => false,
            Action::Notify(queue) => {
                let queue = self.registers.state().queues.get(usize::from(queue));
                queue.is_some_and(|queue| queue.ready) && self.registers.is_healthy()
            }
            Action::ConfigWrite { offset, len, .. } => {
                offset.saturating_add(len) <= self.config.len()
            }
            _ if self.messages() != before => return Action::Messages,
            _ => true,
        };
        if accepted {
            return action;
        }
        self.rejected = self.rejected.saturating_add(1);
        Action::Rejected
    }

    /// Ends a reset: power-on registers, page up to date.
    pub fn finish_reset(&mut self) {
        self.registers.finish_reset();
        self.publish();
    }

    /// Back to power-on with the bus, for a reset of the machine.
    pub fn power_cycle(&mut self) {
        if let Bus::Pci(pci) = &mut self.bus {
            pci.power_cycle();
        }
        self.finish_reset();
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

    /// What a PCI function has beyond the registers, to be saved.
    #[must_use]
    pub fn save_bus(&self) -> Option<PciV1> {
        match &self.bus {
            Bus::Mmio(_) => None,
            Bus::Pci(pci) => Some(pci.save()),
        }
    }

    /// Takes over saved registers, see [`Registers::restore`], the configuration
    /// space as the guest saw it then, and the state of the same bus.
    ///
    /// # Errors
    /// [`Error::State`], with the transport as it was.
    pub fn restore(
        &mut self,
        state: &RegistersV1,
        config: &[u8],
        bus: Option<&PciV1>,
    ) -> Result<(), Error> {
        if config.len() != self.config.len() {
            return Err(Error::State("configuration space"));
        }
        let mut registers = self.registers.clone();
        registers.restore(state)?;
        match (&mut self.bus, bus) {
            (Bus::Mmio(_), None) => {}
            (Bus::Pci(pci), Some(saved)) => pci.restore(saved)?,
            _ => return Err(Error::State("bus: MMIO in one, PCI in the other")),
        }
        self.registers = registers;
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

    fn publish_config(&self) {
        match &self.bus {
            Bus::Mmio(mmio) => mmio.publish_config(&self.config),
            Bus::Pci(pci) => pci.publish_config(&self.config),
        }
    }

    fn publish(&mut self) {
        match &mut self.bus {
            Bus::Mmio(mmio) => mmio.publish(&self.registers),
            Bus::Pci(pci) => pci.publish(&self.registers),
        }
    }
}
