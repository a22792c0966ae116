//! File systems, as far as reading needs them.

mod ext;
mod fat;
mod iso;
mod lookup;
mod node;

pub use self::lookup::{kind, list, open, probe};
pub use self::node::{FileSystem, Kind};
