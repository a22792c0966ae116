//! In how many pieces a frame goes to the tap and comes from it.

use std::time::Duration;

use super::HEADER_LEN;
use super::fake::{DATA, Rig};
use crate::Step;

/// Up to 2 KiB it is copied; from there on its data is sent from where it is.
#[test]
fn a_small_frame_is_sent_in_one_piece() {
    for (len, pieces) in [(14, 0), (60, 0), (1514, 0), (2048, 0), (2049, 2), (65536, 2)] {
        let mut rig = Rig::new();
        let frame: Vec<u8> = (0..len).map(|i| (i * 5 + len) as u8).collect();
        rig.fill(DATA + HEADER_LEN as u64, &frame);
        // The header with the first bytes, and the others.
        let first = HEADER_LEN as u32 + 7;
        let rest = len as u32 - 7;
        let tail = DATA + u64::from(first);
        rig.tx.send(&[(DATA, first, false), (tail, rest, false)]);
        assert!(rig.run_tx().signal);
        let copied = if pieces == 0 { len } else { 0 };
        let seen = *rig.wire.last_write.lock().unwrap();
        assert_eq!(seen, (HEADER_LEN + copied, pieces), "{len}");
        let sent = rig.wire.sent.lock().unwrap().pop().unwrap();
        assert_eq!(sent, (vec![0; HEADER_LEN], frame), "{len}");
    }
}

/// As many buffers are offered to the tap as the frames of late filled; what
/// is larger arrives whole all the same.
#[test]
fn buffers_are_offered_as_they_are_used() {
    let mut rig = Rig::new();
    let offered = |rig: &Rig| rig.wire.last_read.lock().unwrap().len();
    for i in 0..60 {
        rig.rx.send(&[(DATA + 2048 * i, 2048, true)]);
    }
    let mut at = DATA;
    for (len, pieces) in [
        (100, 1),
        (2048, 1),
        (2049, 1),
        (20_000, 2),
        (20_000, 10),
        (100, 10),
        (100, 5),
        (100, 3),
        (2060, 2),
        (30_000, 2),
    ] {
        let mut frame = rig.arrive(len);
        let outcome = rig.net.run_rx(&mut rig.rx_worker, Duration::ZERO, 1);
        assert_eq!(outcome.step, Step::More);
        assert_eq!(offered(&rig), pieces, "{len}");
        let buffers = len.div_ceil(2048);
        assert_eq!(rig.rx.drain().len(), buffers);
        frame[10..12].copy_from_slice(&(buffers as u16).to_le_bytes());
        assert_eq!(rig.guest(at, len), frame, "{len}");
        at += 2048 * buffers as u64;
    }
}
