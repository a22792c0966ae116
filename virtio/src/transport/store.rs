//! What a store of a driver comes to, on any bus.

use super::Transition;

/// What the owner has to do after a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    None,
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

/// A store as its bus decodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// Not one that a driver may make; ignored.
    Rejected,
    /// A register's: done, and this is left.
    Register(Action),
    /// A doorbell, with the value stored.
    Doorbell(u32),
    /// Into the configuration space, from this byte on.
    Config(usize),
}

impl From<Transition> for Store {
    fn from(transition: Transition) -> Self {
        match transition {
            Transition::None => Self::Register(Action::None),
            Transition::Start => Self::Register(Action::Start),
            Transition::Stop => Self::Register(Action::Stop),
            Transition::StopQueue => Self::Register(Action::StopQueue),
            Transition::Rejected => Self::Rejected,
        }
    }
}

/// Whether the registers took it.
impl From<bool> for Store {
    fn from(accepted: bool) -> Self {
        if accepted { Self::Register(Action::None) } else { Self::Rejected }
    }
}
