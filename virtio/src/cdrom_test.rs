//! The drive whose medium changes.

use std::sync::Arc;

use vm_memory::MmapRegion;

use crate::blk::Options;
use crate::blk::fake::{Disk, Event};
use crate::cdrom::CdRom;
use crate::driver::memory;
use crate::transport::{PAGE_SIZE, Window};
use crate::{Device, Endpoint, features};

#[test]
fn a_medium_can_be_changed_and_the_driver_is_told() {
    let mem = memory(&[(0, 0x10_0000)]);
    let options = Options { logical_block: 2048, ..Options::default() };
    let first = Disk::new(10 * 2048);
    let cd = CdRom::new(mem, Some(Box::new(first.clone())), options).unwrap();
    let region = Arc::new(MmapRegion::new(PAGE_SIZE).unwrap());
    let window = Window::new(region, 0).unwrap();
    let mut endpoint = Endpoint::new(window, cd.device()).unwrap();
    let capacity = |endpoint: &Endpoint<'_>| {
        let mut bytes = [0; 8];
        endpoint.transport().window().load(0x100, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(capacity(&endpoint), 40);
    assert!(!endpoint.refresh(), "nothing new");
    // A driver that is up hears of each change.
    for (at, value) in [(0x70u64, 3u32), (0x24, 1), (0x20, 1), (0x70, 0xf)] {
        let _ = endpoint.write(at, &value.to_le_bytes());
    }
    cd.eject().unwrap();
    assert!(endpoint.refresh());
    assert_eq!(capacity(&endpoint), 0);
    cd.insert(Box::new(Disk::new(512))).unwrap();
    assert!(endpoint.refresh());
    assert_eq!(capacity(&endpoint), 1);
    assert_ne!(cd.drive().features() & features::BLK_RO, 0);
    assert_eq!(first.events(), Vec::<Event>::new());
}

#[test]
fn a_drive_may_start_empty() {
    let mem = memory(&[(0, 0x1000)]);
    let cd = CdRom::new(mem, None, Options::default()).unwrap();
    assert_eq!(cd.drive().config()[..8], [0; 8]);
    assert_ne!(cd.drive().features() & features::BLK_RO, 0);
}
