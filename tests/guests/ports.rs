//! Where no device is, reads give all ones and writes do nothing: every port,
//! and a sample of addresses outside RAM.
#![no_std]
#![no_main]

use rt::{Boot, Mmio, Region, fail, machine, paging, ports, println};

/// Ports with a device: first and last.
const DEVICES: [(u16, u16); 4] = [
    (machine::I8042, machine::I8042),
    (0x70, 0x71),
    (machine::COM1, machine::COM1 + 7),
    (machine::SLEEP_CONTROL, machine::BOOT_MARKER + 3),
];

/// Addresses with a device: first and behind the last. The last range is where
/// KVM keeps pages of its own on some Intel hosts.
const WINDOWS: [(u64, u64); 4] = [
    (machine::VIRTIO, machine::VIRTIO + 0x1_0000),
    (machine::IOAPIC, machine::IOAPIC + 0x1000),
    (machine::LAPIC, machine::LAPIC + 0x1000),
    (0xfffb_c000, 0xfffc_0000),
];

const GIB: u64 = 1 << 30;
const STEP: u64 = 2 << 20;

#[unsafe(no_mangle)]
fn main(boot: &Boot) {
    let ports = free_ports();
    println(format_args!("ports ok {ports}"));
    if paging::map(4 * GIB, 4 * GIB).is_err() {
        fail(format_args!("no page tables"));
    }
    let addresses = (0..8 * GIB)
        .step_by(STEP as usize)
        // Not always the same place in a page.
        .map(|start| start + ((start / STEP * 0x5f8) & 0xf_fff8))
        .filter(|&address| is_free(boot, address));
    let mut count = 0;
    for address in addresses {
        check(address);
        count += 1;
    }
    println(format_args!("addresses ok {count}"));
}

/// Reads and writes every free port; returns how many there are.
fn free_ports() -> usize {
    let mut count = 0;
    let mut first = 0;
    let ends = [(u16::MAX, u16::MAX)];
    for (start, last) in DEVICES.into_iter().chain(ends) {
        count += check_ports(first, start);
        first = last.wrapping_add(1);
    }
    count
}

fn check_ports(first: u16, behind: u16) -> usize {
    const CHUNK: usize = 4096;
    let mut bytes = [0; CHUNK];
    let mut at = first;
    while at < behind {
        let len = CHUNK.min(usize::from(behind - at));
        ports::fill(at, len, 0x55);
        let bytes = &mut bytes[..len];
        ports::scan(at, bytes);
        if let Some(odd) = bytes.iter().position(|&byte| byte != 0xff) {
            fail(format_args!("port {:#x} reads {:#x}", usize::from(at) + odd, bytes[odd]));
        }
        // Wider accesses where they stay clear of devices.
        if len >= 4 {
            ports::out16(at, 0x5555);
            ports::out32(at, 0x5555_5555);
            if ports::in16(at) != u16::MAX || ports::in32(at) != u32::MAX {
                fail(format_args!("port {at:#x} does not read as all ones"));
            }
        }
        at += len as u16;
    }
    usize::from(behind - first)
}

fn is_free(boot: &Boot, address: u64) -> bool {
    let mut ram = boot.regions().filter(Region::is_ram);
    let mut windows = WINDOWS.iter();
    address >= 1 << 20
        && !ram.any(|r| (r.start..r.end()).contains(&address))
        && !windows.any(|&(start, end)| (start..end).contains(&address))
}

fn check(address: u64) {
    // SAFETY: mapped by the runtime or by `main`, no RAM, no device.
    let nothing = unsafe { Mmio::new(address, 8) };
    for round in 0..2 {
        let ones = nothing.read8(0) == u8::MAX
            && nothing.read16(2) == u16::MAX
            && nothing.read32(4) == u32::MAX
            && nothing.read64(0) == u64::MAX;
        if !ones {
            let value = nothing.read64(0);
            fail(format_args!("{address:#x} reads {value:#x} (round {round})"));
        }
        nothing.write8(1, 0x55);
        nothing.write16(2, 0x5555);
        nothing.write32(4, 0x5555_5555);
        nothing.write64(0, 0x5555_5555_5555_5555);
    }
}
