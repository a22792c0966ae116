//! A hostile medium: partition tables, file systems, journals, and all that is
//! found in them, up to a kernel in memory. The first byte says what kind of
//! drive it is in; then come pieces of the medium (see `Sparse`).
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use mote_firmware::boot::{Options, boot};
use mote_firmware::disk::{Cached, Disk};
use mote_firmware::fs::{self, FileSystem, Kind};
use mote_firmware::volume::{Drive, Volumes};
use mote_fuzz::firmware::{Pc, Sparse};

/// Bytes of the medium and of memory.
const MEDIUM: u64 = 2 << 20;
const RAM: u64 = 6 << 20;
/// Nodes of a file system that are looked at.
const MOST: usize = 64;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let disk = || Ok(Rc::new(Cached::new(Sparse::new(data, MEDIUM))) as Rc<dyn Disk>);
    let cdrom = kind & 1 != 0;
    let drive = || Drive { id: "drive".into(), cdrom, disk: disk() };
    let mut volumes = Volumes::default();
    volumes.add(0, &drive(), "hd0", &mut |note| assert!(note.len() < 4096));
    for volume in &volumes.list {
        look(&*volume.fs);
    }
    let cdroms = vec!["drive".into()];
    let options = Options { entry: None, terminal: kind & 2 != 0, ram_end: RAM, cdroms };
    let mut machine = Pc::new(RAM);
    if let Some(start) = boot(&[drive()], &options, &mut machine) {
        assert!((1 << 20..RAM).contains(&start.entry.address()));
        assert!(start.cmdline.len() < 2048 && start.cmdline.contains("console=ttyS0"));
        if let Some((at, len)) = start.initrd {
            assert!(at >= 1 << 20 && at + len <= RAM);
        }
        let mut page = [0; 4096];
        start.complete(&mut page, 0x2_0000);
    }
});

/// Looks at every node that can be reached, but not for ever.
fn look(fs: &dyn FileSystem) {
    let mut todo = vec![fs.root()];
    let mut seen = 0;
    while let Some(node) = todo.pop() {
        seen += 1;
        if seen > MOST {
            break;
        }
        match fs.kind(node) {
            Ok(Kind::Directory) => {
                let _ = fs.entries(node, &mut |name, child| {
                    assert!(name.len() <= 1 << 16);
                    todo.push(child);
                    todo.len() > MOST
                });
            }
            Ok(Kind::Link) => {
                if let Ok(target) = fs.link(node) {
                    let _ = fs::kind(fs, &target);
                }
            }
            _ => {
                if let Ok(file) = fs.open(node) {
                    let _ = file.head(4096);
                    let _ = file.read(file.len().saturating_sub(1), &mut [0]);
                }
            }
        }
    }
}
