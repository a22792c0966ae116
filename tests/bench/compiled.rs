//! The C programs of this directory.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a C program of this directory into `dir`.
pub fn build(dir: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let source = sources.join(name).with_extension("c");
    let program = dir.join(name);
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-O2", "-static-pie", "-o"]).arg(&program).arg(source);
    if command.status()?.success() {
        Ok(program)
    } else {
        Err(format!("{name}.c does not build").into())
    }
}
