//! Builds every guest under `guests/` into `OUT_DIR`.

#[path = "../monitor/firmware/build_guest.rs"]
mod build_guest;

use std::fs;
use std::path::Path;

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=guests");
    let guests = build_guest::Guests::new("../monitor/firmware", &["--cfg=tests"])?;
    println!("cargo:rustc-env=MOTE_GUEST_FLAGS={}", guests.flags());
    let sources = fs::read_dir("guests").map_err(|e| format!("guests: {e}"))?;
    for source in sources {
        let source = source.map_err(|e| format!("guests: {e}"))?.path();
        if source.extension().is_some_and(|e| e == "rs") {
            guests.build(Path::new(&source))?;
        }
    }
    Ok(())
}
