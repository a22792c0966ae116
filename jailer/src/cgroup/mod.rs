//! Control groups: the [`plan`] and the operations on their [`files`].

mod files;
mod plan;

pub use files::{Groups, remove};
pub use plan::{Mounts, Plan};
