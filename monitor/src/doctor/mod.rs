//! `mote doctor`: is this host, and is this image, fit for virtual machines?
//!
//! It reads and asks, and changes nothing: files are opened to read only, no
//! VM is created. Each check is a function of the text or number that was read,
//! so that it can be shown any host; [`Host`] does the reading.

mod checks;
mod host;
mod image;
mod kvm;
mod reader;
mod report;
mod sandbox;

#[cfg(test)]
mod doctor_test;

pub use self::checks::examine;
pub use self::reader::Host;
pub use self::report::{Finding, Level, Report, Verdict};
