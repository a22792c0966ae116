//! Drives, as what is parsed reads them: any bytes, whole sectors straight to
//! where they are wanted.

use alloc::boxed::Box;
use core::cell::RefCell;

use mote_firmware::Error;
use mote_firmware::disk::{Disk, SECTOR};
use rt::blk::{Blk, MOST, Shared};

/// Milliseconds after which a device is given up.
const TIMEOUT_MS: u64 = 30_000;

/// A drive that runs.
pub struct Drive {
    device: Blk,
    /// Where sectors land of which only a part is wanted.
    bounce: RefCell<Box<[u8; SECTOR as usize]>>,
}

impl Drive {
    /// Starts the device in a register window.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub fn start(window: u64, khz: u64) -> Result<Self, Error> {
        // The device's from now on.
        let shared = Box::leak(Box::new(Shared::new()));
        let device = Blk::start(window, shared, TIMEOUT_MS.saturating_mul(khz));
        let device = device.map_err(|_| Error::Unsupported("what is in place of the drive"))?;
        let bounce = RefCell::new(Box::new([0; SECTOR as usize]));
        Ok(Self { device, bounce })
    }
}

impl Disk for Drive {
    fn len(&self) -> u64 {
        self.device.sectors().saturating_mul(SECTOR)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let (sector, skip) = (at / SECTOR, (at % SECTOR) as usize);
            let failed = |_| Error::Drive(sector);
            let whole = rest.len().min(MOST) / SECTOR as usize * SECTOR as usize;
            let len = if skip == 0 && whole > 0 {
                let (now, _) = rest.split_at_mut(whole);
                self.device.read(sector, now).map_err(failed)?;
                whole
            } else {
                let mut bounce = self.bounce.borrow_mut();
                self.device.read(sector, &mut **bounce).map_err(failed)?;
                let (_, from) = bounce.split_at(skip);
                let len = rest.len().min(from.len());
                rest.split_at_mut(len).0.copy_from_slice(from.split_at(len).0);
                len
            };
            (_, rest) = rest.split_at_mut(len);
            at += len as u64;
        }
        Ok(())
    }
}
