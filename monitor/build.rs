//! Builds the guest programs that are part of the monitor, and the filters of
//! its threads.

use std::path::Path;
use std::{env, fs};

#[path = "firmware/build_guest.rs"]
mod build_guest;
#[path = "src/sandbox/compile.rs"]
mod compile;
#[allow(dead_code, reason = "the monitor uses all of it")]
#[path = "src/sandbox/rule.rs"]
mod rule;
#[allow(dead_code, reason = "the monitor uses all of it")]
#[path = "src/sandbox/table.rs"]
mod table;

fn main() -> Result<(), String> {
    let guests = build_guest::Guests::new("firmware", &[])?;
    let demo = guests.build("firmware/demo.rs")?;
    println!("cargo:rustc-env=MOTE_DEMO={}", demo.display());
    let firmware = guests.firmware("firmware")?;
    println!("cargo:rustc-env=MOTE_FIRMWARE={}", firmware.display());
    for part in ["rule", "table", "compile"] {
        println!("cargo:rerun-if-changed=src/sandbox/{part}.rs");
    }
    let out = env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    let filters = Path::new(&out).join("filters.rs");
    fs::write(&filters, compile::all()?).map_err(|e| format!("{}: {e}", filters.display()))
}
