//! The CD-ROM drive: a read-only block device whose medium can be changed.

use crate::blk::{Block, Medium, Options, ReadAt};
use crate::{Device, Error, Memory};

/// A drive for media that are only read. Its backend type has no method to
/// write, so nothing a guest does can reach one.
///
/// Use [`drive`](Self::drive) as the device and for the workers; after
/// [`insert`](Self::insert) and [`eject`](Self::eject) call
/// [`Endpoint::refresh`](crate::Endpoint::refresh), so that the driver is
/// told of the new capacity.
pub struct CdRom<'m> {
    drive: std::sync::Arc<Block<'m>>,
}

impl<'m> CdRom<'m> {
    /// A drive with a medium in it, or empty. The logical block size is what
    /// `options` say: 512 bytes unless 2048 are asked for, because images
    /// that also boot from a stick carry partition tables in 512-byte units.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn new(
        mem: &'m Memory,
        medium: Option<Box<dyn ReadAt>>,
        options: Options,
    ) -> Result<Self, Error> {
        let medium = medium.map_or(Medium::Empty, Medium::ReadOnly);
        let drive = Block::new(mem, medium, options)?;
        Ok(Self { drive: std::sync::Arc::new(drive) })
    }

    /// The block device.
    #[must_use]
    pub fn drive(&self) -> std::sync::Arc<Block<'m>> {
        std::sync::Arc::clone(&self.drive)
    }

    /// The block device as an endpoint takes it.
    #[must_use]
    pub fn device(&self) -> std::sync::Arc<dyn Device + 'm> {
        self.drive()
    }

    /// Puts a medium in, in place of the one that is in.
    ///
    /// # Errors
    /// [`Error::MediumSize`], with the old medium still in.
    pub fn insert(&self, medium: Box<dyn ReadAt>) -> Result<(), Error> {
        self.drive.change(Medium::ReadOnly(medium)).map(drop)
    }

    /// Takes the medium out: capacity 0, reads fail, the drive keeps serving.
    ///
    /// # Errors
    /// None: an empty drive has a size.
    pub fn eject(&self) -> Result<(), Error> {
        self.drive.change(Medium::Empty).map(drop)
    }
}
