//! Builds the guest programs that are part of the monitor.

#[path = "firmware/build_guest.rs"]
mod build_guest;

fn main() -> Result<(), String> {
    let guests = build_guest::Guests::new("firmware")?;
    let demo = guests.build("firmware/demo.rs")?;
    println!("cargo:rustc-env=MOTE_DEMO={}", demo.display());
    let firmware = guests.firmware("firmware")?;
    println!("cargo:rustc-env=MOTE_FIRMWARE={}", firmware.display());
    Ok(())
}
