//! Where the devices' data goes: files on the host.
//!
//! A backend never sees a descriptor: the device hands it checked pieces of
//! guest memory and a checked range.

mod bounce;
mod cdrom;
mod file;
mod vectored;

pub use self::cdrom::CdImage;
pub use self::file::{DiskFile, OpenDisk, check};
