//! Helpers of the end-to-end tests.

use std::path::{Path, PathBuf};

/// The ELF file of the test guest `tests/guests/NAME.rs`.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(name)
}
