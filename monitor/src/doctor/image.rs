//! A disk's or CD-ROM's image, a file or a block device: its first bytes and what
//! the host says.

use std::fs::{File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Access, fstatvfs, major, minor};

use super::reader::{may, size};
use super::report::{Report, Verdict};
use crate::error::{Error, os_message};

/// Bytes that are looked at: up to the name of ISO 9660's first descriptor.
const HEAD: usize = 0x8006;
const SECTOR: u64 = 512;

/// An image, opened, and what the kernel says of it.
pub(super) struct Image {
    about: String,
    file: Option<File>,
    known: Vec<(&'static str, Verdict)>,
}

impl Image {
    /// Finds out what can be known of an image before a byte of it is read.
    pub(super) fn open(path: &Path) -> Self {
        let about = path.to_string_lossy().into_owned();
        let (file, known) = match open(path) {
            Ok(file) => {
                let known = known(path, &file);
                (Some(file), known)
            }
            Err(error) => {
                let advice = "name an existing image that you can read";
                let missing = Verdict::missing(os_message(&error), advice);
                (None, vec![("file", missing)])
            }
        };
        Self { about, file, known }
    }

    /// Its descriptor's number, if it could be opened.
    pub(super) fn number(&self) -> Option<RawFd> {
        self.file.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Reports the known facts; with `read` also what its first bytes look like,
    /// which are a stranger's.
    pub(super) fn report(self, read: Result<(), &Error>, report: &mut Report) {
        let format = self.file.map(|file| match read {
            Ok(()) => head(&file).map_or_else(|e| Verdict::unknown(os_message(&e)), |h| format(&h)),
            Err(error) => Verdict::unknown(format!("not read without a sandbox: {error}")),
        });
        for (point, verdict) in self.known {
            report.image(&self.about, point, verdict);
        }
        if let Some(format) = format {
            report.image(&self.about, "format", format);
        }
    }
}

fn known(path: &Path, file: &File) -> Vec<(&'static str, Verdict)> {
    let access = match may(path, Access::WRITE_OK) {
        Ok(()) => Verdict::fine("may be read and written"),
        Err(error) => {
            let found = format!("may only be read: {}", os_message(&error));
            Verdict::weak(found, "pass it as --cdrom or with ro, or change its owner")
        }
    };
    let unknown = |error: io::Error| Verdict::unknown(os_message(&error));
    let mut known = vec![("file", access)];
    let mut device = None;
    match file.metadata() {
        Ok(data) if data.file_type().is_block_device() => {
            device = Some(data.rdev());
            let mut file = file;
            known.push(("size", file.seek(SeekFrom::End(0)).map_or_else(unknown, length)));
        }
        Ok(data) => {
            known.push(("size", length(data.len())));
            let allocated = data.blocks().saturating_mul(512);
            let room = fstatvfs(file)
                .map_err(io::Error::from)
                .map(|at| space(data.len(), allocated, at.f_bavail.saturating_mul(at.f_frsize)));
            known.push(("space", room.unwrap_or_else(unknown)));
        }
        Err(error) => known.push(("size", unknown(error))),
    }
    let mounts = |mounts: String| device.is_some_and(|device| is_mounted(device, &mounts));
    let lock = match std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(mounts) {
        true => Verdict::in_use("mounted by the host", "unmount it first"),
        false => holder(file).map_or_else(unknown, lock),
    };
    known.push(("lock", lock));
    known
}

/// Whether the text of `/proc/self/mountinfo` has this device.
pub(super) fn is_mounted(device: u64, mounts: &str) -> bool {
    let number = format!("{}:{}", major(device), minor(device));
    let mut lines = mounts.lines();
    lines.any(|line| line.split(' ').nth(2) == Some(&*number))
}

/// Opens a regular file or a block device; to open anything else could do
/// something to it.
fn open(path: &Path) -> io::Result<File> {
    let image = |data: Metadata| match data.is_file() || data.file_type().is_block_device() {
        true => Ok(()),
        false => Err(io::Error::other("is neither a regular file nor a block device")),
    };
    image(path.metadata()?)?;
    let with = |flags| File::options().read(true).custom_flags(flags).open(path);
    // Not even the time of its last use changes, if it is the user's own.
    let file = match with(libc::O_NONBLOCK | libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => with(libc::O_NONBLOCK),
        other => other,
    }?;
    image(file.metadata()?)?;
    Ok(file)
}

/// The first bytes, fewer if the file is shorter; the sandbox lets it seek no more.
fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD];
    let mut have = 0;
    while let Some(rest @ [_, ..]) = head.get_mut(have..) {
        match file.read_at(rest, have as u64)? {
            0 => break,
            count => have += count,
        }
    }
    head.truncate(have);
    Ok(head)
}

/// What the first bytes look like. Mote takes every image as raw; this is for
/// people who have mixed something up.
pub(super) fn format(head: &[u8]) -> Verdict {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    let containers: [(usize, &[u8], &str); 13] = [
        (0, b"QFI\xfb", "qcow2"),
        (0, b"QED\0", "QED"),
        (0, b"KDMV", "VMDK"),
        (0, b"COWD", "VMDK"),
        (0, b"# Disk DescriptorFile", "VMDK descriptor"),
        (0, b"vhdxfile", "VHDX"),
        (0, b"conectix", "VHD"),
        (0x40, b"\x7f\x10\xda\xbe", "VDI"),
        (0, b"WithoutFreeSpace", "Parallels"),
        (0, b"WithouFreSpacExt", "Parallels"),
        (0, b"\x1f\x8b", "gzip"),
        (0, b"\xfd7zXZ\0", "xz"),
        (0, b"\x28\xb5\x2f\xfd", "zstd"),
    ];
    let found = containers.iter().find(|(offset, magic, _)| at(*offset, magic));
    if let Some((_, _, name)) = found {
        let advice = "Mote takes it as raw, and the guest sees just these bytes. Only if no guest \
                      has ever written to it: unpack it, or qemu-img convert -O raw; a header \
                      that a guest wrote may name any file of the host";
        return Verdict::weak(format!("begins like {name}, which is not raw"), advice);
    }
    let contents: [(usize, &[u8], &str); 8] = [
        (0x8001, b"CD001", ": an ISO 9660 CD-ROM"),
        (0x200, b"EFI PART", ": a disk with a GPT"),
        (0, b"LUKS\xba\xbe", ": LUKS"),
        (0x438, b"\x53\xef", ": an ext file system"),
        (0, b"XFSB", ": an XFS file system"),
        (0, b"hsqs", ": a squashfs file system"),
        (0, b"\x7fELF", ": an ELF program"),
        (0x1fe, b"\x55\xaa", ": a disk with a boot sector"),
    ];
    let found = contents.iter().find(|(offset, magic, _)| at(*offset, magic));
    Verdict::fine(format!("raw{}", found.map_or("", |(_, _, name)| name)))
}

pub(super) fn length(bytes: u64) -> Verdict {
    let advice = "add size=8G,create for a new disk, under another name";
    match bytes {
        0 => Verdict::missing("empty", advice),
        _ if !bytes.is_multiple_of(SECTOR) => {
            let found = format!("{bytes} bytes, not whole sectors of {SECTOR}");
            let advice = "add ro to only read it, or make it longer: truncate -s %512";
            Verdict::weak(found, advice)
        }
        _ => Verdict::fine(size(bytes)),
    }
}

/// `length`, what is `allocated` of it, and what is `free` beside it, in bytes.
pub(super) fn space(length: u64, allocated: u64, free: u64) -> Verdict {
    let grow = length.saturating_sub(allocated);
    let advice = "a guest that fills it fills the host's disk, and waits then: make room, or see \
                  --on-enospc";
    let found = format!("may grow by {}, {} free", size(grow), size(free));
    Verdict::fine_if(grow <= free, found, advice)
}

/// The lock that would be in the way of a VM that writes.
fn holder(file: &File) -> io::Result<libc::c_int> {
    // The constants are small.
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: asks, with a live structure on a live descriptor, and takes none.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(lock.l_type.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn lock(kind: libc::c_int) -> Verdict {
    match kind {
        libc::F_UNLCK => Verdict::fine("not in use"),
        libc::F_RDLCK => {
            let advice = "only more readers may join (ro, --cdrom) until they end";
            Verdict::weak("being read by a VM", advice)
        }
        _ => Verdict::in_use("by another VM or program", "wait until that ends"),
    }
}
