//! Hostile kernels: bzImages, ELF files and unified kernel images.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use mote_firmware::config::uki;
use mote_firmware::kernel::{HIGH_RAM, Kernel};
use mote_firmware::volume::{Path, Volume, Volumes};
use mote_fuzz::firmware::{Files, file};

const RAM: u64 = 64 << 20;

fuzz_target!(|data: &[u8]| {
    let mut file = file(data);
    let files = Files::new(&[("/k", data), ("/loader/addons/a.addon.efi", data)]);
    let volume = Volume { drive: 0, device: "hd0".into(), fs: Rc::new(files) };
    let mut volumes = Volumes::default();
    volumes.list.push(volume);
    let path = Path { volume: 0, path: "/k".into() };
    if let Ok(Some(unified)) = uki::open(&volumes, &path) {
        assert!(unified.initrds.len() <= 4);
        file = unified.kernel;
    }
    let Ok(kernel) = Kernel::open(&file, RAM) else {
        return;
    };
    let mut end = HIGH_RAM;
    let mut entered = false;
    for load in &kernel.loads {
        let load_end = load.at + load.file.len() + load.zeroes;
        assert!(load.at >= end && load_end <= RAM, "{:#x} to {load_end:#x}", load.at);
        entered |= (load.at..load_end).contains(&kernel.entry.address());
        end = load_end;
    }
    assert!(entered && kernel.end >= end && kernel.end <= RAM);
    for len in [1, 4096, RAM / 2, RAM] {
        if let Ok(at) = kernel.place_initrd(len, RAM) {
            assert!(at >= kernel.end && at + len <= RAM && at % 4096 == 0);
            assert!(at + len - 1 <= kernel.initrd_max);
        }
    }
    assert!(kernel.header.is_none_or(|header| header.len() <= 0x290 - 0x1f1));
});
