//! Boot: from a kernel file to a first vCPU that is ready to run.

pub mod acpi;
mod bzimage;
mod elf;
mod firmware;
mod image;
mod kernel;
mod linux;
pub mod mptable;
mod pvh;
mod sniff;

use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

pub(crate) use self::image::Image;
pub use self::image::Mapped;
pub use self::kernel::Cause;
use self::kernel::{Facts, Kernel};
use crate::config::{DEFAULT_CMDLINE, VmConfig};
use crate::error::Error;
use crate::host::memory::{self, GuestRam, PAGE};
use crate::layout;
use crate::vm::regs::Entry;

/// Real-mode code that resets the machine by its ACPI register.
///
/// Linux takes a hardware-reduced machine for one with EFI, and reboots one
/// without EFI by a jump to the BIOS. This machine has no BIOS, but a reset fits
/// into nine bytes.
const RESET_CODE: [u8; 9] = [
    0xba, 0x02, 0x06, // mov dx, 0x602 (the reset register)
    0xb0, 0x06, // mov al, 6 (the value it waits for)
    0xee, // out dx, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

const _: () = {
    assert!(layout::RESET == 0x602 && crate::layout::RESET_VALUE == 6);
};

/// What has been put into guest memory.
#[derive(Debug)]
pub struct Loaded {
    /// How the first vCPU enters the guest.
    pub entry: Entry,
    /// Mapped ranges `(address, length)` that the guest will soon write to:
    /// Linux fills its data and patches its code, page by page, while it boots.
    pub written: Vec<(u64, u64)>,
}

/// What a VM boots from: files that were opened when it was configured.
#[derive(Debug)]
pub struct Source {
    kernel: Image,
    initrd: Option<Image>,
    cmdline: String,
    /// The command line after a reset, if it is another one.
    after_reset: Option<String>,
}

impl Source {
    /// Opens kernel and initrd and checks the command line.
    ///
    /// # Errors
    /// A file is missing, not a regular file or empty; the command line is too
    /// long or holds a NUL byte.
    pub fn open(
        kernel: &Path,
        initrd: Option<&Path>,
        cmdline: Option<&str>,
    ) -> Result<Self, Error> {
        Ok(Self {
            kernel: Image::open("kernel", kernel)?,
            initrd: initrd.map(|path| Image::open("initrd", path)).transpose()?,
            cmdline: check_cmdline(cmdline.unwrap_or(DEFAULT_CMDLINE))?,
            after_reset: None,
        })
    }

    /// A guest that is part of the monitor.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn embedded(kernel: &[u8], cmdline: &str) -> Result<Self, Error> {
        Ok(Self {
            kernel: Image::embedded("kernel", kernel)?,
            initrd: None,
            cmdline: check_cmdline(cmdline)?,
            after_reset: None,
        })
    }

    /// The boot firmware, which looks for a kernel on the VM's drives;
    /// `terminal` says whether its console is a terminal.
    ///
    /// # Errors
    /// There is no memory for it, or there is too much to tell it.
    pub fn firmware(config: &VmConfig, terminal: bool) -> Result<Self, Error> {
        let firmware = include_bytes!(env!("MOTE_FIRMWARE"));
        let orders = |cause| firmware::orders(config, cause, terminal);
        let mut source = Self::embedded(firmware, &orders(Cause::PowerOn))?;
        source.after_reset = Some(orders(Cause::Reset));
        source.kernel.what = "firmware";
        source.kernel.lowest = layout::FIRMWARE;
        Ok(source)
    }

    /// Puts everything the guest boots from into fresh memory, whose ACPI
    /// tables start at `rsdp`, and says where to enter it.
    ///
    /// # Errors
    /// The file is not a kernel, or it and the initrd do not fit into memory.
    pub fn load(&self, ram: &GuestRam, rsdp: u64, cause: Cause) -> Result<Loaded, Error> {
        let again = self.after_reset.as_ref().filter(|_| cause == Cause::Reset);
        let kernel = self.load_kernel(ram)?;
        let initrd = match &self.initrd {
            Some(image) => Some(place_initrd(ram, image, &kernel)?),
            None => None,
        };
        let text = again.unwrap_or(&self.cmdline);
        let mut cmdline = Vec::with_capacity(text.len() + 1);
        cmdline.extend_from_slice(text.as_bytes());
        cmdline.push(0);
        let no_room = |_| Error::Usage("--memory: too small for boot data".to_owned());
        ram.write_slice(&cmdline, GuestAddress(layout::CMDLINE)).map_err(no_room)?;
        ram.write_slice(&RESET_CODE, GuestAddress(layout::RESET_VECTOR)).map_err(no_room)?;
        let facts = Facts { initrd, rsdp };
        match kernel.entry {
            Entry::Linux64(_) => {
                linux::write(ram, &facts, kernel.header.as_ref()).map_err(no_room)?
            }
            Entry::Pvh(_) => pvh::write(ram, &facts).map_err(no_room)?,
        }
        Ok(Loaded { entry: kernel.entry, written: kernel.written })
    }

    /// The parts of guest memory that files are mapped to, by address.
    pub(crate) fn mapped(&self) -> Vec<Mapped<'_>> {
        let images = self.initrd.iter().chain([&self.kernel]);
        let mut all: Vec<_> = images.flat_map(Image::mapped).collect();
        all.sort_by_key(|mapped| mapped.address);
        all
    }

    /// Numbers of the descriptors of kernel and initrd.
    pub(crate) fn numbers(&self) -> [Option<RawFd>; 2] {
        [Some(&self.kernel), self.initrd.as_ref()].map(|image| Some(image?.file.as_raw_fd()))
    }

    fn load_kernel(&self, ram: &GuestRam) -> Result<Kernel, Error> {
        let image = &self.kernel;
        // The first page identifies a kernel; other files may need more.
        let mut head = vec![0; image.head(PAGE)];
        image.read(0, &mut head)?;
        if let sniff::Kind::Other(..) = sniff::kind(&head) {
            head.resize(image.head(sniff::HEAD), 0);
            image.read(0, &mut head)?;
        }
        match sniff::kind(&head) {
            sniff::Kind::Elf => elf::load(ram, image, &head),
            sniff::Kind::BzImage => bzimage::load(ram, image, &head),
            sniff::Kind::Other(what, advice) => {
                Err(image.refuse(format!("is {what}, not a kernel: {advice}")))
            }
        }
    }
}

fn check_cmdline(text: &str) -> Result<String, Error> {
    if text.len() > layout::CMDLINE_MAX {
        return Err(Error::Usage(format!(
            "--cmdline: {} bytes; a kernel takes at most {}",
            text.len(),
            layout::CMDLINE_MAX
        )));
    }
    if text.contains('\0') {
        return Err(Error::Usage("--cmdline: contains a NUL byte".to_owned()));
    }
    Ok(text.to_owned())
}

/// Puts the initrd as high as the kernel allows below the device hole.
fn place_initrd(ram: &GuestRam, image: &Image, kernel: &Kernel) -> Result<(u64, u64), Error> {
    let low_end = memory::low_end(ram);
    let limit = match &kernel.header {
        Some(header) => low_end.min(header.initrd_limit()),
        None => low_end,
    };
    let start = limit.checked_sub(image.len).map_or(0, |start| start / PAGE * PAGE);
    if start < kernel.end {
        let room = limit.saturating_sub(kernel.end);
        return Err(image.refuse(format!(
            "has {} bytes; the kernel leaves room for {room} of {low_end}",
            image.len
        )));
    }
    // The tail page is the initrd's own, so it may be mapped whole: the bytes
    // behind the file's end are zero.
    let mapped = image.map(ram, start, 0, image.len);
    if mapped.is_err() {
        image.place(ram, start, 0, image.len)?;
    }
    Ok((start, image.len))
}

#[cfg(test)]
#[path = "boot_test.rs"]
mod boot_test;
