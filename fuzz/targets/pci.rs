//! Any sequence of stores into a PCI function's configuration space and page, by a driver
//! that comes up now and then, with pauses, saved and bent states and power cycles. What is
//! read-only stays, messages go to local APICs alone, and the pages say what is saved.
#![no_main]

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mote_fuzz::backend::{Disk, Handle};
use mote_fuzz::driver::Driver;
use mote_fuzz::{clear, ram};
use mote_virtio::blk::{Block, Medium, Options};
use mote_virtio::transport::{PAGE_SIZE, VECTORS, Window};
use mote_virtio::{Effect, Endpoint};
use vm_memory::MmapRegion;

const QUEUE: u16 = 16;
const BASE: u32 = 0xd000_0000;

fn page(index: usize) -> Window {
    static REGION: OnceLock<Arc<MmapRegion>> = OnceLock::new();
    let region = REGION.get_or_init(|| Arc::new(MmapRegion::new(2 * PAGE_SIZE).unwrap()));
    Window::new(Arc::clone(region), index * PAGE_SIZE).unwrap()
}

fn function() -> Endpoint<'static> {
    let options = Options { queue_size: QUEUE, queues: 2, ..Options::default() };
    let disk = Medium::Disk(Box::new(Handle(Disk::new(8))));
    let disk = Arc::new(Block::new(ram(), disk, options).unwrap());
    Endpoint::pci(page(0), page(1), BASE, disk).unwrap()
}

fn load(window: &Window, at: u64) -> u32 {
    let mut word = [0; 4];
    window.load(at, &mut word);
    u32::from_le_bytes(word)
}

fn store(endpoint: &mut Endpoint, at: u64, width: usize, value: u64) {
    let _ = endpoint.write(at, &value.to_le_bytes()[..width]);
}

/// What a right driver does, from a reset on.
fn bring_up(endpoint: &mut Endpoint, vector: u64) {
    let _ = endpoint.write_space(0x04, &[6]);
    let _ = endpoint.write_space(0x10, &BASE.to_le_bytes());
    for (at, width, value) in [(0x14, 1, 0), (0x14, 1, 3), (0x08, 4, 1), (0x0c, 4, 1)] {
        store(endpoint, at, width, value);
    }
    store(endpoint, 0x14, 1, 0xb);
    let driver = Driver::new(ram(), 0, QUEUE);
    let (table, available, used) = (driver.descriptors, driver.available, driver.used);
    for (at, width, value) in
        [(0x16, 2, 0), (0x1a, 2, vector), (0x20, 4, table), (0x28, 4, available), (0x30, 4, used)]
    {
        store(endpoint, at, width, value);
    }
    store(endpoint, 0x1c, 2, 1);
    store(endpoint, 0x14, 1, 0xf);
}

fn check(endpoint: &Endpoint) {
    let transport = endpoint.transport();
    let (space, saved) = (transport.space().unwrap(), transport.save_bus().unwrap());
    for (at, word) in (0..).step_by(4).zip(saved.space.chunks_exact(4)) {
        assert_eq!(load(space, at).to_le_bytes(), word, "{at:#x}");
    }
    for (at, word) in (0x800..).step_by(4).zip(&saved.table) {
        assert_eq!(load(transport.window(), at), *word, "{at:#x}");
    }
    let fixed = [(0x00, 0x1042_1af4), (0x08, 0x0180_0001), (0x0c, 0), (0x14, 0), (0x30, 0)];
    for (at, word) in fixed.into_iter().chain([(0x34, 0x40), (0x3c, 0), (0x9c, 0x800)]) {
        assert_eq!(load(space, at), word, "{at:#x}");
    }
    assert_eq!(load(space, 0x10) & 0xfff, 0, "the BAR's size");
    for message in transport.messages().into_iter().flatten() {
        assert_eq!(message.address[0] & 0xfff0_0003, 0xfee0_0000);
        assert!(saved.space[0x9b] & 0xc0 == 0x80, "a message without MSI-X");
    }
    assert!(transport.vectors().iter().all(|bits| bits >> VECTORS == 0));
    let state = transport.registers().state();
    assert_eq!(load(transport.window(), 0x14) & 0xff, u32::from(state.status));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    clear(0);
    let mut endpoint = function();
    while !u.is_empty() {
        let messages = endpoint.transport().messages();
        let effect = match u.int_in_range(0..=9)? {
            step @ 0..=6 => {
                let data: [u8; 8] = u.arbitrary()?;
                let width = *u.choose(&[1, 2, 4, 8, 3])?;
                let at = match step {
                    0 => u.arbitrary()?,
                    1 => u.int_in_range(0..=0x400)?,
                    2 => 0x800 + u64::from(u.arbitrary::<u8>()? & 0x3f),
                    _ => u64::from(u.arbitrary::<u8>()?),
                };
                match step {
                    0..=3 => endpoint.write(at, &data[..width]),
                    _ => endpoint.write_space(at, &data[..width]),
                }
            }
            7 => {
                bring_up(&mut endpoint, u.int_in_range(0..=3)?);
                Effect::Messages
            }
            8 => {
                endpoint.pause();
                let mut state = endpoint.save().unwrap();
                let pci = state.pci.as_mut().unwrap();
                match u.int_in_range(0..=4)? {
                    0 => pci.space[usize::from(u.arbitrary::<u8>()?)] ^= u.arbitrary::<u8>()?,
                    1 => pci.table = u.arbitrary()?,
                    2 => pci.queue_vectors = u.arbitrary()?,
                    3 => pci.config_vector = u.arbitrary()?,
                    _ => {}
                }
                let before = endpoint.save();
                if endpoint.restore(&state).is_err() {
                    assert_eq!(endpoint.save(), before, "half restored");
                }
                let _ = endpoint.resume();
                Effect::Messages
            }
            _ => {
                endpoint.power_cycle();
                assert_eq!(endpoint.transport().messages(), [None; VECTORS]);
                Effect::Messages
            }
        };
        let now = endpoint.transport().messages();
        assert!(now == messages || effect == Effect::Messages, "a change was not told");
        check(&endpoint);
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});
