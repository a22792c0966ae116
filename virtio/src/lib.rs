//! The virtio devices of Mote: transport, queues, block, network.
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
//! In short, with `irq` raising the interrupt and `clock` any monotonic clock:
//!
//! ```
//! # use std::sync::{Arc, Mutex};
//! # use std::time::Duration;
//! use mote_virtio::blk::{Block, Worker};
//! use mote_virtio::{Effect, Endpoint, Step, WhenEmpty};
//!
//! /// A vCPU thread: the guest stored into this device's window.
//! fn exit(endpoint: &Mutex<Endpoint>, offset: u64, data: &[u8], irq: impl Fn(), wake: impl Fn(u16)) {
//!     let effect = endpoint.lock().map(|mut endpoint| endpoint.write(offset, data));
//!     match effect {
//!         Ok(Effect::Notify(queue)) => wake(queue),
//!         Ok(Effect::Started) => wake(0), // and every other queue
//!         Ok(Effect::Interrupt) => irq(),
//!         _ => {}
//!     }
//! }
//!
//! /// A worker thread, once its doorbell rang or its time came. It returns
//! /// the time to wait for; until then it sleeps on its doorbell alone.
//! fn work<'m>(
//!     endpoint: &Mutex<Endpoint>,
//!     block: &Block<'m>,
//!     worker: &mut Worker<'m>,
//!     clock: impl Fn() -> Duration,
//!     irq: impl Fn(),
//! ) -> Option<Duration> {
//!     loop {
//!         let outcome = block.run(worker, 0, &clock, 64, WhenEmpty::Arm);
//!         let mut interrupt = outcome.signal;
//!         if outcome.refresh && let Ok(mut endpoint) = endpoint.lock() {
//!             interrupt |= endpoint.refresh();
//!         }
//!         if interrupt {
//!             irq();
//!         }
//!         match outcome.step {
//!             Step::More => {}
//!             Step::WaitUntil(at) => return Some(at),
//!             Step::Paused => return None, // and have the VM paused
//!             _ => return None,
//!         }
//!     }
//! }
//! ```
//!
//! Everything a guest can reach is checked once and read once, allocates
//! nothing that a guest can size, and counts instead of logging.
#![forbid(unsafe_code)]

pub mod blk;
mod chain;
mod counter;
mod device;
mod dirty;
#[cfg(test)]
mod driver;
mod endpoint;
#[cfg(test)]
mod endpoint_test;
mod error;
pub mod features;
#[cfg(test)]
mod habits_test;
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
mod running;
pub mod transport;
mod unpoisoned;

pub use chain::{Chain, MAX_QUEUE_SIZE};
pub use counter::Counter;
pub use device::{Activation, Device, Outcome, QueueSetup, Step, Stopped, WhenEmpty};
pub use dirty::Dirty;
pub use endpoint::{Effect, Endpoint, EndpointStateV1};
pub use error::{Error, RingPart};
pub use memory::{GuestSlice, Memory};
pub use queue::{Queue, QueueConfig, QueueState};
pub use unpoisoned::Unpoisoned;
