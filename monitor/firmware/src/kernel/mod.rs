//! Kernels: where they want to lie, and how they are entered.

mod bzimage;
mod elf;
mod image;
mod open;

pub use image::{Entry, HIGH_RAM, Kernel, Load};

#[cfg(test)]
#[path = "../kernel_test.rs"]
mod kernel_test;
