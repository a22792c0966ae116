//! Members of a software RAID, as `mdadm --metadata=1.1` and `1.2` describe them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;
use std::rc::Rc;
use std::{env, fs, process};

use mote_firmware::Error;
use mote_firmware::disk::Disk;
use mote_firmware::fs::{open, probe};

const SECTOR: usize = 512;
/// Sectors before the data.
const START: u64 = 2048;

struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let from = self.0.get(at as usize..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(Error::Drive(at / 512))?);
        Ok(())
    }
}

/// A small ext4 file system with one file.
fn ext4() -> Vec<u8> {
    let folder = env::temp_dir().join(format!("mote-raid-{}", process::id()));
    fs::create_dir_all(folder.join("tree")).unwrap();
    fs::write(folder.join("tree/file"), "mirrored").unwrap();
    let image = folder.join("image");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(folder.join("tree")).arg(&image).arg("4M");
    assert!(make.status().unwrap().success());
    let bytes = fs::read(image).unwrap();
    fs::remove_dir_all(folder).unwrap();
    bytes
}

/// Writes into the superblock of a member.
fn member(data: &[u8], at: usize, change: impl Fn(&mut [u8])) -> Rc<dyn Disk> {
    let mut bytes = vec![0; START as usize * SECTOR];
    bytes.extend_from_slice(data);
    let block = &mut bytes[at..at + 4096];
    block[..4].copy_from_slice(&0xa92b_4efcu32.to_le_bytes());
    block[4] = 1;
    block[32..44].copy_from_slice(b"machine:boot");
    block[72] = 1;
    block[128..136].copy_from_slice(&START.to_le_bytes());
    block[136..144].copy_from_slice(&((data.len() / SECTOR) as u64).to_le_bytes());
    // The second of two devices.
    block[160] = 1;
    block[258] = 1;
    change(block);
    Rc::new(Bytes(bytes))
}

#[test]
fn a_member_of_a_mirror_is_read() {
    let data = ext4();
    for at in [0, 4096] {
        let fs = probe(&member(&data, at, |_| {})).unwrap();
        assert_eq!(open(&*fs, "/file").unwrap().whole(100).unwrap(), b"mirrored");
    }
}

#[test]
fn what_is_not_a_whole_mirror_is_refused() {
    let data = ext4();
    type Change = fn(&mut [u8]);
    let refused: [(&str, Change); 9] = [
        ("a Linux software RAID other than RAID1 is", |block| block[72] = 5),
        ("a Linux software RAID other than RAID1 is", |block| block[72..76].fill(0xff)),
        ("an incomplete member", |block| block[8] = 2),
        ("an incomplete member", |block| block[8] = 4),
        ("an incomplete member", |block| block[258..260].fill(0xff)),
        ("an incomplete member", |block| block[160..164].fill(0xff)),
        ("the superblock of a Linux software RAID", |block| block[128..136].fill(0xff)),
        ("no known file system", |block| block[133] = 1),
        // Data that holds the superblock again.
        ("no known file system", |block| block[128..136].fill(0)),
    ];
    for (why, change) in refused {
        let said = probe(&member(&data, 4096, change)).err().unwrap().to_string();
        assert!(said.starts_with(why), "{why}: {said}");
    }
}
