//! `mote demo`: a machine with a CD-ROM and an empty disk, both in memory. The
//! CD is an ISO 9660 image (ECMA-119) of two files: a boot configuration, and
//! the system that installs itself.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::config::{Drive, Media, VmConfig};
use crate::error::Error;

/// `mote demo --help`.
pub const HELP: &str = "\
Install a system from a CD-ROM on an empty disk, restart, and boot it from the
disk, all in memory. Nothing on the host is changed.

Usage: mote demo

Options:
  -h, --help  Show this help
";

/// The system, which is also its own initial RAM disk.
const SYSTEM: &[u8] = include_bytes!(env!("MOTE_DEMO"));
const CONFIG: &[u8] = b"label Mote demo\n linux /system\n initrd /system\n append do=install\n";
/// Bytes of the disk.
const DISK: u64 = 4 << 20;
/// Bytes of an ISO 9660 block, and where its parts are: volume descriptors,
/// root directory, files.
const BLOCK: usize = 2048;
const DESCRIPTORS: usize = 16;
const ROOT: usize = 18;
const FILES: usize = 19;

/// The drives, in memory, which must live until they have been opened.
#[derive(Debug)]
pub struct Drives([File; 2]);

impl Drives {
    /// A CD-ROM with the system, and an empty disk.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new() -> Result<Self, Error> {
        let make = |name, content: &[u8], len| {
            let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
            file.write_all_at(content, 0)?;
            file.set_len(len)?;
            Ok(file)
        };
        let iso = iso(&[(b"ISOLINUX.CFG;1", CONFIG), (b"SYSTEM.;1", SYSTEM)]);
        let (cd, disk) = (make("cd", &iso, iso.len() as u64), make("disk", &[], DISK));
        let failed = |e: io::Error| Error::System("memfd", e);
        Ok(Self([cd.map_err(failed)?, disk.map_err(failed)?]))
    }

    /// The machine that has these drives.
    pub fn config(&self) -> VmConfig {
        let [cd, disk] = &self.0;
        let drive = |media, file: &File, id: &str| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            Drive::new(media, path.into(), id.to_owned())
        };
        VmConfig {
            drives: vec![drive(Media::CdRom, cd, "cdrom"), drive(Media::Disk, disk, "disk")],
            ..VmConfig::default()
        }
    }
}

/// An image of files in one directory; without path tables, which the firmware does not read.
fn iso(files: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut root = record(b"\0", ROOT, BLOCK, DIRECTORY);
    root.extend(record(b"\x01", ROOT, BLOCK, DIRECTORY));
    let mut data = Vec::new();
    for (name, content) in files {
        root.extend(record(name, FILES + data.len() / BLOCK, content.len(), 0));
        data.extend_from_slice(content);
        data.resize(data.len().next_multiple_of(BLOCK), 0);
    }
    root.resize(BLOCK, 0);
    let blocks = FILES + data.len() / BLOCK;
    let mut image = vec![0; DESCRIPTORS * BLOCK];
    // Primary volume descriptor (8.4), and the end of descriptors (8.3).
    image.extend(b"\x01CD001\x01");
    image.resize(image.len() + 33, b' ');
    image.extend(format!("{:40}", "MOTE").bytes());
    image.extend(both(blocks));
    image.resize(DESCRIPTORS * BLOCK + 120, 0);
    // One volume, the first, its block size.
    image.extend([1, 0, 0, 1, 1, 0, 0, 1, 0, 8, 8, 0]);
    image.resize(DESCRIPTORS * BLOCK + 156, 0);
    image.extend(record(b"\0", ROOT, BLOCK, DIRECTORY));
    image.resize((DESCRIPTORS + 1) * BLOCK, 0);
    image.extend(b"\xffCD001\x01");
    image.resize(ROOT * BLOCK, 0);
    [image, root, data].concat()
}

/// Flag of a directory's record.
const DIRECTORY: u8 = 2;

/// A directory record (9.1).
fn record(name: &[u8], block: usize, len: usize, flags: u8) -> Vec<u8> {
    let size = (33 + name.len()).next_multiple_of(2);
    let mut record = vec![size as u8, 0];
    record.extend(both(block));
    record.extend(both(len));
    // No date.
    record.extend([0; 7]);
    record.extend([flags, 0, 0, 1, 0, 0, 1, name.len() as u8]);
    record.extend(name);
    record.resize(size, 0);
    record
}

/// A number in both byte orders (7.3.3).
fn both(number: usize) -> [u8; 8] {
    let number = number as u32;
    let mut bytes = [0; 8];
    let (little, big) = bytes.split_at_mut(4);
    little.copy_from_slice(&number.to_le_bytes());
    big.copy_from_slice(&number.to_be_bytes());
    bytes
}
