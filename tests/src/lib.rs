//! Helpers of the end-to-end tests and the benchmarks.

use std::path::{Path, PathBuf};

pub mod api;
pub mod files;
pub mod fuse;
pub mod hang;
pub mod jail;
pub mod kernel;
pub mod loopback;
pub mod medium;
pub mod network;
pub mod proc;
pub mod saved;
pub mod tap;
pub mod terminal;
pub mod vm;

pub use api::Client;
pub use files::Scratch;
pub use fuse::{Fuse, Hang};
pub use loopback::Loop;
pub use terminal::Terminal;
pub use vm::{BUSES, End, Vm, have_kvm, mote, run, tiny, wait_until};

/// Flags with which cargo builds a guest on the runtime of the others.
pub const GUEST_FLAGS: &str = env!("MOTE_GUEST_FLAGS");

/// The ELF file of the test guest `tests/guests/NAME.rs`.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(name)
}
