//! The host's side of the VM: guest memory, the console, disk files, taps, userfaultfd, signals.

pub mod console;
pub mod disk;
pub mod memory;
pub mod prefault;
pub mod signals;
pub mod tap;
pub mod uffd;
