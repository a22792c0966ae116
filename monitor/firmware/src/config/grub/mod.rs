//! GRUB's configuration.

mod commands;
mod options;
mod script;
mod shell;
mod test;

pub(super) use shell::read;
