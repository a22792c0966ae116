//! Boot configurations: what a medium says can be booted from it.

mod bls;
mod elilo;
mod entry;
mod find;
mod grub;
mod limine;
mod order;
mod regexp;
mod syslinux;
pub mod uki;

pub use entry::{Config, Entry};
pub use find::find;

#[cfg(test)]
#[path = "../config_grub_test.rs"]
mod config_grub_test;
#[cfg(test)]
#[path = "../config_test.rs"]
mod config_test;
