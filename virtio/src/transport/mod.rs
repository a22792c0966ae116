//! What a driver sees of a device: registers (virtio 1.2, 2 and 4.2).
//!
//! [`Registers`] holds what every transport has: features, status, queues.
//! [`MmioTransport`] is the one transport so far: it decodes writes and keeps
//! the page that the guest reads up to date.

mod mmio;
#[cfg(test)]
mod mmio_test;
mod registers;
#[cfg(test)]
mod registers_test;
mod window;

pub use mmio::{Action, MmioTransport};
pub use registers::{QueueRegistersV1, Registers, RegistersV1, Transition};
pub use window::{PAGE_SIZE, Window};
