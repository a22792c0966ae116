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
//!     let guests = build_guest::Guests::new("firmware", &[])?;
//!     guests.build("firmware/demo.rs")?; // → OUT_DIR/demo
//!     Ok(())
//! }
//! ```

use std::env;
use std::ffi::{OsStr, OsString};
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

/// What the runtime may be built for.
const CFG: &str = "--check-cfg=cfg(firmware, tests)";
/// The runtime's file in `OUT_DIR`.
const RUNTIME: &str = "librt.rlib";
/// The firmware's own parts there: its runtime and its parsers.
const FIRMWARE: [&str; 2] = ["librt_firmware.rlib", "libmote_firmware.rlib"];

/// A runtime that has been built, and guests that can be built on it.
pub struct Guests {
    rustc: OsString,
    script: PathBuf,
    out: PathBuf,
}

impl Guests {
    /// Builds the runtime from the `firmware` directory (relative to the
    /// package whose build script runs) into cargo's `OUT_DIR`, with further `flags`.
    pub fn new(firmware: impl AsRef<Path>, flags: &[&str]) -> Result<Guests, String> {
        let firmware = firmware.as_ref();
        let guests = Guests {
            rustc: env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            script: absolute(&firmware.join("guest.ld"))?,
            out: env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: not called by cargo")?.into(),
        };
        for part in ["build_guest.rs", "guest.ld", "rt"] {
            println!("cargo:rerun-if-changed={}", firmware.join(part).display());
        }
        let flags = [&["--crate-type=rlib", CFG], flags].concat();
        guests.rustc(&firmware.join("rt.rs"), RUNTIME, &flags)?;
        Ok(guests)
    }

    /// Builds the boot firmware from the `firmware` directory and returns the
    /// path of its ELF file.
    #[allow(dead_code, reason = "not every package with guests has a firmware")]
    pub fn firmware(&self, firmware: impl AsRef<Path>) -> Result<PathBuf, String> {
        let firmware = firmware.as_ref();
        for part in ["src", "boot"] {
            println!("cargo:rerun-if-changed={}", firmware.join(part).display());
        }
        let [runtime, parsers] = FIRMWARE;
        // It has to be small rather than fast: it waits for drives.
        let rlib = "--crate-type=rlib";
        let (small, bitcode) = ("-Copt-level=z", "-Cembed-bitcode=yes");
        let flags = [rlib, small, bitcode, "--crate-name=rt", "--cfg=firmware", CFG];
        self.rustc(&firmware.join("rt.rs"), runtime, &flags)?;
        let flags = [rlib, small, bitcode, "--crate-name=mote_firmware"];
        self.rustc(&firmware.join("src/lib.rs"), parsers, &flags)?;
        let crates = [("rt", runtime), ("mote_firmware", parsers)];
        self.program(&firmware.join("boot.rs"), &crates, &[small, bitcode, "-Clto=fat"])
    }

    /// Flags with which cargo builds a guest on the runtime, as it takes them in
    /// `CARGO_ENCODED_RUSTFLAGS`.
    #[allow(dead_code, reason = "only the tests have a guest that cargo builds")]
    pub fn flags(&self) -> String {
        let own = COMMON.iter().filter(|flag| !flag.starts_with("--edition"));
        let mut flags: Vec<String> = own.map(ToString::to_string).collect();
        let runtime = self.out.join(RUNTIME);
        flags.push("-Clink-arg=-T".into());
        flags.push(format!("-Clink-arg={}", self.script.display()));
        flags.push("--extern".into());
        flags.push(format!("rt={}", runtime.display()));
        flags.join("\x1f")
    }

    /// Builds the guest `source` (relative to the package) and returns the path
    /// of its ELF file: its name without the extension, in `OUT_DIR`. A linker
    /// script of the same name beside the source takes the place of `guest.ld`.
    pub fn build(&self, source: impl AsRef<Path>) -> Result<PathBuf, String> {
        self.program(source.as_ref(), &[("rt", RUNTIME)], &[])
    }

    fn program(
        &self,
        source: &Path,
        crates: &[(&str, &str)],
        flags: &[&str],
    ) -> Result<PathBuf, String> {
        let name = source
            .file_stem()
            .and_then(|name| name.to_str())
            .ok_or_else(|| format!("{}: no file name", source.display()))?;
        let mut arguments = vec!["--crate-type=bin".into(), "-Clink-arg=-T".into()];
        arguments.push(concat("-Clink-arg=", &self.script_of(source)?));
        arguments.extend(flags.iter().map(OsString::from));
        for (name, file) in crates {
            arguments.push("--extern".into());
            arguments.push(concat(&format!("{name}="), &self.out.join(file)));
        }
        self.rustc(source, name, &arguments)?;
        Ok(self.out.join(name))
    }

    /// Builds `source` into the file `output` of `OUT_DIR`.
    fn rustc(
        &self,
        source: &Path,
        output: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> Result<(), String> {
        println!("cargo:rerun-if-changed={}", source.display());
        let mut command = Command::new(&self.rustc);
        command.args(COMMON).args(arguments).arg(source);
        let status = command.arg("-o").arg(self.out.join(output)).status();
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
