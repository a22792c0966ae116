//! A PCI function under attack by its own guest. The first device is a disk; the program
//! sizes and moves its BAR, stores everything everywhere into its configuration space and
//! its page, masks and unmasks its interrupts under load, and each time brings the disk up
//! again and reads its first sector, which holds 0x5a. Prints `ok`.
#![no_std]
#![no_main]

use rt::blk::{Blk, SECTOR, Shared};
use rt::window::Window;
use rt::{Boot, fail, irq, machine, memory, println};

/// Places of configuration space: command, BAR, capabilities, the one that reaches the BAR,
/// MSI-X message control.
const COMMAND: u64 = 0x04;
const BAR: u64 = 0x10;
const CAPABILITIES: u64 = 0x34;
const ACCESS: u64 = 0x84;
const MSIX: u64 = 0x9a;
/// In the page: status, MSI-X table.
const STATUS: u64 = 0x14;
const TABLE: u64 = 0x800;

const VECTOR: u8 = 0x42;
/// Ticks that a request may take: minutes.
const TIMEOUT: u64 = 1 << 38;

static mut SHARED: Shared = Shared::new();

#[unsafe(no_mangle)]
fn main(_: &Boot) {
    let window = Window::new(0);
    let Some(space) = window.space() else { fail(format_args!("no PCI function")) };
    works("power-on");
    // No further function, and nothing behind the last device.
    for (device, function) in [(0, 0), (1, 1), (1, 7), (2, 0), (31, 0)] {
        let place = machine::ECAM + (device << 15 | function << 12);
        // SAFETY: configuration space, which is only read.
        let id = unsafe { rt::Mmio::new(place, 4) }.read32(0);
        if id as u16 != 0xffff && (function == 0 || id as u16 != 0) {
            fail(format_args!("device {device}.{function} is {id:#x}"));
        }
    }
    let home = space.read32(BAR);
    space.write32(BAR, u32::MAX);
    if space.read32(BAR) != 0xffff_f000 {
        fail(format_args!("the BAR has the size {:#x}", space.read32(BAR)));
    }
    // Over RAM, over the next function, over ECAM, the APICs, at 0 and at the end.
    for place in [0, 16 << 20, home + 0x1000, 0xe000_0000, 0xfec0_0000, 0xfee0_0000, 0xffff_f000] {
        space.write32(BAR, place);
        let kept = memory_pattern();
        window.page().write8(STATUS, 0);
        window.page().write32(TABLE, 0x1234_5678);
        if memory_pattern() != kept {
            fail(format_args!("a store at home changed memory with the BAR at {place:#x}"));
        }
    }
    space.write32(BAR, home);
    works("the BAR was moved");
    space.write16(COMMAND, 0);
    window.page().write8(STATUS, 1);
    if window.read32(0x70) & 0xf0 != 0 {
        fail(format_args!("a store without memory space arrived"));
    }
    space.write16(COMMAND, 0x0406);
    works("memory space was off");
    everywhere(&window);
    works("stores of every width");
    interrupts(&window);
    println(format_args!("ok"));
}

/// A page of RAM, summed up.
fn memory_pattern() -> u64 {
    // SAFETY: RAM that this program does not use.
    let page = unsafe { memory::bytes(24 << 20, 4096) };
    page.iter().map(|byte| u64::from(*byte)).sum()
}

/// Brings the disk up and reads from it.
fn works(after: &str) {
    // SAFETY: one driver at a time, which is gone when this returns, as is its device.
    let shared = unsafe { &mut *(&raw mut SHARED) };
    let disk = Blk::start(0, shared, TIMEOUT);
    let mut sector = [0; SECTOR];
    let read = disk.map(|disk| disk.read(0, &mut sector));
    if read != Ok(Ok(())) || sector != [0x5a; SECTOR] {
        fail(format_args!("after {after}: the disk does not work"));
    }
    rt::blk::reset(0);
}

/// Values of a simple generator, in every width, at every place of both pages but the BAR,
/// also by way of configuration space.
fn everywhere(window: &Window) {
    let Some(space) = window.space() else { return };
    let home = space.read32(BAR);
    let mut random = 1u64;
    for page in [space, window.page()] {
        for at in 0..0xff8 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let value = random >> 16;
            let _ = (page.read8(at), page.read64(at & !7));
            page.write8(at, value as u8);
            page.write16(at & !1, value as u16);
            page.write32(at & !3, value as u32);
            page.write64(at & !7, value);
            space.write32(BAR, home);
            space.write16(COMMAND, 6);
        }
    }
    for (length, offset) in [(1, 0x14), (2, 0x16), (4, 0x800), (3, 0), (4, 0x1000), (4, u32::MAX)] {
        space.write8(ACCESS + 4, 0);
        space.write32(ACCESS + 8, offset);
        space.write32(ACCESS + 12, length);
        let _ = space.read32(ACCESS + 16);
        space.write32(ACCESS + 16, 0);
    }
    if space.read8(CAPABILITIES) != 0x40 || space.read32(0) != 0x1042_1af4 {
        fail(format_args!("what is read-only has changed"));
    }
}

/// A running disk's interrupt arrives when its vector is unmasked, not while it or the
/// function is masked, and once afterwards.
fn interrupts(window: &Window) {
    // SAFETY: as in `works`.
    let shared = unsafe { &mut *(&raw mut SHARED) };
    let Ok(disk) = Blk::start(0, shared, TIMEOUT) else {
        fail(format_args!("the disk does not start"))
    };
    window.route(machine::FIRST_DEVICE_GSI, VECTOR, 1);
    let (page, Some(space)) = (window.page(), window.space()) else { return };
    let request = || {
        let mut sector = [0; SECTOR];
        if disk.read(0, &mut sector).is_err() {
            fail(format_args!("a request under interrupts fails"));
        }
    };
    irq::enable();
    let arrived = |before: u32| irq::count(VECTOR) != before;
    let mut before = irq::count(VECTOR);
    request();
    while !arrived(before) {
        core::hint::spin_loop();
    }
    for round in 0..1000u32 {
        // Of the function as a whole, or of the entry.
        let mask = |on: bool| match round % 2 {
            0 => space.write16(MSIX, if on { 0xc000 } else { 0x8000 }),
            _ => page.write32(TABLE + 16 + 12, on.into()),
        };
        mask(true);
        before = irq::count(VECTOR);
        for _ in 0..1000 {
            core::hint::spin_loop();
        }
        // One that was on its way before the mask.
        before = before.max(irq::count(VECTOR));
        request();
        if round < 100 {
            for _ in 0..100_000 {
                core::hint::spin_loop();
            }
            if arrived(before) {
                fail(format_args!("an interrupt in round {round} that is masked"));
            }
        }
        mask(false);
        while !arrived(before) {
            core::hint::spin_loop();
        }
    }
    // Addresses that are no APIC, and vectors that no table has: nothing happens.
    for address in [0, 24 << 20, 0xd000_0000, 0xe000_8000, 0xfec0_0000, 0xffff_fffc] {
        page.write32(TABLE + 16, address);
        let kept = memory_pattern();
        request();
        if memory_pattern() != kept {
            fail(format_args!("a message to {address:#x} was written there"));
        }
    }
    page.write16(0x1a, 77);
    if page.read16(0x1a) != 0xffff {
        fail(format_args!("vector 77 is {}", page.read16(0x1a)));
    }
    request();
    irq::disable();
}
