use crate::working_set::{Touched, decode, encode};
use crate::{Error, MemoryV1};

const MIB: u64 = 1 << 20;

fn memory() -> MemoryV1 {
    MemoryV1 {
        id: [7; 16],
        sum: [0; 32],
        base: None,
        ranges: vec![(0, 2 * MIB), (4096 * MIB, MIB)],
    }
}

fn touched(offset: u64, length: u64, written: bool) -> Touched {
    Touched { offset, length, written }
}

fn ranges() -> Vec<Touched> {
    vec![touched(0, 4096, true), touched(4096, 8192, false), touched(3 * MIB - 4096, 4096, true)]
}

#[test]
fn what_was_written_is_read() {
    let file = encode([7; 16], &ranges());
    assert_eq!(file.len(), 64 + 3 * 8);
    assert_eq!(decode(&file, &memory()).unwrap(), ranges());
    assert_eq!(decode(&encode([7; 16], &[]), &memory()).unwrap(), []);
}

#[test]
fn every_other_byte_is_refused() {
    let good = encode([7; 16], &ranges());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        decode(&bad, &memory()).unwrap_err();
        decode(&good[..at], &memory()).unwrap_err();
    }
    let foreign = encode([8; 16], &ranges());
    let refused = decode(&foreign, &memory());
    assert!(matches!(refused, Err(Error::OtherMemory)));
}

#[test]
fn no_range_leaves_memory_or_meets_another() {
    let bad: [&[Touched]; 5] = [
        &[touched(3 * MIB, 4096, false)],
        &[touched(2 * MIB, MIB + 4096, false)],
        &[touched(0, 0, false)],
        &[touched(4096, 4096, true), touched(0, 4096, true)],
        &[touched(0, 8192, true), touched(4096, 4096, true)],
    ];
    for ranges in bad {
        let refused = decode(&encode([7; 16], ranges), &memory());
        assert!(matches!(refused, Err(Error::Field(_))), "{ranges:?}");
    }
    let whole = [touched(0, 3 * MIB, true)];
    assert_eq!(decode(&encode([7; 16], &whole), &memory()).unwrap(), whole);
}
