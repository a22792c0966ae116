//! What a driver sees of a device: registers (virtio 1.2, 2 and 4.2).
//!
//! [`Registers`] holds what every transport has: features, status, queues.
//! [`Transport`] takes a driver's stores, by the bus that the device is on, and keeps the
//! page that the guest reads up to date.

mod common;
mod mmio;
#[cfg(test)]
mod mmio_test;
mod pci;
mod pci_space;
#[cfg(test)]
mod pci_test;
mod registers;
#[cfg(test)]
mod registers_test;
mod store;
mod window;

pub use common::Transport;
pub use pci::{Function, Message, PciV1};
pub use pci_space::{NOTIFY, VECTORS};
pub use registers::{QueueRegistersV1, Registers, RegistersV1};
pub use store::Action;
pub use window::{PAGE_SIZE, Window};
