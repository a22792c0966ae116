//! A VM to files and back: saved, restored, only what changed, and what is needed first.

pub mod dirty;
pub mod pagemap;
pub mod restore;
pub mod save;
pub mod source;
pub mod state;
pub mod working_set;
