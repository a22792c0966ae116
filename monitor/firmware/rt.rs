//! The runtime of the programs that run inside a virtual machine.
#![no_std]
