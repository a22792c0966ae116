//! What tells an installer that a drive is a CD-ROM's: to its udev a virtio disk is none,
//! and Debian's, Fedora's and others' look for their medium by what udev says.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// Behind `60-persistent-storage.rules`, which hand a disk's properties to its partitions,
/// and before `90-anaconda.rules`, which look for them.
const RULES: &str = "etc/udev/rules.d/61-mote-cdrom.rules";
/// Without `etc`, which every initrd with udev has: where that is a symbolic link, a
/// directory in the archive would replace it.
const DIRECTORIES: [&str; 2] = ["etc/udev", "etc/udev/rules.d"];
const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_644;

/// An archive to follow a medium's initial RAM disks, with the udev rules for the CD-ROM
/// drives of these serial numbers; `/dev/cdrom` is the one that was booted. A drive's
/// serial number is unique in its VM, and consists of letters, digits, `-`, `_`, `.`, `:`.
pub fn archive(cdroms: &[String], booted: &str) -> Vec<u8> {
    let mut rules = String::new();
    for serial in cdroms {
        let link = if serial == booted { ", SYMLINK+=\"cdrom\"" } else { "" };
        let block = "ACTION!=\"remove\", SUBSYSTEM==\"block\", KERNEL==\"vd*\"";
        let disk = format!(
            "{block}, ENV{{DEVTYPE}}==\"disk\", ATTR{{ro}}==\"1\", ATTR{{serial}}==\"{serial}\""
        );
        let _ = writeln!(
            rules,
            "{disk}, ENV{{ID_CDROM}}=\"1\", ENV{{ID_TYPE}}=\"cd\"{link}\n\
             {disk}, ATTR{{size}}!=\"0\", ENV{{ID_CDROM_MEDIA}}=\"1\"\n\
             {block}, ENV{{DEVTYPE}}==\"partition\", ATTRS{{ro}}==\"1\", ATTRS{{serial}}==\"{serial}\", \
             ENV{{ID_CDROM}}=\"\", ENV{{ID_TYPE}}=\"\""
        );
    }
    let mut archive = Vec::new();
    for path in DIRECTORIES {
        member(&mut archive, path, DIRECTORY, &[]);
    }
    member(&mut archive, RULES, REGULAR, rules.as_bytes());
    member(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// Adds a member in the new ASCII format (Linux, Documentation/driver-api/early-userspace/
/// buffer-format.rst).
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let inode = archive.len() as u32;
    let (len, name_len) = (data.len() as u32, name.len() as u32 + 1);
    // Inode, mode, uid, gid, links, time, length, device and special device, name, checksum.
    let fields = [inode, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
    let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
    archive.extend_from_slice(format!("070701{fields}{name}\0").as_bytes());
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
