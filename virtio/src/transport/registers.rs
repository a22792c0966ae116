//! Feature negotiation, the status machine and the queue registers, shared
//! by every transport (virtio 1.2, 2.1, 2.2, 3.1).
//!
//! Nothing a driver writes here is trusted or acted upon before DRIVER_OK,
//! and nothing can be changed after it, except that a queue can be stopped: the
//! queues a device runs on are a copy taken at that moment.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};

use super::Action;
use crate::{Activation, Error, MAX_QUEUE_SIZE, QueueConfig, QueueSetup, QueueState, features};

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
const KNOWN: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | NEEDS_RESET | FAILED;

/// InterruptStatus: buffers were used.
const INTERRUPT_USED: u32 = 1;
/// InterruptStatus: the configuration changed.
const INTERRUPT_CONFIG: u32 = 2;

/// Most queues a device may have.
const MAX_QUEUES: usize = 256;

/// One queue's registers, as saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueRegistersV1 {
    /// Size and addresses as the driver wrote them.
    pub config: QueueConfig,
    /// The driver has set it up.
    pub ready: bool,
}

/// All registers, as saved. Plain data: check it by [`Registers::restore`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistersV1 {
    /// Device status.
    pub status: u8,
    /// Features the driver wrote.
    pub driver_features: u64,
    /// Which half of the device's features is shown.
    pub device_features_select: u32,
    /// Which half of its own features the driver writes.
    pub driver_features_select: u32,
    /// Which queue the queue registers are about.
    pub queue_select: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// ConfigGeneration.
    pub config_generation: u32,
    /// By queue number.
    pub queues: Vec<QueueRegistersV1>,
}

/// The registers of one device, independent of how the driver reaches them.
#[derive(Debug, Clone)]
pub struct Registers {
    device_features: u64,
    max_sizes: Vec<u16>,
    /// A queue has its greatest size at power-on, as over PCI (4.1.5.1.3), or none.
    sized: bool,
    resetting: bool,
    state: RegistersV1,
}

impl Registers {
    /// Power-on registers of a device that offers `device_features` and has
    /// one queue for each of `max_sizes`.
    ///
    /// # Errors
    /// [`Error::DeviceShape`] for more queues than a transport carries or a
    /// size that is not a power of two up to [`MAX_QUEUE_SIZE`].
    pub fn new(device_features: u64, max_sizes: Vec<u16>) -> Result<Self, Error> {
        let fits = |size: &u16| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE;
        if max_sizes.len() > MAX_QUEUES || !max_sizes.iter().all(fits) {
            return Err(Error::DeviceShape);
        }
        let state = power_on(&max_sizes, false, 0);
        Ok(Self { device_features, max_sizes, sized: false, resetting: false, state })
    }

    /// The same with the greatest size for each queue until the driver chooses one
    /// (4.1.4.3).
    #[must_use]
    pub fn sized(self) -> Self {
        let state = power_on(&self.max_sizes, true, 0);
        Self { sized: true, state, ..self }
    }

    fn has(&self, bits: u8) -> bool {
        self.state.status & bits == bits
    }

    fn has_any(&self, bits: u8) -> bool {
        self.state.status & bits != 0
    }

    /// The driver is ready and the device has not been reset since.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.has(DRIVER_OK) && !self.resetting
    }

    /// Active, and nothing has gone wrong.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_active() && !self.has_any(NEEDS_RESET | FAILED)
    }

    /// InterruptStatus says that the configuration changed.
    #[must_use]
    pub fn has_config_news(&self) -> bool {
        self.state.interrupt_status & INTERRUPT_CONFIG != 0
    }

    /// The registers as they are.
    #[must_use]
    pub fn state(&self) -> &RegistersV1 {
        &self.state
    }

    /// The negotiated features, 0 until they are.
    #[must_use]
    pub fn negotiated(&self) -> u64 {
        if self.has(FEATURES_OK) { self.state.driver_features } else { 0 }
    }

    /// The half of the offered features that is selected.
    #[must_use]
    pub fn device_features(&self) -> u32 {
        match self.state.device_features_select {
            0 => self.device_features as u32,
            1 => (self.device_features >> 32) as u32,
            _ => 0,
        }
    }

    /// The half of the driver's features that is selected.
    #[must_use]
    pub fn driver_features(&self) -> u32 {
        match self.state.driver_features_select {
            0 => self.state.driver_features as u32,
            1 => (self.state.driver_features >> 32) as u32,
            _ => 0,
        }
    }

    /// The greatest size of the selected queue, 0 if there is no such queue.
    #[must_use]
    pub fn queue_size_max(&self) -> u32 {
        let selected = usize::try_from(self.state.queue_select).ok();
        let size = selected.and_then(|index| self.max_sizes.get(index));
        size.map_or(0, |size| u32::from(*size))
    }

    /// Whether the selected queue is ready; false if there is no such queue.
    #[must_use]
    pub fn queue_ready(&self) -> bool {
        let selected = usize::try_from(self.state.queue_select).ok();
        let queue = selected.and_then(|index| self.state.queues.get(index));
        queue.is_some_and(|queue| queue.ready)
    }

    /// Chooses the half of the offered features to show.
    pub fn select_device_features(&mut self, half: u32) {
        self.state.device_features_select = half;
    }

    /// Chooses the half of its features that the driver writes.
    pub fn select_driver_features(&mut self, half: u32) {
        self.state.driver_features_select = half;
    }

    /// Chooses the queue that the queue registers are about.
    pub fn select_queue(&mut self, queue: u32) {
        self.state.queue_select = queue;
    }

    /// The driver writes one half of its features; false if it may not now.
    pub fn set_driver_features(&mut self, value: u32) -> bool {
        if !self.has(DRIVER) || self.has_any(FEATURES_OK | FAILED) || self.resetting {
            return false;
        }
        let features = &mut self.state.driver_features;
        match self.state.driver_features_select {
            0 => *features = *features >> 32 << 32 | u64::from(value),
            1 => *features = u64::from(value) << 32 | u64::from(*features as u32),
            // Drivers clear the halves they do not know.
            _ => return value == 0,
        }
        true
    }

    /// The selected queue, if the driver may still set it up.
    fn open_queue(&mut self) -> Option<&mut QueueRegistersV1> {
        if !self.has(DRIVER) || self.has_any(DRIVER_OK | FAILED) || self.resetting {
            return None;
        }
        self.selected_queue()
    }

    fn selected_queue(&mut self) -> Option<&mut QueueRegistersV1> {
        let selected = usize::try_from(self.state.queue_select).ok()?;
        self.state.queues.get_mut(selected)
    }

    /// The driver marks the selected queue ready, or wants it to be so no more
    /// and may wait for that (4.2.2.2): it can in every state.
    pub fn set_queue_ready(&mut self, value: u32) -> Action {
        let running = self.has(DRIVER_OK);
        let queue = match value {
            0 if !self.resetting => self.selected_queue(),
            1 => self.open_queue(),
            _ => None,
        };
        match queue {
            None => Action::Rejected,
            Some(queue) if running && queue.ready => Action::StopQueue,
            Some(queue) => {
                queue.ready = value == 1;
                Action::None
            }
        }
    }

    /// Ends what [`Action::StopQueue`] began: the device has let go of the
    /// selected queue, which stays stopped until a reset.
    pub fn finish_queue_stop(&mut self) {
        if let Some(queue) = self.selected_queue() {
            queue.ready = false;
        }
    }

    /// The driver changes the selected queue's size or addresses by `change`;
    /// false if it may not: after DRIVER_OK never, and not while it is ready.
    pub fn configure_queue(&mut self, change: impl FnOnce(&mut QueueConfig)) -> bool {
        match self.open_queue() {
            Some(queue) if !queue.ready => {
                change(&mut queue.config);
                true
            }
            _ => false,
        }
    }

    /// The driver writes the device status (2.1). Bits come in the order
    /// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, in one write or several;
    /// a bit whose turn it is not is not set, and none is cleared but by 0.
    pub fn set_status(&mut self, value: u32) -> Action {
        if self.resetting {
            return Action::Rejected;
        }
        if value == 0 {
            self.resetting = true;
            return Action::Stop;
        }
        let before = self.state.status;
        let Some(value) =
            u8::try_from(value).ok().filter(|v| v & !KNOWN == 0 && before & !v & !NEEDS_RESET == 0)
        else {
            return Action::Rejected;
        };
        let added = value & !before;
        self.add_if(added & ACKNOWLEDGE, true);
        self.add_if(added & DRIVER, self.has(ACKNOWLEDGE));
        self.add_if(added & FAILED, true);
        let alive = !self.has_any(FAILED | NEEDS_RESET);
        let agreed = alive && self.has(DRIVER) && self.features_acceptable();
        self.add_if(added & FEATURES_OK, agreed);
        self.add_if(added & DRIVER_OK, alive && self.has(FEATURES_OK));
        if self.state.status & added & DRIVER_OK != 0 {
            // Stays set while active: a spurious interrupt only looks at rings.
            self.state.interrupt_status |= INTERRUPT_USED;
            return Action::Start;
        }
        if self.state.status & added == added { Action::None } else { Action::Rejected }
    }

    fn add_if(&mut self, bit: u8, allowed: bool) {
        if allowed {
            self.state.status |= bit;
        }
    }

    fn features_acceptable(&self) -> bool {
        let features = self.state.driver_features;
        features & !self.device_features == 0 && features & features::VERSION_1 != 0
    }

    /// The copy of everything the driver set up that a device starts with.
    /// `states` are the queues' own from a stop before, or empty.
    #[must_use]
    pub fn activation(&self, states: &[Option<QueueState>]) -> Activation {
        let queues = self.state.queues.iter().enumerate().map(|(i, queue)| {
            queue.ready.then(|| QueueSetup {
                config: queue.config,
                state: states.get(i).cloned().flatten().unwrap_or_default(),
            })
        });
        Activation { features: self.negotiated(), queues: queues.collect(), writeback: None }
    }

    /// Back to power-on. Ends what [`Action::Stop`] began.
    pub fn finish_reset(&mut self) {
        self.resetting = false;
        // 4.2.2.1: the generation only has to differ, and never goes back.
        let generation = self.state.config_generation;
        self.state = power_on(&self.max_sizes, self.sized, generation);
    }

    /// The device cannot go on (2.1.2); true if the driver is to be told by
    /// an interrupt now.
    #[must_use]
    pub fn set_needs_reset(&mut self) -> bool {
        if self.has(NEEDS_RESET) || self.resetting {
            return false;
        }
        self.state.status |= NEEDS_RESET;
        self.config_changed()
    }

    /// The configuration changed; true if the driver is to be told by an
    /// interrupt now, which it is only after DRIVER_OK.
    #[must_use]
    pub fn config_changed(&mut self) -> bool {
        let active = self.is_active();
        if active {
            self.state.interrupt_status |= INTERRUPT_CONFIG;
        }
        active
    }

    /// Steps ConfigGeneration (4.2.2.1).
    pub fn next_generation(&mut self) {
        self.state.config_generation = self.state.config_generation.wrapping_add(1);
    }

    /// The driver acknowledges interrupts: only the config bit is cleared.
    pub fn acknowledge(&mut self, bits: u32) {
        self.state.interrupt_status &= !(bits & INTERRUPT_CONFIG);
    }

    /// Takes over saved registers.
    ///
    /// # Errors
    /// [`Error::State`] if no driver could have brought the registers of this
    /// device there. The registers are as before then.
    pub fn restore(&mut self, state: &RegistersV1) -> Result<(), Error> {
        check(state, self.device_features, &self.max_sizes)?;
        self.state = state.clone();
        self.resetting = false;
        Ok(())
    }
}

fn power_on(max_sizes: &[u16], sized: bool, config_generation: u32) -> RegistersV1 {
    let queue = |max: &u16| QueueRegistersV1 {
        config: QueueConfig { size: if sized { (*max).into() } else { 0 }, ..Default::default() },
        ready: false,
    };
    let queues = max_sizes.iter().map(queue).collect();
    RegistersV1 { config_generation, queues, ..RegistersV1::default() }
}

/// Saved registers are a hostile driver's writes until shown otherwise.
fn check(state: &RegistersV1, offered: u64, max_sizes: &[u16]) -> Result<(), Error> {
    let status = state.status;
    let has = |bit: u8| status & bit != 0;
    let ordered = (has(ACKNOWLEDGE) || !has(DRIVER))
        && (has(DRIVER) || !has(FEATURES_OK))
        && (has(FEATURES_OK) || !has(DRIVER_OK));
    if status & !KNOWN != 0 || !ordered {
        return Err(Error::State("device status"));
    }
    let features = state.driver_features;
    let agreed = features & !offered == 0 && features & features::VERSION_1 != 0;
    if has(FEATURES_OK) && !agreed {
        return Err(Error::State("driver features"));
    }
    if state.queues.len() != max_sizes.len() {
        return Err(Error::State("number of queues"));
    }
    if state.interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
        return Err(Error::State("interrupt status"));
    }
    let sized = |(queue, max): (&QueueRegistersV1, &u16)| {
        !queue.ready
            || (queue.config.size.is_power_of_two() && queue.config.size <= u32::from(*max))
    };
    let running = has(DRIVER_OK) && !has(NEEDS_RESET);
    if running && !state.queues.iter().zip(max_sizes).all(sized) {
        return Err(Error::State("queue size"));
    }
    Ok(())
}
