//! The guest's physical address space, and where boot data is put in it.

/// First address of the device hole; low RAM ends here at the latest.
pub const HOLE_START: u64 = 3 << 30;
/// First address behind the device hole, where high RAM starts.
pub const HOLE_END: u64 = 4 << 30;

/// Global descriptor table of the first vCPU.
pub const GDT: u64 = 0x500;
/// `hvm_start_info` of a PVH guest.
pub const PVH_INFO: u64 = 0x6000;
/// Boot parameters ("zero page") of a Linux guest.
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial stack pointer of a Linux guest.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables that map the first GiB one to one: PML4, PDPT, PD.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line, NUL-terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line in bytes without its NUL: x86's COMMAND_LINE_SIZE.
pub const CMDLINE_MAX: usize = 2047;
/// The boot firmware is loaded from here up to [`LOW_RAM_END`], which is below
/// every kernel.
pub const FIRMWARE: u64 = 0x2_8000;
/// End of conventional memory; what follows would be the EBDA.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The MP table, which no memory map names, so that no guest takes it for its
/// own.
pub const MP_TABLE: u64 = LOW_RAM_END;
/// End of the area that kernels search for it.
pub const MP_TABLE_END: u64 = 0xa_0000;
/// A page that no memory map names and a reset keeps: what the firmware saves there, the
/// next boot finds.
pub const KEPT: u64 = 0xd_f000;
/// ACPI tables.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the area that holds ACPI tables.
pub const ACPI_END: u64 = 0xf_f000;
/// The VM generation ID, 16 bytes. No memory map names this page, so that no
/// guest takes it for its own; it is touched anyway, for the reset vector.
pub const GENERATION_ID: u64 = 0xf_f000;
/// Where a processor in real mode starts, and where a PC's BIOS would be.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Kernels are loaded from here up.
pub const HIGH_RAM: u64 = 0x10_0000;

/// First register window: of a virtio-mmio device, or the BAR of a PCI function.
pub const WINDOWS: u64 = 0xd000_0000;
/// Bytes of a register window.
pub const WINDOW_SIZE: u64 = 0x1000;

/// Configuration space of PCI bus 0, the only one (PCI Express 5.0, 7.2.2).
pub const ECAM: u64 = 0xe000_0000;
/// Bytes of it, and of a device's part, of which the first page is a function's.
pub const ECAM_SIZE: u64 = 1 << 20;
/// See [`ECAM_SIZE`].
pub const ECAM_DEVICE: u64 = 1 << 15;

/// The I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of the I/O APIC's register window.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// The local APICs.
pub const LAPIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel hosts without unrestricted guests.
pub const KVM_TSS: usize = 0xfffb_d000;
/// The identity-map page that goes with [`KVM_TSS`].
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// First I/O port of COM1.
pub const COM1: u16 = 0x3f8;
/// Global system interrupt of COM1.
pub const COM1_GSI: u32 = 4;
/// Global system interrupt of the power button, edge-triggered.
pub const POWER_BUTTON_GSI: u32 = 5;
/// Global system interrupt that says: the generation ID has changed.
pub const GENERATION_GSI: u32 = 6;
/// Global system interrupt of the first virtio device. There is no ISA bus to
/// leave the first 16 to, and a stock kernel makes 20 exits for every pin of
/// the I/O APIC.
pub const FIRST_DEVICE_GSI: u32 = 7;
/// Global system interrupt of the first vector of the first PCI function, behind the pins
/// of the I/O APIC.
pub const FIRST_MESSAGE_GSI: u32 = 32;
/// i8042 command and status port: only its reset command exists.
pub const I8042_COMMAND: u16 = 0x64;
/// Selects a register of the clock chip, which the next port reads.
pub const RTC_SELECT: u16 = 0x70;
/// See [`RTC_SELECT`].
pub const RTC_DATA: u16 = 0x71;
/// ACPI sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI reset register.
pub const RESET: u16 = 0x602;
/// Boot marker: a guest writes 123 when it has come as far as it cares about.
pub const BOOT_MARKER: u16 = 0x604;
/// Firmware status: the boot firmware writes 1 when it found nothing to boot.
pub const FIRMWARE_STATUS: u16 = 0x608;
/// The sleep type value that means S5, soft off.
pub const S5: u8 = 5;
/// The value that the reset register waits for.
pub const RESET_VALUE: u8 = 6;
