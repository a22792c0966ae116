//! ACPI tables of a hardware-reduced machine (ACPI 6.5, 4.1): enough for a
//! stock kernel to find everything there is, and to know that nothing else is.

use acpi_tables::Aml;
use acpi_tables::aml::{
    self, AddressSpaceCacheable, Arg, Device, EISAName, Else, Equal, IO, If, Interrupt,
    Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate, Return,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::config::MAX_DEVICES;
use crate::devices::Windows;
use crate::host::memory::GuestRam;
use crate::layout::{self, RESET_VALUE, S5};

const OEM: [u8; 6] = *b"MOTE  ";
const TABLE: [u8; 8] = *b"MOTE    ";
const REVISION: u32 = 1;
const MADT_REVISION: u8 = 6;

/// FADT boot architecture flags (ACPI 6.5, 5.2.9.3): missing devices. The
/// bits for legacy devices and an 8042 stay clear, which says the same.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;

/// Writes all tables, and the VM's `generation` ID that they point to; returns
/// the address of the root pointer (RSDP).
///
/// # Errors
/// The tables do not fit into guest memory, which has always room for them.
pub fn write(
    ram: &GuestRam,
    cpus: u8,
    windows: &Windows,
    generation: [u8; 16],
) -> Result<u64, GuestMemoryError> {
    // The RSDP comes first so that a guest that searches for it finds it at
    // once; its length is fixed, so the tables' addresses are known.
    let rsdp_at = layout::ACPI_START;
    let mut next = rsdp_at + 64;
    let mut put = |table: &[u8]| {
        let at = next;
        next = (next + table.len() as u64).next_multiple_of(16);
        ram.write_slice(table, GuestAddress(at)).map(|()| at)
    };
    let dsdt = put(&dsdt(windows))?;
    let fadt = put(&bytes(&fadt(dsdt)))?;
    let madt = put(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if let Windows::Pci = windows {
        let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
        mcfg.add_ecam(layout::ECAM, 0, 0, 0);
        xsdt.add_entry(put(&bytes(&mcfg))?);
    }
    let xsdt = put(&bytes(&xsdt))?;
    ram.write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(rsdp_at))?;
    set_generation(ram, generation)?;
    Ok(rsdp_at)
}

/// Gives the VM another generation ID. Connecting a restored VM then raises
/// [`layout::GENERATION_GSI`].
///
/// # Errors
/// As [`write`].
pub fn set_generation(ram: &GuestRam, generation: [u8; 16]) -> Result<(), GuestMemoryError> {
    ram.write_slice(&generation, GuestAddress(layout::GENERATION_ID))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn dsdt(windows: &Windows) -> Vec<u8> {
    let mut code = Vec::with_capacity(1024);
    let zero = 0u8;
    let sleep = Package::new(vec![&S5, &zero, &zero, &zero]);
    Name::new(Path::new("_S5_"), &sleep).to_aml_bytes(&mut code);
    let com1 = ResourceTemplate::new(vec![
        &IO::new(layout::COM1, layout::COM1, 1, 8),
        &Interrupt::new(true, true, false, false, layout::COM1_GSI),
    ])
    .encoded();
    device(&mut code, "_SB_.COM1", &EISAName::new("PNP0501"), 0, &com1);
    for (index, window) in (0u8..).zip(windows.mmio()) {
        let resources = ResourceTemplate::new(vec![
            &Memory32Fixed::new(true, window.base, window.size),
            &Interrupt::new(true, true, false, false, window.gsi),
        ])
        .encoded();
        let path = format!("_SB_.V{index:03}");
        device(&mut code, &path, &"LNRO0005", index, &resources);
    }
    if let Windows::Pci = windows {
        host_bridge(&mut code);
    }
    events(&mut code);
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&code);
    table.as_slice().to_vec()
}

/// The bridge to PCI bus 0 with what lies behind it, and the addresses of configuration
/// space, which belong to no function (PCI Firmware 3.3, 4.1.2 and 4.5).
fn host_bridge(code: &mut Vec<u8>) {
    let last = layout::WINDOWS + MAX_DEVICES as u64 * layout::WINDOW_SIZE - 1;
    let (uncached, zero) = (AddressSpaceCacheable::NotCacheable, 0u8);
    let behind = ResourceTemplate::new(vec![
        &aml::AddressSpace::new_bus_number(0u16, 0u16),
        // Both are below 4 GiB.
        &aml::AddressSpace::new_memory(uncached, true, layout::WINDOWS as u32, last as u32, None),
    ])
    .encoded();
    // The guest may control what a PCI Express bridge has, which is nothing here.
    let asked = Return::new(&Arg(3));
    let grant = Method::new("_OSC".into(), 4, true, vec![&asked]);
    Device::new(
        Path::new("_SB_.PCI0"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &zero),
            &Name::new("_SEG".into(), &zero),
            &Name::new("_BBN".into(), &zero),
            &Name::new("_CRS".into(), &behind),
            &grant,
        ],
    )
    .to_aml_bytes(code);
    let space = Memory32Fixed::new(false, layout::ECAM as u32, layout::ECAM_SIZE as u32);
    let space = ResourceTemplate::new(vec![&space]).encoded();
    device(code, "_SB_.ECAM", &EISAName::new("PNP0C02"), 0, &space);
}

/// A control-method power button, the VM generation ID, and the generic event
/// device that tells of both (ACPI 6.5, 4.8.2.2.1.2 and 5.6.9; Microsoft's
/// "Virtual Machine Generation ID").
fn events(code: &mut Vec<u8>) {
    /// Pressed (ACPI 6.5, 5.6.6); changed.
    const NEWS: u8 = 0x80;
    let (button, generation) = (Path::new("\\_SB_.PWRB"), Path::new("\\_SB_.VGEN"));
    let hid = EISAName::new("PNP0C0C");
    Device::new(Path::new("_SB_.PWRB"), vec![&Name::new("_HID".into(), &hid)]).to_aml_bytes(code);
    // Lower and upper half.
    let address = Package::new(vec![&layout::GENERATION_ID, &0u8]);
    Device::new(
        Path::new("_SB_.VGEN"),
        vec![
            &Name::new("_HID".into(), &"MOTE0001"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &address),
        ],
    )
    .to_aml_bytes(code);
    let line = |gsi| Interrupt::new(true, true, false, false, gsi);
    let (pressed, changed) = (line(layout::POWER_BUTTON_GSI), line(layout::GENERATION_GSI));
    let is_button = Equal::new(&Arg(0), &layout::POWER_BUTTON_GSI);
    Device::new(
        Path::new("_SB_.GED_"),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&pressed, &changed])),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &If::new(&is_button, vec![&Notify::new(&button, &NEWS)]),
                    &Else::new(vec![&Notify::new(&generation, &NEWS)]),
                ],
            ),
        ],
    )
    .to_aml_bytes(code);
}

/// One device with its identity and its resources.
fn device(code: &mut Vec<u8>, path: &str, hid: &dyn Aml, uid: u8, resources: &RawAml) {
    Device::new(
        Path::new(path),
        vec![
            &Name::new(Path::new("_HID"), hid),
            &Name::new(Path::new("_UID"), &uid),
            &Name::new(Path::new("_CRS"), resources),
        ],
    )
    .to_aml_bytes(code);
}

/// AML that has been encoded already.
struct RawAml(Vec<u8>);

impl Aml for RawAml {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// Encodes a resource template while what it borrows is alive.
trait Encoded {
    fn encoded(&self) -> RawAml;
}

impl Encoded for ResourceTemplate<'_> {
    fn encoded(&self) -> RawAml {
        RawAml(bytes(self))
    }
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let port =
        |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    fadt.reset_reg = port(layout::RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Mote    ").into();
    fadt.finalize()
}

/// Of the revision that goes with the FADT's (ACPI 6.5, 5.2.12), which is not
/// the one that the crate's own builder writes.
fn madt(cpus: u8) -> Vec<u8> {
    let mut controllers = Vec::with_capacity(512);
    for cpu in 0..cpus {
        ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled).to_aml_bytes(&mut controllers);
    }
    IoApic::new(0, layout::IOAPIC as u32, 0).to_aml_bytes(&mut controllers);
    let mut table = Sdt::new(*b"APIC", 44, MADT_REVISION, OEM, TABLE, REVISION);
    table.write_u32(36, layout::LAPIC);
    table.append_slice(&controllers);
    table.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::VirtioWindow;

    /// Every table's bytes add up to 0, and each pointer leads to a table.
    #[test]
    fn tables_can_be_walked() {
        let ram = crate::host::memory::create(8 << 20).unwrap();
        let window = VirtioWindow { base: 0xd000_0000, size: 0x1000, gsi: 16 };
        let windows = Windows::Mmio(vec![window]);
        let rsdp = write(&ram, 32, &windows, [7; 16]).unwrap();
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        let table = |at: u64| {
            let length = ram.read_obj::<u32>(GuestAddress(at + 4)).unwrap() as usize;
            let bytes = read(at, length);
            assert_eq!(bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
            assert!(at + (length as u64) < layout::ACPI_END);
            bytes
        };
        let root = read(rsdp, 36);
        assert_eq!(&root[..8], b"RSD PTR ");
        let xsdt = table(u64::from_le_bytes(root[24..32].try_into().unwrap()));
        let mut found = Vec::new();
        for entry in xsdt[36..].chunks_exact(8) {
            let bytes = table(u64::from_le_bytes(entry.try_into().unwrap()));
            if &bytes[..4] == b"FACP" {
                let dsdt = table(u64::from_le_bytes(bytes[140..148].try_into().unwrap()));
                assert!(dsdt.windows(8).any(|part| part == b"LNRO0005"));
                assert_eq!(read(layout::GENERATION_ID, 16), [7; 16]);
                // Major and minor version of ACPI, of which the MADT's follows.
                assert_eq!((bytes[8], bytes[131], dsdt[8]), (6, 5, 2));
            } else {
                assert_eq!((bytes.len(), bytes[8]), (44 + 32 * 8 + 12, 6));
                assert_eq!(bytes[36..40], layout::LAPIC.to_le_bytes());
            }
            found.push(bytes[..4].to_vec());
        }
        assert_eq!(found, [b"FACP".to_vec(), b"APIC".to_vec()]);
    }
}
