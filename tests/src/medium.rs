//! Media to boot from, made by the tools that everyone makes them with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Scratch;

/// Runs a shell script in a directory.
///
/// # Panics
/// It fails; the packages it needs are those of `tests/run`.
pub fn shell(directory: &Path, script: &str) {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(script).current_dir(directory);
    // Where distributions keep what makes file systems.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
}

/// Writes files, named by their paths, below a directory of that name.
///
/// # Panics
/// They cannot be written.
pub fn tree(scratch: &Scratch, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let root = scratch.join(name);
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

/// A CD-ROM with these files.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn iso(scratch: &Scratch, name: &str, files: &[(&str, &[u8])]) -> String {
    let folder = format!("{name}.files");
    tree(scratch, &folder, files);
    let label = name.to_uppercase();
    let make = format!("xorriso -as mkisofs -quiet -R -J -V {label} -o {name}.iso {folder}");
    shell(scratch, &make);
    scratch.join(format!("{name}.iso")).to_str().unwrap().to_owned()
}

/// A disk of 32 MiB with a partition of its own for these files: FAT in an
/// MBR's, or ext4 in a GPT's.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn disk(scratch: &Scratch, name: &str, fat: bool, files: &[(&str, &[u8])]) -> String {
    let folder = format!("{name}.files");
    tree(scratch, &folder, files);
    let (label, make) = match fat {
        true => (
            "dos",
            format!(
                "mkfs.vfat -C {name}.fs 16384 >/dev/null; mcopy -s -i {name}.fs {folder}/* ::/"
            ),
        ),
        false => ("gpt", format!("mke2fs -q -t ext4 -d {folder} {name}.fs 16M")),
    };
    shell(
        scratch,
        &format!(
            "{make}; truncate -s 32M {name}; echo 'size=16M' | sfdisk -q -X {label} {name}
             dd if={name}.fs of={name} bs=1M seek=1 conv=notrunc status=none"
        ),
    );
    scratch.join(name).to_str().unwrap().to_owned()
}

/// A unified kernel image: a PE file with these sections.
#[must_use]
pub fn unified(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const PE: usize = 0x40;
    const COFF: usize = 24;
    const SECTION: usize = 40;
    let mut image = vec![0; PE];
    image[..2].copy_from_slice(b"MZ");
    image[0x3c..].copy_from_slice(&(PE as u32).to_le_bytes());
    image.extend(b"PE\0\0\x64\x86");
    image.extend((sections.len() as u16).to_le_bytes());
    image.resize(PE + COFF + SECTION * sections.len(), 0);
    for (number, (name, content)) in sections.iter().enumerate() {
        let (header, at) = (PE + COFF + SECTION * number, image.len() as u32);
        image[header..][..name.len()].copy_from_slice(name.as_bytes());
        // Sizes in memory and in the file, each before its address.
        for (offset, field) in [(8, content.len() as u32), (16, content.len() as u32), (20, at)] {
            image[header + offset..][..4].copy_from_slice(&field.to_le_bytes());
        }
        image.extend(*content);
    }
    image
}
