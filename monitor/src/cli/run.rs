//! `mote run` and `mote restore`.

use mote_snapshot::working_set::WORKING_SET;

use super::flags::{Asked, Commands, Draft, RESTORE, RUN, named};
use crate::config::{self, Bus, HugePages, Restore, VmConfig};
use crate::error::Error;

/// `mote run --help`.
pub const RUN_HELP: &str = "\
Boot a virtual machine from a CD-ROM, a disk or a kernel file.

Usage: mote run --cdrom FILE --disk PATH,size=8G,create [OPTIONS]
       mote run --disk PATH [OPTIONS]
       mote run --kernel FILE [OPTIONS]
       mote run --config FILE [OPTIONS]

Options:
  --kernel FILE    Boot a vmlinux (ELF), a bzImage, or an ELF with a PVH note
  --initrd FILE    Load an initial RAM disk
  --disk PATH[,ro][,id=ID][,size=8G,create][,direct][,threads=N][,poll_us=N]
             [,bw=10M][,ops=1000][,block-size=N]
                   Attach a raw image or a block device as a disk; can be
                   repeated. bw and ops limit bytes and requests per second.
                   Write a comma in PATH twice     [default: block-size=512]
  --cdrom PATH     Attach a CD-ROM image read-only, after all disks; can be
                   repeated
  --net tap=NAME[,mac=MAC][,mtu=BYTES][,poll_us=N][,bw=10M][,ops=1000]
                   Attach a network interface to a TAP, or to tap-fd=N. bw
                   and ops limit bytes and frames per second in each direction;
                   rx-bw, rx-ops, tx-bw and tx-ops in one
  --boot WHAT      Boot only from cdrom, disk or a drive's id  [default: all
                   CD-ROMs, then disks; after the guest's reset, disks first]
  --boot-entry E   Boot the menu entry with this number, title, id, position
                   (1>2) or unique title prefix, or end with code 8
  --no-cdrom-hint  Do not append udev rules for CD-ROM drives to the initial
                   RAM disks of a system that boots from a CD-ROM
  --cmdline TEXT   Replace the default kernel command line
  --cmdline-devices  Add the devices to it, for kernels without ACPI
  --bus WHAT       Attach devices by mmio, by pci, or auto: mmio with --kernel,
                   else pci                              [default: auto]
  --memory SIZE    Set guest memory: 128M, 1G or bytes   [default: 128M]
  --hugepages WHAT Back guest memory with 2 MiB pages: thp (transparent, if
                   available) or 2M (the reserved pool)
  --prefault       Allocate all guest memory before the guest runs
  --cpus N         Set the number of vCPUs, 1 to 32      [default: 1]
  --serial WHERE   Connect COM1 to stdio, file:PATH[,append], pty, socket:PATH
                   or none; ,hold waits for a slow reader  [default: stdio]
  --on-enospc WHAT When the host's disk is full: pause guest writes until there
                   is space, or fail them (error)         [default: pause]
  --on-reset WHAT  restart in place, or exit with code 7  [default: restart]
  --graceful SECONDS  On SIGTERM press the ACPI power button. End the VM after
                   SECONDS, or at once without a driver or at a second signal
  --snapshot DIR   Save the VM to the directory DIR when the guest writes the
                   boot marker; DIR is created if missing
  --then WHAT      After that: resume or exit             [default: resume]
  --config FILE    Read Firecracker's config JSON; flags take precedence
  --seccomp WHAT   On a disallowed system call: kill the VM, or only log the
                   call (for debugging)                   [default: kill]
  --require-landlock N  Start only if the kernel has Landlock ABI N or later
  --no-sandbox     Turn the sandbox off; for debugging only
  --kvm-fd N       Use descriptor N, which the caller opened, as /dev/kvm
  --ready-fd N     Write a line to descriptor N when the guest is about to run
  --timings        Print the duration of each start-up step, in microseconds
  -h, --help       Show this help

On a terminal, Ctrl-A x ends the VM and Ctrl-A h lists the other keys.
";

/// `mote restore --help`.
pub const RESTORE_HELP: &str = "\
Restore a VM from a snapshot, any number of times from the same one: guest
memory is mapped from its file copy-on-write.

Usage: mote restore DIR [OPTIONS]

Pass disks, CD-ROMs and network interfaces again, with the same number, order
and ids. Their files and taps may differ.

Options:
  --hugepages 2M   Copy memory into the reserved pool of huge pages: clones
                   share none of it, and no working set is used
  --prefault       Map all memory before the guest resumes
  --uffd SOCKET    Have the process that listens on SOCKET serve memory over
                   userfaultfd, with Firecracker's protocol
  --verify         Check the memory file's checksum first
  --disk, --cdrom, --net, --serial, --on-enospc, --graceful, --seccomp,
  --require-landlock, --no-sandbox, --kvm-fd, --ready-fd, --timings
                   As for 'mote run'
  --snapshot DIR, --then WHAT  As for 'mote run'
  --diff           Save only the pages changed since the snapshot that is
                   restored; 'mote merge' combines both into a full one
  --record WHEN    Record the working set until the guest writes the boot marker
                   ('marker') or for seconds ('0.5'); later restores prefetch it
  --no-working-set Do not prefetch the working set
  -h, --help       Show this help

The guest's own reset ends the VM with code 7.
";

pub(super) fn parse(parser: lexopt::Parser, command: Commands) -> Result<Asked<VmConfig>, Error> {
    let help = if command == RUN { RUN_HELP } else { RESTORE_HELP };
    let mut draft = match Draft::parse(parser, None, command, help)? {
        Asked::Text(text) => return Ok(Asked::Text(text)),
        Asked::For(draft) => draft,
    };
    if command == RESTORE {
        restore(&mut draft)?;
    }
    if draft.is_given("cmdline-devices") && draft.vm.bus == Bus::Pci {
        let why = "--cmdline-devices cannot be combined with --bus pci: PCI devices are found \
                   without it";
        return Err(Error::Usage(why.to_owned()));
    }
    let mut vm = draft.vm;
    vm.drives.extend(draft.drives);
    vm.nics.extend(draft.nics);
    config::sort_drives(&mut vm.drives);
    if let Some(what) = draft.on_no_space {
        vm.drives.iter_mut().for_each(|drive| drive.on_no_space = what);
    }
    if draft.no_cdrom_hint {
        if vm.kernel.is_some() {
            let why = "--no-cdrom-hint cannot be combined with --kernel, which gets no hint";
            return Err(Error::Usage(why.to_owned()));
        }
        vm.drives.iter_mut().for_each(|drive| drive.cdrom_hint = false);
    }
    config::check_devices(&vm.drives, &vm.nics).map_err(Error::Usage)?;
    vm.check_boot().map_err(Error::Usage)?;
    named("hugepages", vm.huge_pages.check(vm.memory))?;
    config::check_descriptors(&vm, None).map_err(Error::Usage)?;
    Ok(Asked::For(vm))
}

/// The files of the snapshot, and what goes with them.
fn restore(draft: &mut Draft) -> Result<(), Error> {
    if draft.vm.huge_pages == HugePages::Transparent {
        let why = "--hugepages thp: a snapshot is mapped in small pages, or copied (2M)";
        return Err(Error::Usage(why.to_owned()));
    }
    let none = || Error::Arguments("no snapshot given: DIR is needed".to_owned());
    let directory = draft.directory.take().ok_or_else(none)?;
    let pager = draft.uffd.take();
    let paged = pager.is_some();
    let working_set = draft.record.is_none() && !draft.no_working_set && !paged;
    draft.vm.restore = Some(Restore {
        state: directory.join(mote_snapshot::STATE),
        memory: pager.unwrap_or_else(|| directory.join(mote_snapshot::MEMORY)),
        paged,
        working_set: working_set.then(|| directory.join(WORKING_SET)),
        verify: draft.verify,
        paused: false,
    });
    draft.vm.record = draft.record.map(|until| (directory, until));
    Ok(())
}
