//! Mote's monitor: one virtual machine on Linux KVM in one small process.
//!
//! The library exists for the `mote` binary, the tests and the fuzz targets;
//! its interface is not stable.

#[cfg(all(feature = "breakout", not(debug_assertions)))]
compile_error!("a monitor with the feature `breakout` is for tests and no release");

pub mod api;
pub mod boot;
pub mod channel;
pub mod cli;
pub mod config;
pub mod counts;
pub mod devices;
pub mod doctor;
pub mod error;
pub mod host;
pub mod layout;
pub mod run;
pub mod sandbox;
pub mod snapshot;
pub mod timings;
pub mod vm;
