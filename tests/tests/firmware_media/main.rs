//! Media as distributions lay them out, in small: each boots the entry that the medium's
//! own boot loader would start, with its command line and its initial RAM disks.

mod media;

use std::fs;

use mote_tests::medium::{disk, iso, shell, tree, unified};
use mote_tests::{Scratch, guest, have_kvm, mote, run};

use self::media::MEDIA;

enum Content {
    Text(&'static str),
    Kernel,
    /// An initial RAM disk that holds its own path.
    Initrd,
    /// A unified kernel image: its sections besides the kernel.
    Unified(&'static [(&'static str, &'static str)]),
    /// A PE file of these sections without a kernel.
    Addon(&'static [(&'static str, &'static str)]),
    /// An image of an ext2 file system.
    Ext2(Files),
    /// A program for UEFI that is no kernel.
    Program,
}
use Content::{Addon, Ext2, Initrd, Kernel, Program, Text, Unified};

type Files = &'static [(&'static str, Content)];

enum Layout {
    Iso,
    /// The same, with the files below `esp` in an image that only El Torito's catalog names.
    IsoWithEfi,
    /// ext4 without a partition table.
    Ext4,
    /// A partition with FAT.
    Fat,
    /// An EFI system partition with the files below `esp`, and ext4 with those below `boot`.
    FatAndExt4,
}
use Layout::{Ext4, Fat, FatAndExt4, Iso, IsoWithEfi};

struct Medium {
    name: &'static str,
    layout: Layout,
    files: Files,
    /// Lines that the kernel prints; a single one that is no `cmdline:` is why nothing boots.
    lines: &'static [&'static str],
}

fn bytes(scratch: &Scratch, path: &str, content: &Content, kernel: &[u8]) -> Vec<u8> {
    match content {
        Text(text) => text.as_bytes().to_vec(),
        Kernel => kernel.to_vec(),
        Initrd => path.as_bytes().to_vec(),
        Unified(sections) | Addon(sections) => {
            let sections = sections.iter().map(|(name, text)| (*name, text.as_bytes()));
            let kernel = matches!(content, Unified(_)).then_some((".linux", kernel));
            unified(&sections.chain(kernel).collect::<Vec<_>>())
        }
        Ext2(files) => {
            let files = contents(scratch, files, kernel);
            write(scratch, "inner", &files);
            shell(scratch, "mke2fs -q -t ext2 -d inner inner.fs 8M");
            fs::read(scratch.join("inner.fs")).unwrap()
        }
        Program => [&b"MZ"[..], &[b' '; 4000]].concat(),
    }
}

fn contents(scratch: &Scratch, files: Files, kernel: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    files.iter().map(|(path, content)| (*path, bytes(scratch, path, content, kernel))).collect()
}

fn write(scratch: &Scratch, name: &str, files: &[(&str, Vec<u8>)]) {
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, content)| (*path, &content[..])).collect();
    tree(scratch, name, &files);
}

/// The flags that give a machine the medium.
fn drive(scratch: &Scratch, medium: &Medium, kernel: &[u8]) -> [String; 2] {
    let contents = contents(scratch, medium.files, kernel);
    let files: Vec<(&str, &[u8])> =
        contents.iter().map(|(path, content)| (*path, &content[..])).collect();
    let name = medium.name;
    let path = match medium.layout {
        Iso => return ["--cdrom".to_owned(), iso(scratch, name, &files)],
        Fat => disk(scratch, name, true, &files),
        Ext4 => {
            write(scratch, "whole", &contents);
            shell(scratch, &format!("mke2fs -q -t ext4 -d whole {name} 16M"));
            scratch.join(name).to_str().unwrap().to_owned()
        }
        IsoWithEfi => {
            write(scratch, "cd", &contents);
            let make = format!(
                "mkfs.vfat -C efi.img 4096 >/dev/null; mcopy -s -i efi.img cd/esp/* ::/
                 rm -r cd/esp; mv efi.img cd
                 xorriso -as mkisofs -quiet -R -V CD -e efi.img -no-emul-boot -o {name} cd"
            );
            shell(scratch, &make);
            return ["--cdrom".to_owned(), scratch.join(name).to_str().unwrap().to_owned()];
        }
        FatAndExt4 => {
            write(scratch, "both", &contents);
            let make = format!(
                "mkfs.vfat -C esp.fs 16384 >/dev/null; mcopy -s -i esp.fs both/esp/* ::/
                 mke2fs -q -t ext4 -d both/boot boot.fs 16M
                 truncate -s 34M {name}
                 printf 'label: gpt\\nsize=16M, type=U\\nsize=16M\\n' | sfdisk -q {name}
                 dd if=esp.fs of={name} bs=1M seek=1 conv=notrunc status=none
                 dd if=boot.fs of={name} bs=1M seek=17 conv=notrunc status=none"
            );
            shell(scratch, &make);
            scratch.join(name).to_str().unwrap().to_owned()
        }
    };
    ["--disk".to_owned(), path]
}

#[test]
fn media_of_distributions_boot_what_their_own_loader_would() {
    if !have_kvm() {
        return;
    }
    let kernel = fs::read(guest("loaded")).unwrap();
    let mut failed = Vec::new();
    for medium in MEDIA {
        let scratch = Scratch::new();
        let end = run(mote(["run", "--no-cdrom-hint"]).args(drive(&scratch, medium, &kernel)));
        let out = end.out.replace('\r', "");
        let printed: Vec<&str> = out
            .lines()
            .filter(|line| line.starts_with("cmdline: ") || line.starts_with("initrd: "))
            .collect();
        let boots = medium.lines.first().is_some_and(|line| line.starts_with("cmdline: "));
        let right = match boots {
            true => printed == medium.lines,
            false => printed.is_empty() && medium.lines.iter().all(|line| out.contains(line)),
        };
        if !right {
            failed.push(format!("{}: {out}", medium.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
