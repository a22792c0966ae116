//! Notices a guest that waits for a device which this machine does not have, so that its
//! user learns why nothing happens.

use std::time::{Duration, Instant};

use crate::host::console;

/// A guest that polls for this long waits.
const WAIT: Duration = Duration::from_secs(1);
/// One that looks less often does something else meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// A place without a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An I/O port.
    Port(u16),
    /// An address that is not RAM.
    Address(u64),
}

impl Place {
    /// What a PC has there.
    fn name(self) -> &'static str {
        match self {
            Self::Port(0x20 | 0x21 | 0xa0 | 0xa1) => " (8259 interrupt controller)",
            Self::Port(0x40..=0x43 | 0x61) => " (8254 timer)",
            Self::Port(0x60) => " (keyboard)",
            Self::Port(0x1f0..=0x1f7 | 0x170..=0x177) => " (IDE)",
            Self::Port(0x2f8..=0x2ff) => " (COM2)",
            Self::Port(0x3b0..=0x3df) => " (VGA)",
            Self::Port(0xcf8..=0xcff) => " (PCI configuration)",
            Self::Port(0x608..=0x60b) => " (ACPI timer)",
            Self::Address(0xa_0000..=0xb_ffff) => " (VGA)",
            Self::Address(0xfed0_0000..=0xfed0_03ff) => " (HPET)",
            _ => "",
        }
    }
}

/// A vCPU's reads of one place in a row.
#[derive(Debug, Default)]
pub(super) struct Waits {
    reads: Option<Reads>,
    told: bool,
}

#[derive(Debug)]
struct Reads {
    place: Place,
    first: Instant,
    last: Instant,
}

impl Waits {
    /// The vCPU read `place`, where nothing is, at `now`; the place, once, if its guest waits.
    fn read(&mut self, place: Place, now: Instant) -> Option<Place> {
        let again = |reads: &&mut Reads| reads.place == place && now - reads.last < PAUSE;
        match self.reads.as_mut().filter(again) {
            Some(reads) => {
                reads.last = now;
                let waits = !self.told && now - reads.first >= WAIT;
                self.told |= waits;
                waits.then_some(place)
            }
            None => {
                self.reads = Some(Reads { place, first: now, last: now });
                None
            }
        }
    }

    /// Reports once that the guest polls a missing device.
    pub(super) fn missed(&mut self, place: Place) {
        if let Some(place) = self.read(place, Instant::now()) {
            let what = match place {
                Place::Port(port) => format!("port {port:#x}"),
                Place::Address(address) => format!("address {address:#x}"),
            };
            console::say(&format!(
                "mote: the guest waits for {what}{}, which this machine does not have: see \
                 \"Kernels of others\" in monitor/docs/boot.md\r\n",
                place.name()
            ));
        }
    }

    /// The vCPU met a device.
    pub(super) fn met(&mut self) {
        self.reads = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls port 0x40 `count` times at this interval; returns the number of reports.
    fn told(waits: &mut Waits, apart: Duration, count: u32) -> usize {
        let begin = Instant::now();
        (0..count).filter_map(|at| waits.read(Place::Port(0x40), begin + apart * at)).count()
    }

    #[test]
    fn only_who_looks_all_the_time_waits() {
        let mut waits = Waits::default();
        assert_eq!(told(&mut waits, PAUSE, 1000), 0, "seldom");
        assert_eq!(told(&mut waits, PAUSE / 2, 15), 0, "not for long");
        waits.met();
        assert_eq!(told(&mut waits, PAUSE / 2, 15), 0, "a device in between");
        let begin = Instant::now();
        for at in 0..10_000 {
            let place = Place::Port(0x40 + at % 2);
            assert_eq!(waits.read(place, begin + PAUSE / 2 * at.into()), None, "by turns");
        }
        waits.met();
        assert_eq!(told(&mut waits, PAUSE / 2, 1000), 1, "once");
        assert_eq!(told(&mut waits, PAUSE / 2, 1000), 0, "once");
    }
}
