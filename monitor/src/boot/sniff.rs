//! What a file that should be a kernel is, from its first bytes.

/// Bytes of the file that are looked at.
pub(super) const HEAD: u64 = 64 << 10;

/// The detected format.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An ELF file of whatever kind.
    Elf,
    /// A Linux bzImage (boot protocol header).
    BzImage,
    /// Something else, and what to do with it.
    Other(&'static str, &'static str),
}

/// Tells from the first bytes of a file what it is.
pub(super) fn kind(head: &[u8]) -> Kind {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    if at(0, b"\x7fELF") {
        return Kind::Elf;
    }
    if at(0x202, b"HdrS") && at(0x1fe, &[0x55, 0xaa]) {
        return Kind::BzImage;
    }
    /// What Mote takes.
    const GIVE: &str = "give a vmlinux, a bzImage or an ELF with a PVH note";
    const UNPACK: &str = "unpack it first";
    const CONVERT: &str = "disks are raw images (--disk), see 'mote doctor IMAGE'";
    let known: [(usize, &[u8], &str, &str); 18] = [
        (0x38, b"ARM\x64", "a Linux kernel for ARM", GIVE),
        (0x30, b"RISCV", "a Linux kernel for RISC-V", GIVE),
        (0x8001, b"CD001", "an ISO 9660 image", "use it as a CD-ROM (--cdrom)"),
        (0, b"\x1f\x8b", "a gzip file", UNPACK),
        (0, b"\xfd7zXZ\0", "an xz file", UNPACK),
        (0, b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
        (0, b"\x02\x21\x4c\x18", "an lz4 file", UNPACK),
        (0, b"BZh", "a bzip2 file", UNPACK),
        (0, b"070701", "a cpio archive", "use it as the initrd (--initrd) of a kernel"),
        (0, b"QFI\xfb", "a qcow2 disk image", CONVERT),
        (0, b"KDMV", "a VMDK disk image", CONVERT),
        (0, b"vhdxfile", "a VHDX disk image", CONVERT),
        (0, b"MZ", "a PE or EFI program", GIVE),
        (0, b"\x27\x05\x19\x56", "a U-Boot image", GIVE),
        (0, b"!<arch>", "an archive", GIVE),
        (0, b"#!", "a script", GIVE),
        (0, b"\xcf\xfa\xed\xfe", "a Mach-O program", GIVE),
        (0x1fe, &[0x55, 0xaa], "a disk image with a boot sector", "use it as a disk (--disk)"),
    ];
    for (offset, magic, name, advice) in known {
        if at(offset, magic) {
            return Kind::Other(name, advice);
        }
    }
    let text = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace() || *b >= 0x80;
    if std::str::from_utf8(head).is_ok() && head.iter().all(text) {
        return Kind::Other("a text file", GIVE);
    }
    if head.iter().all(|b| *b == 0) {
        return Kind::Other("full of zeroes", GIVE);
    }
    Kind::Other("a file of unknown kind", GIVE)
}
