//! What a VM starts from: a kernel, the firmware, or a snapshot.

use std::os::fd::RawFd;

use crate::boot::{self, Cause, Loaded, Mapped, acpi, mptable};
use crate::config::{Bus, DEFAULT_CMDLINE, VmConfig, cmdline};
use crate::devices::{self, Windows};
use crate::error::Error;
use crate::host::console;
use crate::host::memory::GuestRam;
use crate::host::random_id;
use crate::host::uffd::Pager;
use crate::snapshot::source::Saved;
use crate::vm;

/// What a VM starts from, opened and not read yet.
#[derive(Debug)]
pub struct Source {
    from: From,
    /// The VM generation ID: another one each time that a VM is made.
    pub(super) generation: [u8; 16],
}

#[derive(Debug)]
enum From {
    Boot(boot::Source),
    Snapshot(Saved),
}

impl Source {
    /// Opens what `config` names: a snapshot, which brings its processors and the
    /// size of its memory along, a kernel that is given, or the firmware.
    ///
    /// # Errors
    /// A file is missing, or not what it should be.
    pub fn open(mut config: VmConfig) -> Result<(VmConfig, Self), Error> {
        if let Some(restore) = &config.restore {
            let saved = Saved::open(restore, config.huge_pages)?;
            (config.cpus, config.memory) = (saved.cpus, saved.length);
            config.bus = if saved.pci { Bus::Pci } else { Bus::Mmio };
            let from = From::Snapshot(saved);
            let generation = random_id()?;
            return Ok((config, Self { from, generation }));
        }
        let boot = match config.kernel.as_deref() {
            Some(kernel) => {
                let cmdline = cmdline(&config);
                boot::Source::open(kernel, config.initrd.as_deref(), cmdline.as_deref())
            }
            None => boot::Source::firmware(&config, console::has_person(&config.serial)),
        };
        Ok((config, Self::boot(boot?)?))
    }

    /// Starts from a kernel or the firmware.
    ///
    /// # Errors
    /// The kernel has no randomness, which it always has.
    pub fn boot(source: boot::Source) -> Result<Self, Error> {
        Ok(Self { from: From::Boot(source), generation: random_id()? })
    }

    /// The snapshot, if it is one.
    pub(super) fn saved(&self) -> Option<&Saved> {
        match &self.from {
            From::Boot(_) => None,
            From::Snapshot(saved) => Some(saved),
        }
    }

    /// Who has the pages of memory that are not there yet.
    pub(super) fn pager(&self) -> Option<&Pager> {
        self.saved().and_then(|saved| saved.pager.as_ref())
    }

    /// The parts of guest memory that files are mapped to, by address.
    pub(super) fn mapped(&self) -> Vec<Mapped<'_>> {
        match &self.from {
            From::Boot(boot) => boot.mapped(),
            From::Snapshot(saved) => saved.mapped(),
        }
    }

    /// Numbers of the descriptors of kernel and initrd, or state and memory.
    pub(super) fn numbers(&self) -> [Option<RawFd>; 2] {
        match &self.from {
            From::Boot(boot) => boot.numbers(),
            From::Snapshot(saved) => saved.numbers(),
        }
    }

    /// Writes everything the guest boots from into fresh memory.
    ///
    /// # Errors
    /// It cannot be used or does not fit; a snapshot is restored, not loaded.
    pub(super) fn load(
        &self,
        ram: &GuestRam,
        cpus: u8,
        windows: &Windows,
        cause: Cause,
    ) -> Result<Loaded, Error> {
        let From::Boot(boot) = &self.from else {
            return Err(Error::Snapshot("there is nothing to boot".to_owned()));
        };
        let no_room = |_| Error::Usage("--memory: too small for boot data".to_owned());
        let rsdp = acpi::write(ram, cpus, windows, self.generation).map_err(no_room)?;
        mptable::write(ram, cpus, windows.mmio()).map_err(no_room)?;
        let loaded = boot.load(ram, rsdp, cause)?;
        vm::regs::write_tables(ram, loaded.entry).map_err(no_room)?;
        Ok(loaded)
    }
}

/// The kernel's command line, with the devices on it if that was asked for
/// (Linux: Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device`).
fn cmdline(config: &VmConfig) -> Option<String> {
    if config.cmdline.is_none() && config.is_pci() {
        return Some(DEFAULT_CMDLINE.replace(" pci=off", ""));
    }
    if !config.cmdline_devices || config.is_pci() {
        return config.cmdline.clone();
    }
    let mut text = config.cmdline.as_deref().unwrap_or(DEFAULT_CMDLINE).to_owned();
    for window in devices::windows(config.drives.len() + config.nics.len()) {
        let (size, base, gsi) = (window.size >> 10, window.base, window.gsi);
        text = cmdline::insert(&text, &format!("virtio_mmio.device={size}K@{base:#x}:{gsi}"));
    }
    Some(text)
}
