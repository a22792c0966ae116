//! The format as it is on disk: what it must stay, and what it must refuse.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use mote_virtio::rate::LevelV1;
use mote_virtio::transport::{PciV1, QueueRegistersV1, RegistersV1};
use mote_virtio::{EndpointStateV1, QueueConfig, QueueState};

use super::*;

fn sample_vcpu() -> VcpuV1 {
    VcpuV1 {
        cpuid: vec![[1, 2, 3, 4, 5, 6, 7]],
        tsc_khz: 2_000_000,
        mp_state: 3,
        regs: [0x11; 144],
        sregs: [0x22; 312],
        events: [0x33; 64],
        debug: [0x44; 128],
        lapic: [0x55; 1024],
        xcrs: vec![(0, 7)],
        msrs: vec![(0x10, 99), (0xc000_0080, 0xd01)],
        xsave: vec![0x66; 4096],
    }
}

/// A state with another value in every field.
fn sample() -> StateV1 {
    let queue = QueueRegistersV1 {
        config: QueueConfig { size: 256, descriptors: 0x1000, available: 0x2000, used: 0x3000 },
        ready: true,
    };
    let endpoint = EndpointStateV1 {
        registers: RegistersV1 {
            status: 15,
            driver_features: 1 << 32 | 0x20,
            device_features_select: 1,
            driver_features_select: 2,
            queue_select: 3,
            interrupt_status: 1,
            config_generation: 4,
            queues: vec![queue, QueueRegistersV1::default()],
        },
        config: vec![5, 6, 7],
        queues: vec![
            Some(QueueState { next_available: 10, next_used: 8, in_flight: vec![3, 4] }),
            None,
        ],
        writeback: true,
        pci: Some(PciV1 {
            space: (0..=255).collect(),
            table: vec![0xfee0_0000, 0, 0x41, 0, 0xfee0_1000, 0, 0x42, 1],
            config_vector: 0,
            queue_vectors: vec![1, 0xffff],
        }),
    };
    StateV1 {
        written_by: "mote 0.1.0".to_owned(),
        cpu: CpuV1 { vendor: *b"AuthenticAMD", signature: 0x00a2_0f12, features: [1, 2, 3, 4, 5] },
        memory: MemoryV1 {
            id: [0xaa; 16],
            sum: [0xbb; 32],
            base: None,
            ranges: vec![(0, 0xc000_0000), (1 << 32, 1 << 20)],
        },
        vm: VmV1 {
            clock: 123_456_789,
            ioapic: IoApicV1 { select: 0x10, id: 2, entries: vec![1 << 16, 0x31] },
            rtc_select: 9,
        },
        serial: SerialV1 {
            registers: [1, 2, 3, 4, 5, 6, 7, 8, 9],
            input: b"typed".to_vec(),
            typed: b"ahead".to_vec(),
        },
        vcpus: vec![sample_vcpu()],
        devices: vec![DeviceV1 {
            kind: 2,
            id: "disk0".to_owned(),
            read_only: true,
            endpoint,
            limits: vec![Some(LevelV1 { burst: 1, tokens: 2, debt: 3 }), None],
        }],
    }
}

/// A byte that moves makes this fail: then a new format number is due, not a
/// new golden file.
#[test]
fn the_format_is_that_of_the_golden_file() {
    let mut difference = sample();
    difference.memory.base = Some([0xcc; 16]);
    for (golden, state) in [
        (&include_bytes!("../tests/golden/v5.state")[..], sample()),
        (include_bytes!("../tests/golden/v5-difference.state"), difference),
    ] {
        assert_eq!(encode(&state).unwrap(), golden);
        assert_eq!(decode(golden).unwrap(), state);
    }
    let old = include_bytes!("../tests/golden/v4.state");
    assert!(matches!(decode(old), Err(Error::Format(4))));
}

#[test]
fn every_truncation_and_every_flipped_byte_is_refused() {
    let whole = encode(&sample()).unwrap();
    for end in 0..whole.len() {
        assert!(decode(&whole[..end]).is_err(), "{end} bytes");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(matches!(decode(&longer), Err(Error::Length(..))));
    for at in 0..whole.len() {
        for bit in [0, at % 8] {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            let error = decode(&bad).unwrap_err();
            let right = match at {
                0..8 => matches!(error, Error::NotASnapshot),
                8..12 => matches!(error, Error::Format(_)),
                24..32 => matches!(error, Error::Length(..)),
                _ => matches!(error, Error::Checksum),
            };
            assert!(right, "byte {at}: {error}");
        }
    }
}

/// A body with a corrected checksum is refused, or read and written as the same
/// bytes, whatever it holds.
#[test]
fn a_hostile_body_is_refused_or_means_itself() {
    let whole = encode(&sample()).unwrap();
    let body = &whole[64..];
    for end in 0..body.len() {
        assert!(decode_body(&body[..end]).is_err(), "{end} bytes");
    }
    let mut refused = 0;
    for at in 0..body.len() {
        for value in [0, 1, 0x7f, 0xff, body[at] ^ 1, body[at] ^ 0x80] {
            let mut bad = body.to_vec();
            bad[at] = value;
            match decode_body(&bad) {
                Ok(mut state) => {
                    let mut io = Io::write();
                    state.fields(&mut io).unwrap();
                    assert_eq!(io.written(), bad);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "only {refused}");
}

#[test]
fn formats_of_other_times_are_named() {
    for (format, word) in [(1u32, "older"), (FORMAT + 1, "newer")] {
        let mut other = encode(&sample()).unwrap();
        other[8..12].copy_from_slice(&format.to_le_bytes());
        assert!(decode(&other).unwrap_err().to_string().contains(word));
    }
}

/// An empty directory of its own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mote-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// 16 MiB with three pages in use.
fn write_memory(file: &File, state: &mut StateV1) {
    const LENGTH: u64 = 16 << 20;
    let mut writer = MemoryWriter::new(file);
    for at in (0..LENGTH).step_by(1 << 20) {
        let mut bytes = vec![0; 1 << 20];
        if at == 3 << 20 {
            bytes[5 * PAGE..7 * PAGE].fill(0x77);
            bytes[(1 << 20) - 1] = 1;
        }
        writer.put(at, &bytes).unwrap();
    }
    state.memory.ranges = vec![(0, LENGTH)];
    state.memory.sum = writer.finish(LENGTH, state.memory.id, None).unwrap();
}

#[test]
fn memory_is_sparse_and_every_byte_of_it_counts() {
    let scratch = Scratch::new("memory");
    let mut state = sample();
    let create = Create::begin(&scratch.0, 1).unwrap();
    write_memory(create.memory(), &mut state);
    let file = create.memory();
    assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10);
    verify_memory(file, &state.memory).unwrap();
    let flip = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    };
    for at in [0, 12345, (3 << 20) + 5 * PAGE as u64, (4 << 20) - 1] {
        flip(at);
        let error = verify_memory(file, &state.memory).unwrap_err();
        assert!(matches!(error, Error::Checksum), "{at}: {error}");
        flip(at);
    }
    verify_memory(file, &state.memory).unwrap();
    flip((16 << 20) + 20);
    let error = check_memory(file, file.metadata().unwrap().len(), &state.memory).unwrap_err();
    assert!(matches!(error, Error::OtherMemory), "{error}");
    file.set_len(16 << 20).unwrap();
    let error = check_memory(file, file.metadata().unwrap().len(), &state.memory).unwrap_err();
    assert!(matches!(error, Error::Length(..)), "{error}");
}

#[test]
fn both_files_appear_at_once_and_nothing_is_written_over() {
    let scratch = Scratch::new("files");
    let names = || {
        let entries = std::fs::read_dir(&scratch.0).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut state = sample();
    let create = Create::begin(&scratch.0, 1).unwrap();
    write_memory(create.memory(), &mut state);
    assert!(names().is_empty());
    drop(create);
    assert!(names().is_empty());
    // What a writer leaves that ends between the two, or another snapshot's.
    std::fs::write(scratch.0.join(MEMORY), "half").unwrap();
    assert!(Create::begin(&scratch.0, 1).is_err());
    assert_eq!(std::fs::read(scratch.0.join(MEMORY)).unwrap(), b"half");
    std::fs::remove_file(scratch.0.join(MEMORY)).unwrap();
    let create = Create::begin(&scratch.0, 1).unwrap();
    write_memory(create.memory(), &mut state);
    create.finish(&encode(&state).unwrap()).unwrap();
    assert_eq!(names(), [MEMORY, STATE]);
    assert!(Create::begin(&scratch.0, 1).is_err());
    let [mut file, memory] = [STATE, MEMORY].map(|name| File::open(scratch.0.join(name)).unwrap());
    let Peek { cpus, memory: length, pci } = peek(&file).unwrap();
    assert!(pci);
    assert_eq!((cpus, length), (1, state.memory.length()));
    assert!(peek(&memory).is_err());
    let mut saved = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut saved).unwrap();
    assert_eq!(decode(&saved).unwrap(), state);
    verify_memory(&memory, &state.memory).unwrap();
}

#[test]
fn changed_pages_are_runs() {
    let pages = [0b1011, 1 << 63, 1];
    let runs = |offset: u64, length: u64| -> Vec<(u64, u64)> {
        let runs = changed_runs(&pages, offset << 12, length << 12);
        runs.map(|(at, bytes)| (at >> 12, bytes >> 12)).collect()
    };
    assert_eq!(runs(0, 200), [(0, 2), (3, 1), (127, 2)]);
    assert_eq!(runs(1, 3), [(1, 1), (3, 1)]);
    assert_eq!(runs(128, 1), [(128, 1)]);
    assert_eq!(runs(4, 100), []);
}
