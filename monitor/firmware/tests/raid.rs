//! Members of a software RAID, as `mdadm --metadata=1.1` and `1.2` describe them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use mote_firmware::Error;
use mote_firmware::disk::Disk;
use mote_firmware::fs::open;
use mote_firmware::volume::{Drive, Volumes};

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

/// The file `image` that a shell's command makes in a folder with a file in `tree`.
fn made(command: &str) -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = env::temp_dir().join(format!("mote-raid-{}-{number}", process::id()));
    fs::create_dir_all(folder.join("tree")).unwrap();
    fs::write(folder.join("tree/file"), "mirrored").unwrap();
    let mut shell = Command::new("sh");
    assert!(shell.args(["-ec", command]).current_dir(&folder).status().unwrap().success());
    let bytes = fs::read(folder.join("image")).unwrap();
    fs::remove_dir_all(folder).unwrap();
    bytes
}

fn ext4() -> Vec<u8> {
    made("mke2fs -q -t ext4 -d tree image 4M")
}

/// A member's superblock at `at`, changed and then summed up.
fn superblock(len: usize, at: usize, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; 4096];
    block[..4].copy_from_slice(&0xa92b_4efcu32.to_le_bytes());
    block[4] = 1;
    block[32..44].copy_from_slice(b"machine:boot");
    block[72] = 1;
    block[128..136].copy_from_slice(&START.to_le_bytes());
    block[136..144].copy_from_slice(&((len / SECTOR) as u64).to_le_bytes());
    block[144..152].copy_from_slice(&((at / SECTOR) as u64).to_le_bytes());
    // The second of two devices, in a table of three.
    block[160] = 1;
    block[220] = 3;
    block[258] = 1;
    block[260..262].fill(0xff);
    change(&mut block);
    // drivers/md/md.c: calc_sb_1_csum.
    // Of an odd number of roles the last is half a word.
    let words = block[..256 + 4].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    let sum = words.map(u64::from).sum::<u64>() + 0xffff;
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block
}

fn member(data: &[u8], at: usize, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; START as usize * SECTOR];
    bytes.extend_from_slice(data);
    bytes[at..at + 4096].copy_from_slice(&superblock(data.len(), at, change));
    bytes
}

/// The devices with a file system on a disk, and why there are no others.
fn devices(bytes: Vec<u8>) -> (Volumes, Vec<String>) {
    let (mut volumes, mut notes) = (Volumes::default(), Vec::new());
    let drive = Drive { id: "disk0".into(), cdrom: false, disk: Ok(Rc::new(Bytes(bytes))) };
    volumes.add(0, &drive, "hd0", &mut |note| notes.push(note));
    (volumes, notes)
}

#[test]
fn a_member_of_a_mirror_is_read() {
    let data = ext4();
    for at in [0, 4096] {
        let (volumes, notes) = devices(member(&data, at, |_| {}));
        assert_eq!((volumes.list.len(), notes.len()), (1, 0), "{notes:?}");
        let file = open(&*volumes.list[0].fs, "/file").unwrap();
        assert_eq!(file.whole(100).unwrap(), b"mirrored");
    }
}

/// Superblocks outlive what is written over the rest of a disk.
#[test]
fn an_old_superblock_hides_nothing_newer() {
    let data = ext4();
    // A partition table, whose only partition lies behind the old data.
    let mut bytes = member(&data, 4096, |_| {});
    let sectors = (bytes.len() / SECTOR) as u32;
    bytes.extend_from_slice(&data);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[450] = 0x83;
    bytes[454..458].copy_from_slice(&sectors.to_le_bytes());
    bytes[458..462].copy_from_slice(&((data.len() / SECTOR) as u32).to_le_bytes());
    let (volumes, notes) = devices(bytes);
    let names: Vec<&str> = volumes.list.iter().map(|volume| &*volume.device).collect();
    assert_eq!((&*names, notes.len()), (&["hd0,msdos1"][..], 0), "{notes:?}");
    // FAT has nothing where the superblock was, and the old data are gone.
    let mut bytes = made("mkfs.vfat -F 32 -C image 34000 >/dev/null");
    bytes[4096..8192].copy_from_slice(&superblock(1 << 20, 4096, |_| {}));
    let (volumes, notes) = devices(bytes);
    assert_eq!((volumes.list.len(), notes.len()), (1, 0), "{notes:?}");
}

#[test]
fn what_is_not_a_whole_mirror_is_refused() {
    type Change = fn(&mut [u8]);
    let data = ext4();
    let refused: [(&str, Change); 9] = [
        ("a Linux software RAID other than RAID1 is", |block| block[72] = 5),
        ("a Linux software RAID other than RAID1 is", |block| block[72..76].fill(0xff)),
        ("an incomplete member", |block| block[8] = 2),
        ("an incomplete member", |block| block[8] = 4),
        ("an incomplete member", |block| block[258..260].fill(0xff)),
        // Beyond the table of roles.
        ("an incomplete member", |block| block[160] = 3),
        ("an incomplete member", |block| block[160..164].fill(0xff)),
        ("no known file system", |block| block[128..136].fill(0xff)),
        // Data that holds the superblock again.
        ("no known file system", |block| block[128..136].fill(0)),
    ];
    for (why, change) in refused {
        let (volumes, notes) = devices(member(&data, 4096, change));
        assert!(volumes.list.is_empty(), "{why}");
        assert!(notes[0].contains(why), "{why}: {notes:?}");
    }
    // Not what md wrote, or not here: the sum, and the superblock's own place.
    for (at, byte) in [(216, 1), (40, 1)] {
        let mut bytes = member(&data, 4096, |_| {});
        bytes[4096 + at] ^= byte;
        assert!(devices(bytes).1[0].contains("RAID is damaged"));
    }
    let moved = member(&data, 4096, |block| block[144] = 0);
    assert!(devices(moved).1[0].contains("RAID is damaged"));
    let long = member(&data, 4096, |block| block[220..224].fill(0xff));
    assert!(devices(long).1[0].contains("RAID is damaged"));
}
