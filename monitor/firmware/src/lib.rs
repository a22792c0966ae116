//! What the boot firmware knows of media, file systems, boot configurations
//! and kernels: everything that is parsed from a disk.
//!
//! The firmware is a guest program (`../boot.rs`): what a hostile image
//! breaks, it breaks inside its own virtual machine. Still every loop here is
//! bounded, every allocation has a limit, and nothing is unsafe. The same code
//! compiles for the host, where it is tested and fuzzed.
//!
//! The path of a boot: [`disk`] → [`partition`] → [`fs`] → [`config`] →
//! [`kernel`], led by [`boot`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot;
mod bytes;
pub mod cmdline;
pub mod config;
pub mod disk;
mod eltorito;
pub mod environment;
mod error;
pub mod fs;
pub mod hint;
pub mod kernel;
mod machine;
mod menu;
pub mod partition;
mod raid;
pub mod volume;

#[cfg(test)]
extern crate std;
#[cfg(test)]
mod testing;

pub use error::Error;
