//! Stores into the window and the page the guest reads.

use std::sync::Arc;

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::{Action, PAGE_SIZE, Registers, Transport, Window};
use crate::{Error, features};

const CONFIG: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const OFFERED: u64 = features::COMMON | 0x21;

fn transport() -> (Transport, Arc<MmapRegion>) {
    let region = Arc::new(MmapRegion::new(3 * PAGE_SIZE).unwrap());
    region.as_volatile_slice().write_slice(&vec![0xee; 3 * PAGE_SIZE], 0).unwrap();
    let window = Window::new(region.clone(), PAGE_SIZE).unwrap();
    let page = region.get_slice(PAGE_SIZE, PAGE_SIZE).unwrap();
    page.copy_from(&[0u8; PAGE_SIZE]);
    let registers = Registers::new(OFFERED, vec![128, 64]).unwrap();
    let transport = Transport::mmio(window, registers, 2, CONFIG.to_vec()).unwrap();
    (transport, region)
}

fn read(transport: &Transport, at: u64) -> u32 {
    let mut word = [0; 4];
    transport.window().load(at, &mut word);
    u32::from_le_bytes(word)
}

fn write(transport: &mut Transport, at: u64, value: u32) -> Action {
    transport.write(at, &value.to_le_bytes())
}

fn start(transport: &mut Transport) {
    for value in [1, 3] {
        assert_eq!(write(transport, 0x70, value), Action::None);
    }
    for (half, value) in [(0, 1 << 5), (1, 1)] {
        assert_eq!(write(transport, 0x24, half), Action::None);
        assert_eq!(write(transport, 0x20, value), Action::None);
    }
    assert_eq!(write(transport, 0x70, 0xb), Action::None);
    let queue = [
        (0x30, 0),
        (0x38, 32),
        (0x80, 0x1000),
        (0x84, 1),
        (0x90, 0x2000),
        (0x94, 2),
        (0xa0, 0x3000),
        (0xa4, 3),
        (0x44, 1),
    ];
    for (at, value) in queue {
        assert_eq!(write(transport, at, value), Action::None);
    }
    assert_eq!(write(transport, 0x70, 0xf), Action::Start);
    assert_eq!(transport.rejected(), 0);
}

#[test]
fn the_page_has_every_register_from_the_start() {
    let (transport, _region) = transport();
    let expected = [
        (0x000, 0x7472_6976),
        (0x004, 2),
        (0x008, 2),
        (0x010, OFFERED as u32),
        (0x034, 128),
        (0x044, 0),
        (0x060, 0),
        (0x070, 0),
        (0x0b0, u32::MAX),
        (0x0b4, u32::MAX),
        (0x0b8, u32::MAX),
        (0x0bc, u32::MAX),
        (0x0fc, 0),
        (0x100, 0x0403_0201),
        (0x108, 0x0c0b_0a09),
        (0x10c, 0),
    ];
    for (at, value) in expected {
        assert_eq!(read(&transport, at), value, "{at:#x}");
    }
}

#[test]
fn selectors_change_what_the_page_shows() {
    let (mut transport, _region) = transport();
    let _ = write(&mut transport, 0x14, 1);
    assert_eq!(read(&transport, 0x10), (OFFERED >> 32) as u32);
    let _ = write(&mut transport, 0x14, 2);
    assert_eq!(read(&transport, 0x10), 0);
    let _ = write(&mut transport, 0x30, 1);
    assert_eq!(read(&transport, 0x34), 64);
    let _ = write(&mut transport, 0x30, 2);
    assert_eq!((read(&transport, 0x34), read(&transport, 0x44)), (0, 0));
    assert_eq!(write(&mut transport, 0xac, 7), Action::None);
    assert_eq!(transport.rejected(), 0);
}

#[test]
fn a_started_device_is_seen_and_its_doorbell_heard() {
    let (mut transport, _region) = transport();
    assert_eq!(write(&mut transport, 0x50, 0), Action::Rejected, "not yet");
    assert_eq!(transport.rejected(), 1);
    let (mut transport, _region) = self::transport();
    start(&mut transport);
    let queue = transport.registers().activation(&[]).queues[0].clone();
    let config = queue.unwrap().config;
    assert_eq!(config.descriptors, 0x1_0000_1000);
    assert_eq!(config.available, 0x2_0000_2000);
    assert_eq!(config.used, 0x3_0000_3000);
    assert_eq!(read(&transport, 0x70), 0xf);
    assert_eq!(read(&transport, 0x60), 1);
    assert_eq!(read(&transport, 0x44), 1);
    assert_eq!(write(&mut transport, 0x50, 0), Action::Notify(0));
    for queue in [1, 2, 0x1_0000, u32::MAX] {
        assert_eq!(write(&mut transport, 0x50, queue), Action::Rejected);
    }
    assert_eq!(transport.rejected(), 4);
    assert!(transport.set_needs_reset());
    assert_eq!(write(&mut transport, 0x50, 0), Action::Rejected);
    assert_eq!(read(&transport, 0x70), 0x4f);
    assert_eq!(read(&transport, 0x60), 3);
}

/// Flaw table line 14: configuration space out of bounds (kvmtool
/// CVE-2021-45464): every offset and width, by store and by load.
#[test]
fn every_offset_and_width_is_harmless() {
    let (mut transport, region) = transport();
    start(&mut transport);
    let activation = transport.registers().activation(&[]);
    let far = [u64::MAX, u64::MAX - 3, 1 << 32, 1 << 63];
    for at in (0..=PAGE_SIZE as u64 + 8).chain(far) {
        for width in [0, 1, 2, 3, 4, 5, 8, 16] {
            if at == 0x70 && width == 4 {
                continue; // a reset, or what the status tests do
            }
            let before = transport.rejected();
            let action = transport.write(at, &[0xff; 16][..width]);
            let config = at >= 0x100
                && at.saturating_add(width as u64) <= 0x10c
                && matches!(width, 1 | 2 | 4 | 8);
            match action {
                Action::None | Action::Rejected => {}
                Action::ConfigWrite { offset, len, .. } => {
                    assert!(config);
                    assert_eq!((offset as u64 + 0x100, len), (at, width));
                }
                other => panic!("{other:?} at {at:#x}, {width} bytes"),
            }
            let selector = width == 4 && [0x14, 0x24, 0x30, 0x64, 0xac].contains(&at);
            let accepted = config || selector;
            assert_eq!(transport.rejected() - before, u64::from(!accepted), "{at:#x}");
            let mut seen = [0; 16];
            transport.window().load(at, &mut seen[..width]);
            if at >= PAGE_SIZE as u64 {
                assert_eq!(seen[..width], [0xff; 16][..width]);
            }
        }
    }
    assert_eq!(transport.registers().activation(&[]), activation);
    // The neighbours' pages are untouched.
    for page in [0, 2] {
        let mut bytes = [0u8; PAGE_SIZE];
        let slice = region.get_slice(page * PAGE_SIZE, PAGE_SIZE).unwrap();
        slice.copy_to(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0xee));
    }
}

#[test]
fn a_config_store_carries_its_bytes() {
    let (mut transport, _region) = transport();
    let expected = Action::ConfigWrite { offset: 4, data: [9, 8, 7, 6, 0, 0, 0, 0], len: 4 };
    assert_eq!(transport.write(0x104, &[9, 8, 7, 6]), expected);
    assert_eq!(read(&transport, 0x104), 0x0807_0605, "not by itself");
}

#[test]
fn a_changed_config_is_shown_with_a_new_generation() {
    let (mut transport, _region) = transport();
    let mut config = CONFIG;
    assert!(!transport.set_config(&config, true));
    assert_eq!(read(&transport, 0xfc), 0, "nothing changed");
    config[11] = 99;
    assert!(!transport.set_config(&config, true), "nobody to tell");
    assert_eq!(read(&transport, 0x108), 0x630b_0a09);
    let generation = read(&transport, 0xfc);
    assert_ne!(generation, 0);
    assert!(!transport.set_config(&config[1..], true), "another length");
    start(&mut transport);
    config[0] = 77;
    assert!(transport.set_config(&config, true));
    assert_eq!(read(&transport, 0x60), 3);
    assert_ne!(read(&transport, 0xfc), generation);
    let _ = write(&mut transport, 0x64, 1);
    assert_eq!(read(&transport, 0x60), 3);
    let _ = write(&mut transport, 0x64, 3);
    assert_eq!(read(&transport, 0x60), 1);
}

#[test]
fn a_reset_shows_power_on_when_it_is_finished() {
    let (mut transport, _region) = transport();
    start(&mut transport);
    assert_eq!(write(&mut transport, 0x70, 0), Action::Stop);
    assert_eq!(read(&transport, 0x70), 0xf, "not before the device stopped");
    assert_eq!(write(&mut transport, 0x50, 0), Action::Rejected);
    transport.finish_reset();
    for at in [0x44, 0x60, 0x70] {
        assert_eq!(read(&transport, at), 0, "{at:#x}");
    }
    start(&mut transport_with_count(transport));
}

/// `start` wants a transport that has rejected nothing.
fn transport_with_count(old: Transport) -> Transport {
    let registers = Registers::new(OFFERED, vec![128, 64]).unwrap();
    Transport::mmio(old.window().clone(), registers, 2, CONFIG.to_vec()).unwrap()
}

#[test]
fn windows_and_configs_that_do_not_fit_are_refused() {
    let region = Arc::new(MmapRegion::new(2 * PAGE_SIZE).unwrap());
    for offset in [1, 2048, 2 * PAGE_SIZE, usize::MAX, usize::MAX - 4095] {
        let error = Window::new(region.clone(), offset).unwrap_err();
        assert_eq!(error, Error::Window(offset));
    }
    let window = Window::new(region, PAGE_SIZE).unwrap();
    let registers = Registers::new(0, vec![]).unwrap();
    let error = Transport::mmio(window, registers, 2, vec![0; 257]).unwrap_err();
    assert_eq!(error, Error::DeviceShape);
}
