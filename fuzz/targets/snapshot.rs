//! A state file's body, whose checksum somebody has made right: it is refused
//! or means itself, and a disk that takes over what it accepts stays whole. A
//! working set likewise: it is refused, or lies in memory.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use mote_fuzz::backend::{Disk, Handle};
use mote_fuzz::{clear, ram};
use mote_snapshot::working_set::{self, Touched};
use mote_snapshot::{MemoryV1, PAGE, decode, decode_body, encode};
use mote_virtio::blk::{Block, Medium, Options, Worker};
use mote_virtio::transport::{PAGE_SIZE, Window};
use mote_virtio::{Effect, Endpoint, EndpointStateV1, WhenEmpty};
use vm_memory::MmapRegion;

/// A disk that begins with the state of somebody's file.
fn run(state: &EndpointStateV1) {
    clear(0);
    let options = Options { id: "fuzz".into(), ..Options::default() };
    let disk = Box::new(Handle(Disk::new(32)));
    let block = Arc::new(Block::new(ram(), Medium::Disk(disk), options).unwrap());
    let window = Window::new(Arc::new(MmapRegion::new(PAGE_SIZE).unwrap()), 0).unwrap();
    let mut endpoint = Endpoint::new(window, block.clone()).unwrap();
    if endpoint.restore(state).is_err() {
        return;
    }
    if endpoint.resume() == Effect::Started {
        let mut worker = Worker::default();
        for _ in 0..4 {
            let clock = || Duration::ZERO;
            let _ = block.run(&mut worker, 0, &clock, 64, WhenEmpty::Arm);
        }
    }
    endpoint.pause();
    let again = endpoint.save().unwrap();
    endpoint.restore(&again).unwrap();
}

/// Ranges of pages with a right checksum.
fn working_set(data: &[u8]) {
    let memory =
        MemoryV1 { ranges: vec![(0, 96 << 20), (4 << 30, 32 << 20)], ..MemoryV1::default() };
    let _ = working_set::decode(data, &memory);
    let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let page = PAGE as u64;
    let ranges: Vec<Touched> = data
        .chunks_exact(6)
        .map(|entry| Touched {
            offset: number(&entry[..3]) * page,
            length: number(&entry[3..5]) * page,
            written: entry[5] & 1 != 0,
        })
        .collect();
    let file = working_set::encode(memory.id, &ranges);
    let Ok(accepted) = working_set::decode(&file, &memory) else {
        return;
    };
    assert_eq!(accepted, ranges);
    let mut end = 0;
    for range in ranges {
        assert!(range.offset >= end && range.length > 0);
        end = range.offset + range.length;
    }
    assert!(end <= memory.length());
}

fuzz_target!(|data: &[u8]| {
    working_set(data);
    let _ = decode(data);
    let Ok(state) = decode_body(data) else {
        return;
    };
    let file = encode(&state).unwrap();
    assert_eq!(decode(&file).unwrap(), state);
    assert_eq!(&file[64..], data);
    for device in &state.devices {
        run(&device.endpoint);
    }
});
