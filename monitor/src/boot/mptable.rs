//! The MP table (Intel MultiProcessor Specification 1.4), by which a kernel
//! without ACPI finds the processors and the I/O APIC's pins.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::config::{MAX_CPUS, MAX_DEVICES};
use crate::devices::VirtioWindow;
use crate::host::memory::GuestRam;
use crate::layout;

/// Bytes of the floating pointer, of the table's header, of a processor's entry
/// and of any other.
const POINTER: usize = 16;
const HEADER: usize = 44;
const PROCESSOR: usize = 20;
const OTHER: usize = 8;
/// Where the checksums are, in the pointer and in the header.
const POINTER_SUM: usize = 10;
const HEADER_SUM: usize = 7;
/// Version of the specification, of a local APIC and of an I/O APIC.
const MP_1_4: u8 = 4;
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// The table's only bus, to which all interrupts belong.
const ISA: u8 = 0;
/// An interrupt source that is active high and edge-triggered.
const HIGH_EDGE: u8 = 0b0101;

// An I/O APIC, a bus and the serial port besides the devices.
const _: () = assert!(
    layout::MP_TABLE as usize
        + POINTER
        + HEADER
        + PROCESSOR * MAX_CPUS as usize
        + OTHER * (3 + MAX_DEVICES)
        <= layout::MP_TABLE_END as usize
);

/// Writes the table, and the floating pointer to it where kernels look first.
///
/// # Errors
/// It does not fit into guest memory, which has always room for it.
pub fn write(ram: &GuestRam, cpus: u8, windows: &[VirtioWindow]) -> Result<(), GuestMemoryError> {
    let mut entries = Vec::with_capacity(1024);
    for cpu in 0..cpus {
        // Enabled; the first one is the one that boots.
        let flags = if cpu == 0 { 3 } else { 1 };
        entries.extend([0, cpu, LAPIC_VERSION, flags]);
        // Signature and features are CPUID's to tell.
        entries.resize(entries.len() + PROCESSOR - 4, 0);
    }
    entries.extend([1, ISA]);
    entries.extend(b"ISA   ");
    // No processor has its id.
    entries.extend([2, cpus, IOAPIC_VERSION, 1]);
    entries.extend((layout::IOAPIC as u32).to_le_bytes());
    let gsis = windows.iter().map(|window| window.gsi);
    for gsi in [layout::COM1_GSI].into_iter().chain(gsis) {
        // A pin of the I/O APIC, which has few.
        let pin = gsi as u8;
        entries.extend([3, 0, HIGH_EDGE, 0, ISA, pin, cpus, pin]);
    }
    let count = usize::from(cpus) + 3 + windows.len();
    let mut table = Vec::with_capacity(HEADER + entries.len());
    table.extend(b"PCMP");
    table.extend(((HEADER + entries.len()) as u16).to_le_bytes());
    table.extend([MP_1_4, 0]);
    table.extend(b"MOTE    MOTE        ");
    table.extend([0; 6]);
    table.extend((count as u16).to_le_bytes());
    table.extend(layout::LAPIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries);
    let at = layout::MP_TABLE + POINTER as u64;
    let mut pointer = Vec::with_capacity(POINTER);
    pointer.extend(b"_MP_");
    pointer.extend((at as u32).to_le_bytes());
    // Its length in units of 16 bytes. Of the features none is set: there is a
    // table, and interrupts come through the APICs.
    pointer.extend([1, MP_1_4, 0, 0, 0, 0, 0, 0]);
    balance(&mut table, HEADER_SUM);
    balance(&mut pointer, POINTER_SUM);
    ram.write_slice(&table, GuestAddress(at))?;
    ram.write_slice(&pointer, GuestAddress(layout::MP_TABLE))
}

/// Makes all bytes add up to 0 by the one at `at`.
fn balance(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices;

    /// Found and walked as a kernel does it, with few and with all processors
    /// and devices.
    #[test]
    fn the_table_can_be_found_and_walked() {
        for (cpus, devices) in [(1, 0), (2, 3), (MAX_CPUS, MAX_DEVICES)] {
            let ram = crate::host::memory::create(8 << 20).unwrap();
            write(&ram, cpus, &devices::windows(devices)).unwrap();
            let read = |at: u64, length: usize| {
                let mut bytes = vec![0; length];
                ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
                bytes
            };
            let whole = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)) == 0;
            // The last kilobyte below 640 KiB, in steps of 16 bytes.
            let mut places = (0x9_fc00..0xa_0000).step_by(16);
            let found = places.find(|at| read(*at, 4) == b"_MP_").unwrap();
            let pointer = read(found, 16);
            assert!(whole(&pointer));
            let at = u32::from_le_bytes(pointer[4..8].try_into().unwrap()).into();
            let length = usize::from(ram.read_obj::<u16>(GuestAddress(at + 4)).unwrap());
            assert!(at + length as u64 <= 0xa_0000);
            let table = read(at, length);
            assert!(table.starts_with(b"PCMP") && whole(&table));
            let (mut rest, mut kinds) = (&table[44..], [0; 5]);
            let (mut processors, mut pins) = (Vec::new(), Vec::new());
            while let Some(kind) = rest.first() {
                kinds[usize::from(*kind)] += 1;
                match kind {
                    0 => processors.push((rest[1], rest[3])),
                    2 => assert_eq!((rest[1], &rest[4..8]), (cpus, &[0, 0, 0xc0, 0xfe][..])),
                    3 => pins.push((rest[5], rest[7])),
                    _ => {}
                }
                rest = &rest[if *kind == 0 { 20 } else { 8 }..];
            }
            let count = u16::from_le_bytes(table[34..36].try_into().unwrap());
            assert_eq!(kinds, [cpus.into(), 1, 1, 1 + devices, 0]);
            assert_eq!(usize::from(count), kinds.iter().sum::<usize>());
            let expected = (0..cpus).map(|id| (id, if id == 0 { 3 } else { 1 }));
            assert!(expected.eq(processors));
            let gsis = devices::windows(devices).into_iter().map(|w| w.gsi as u8);
            let gsis = std::iter::once(4).chain(gsis);
            assert!(gsis.map(|gsi| (gsi, gsi)).eq(pins));
        }
    }
}
