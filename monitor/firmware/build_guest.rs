//! Builds the programs that run inside a virtual machine.
//!
//! Only the host's own target is installed with the toolchain, so a guest is a
//! freestanding static program for that target: no standard library, no start
//! files, own linker script. `rustc` is called directly, because what cargo
//! sets for the host's programs (static PIE, profiles, `RUSTFLAGS`) must not
//! reach a guest.
//!
//! A build script takes this file in with `#[path]`:
//!
//! ```ignore
//! #[path = "firmware/build_guest.rs"]
//! mod build_guest;
//!
//! fn main() -> Result<(), String> {
//!     let guests = build_guest::Guests::new("firmware")?;
//!     guests.build("firmware/demo.rs")?; // → OUT_DIR/demo
//!     Ok(())
//! }
//! ```

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Flags of the runtime and of every guest.
const COMMON: [&str; 18] = [
    "--edition=2024",
    "-Dwarnings",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Copt-level=s",
    "-Ccodegen-units=1",
    "-Cdebuginfo=0",
    "-Coverflow-checks=on",
    "-Cembed-bitcode=no",
    "-Cstrip=symbols",
    "-Crelro-level=off",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
];

/// The runtime's file in `OUT_DIR`.
const RUNTIME: &str = "librt.rlib";

/// A runtime that has been built, and guests that can be built on it.
pub struct Guests {
    rustc: OsString,
    script: PathBuf,
    out: PathBuf,
}

impl Guests {
    /// Builds the runtime from the `firmware` directory (relative to the
    /// package whose build script runs) into cargo's `OUT_DIR`.
    pub fn new(firmware: impl AsRef<Path>) -> Result<Guests, String> {
        let firmware = firmware.as_ref();
        let guests = Guests {
            rustc: env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            script: absolute(&firmware.join("guest.ld"))?,
            out: env::var_os("OUT_DIR")
                .ok_or("OUT_DIR is not set: not called by cargo")?
                .into(),
        };
        for part in ["build_guest.rs", "guest.ld", "rt"] {
            println!("cargo:rerun-if-changed={}", firmware.join(part).display());
        }
        let runtime = guests.out.join(RUNTIME);
        guests.rustc(&firmware.join("rt.rs"), "rlib", &runtime)?;
        Ok(guests)
    }

    /// Builds the guest `source` (relative to the package) and returns the path
    /// of its ELF file: its name without the extension, in `OUT_DIR`. A linker
    /// script of the same name beside the source takes the place of `guest.ld`.
    pub fn build(&self, source: impl AsRef<Path>) -> Result<PathBuf, String> {
        let source = source.as_ref();
        let name = source
            .file_stem()
            .ok_or_else(|| format!("{}: no file name", source.display()))?;
        let elf = self.out.join(name);
        self.rustc(source, "bin", &elf)?;
        Ok(elf)
    }

    fn rustc(&self, source: &Path, kind: &str, output: &Path) -> Result<(), String> {
        println!("cargo:rerun-if-changed={}", source.display());
        let mut command = Command::new(&self.rustc);
        command.args(COMMON).arg("--crate-type").arg(kind);
        if kind == "bin" {
            command.arg("-Clink-arg=-T");
            command.arg(concat("-Clink-arg=", &self.script_of(source)?));
            command.arg("--extern");
            command.arg(concat("rt=", &self.out.join(RUNTIME)));
        }
        let status = command.arg(source).arg("-o").arg(output).status();
        let status = status.map_err(|e| format!("{}: {e}", self.rustc.display()))?;
        if !status.success() {
            let source = source.display();
            return Err(format!("{source}: the guest does not build ({status})"));
        }
        Ok(())
    }

    fn script_of(&self, source: &Path) -> Result<PathBuf, String> {
        let own = source.with_extension("ld");
        if !own.exists() {
            return Ok(self.script.clone());
        }
        println!("cargo:rerun-if-changed={}", own.display());
        absolute(&own)
    }
}

fn concat(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

/// The linker may run in another directory than the build script.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))
}
