//! A PCI function under a driver's and an attacker's stores.

use std::sync::Arc;

use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::{Action, Function, Message, NOTIFY, PAGE_SIZE, Registers, Transport, Window};
use crate::features;

const BASE: u32 = 0xd000_0000;
const OFFERED: u64 = features::COMMON | 0x21;
const CONFIG: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const MSIX: u64 = 0x98;
const TABLE: u64 = 0x800;

/// A transport between pages that no store may reach.
fn transport() -> (Transport, Arc<MmapRegion>) {
    let region = Arc::new(MmapRegion::new(4 * PAGE_SIZE).unwrap());
    for page in [0, 3] {
        region.as_volatile_slice().write_slice(&[0xee; PAGE_SIZE], page * PAGE_SIZE).unwrap();
    }
    let page = |page: usize| Window::new(region.clone(), page * PAGE_SIZE).unwrap();
    let function = Function { space: page(1), bar: page(2), base: BASE, device_id: 2 };
    let registers = Registers::new(OFFERED, vec![128, 64]).unwrap();
    (Transport::pci(function, registers, CONFIG.to_vec()).unwrap(), region)
}

fn bar(transport: &Transport, at: u64, width: usize) -> u64 {
    let mut bytes = [0; 8];
    transport.window().load(at, &mut bytes[..width]);
    u64::from_le_bytes(bytes)
}

fn space(transport: &Transport, at: u64) -> u32 {
    let mut bytes = [0; 4];
    transport.space().unwrap().load(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

fn store(transport: &mut Transport, at: u64, width: usize, value: u64) -> Action {
    transport.write(at, &value.to_le_bytes()[..width])
}

fn store_space(transport: &mut Transport, at: u64, value: u32) -> Action {
    transport.write_space(at, &value.to_le_bytes())
}

fn start(transport: &mut Transport) {
    let stores = [
        (0x14, 1, 1),
        (0x14, 1, 3),
        (0x08, 4, 0),
        (0x0c, 4, 1 << 5),
        (0x08, 4, 1),
        (0x0c, 4, 1),
        (0x14, 1, 0xb),
        (0x10, 2, 0),
        (0x16, 2, 1),
        (0x1a, 2, 1),
        (0x16, 2, 0),
        (0x18, 2, 32),
        (0x1a, 2, 1),
        (0x20, 4, 0x1000),
        (0x24, 4, 1),
        (0x28, 4, 0x2000),
        (0x2c, 4, 2),
        (0x30, 4, 0x3000),
        (0x34, 4, 3),
        (0x1c, 2, 1),
    ];
    for (at, width, value) in stores {
        assert_eq!(store(transport, at, width, value), Action::None, "{at:#x}");
    }
    assert_eq!(store(transport, 0x14, 1, 0xf), Action::Start);
    assert_eq!(transport.rejected(), 0);
}

#[test]
fn configuration_space_describes_a_modern_function() {
    let (transport, _region) = transport();
    assert_eq!(space(&transport, 0), 0x1042_1af4);
    assert_eq!(space(&transport, 8), 0x0180_0001);
    assert_eq!((space(&transport, 0x10), space(&transport, 0x2c)), (BASE, 0x1042_1af4));
    // No further BARs, no expansion ROM, no interrupt pin, one function.
    for at in [0x0c, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x3c, 0x100] {
        assert_eq!(space(&transport, at), 0, "{at:#x}");
    }
    let mut found = Vec::new();
    let mut at = u64::from(space(&transport, 0x34) & 0xff);
    while at != 0 {
        let head = space(&transport, at).to_le_bytes();
        found.push(match head[0] {
            9 => (head[3].into(), space(&transport, at + 8), space(&transport, at + 12)),
            id => (u32::from(id), space(&transport, at + 4), space(&transport, at + 8)),
        });
        at = head[1].into();
    }
    let expected = [
        (1, 0, 0x40),
        (3, 0x100, 1),
        (4, 0x200, 12),
        (2, 0x300, 4),
        (5, 0, 0),
        (0x11, 0x800, 0xc00),
    ];
    assert_eq!(found, expected);
    assert_eq!(space(&transport, MSIX) >> 16, 1, "two vectors");
    assert_eq!(bar(&transport, 0x200, 8), 0x0807_0605_0403_0201);
}

#[test]
fn a_driver_starts_the_device_and_reads_back_what_it_stored() {
    let (mut transport, _region) = transport();
    assert_eq!(bar(&transport, 0x18, 2), 128, "the greatest size at first");
    assert_eq!((bar(&transport, 0x10, 2), bar(&transport, 0x1a, 2)), (0xffff, 0xffff));
    start(&mut transport);
    let expected = [
        (0x0c, 4, 1),
        (0x10, 2, 0),
        (0x12, 2, 2),
        (0x14, 1, 0xf),
        (0x18, 2, 32),
        (0x1a, 2, 1),
        (0x1c, 2, 1),
        (0x1e, 2, 0),
        (0x20, 8, 0x1_0000_1000),
        (0x28, 8, 0x2_0000_2000),
        (0x30, 8, 0x3_0000_3000),
    ];
    for (at, width, value) in expected {
        assert_eq!(bar(&transport, at, width), value, "{at:#x}");
    }
    assert_eq!(transport.vectors(), [0b10, 0b01]);
    let queue = transport.registers().activation(&[]).queues[0].clone().unwrap().config;
    assert_eq!((queue.size, queue.descriptors), (32, 0x1_0000_1000));
    assert_eq!(store(&mut transport, NOTIFY as u64, 2, 0), Action::Notify(0));
    assert_eq!(store(&mut transport, NOTIFY as u64, 2, 1), Action::Rejected, "not set up");
    // A queue whose size was not stored has the greatest one.
    let (mut transport, _region) = self::transport();
    for (at, width, value) in [(0x14, 1, 1), (0x14, 1, 3), (0x16, 2, 1), (0x1c, 2, 1)] {
        assert_eq!(store(&mut transport, at, width, value), Action::None);
    }
    assert_eq!(transport.registers().state().queues[1].config.size, 64);
    assert_eq!(store(&mut transport, 0x1c, 2, 0), Action::Rejected);
    assert_eq!((transport.rejected(), bar(&transport, 0x1c, 2)), (1, 1), "4.1.4.3.2");
}

#[test]
fn a_reset_forgets_vectors_and_keeps_the_table() {
    let (mut transport, _region) = transport();
    start(&mut transport);
    let _ = store(&mut transport, TABLE + 8, 4, 0x41);
    assert_eq!(store(&mut transport, 0x14, 1, 0), Action::Stop);
    transport.finish_reset();
    assert_eq!((transport.vectors(), bar(&transport, 0x14, 1)), ([0, 0], 0));
    assert_eq!((bar(&transport, 0x10, 2), bar(&transport, TABLE + 8, 4)), (0xffff, 0x41));
    for vector in [2, 7, 8, 63, 0x100, 0xfffe] {
        let _ = store(&mut transport, 0x10, 2, vector);
        let _ = store(&mut transport, 0x1a, 2, vector);
        assert_eq!((bar(&transport, 0x10, 2), bar(&transport, 0x1a, 2)), (0xffff, 0xffff));
        assert_eq!(transport.vectors(), [0, 0]);
    }
    let _ = store_space(&mut transport, 0x10, 0x1234_5000);
    transport.power_cycle();
    assert_eq!((bar(&transport, TABLE + 8, 4), space(&transport, 0x10)), (0, BASE));
    assert_eq!(bar(&transport, TABLE + 12, 4), 1, "masked");
}

/// The BAR is sized and put back, and moved over RAM, other functions, the APICs, to 0 and
/// above the address width: the function answers at home alone.
#[test]
fn the_bar_answers_at_its_home_alone() {
    let (mut transport, _region) = transport();
    let _ = store_space(&mut transport, 0x10, u32::MAX);
    assert_eq!(space(&transport, 0x10), 0xffff_f000, "a page");
    let moved = [0, 0x10_0000, BASE + 0x1000, 0xe000_0000, 0xfec0_0000, 0xfee0_0000, 0xffff_f000];
    for address in moved {
        let _ = store_space(&mut transport, 0x10, address);
        assert_eq!(store(&mut transport, 0x14, 1, 1), Action::Rejected);
        assert_eq!(bar(&transport, 0x14, 1), 0, "{address:#x}");
    }
    let _ = store_space(&mut transport, 0x10, BASE | 0xfff);
    assert_eq!(space(&transport, 0x10), BASE);
    let _ = store_space(&mut transport, 0x04, 0);
    let _ = store(&mut transport, 0x14, 1, 1);
    assert_eq!(bar(&transport, 0x14, 1), 0, "memory space is disabled");
    let _ = store_space(&mut transport, 0x04, u32::MAX);
    assert_eq!(space(&transport, 0x04), 0x0010_0406);
    let _ = store(&mut transport, 0x14, 1, 1);
    assert_eq!(bar(&transport, 0x14, 1), 1);
}

#[test]
fn messages_go_where_the_driver_lets_them() {
    let (mut transport, _region) = transport();
    let _ = store_space(&mut transport, 0x04, 6);
    let entry = [(0, 0xfee0_1004), (4, 0), (8, 0x4051), (12, 0)];
    for (at, value) in entry {
        let _ = store(&mut transport, TABLE + 16 + at, 4, value);
        assert_eq!(transport.messages(), [None, None]);
    }
    let message = Some(Message { address: [0xfee0_1004, 0], data: 0x4051 });
    let control = |value: u16| [value.to_le_bytes()[0], value.to_le_bytes()[1]];
    let cases = [
        (0x8000, [None, message], Action::Messages),
        (0x8001, [None, message], Action::None),
        (0xc000, [None, None], Action::Messages),
        (0x4000, [None, None], Action::None),
        (0x8000, [None, message], Action::Messages),
    ];
    for (value, messages, action) in cases {
        let done = transport.write_space(MSIX + 2, &control(value));
        assert_eq!((done, transport.messages()), (action, messages), "{value:#x}");
    }
    // Masked and unmasked; two words at once; addresses that are no APIC.
    assert_eq!(store(&mut transport, TABLE + 28, 4, u64::MAX), Action::Messages);
    assert_eq!((transport.messages(), bar(&transport, TABLE + 28, 4)), ([None, None], 1));
    assert_eq!(store(&mut transport, TABLE + 24, 8, 0x77), Action::Messages);
    assert_eq!(transport.messages()[1].unwrap().data, 0x77);
    for address in [0, 0x10_0000, 0xd000_0800, 0xfec0_0000, 0xfef0_0000, 0xffff_fffc] {
        let _ = store(&mut transport, TABLE + 16, 4, address);
        assert_eq!(transport.messages(), [None, None], "{address:#x}");
        assert_eq!(store(&mut transport, TABLE + 16, 4, 0xfee0_0000), Action::Messages);
    }
    // An address above 4 GiB, and a function that may not write to memory.
    assert_eq!(store(&mut transport, TABLE + 20, 4, 1), Action::Messages);
    assert_eq!(transport.messages(), [None, None]);
    assert_eq!(store(&mut transport, TABLE + 20, 4, 0), Action::Messages);
    assert_eq!(store_space(&mut transport, 0x04, 2), Action::Messages);
    assert_eq!(transport.messages(), [None, None]);
    // The pending bits and what lies behind the table take no store.
    for at in [TABLE + 32, 0xc00, 0xc04] {
        assert_eq!(store(&mut transport, at, 4, u64::MAX), Action::Rejected);
        assert_eq!(bar(&transport, at, 4), 0);
    }
}

/// Every offset and width, in both pages: nothing outside them changes, nothing constant
/// does, and the device is started by nothing.
#[test]
fn every_offset_and_width_is_harmless() {
    let (mut transport, region) = transport();
    let far = [u64::MAX, u64::MAX - 3, 1 << 32, 1 << 63];
    for at in (0..=PAGE_SIZE as u64 + 8).chain(far) {
        for width in [0, 1, 2, 3, 4, 5, 8, 16] {
            for byte in [0xff, 0x0f, 0x00] {
                let done = [
                    transport.write(at, &[byte; 16][..width]),
                    transport.write_space(at, &[byte; 16][..width]),
                ];
                if done.contains(&Action::Stop) {
                    transport.finish_reset();
                }
                assert!(!done.contains(&Action::Start), "{at:#x} {width}");
            }
        }
        let _ = store_space(&mut transport, 0x04, 2);
        let _ = store_space(&mut transport, 0x10, BASE);
    }
    for page in [0, 3] {
        let mut bytes = [0; PAGE_SIZE];
        region.as_volatile_slice().read_slice(&mut bytes, page * PAGE_SIZE).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0xee));
    }
    let fresh = self::transport().0;
    for at in (0..0x88).step_by(4).filter(|at| ![0x04].contains(at)) {
        assert_eq!(space(&transport, at), space(&fresh, at), "{at:#x}");
    }
}

/// 4.1.4.9: the BAR by way of configuration space.
#[test]
fn the_access_capability_reaches_the_bar() {
    let (mut transport, _region) = transport();
    let (place, length, data) = (0x8c, 0x90, 0x94);
    for (offset, width, expected) in [(0x200, 4, 0x0403_0201), (0x204, 2, 0x605), (0x207, 1, 8)] {
        let _ = store_space(&mut transport, place, offset);
        let _ = store_space(&mut transport, length, width);
        assert_eq!(space(&transport, data), expected);
    }
    let _ = store_space(&mut transport, place, 0x14);
    let _ = store_space(&mut transport, length, 1);
    assert_eq!(transport.write_space(data, &[1]), Action::None);
    assert_eq!((bar(&transport, 0x14, 1), space(&transport, data)), (1, 1));
    // Also where the BAR decodes no memory accesses; by stores of each width into the data,
    // of which as many bytes count as the length says.
    let _ = transport.write_space(0x04, &[0]);
    assert_eq!(store(&mut transport, 0x14, 1, 0), Action::Rejected);
    for (at, stored) in [(data, 4), (data, 2), (data + 1, 1), (data, 1)] {
        let _ = store_space(&mut transport, place, 0x16);
        let _ = store_space(&mut transport, length, 2);
        let (before, value) = (bar(&transport, 0x16, 2), 0x0101_0101 * (stored as u32 + 1));
        let _ = transport.write_space(at, &value.to_le_bytes()[..stored]);
        assert_ne!(bar(&transport, 0x16, 2), before, "{at:#x} {stored}");
        assert_eq!(u64::from(space(&transport, data) & 0xffff), bar(&transport, 0x16, 2));
    }
    let _ = transport.write_space(0x04, &[6]);
    // Neither another BAR, nor behind the page, nor a length that there is not.
    let _ = store(&mut transport, 0x14, 1, 1);
    for (offset, width, bar_number, stored) in
        [(0x14, 1, 1, 1), (0x1000, 1, 0, 1), (0x15, 2, 0, 2), (0x14, 3, 0, 3), (0x14, 8, 0, 4)]
    {
        let _ = transport.write_space(0x88, &[bar_number]);
        let _ = store_space(&mut transport, place, offset);
        let _ = store_space(&mut transport, length, width);
        let _ = transport.write_space(data, &[3, 0, 0, 0][..stored]);
        assert_eq!(bar(&transport, 0x14, 1), 1, "{offset:#x} {width} {bar_number}");
    }
}

#[test]
fn what_was_saved_is_taken_over_and_nothing_else() {
    let (mut transport, _region) = transport();
    start(&mut transport);
    let _ = store(&mut transport, TABLE, 4, 0xfee0_0000);
    let _ = store(&mut transport, TABLE + 12, 4, 0);
    let _ = transport.write_space(MSIX + 2, &[0, 0x80]);
    let _ = store_space(&mut transport, 0x04, 6);
    let (registers, saved) = (transport.registers().state().clone(), transport.save_bus());
    let (mut other, _region) = self::transport();
    other.restore(&registers, &CONFIG, saved.as_ref()).unwrap();
    assert_eq!((other.messages(), other.vectors()), (transport.messages(), transport.vectors()));
    for at in (0..PAGE_SIZE as u64).step_by(4) {
        assert_eq!(bar(&other, at, 4), bar(&transport, at, 4), "{at:#x}");
        assert_eq!(space(&other, at), space(&transport, at), "{at:#x}");
    }
    let saved = saved.unwrap();
    let mut hostile = vec![None];
    for change in [
        |pci: &mut super::PciV1| pci.space[0] ^= 1,
        |pci: &mut super::PciV1| pci.space[0x11] ^= 1,
        |pci: &mut super::PciV1| pci.space.truncate(255),
        |pci: &mut super::PciV1| pci.table.push(0),
        |pci: &mut super::PciV1| pci.config_vector = 2,
        |pci: &mut super::PciV1| pci.queue_vectors[1] = 0x100,
        |pci: &mut super::PciV1| pci.queue_vectors.truncate(1),
    ] {
        let mut pci = saved.clone();
        change(&mut pci);
        hostile.push(Some(pci));
    }
    for pci in hostile {
        let (mut fresh, _region) = self::transport();
        assert!(fresh.restore(&registers, &CONFIG, pci.as_ref()).is_err(), "{pci:?}");
        assert_eq!((bar(&fresh, 0x14, 1), fresh.messages()), (0, [None, None]));
    }
    // Bits that no driver can set do not come in with a table.
    let mut pci = saved;
    pci.table = vec![u32::MAX; 8];
    other.restore(&registers, &CONFIG, Some(&pci)).unwrap();
    assert_eq!((bar(&other, TABLE, 4), bar(&other, TABLE + 12, 4)), (0xffff_fffc, 1));
}
