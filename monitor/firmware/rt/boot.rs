//! What the loader says about the machine: `boot_params`, the "zero page"
//! (Linux, Documentation/arch/x86/zero-page.rst).

use crate::acpi;
use crate::memory::bytes;

/// Offsets into `boot_params`.
const RSDP: usize = 0x70;
const EXT_INITRD: usize = 0xc0;
const EXT_INITRD_SIZE: usize = 0xc4;
const EXT_CMDLINE: usize = 0xc8;
const E820_COUNT: usize = 0x1e8;
const INITRD: usize = 0x218;
const INITRD_SIZE: usize = 0x21c;
const CMDLINE: usize = 0x228;
const E820: usize = 0x2d0;
const E820_ENTRY: usize = 20;

/// Longest command line that is looked at.
const CMDLINE_MAX: usize = 64 << 10;

/// A range of physical addresses, as the loader's e820 table describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// 1 is usable RAM, 2 reserved, 3 ACPI tables.
    pub kind: u32,
}

impl Region {
    /// Whether this is usable memory.
    #[must_use]
    pub fn is_ram(&self) -> bool {
        self.kind == 1
    }

    /// The address behind the region.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// The loader's description of the machine.
#[derive(Clone, Copy)]
pub struct Boot {
    params: &'static [u8],
}

impl Boot {
    /// # Safety
    /// `params` must be the address of `boot_params`.
    pub(crate) unsafe fn new(params: u64) -> Boot {
        // SAFETY: boot_params is one page.
        let params = unsafe { bytes(params, 4096) };
        Boot { params }
    }

    fn u32(&self, offset: usize) -> u64 {
        u64::from(acpi::u32_at(self.params, offset))
    }

    /// Address of `boot_params`.
    #[must_use]
    pub fn params(&self) -> u64 {
        self.params.as_ptr() as u64
    }

    /// The kernel command line without its NUL.
    #[must_use]
    pub fn cmdline(&self) -> &'static [u8] {
        let address = self.u32(EXT_CMDLINE) << 32 | self.u32(CMDLINE);
        if address == 0 {
            return &[];
        }
        // SAFETY: the loader put a NUL-terminated string there, in low RAM,
        // which goes on for longer than a command line may be.
        let text = unsafe { bytes(address, CMDLINE_MAX) };
        text.split(|&b| b == 0).next().unwrap_or_default()
    }

    /// The value of `NAME=VALUE` on the command line, the last one if several.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&'static str> {
        let words = self.cmdline().rsplit(|&b| b == b' ');
        words
            .filter_map(|word| core::str::from_utf8(word).ok())
            .find_map(|word| word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))
    }

    /// The initial RAM disk's bytes; empty if there is none.
    #[must_use]
    pub fn initrd(&self) -> &'static [u8] {
        let address = self.u32(EXT_INITRD) << 32 | self.u32(INITRD);
        let size = self.u32(EXT_INITRD_SIZE) << 32 | self.u32(INITRD_SIZE);
        if size == 0 {
            return &[];
        }
        // SAFETY: the loader put so many bytes there. Loaders keep it below
        // 4 GiB, which is mapped.
        unsafe { bytes(address, size as usize) }
    }

    /// The e820 table.
    pub fn regions(&self) -> impl Iterator<Item = Region> + use<> {
        let params = self.params;
        let count = usize::from(params[E820_COUNT]).min(128);
        (0..count).map(move |i| {
            let at = E820 + i * E820_ENTRY;
            Region {
                start: acpi::u64_at(params, at),
                len: acpi::u64_at(params, at + 8),
                kind: acpi::u32_at(params, at + 16),
            }
        })
    }

    /// Bytes of usable memory.
    #[must_use]
    pub fn ram(&self) -> u64 {
        self.regions().filter(Region::is_ram).map(|r| r.len).sum()
    }

    /// Address of the ACPI root pointer, 0 if the loader gives none.
    #[must_use]
    pub fn rsdp(&self) -> u64 {
        acpi::u64_at(self.params, RSDP)
    }

    /// The APIC ids of all CPUs, from the MADT.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + use<> {
        acpi::cpus(self.rsdp())
    }
}
