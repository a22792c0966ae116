//! Helpers of the end-to-end tests and the benchmarks.

use std::path::{Path, PathBuf};

pub mod kernel;

/// The ELF file of the test guest `tests/guests/NAME.rs`.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(name)
}
