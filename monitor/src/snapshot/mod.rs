//! Saving a VM to files and restoring it: full and diff snapshots, working sets.

pub mod dirty;
pub mod pagemap;
pub mod restore;
pub mod save;
pub mod source;
pub mod state;
pub mod working_set;
