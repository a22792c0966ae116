//! The virtio devices of Mote: transport, queues, block, CD-ROM, network.
//!
//! Pure code: no KVM, no threads, no epoll, no file. The monitor calls it and
//! implements its backend traits. The path of a request, one file per hop:
//!
//! ```text
//! doorbell → endpoint → queue → blk | net → ReadAt/WriteAt | Tap → interrupt
//!            transport (register writes only)
//! ```
//!
//! # Who calls what
//! * A vCPU thread that leaves KVM with a write into a register window calls
//!   [`Endpoint::write`] under a lock of that endpoint and carries out the
//!   [`Effect`] it returns. Reads never arrive: the window is memory.
//! * A worker thread calls [`blk::Block::run`], [`net::Net::run_rx`] or
//!   [`net::Net::run_tx`] *without* that lock, and carries out the
//!   [`Outcome`]. These calls never block longer than one backend call and
//!   return at once when the device is stopped.
//! * Stopping is the device's own business: [`Device::stop`] waits for the
//!   workers that are inside `run` and hands back the queue states.
//!
//! Everything a guest can reach is checked once and read once, allocates
//! nothing that a guest can size, and counts instead of logging.
#![forbid(unsafe_code)]

pub mod blk;
pub mod cdrom;
#[cfg(test)]
mod cdrom_test;
mod chain;
mod counter;
mod device;
#[cfg(test)]
mod driver;
mod endpoint;
#[cfg(test)]
mod endpoint_test;
mod error;
pub mod features;
mod memory;
pub mod net;
mod queue;
#[cfg(test)]
mod queue_compare_test;
#[cfg(test)]
mod queue_hostile_test;
#[cfg(test)]
mod queue_test;
pub mod rate;
pub mod transport;

pub use chain::Chain;
pub use counter::Counter;
pub use device::{Activation, Device, Outcome, QueueSetup, Step, Stopped, WhenEmpty};
pub use endpoint::{Effect, Endpoint, EndpointStateV1};
pub use error::{Error, RingPart};
pub use memory::{GuestSlice, Memory, Tracking};
pub use queue::{MAX_QUEUE_SIZE, Queue, QueueConfig, QueueState};
