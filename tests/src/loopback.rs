//! Block devices of the host, backed by files: loop devices, which only root may make.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device, gone when the test ends.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// A device of the bytes of `file`, with blocks of so many bytes; `None`
    /// where loop devices cannot be made.
    ///
    /// # Panics
    /// There are none, and nothing may be skipped.
    #[must_use]
    pub fn new(file: &Path, block: u32, read_only: bool) -> Option<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &block.to_string()]);
        if read_only {
            command.arg("--read-only");
        }
        let output = command.arg(file).output();
        let made = output.as_ref().is_ok_and(|output| output.status.success());
        if !made {
            crate::vm::skip(&format!("losetup: {output:?}"));
            return None;
        }
        let name = String::from_utf8_lossy(&output.ok()?.stdout).trim().to_owned();
        Some(Self(name.into()))
    }

    /// Its node.
    ///
    /// # Panics
    /// Never: its name is plain.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is still open goes when it is closed.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}
