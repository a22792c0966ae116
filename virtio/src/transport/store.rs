//! What a store of a driver comes to, on any bus.

/// What the owner has to do after a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    None,
    /// Nothing: no driver may make this store, which is ignored and counted.
    Rejected,
    /// Start the device with [`Registers::activation`](super::Registers::activation);
    /// if it refuses, call [`set_needs_reset`](super::Transport::set_needs_reset).
    Start,
    /// Stop and reset the device, then call [`finish_reset`](super::Transport::finish_reset);
    /// until then every store is ignored.
    Stop,
    /// Stop the selected queue of the device for good, then call
    /// [`finish_queue_stop`](super::Transport::finish_queue_stop).
    StopQueue,
    /// The [messages](super::Transport::messages) of interrupts have changed: pass them
    /// on, and then raise what was due while it was masked.
    Messages,
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

impl Action {
    /// A store of `bytes` at byte `offset` of the configuration space.
    pub(super) fn config_write(offset: usize, bytes: &[u8]) -> Self {
        let (mut data, len) = ([0; 8], bytes.len());
        match data.get_mut(..len) {
            Some(to) if len.is_power_of_two() => to.copy_from_slice(bytes),
            _ => return Self::Rejected,
        }
        Self::ConfigWrite { offset, data, len }
    }
}

/// Whether the registers took a store that changes nothing outside them.
impl From<bool> for Action {
    fn from(accepted: bool) -> Self {
        if accepted { Self::None } else { Self::Rejected }
    }
}
