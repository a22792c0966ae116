//! The virtio devices of a VM: their register windows, interrupts and worker
//! threads.

mod all;
mod connection;
mod drive;
mod nic;
mod poll;
pub mod rtc;
pub mod serial;
mod slot;
mod window;

pub use self::all::{Devices, Stored};
pub use self::slot::HOST_FILE_TIMEOUT;
pub use self::window::{VirtioWindow, Windows, windows};
