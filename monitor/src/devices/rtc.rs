//! The clock chip of a PC (MC146818), for guests without ACPI or kvmclock that ask it for the
//! time: the host's, in UTC. It has no alarm, no interrupt and no memory, and cannot be set.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

/// Registers of the time (MC146818A, table 2), and of the century, where PCs have it.
const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const CENTURY: u8 = 0x32;
/// Status register A: the oscillator runs, and no update is in progress.
const STATUS_A: (u8, u8) = (0xa, 0x26);
/// Status register B: 24 hours, BCD, no interrupts.
const STATUS_B: (u8, u8) = (0xb, 0x02);
/// Status register D: the time is valid.
const STATUS_D: (u8, u8) = (0xd, 0x80);

/// The chip: which register is selected.
#[derive(Debug, Default)]
pub struct Rtc(AtomicU8);

impl Rtc {
    /// Selects the register that is read next; the uppermost bit is NMI's.
    pub fn select(&self, register: u8) {
        self.0.store(register & 0x7f, Ordering::Relaxed);
    }

    /// Number of the selected register.
    pub fn selected(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// Reads the selected register.
    pub fn read(&self) -> u8 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        read(self.selected(), now.map_or(0, |now| now.as_secs()))
    }
}

/// A register at a time in seconds since 1970.
fn read(register: u8, now: u64) -> u8 {
    let days = now / 86_400;
    let (year, month, day) = date(days);
    let value = match register {
        SECONDS => now % 60,
        MINUTES => now / 60 % 60,
        HOURS => now / 3600 % 24,
        // The first day was a Thursday; Sunday is 1.
        WEEKDAY => (days + 4) % 7 + 1,
        DAY => day,
        MONTH => month,
        YEAR => year % 100,
        CENTURY => year / 100 % 100,
        _ => {
            let status = [STATUS_A, STATUS_B, STATUS_D].into_iter();
            return status.filter(|(at, _)| *at == register).map(|(_, value)| value).sum();
        }
    };
    // Two digits, by the remainders above.
    (value / 10 * 16 + value % 10) as u8
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // In years that begin in March, so that a leap day is a year's last: 400 of them have
    // 146,097 days. The first of March of the year 0 was 719,468 days before 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months in turn have 153 days.
    let month = (5 * day + 2) / 153;
    let next = month >= 10;
    let first = (153 * month + 2) / 5;
    (era * 400 + year + u64::from(next), if next { month - 9 } else { month + 3 }, day - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, minutes, hours, weekday, day, month, year, century.
    fn all(now: u64) -> [u8; 8] {
        [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY].map(|at| read(at, now))
    }

    #[test]
    fn the_time_is_told_in_decimal_digits() {
        assert_eq!(all(0), [0, 0, 0, 5, 1, 1, 0x70, 0x19]);
        assert_eq!(all(951_782_399), [0x59, 0x59, 0x23, 2, 0x28, 2, 0, 0x20]);
        assert_eq!(all(951_782_400), [0, 0, 0, 3, 0x29, 2, 0, 0x20]);
        assert_eq!(all(1_796_083_200), [0, 0, 0, 3, 1, 0x12, 0x26, 0x20]);
        assert_eq!(all(4_107_542_399), [0x59, 0x59, 0x23, 1, 0x28, 2, 0, 0x21]);
        assert_eq!(all(4_107_542_400), [0, 0, 0, 2, 1, 3, 0, 0x21]);
    }

    /// Days follow each other for 500 years.
    #[test]
    fn the_calendar_has_no_gaps() {
        let mut last = date(0);
        for days in 1..180_000 {
            let (year, month, day) = date(days);
            let length = match last.1 {
                2 if last.0.is_multiple_of(if last.0.is_multiple_of(100) { 400 } else { 4 }) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match last {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == length => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!((year, month, day), next);
            last = next;
        }
    }

    /// Every other register reads 0: no alarm, no interrupt, no memory.
    #[test]
    fn nothing_else_is_there() {
        let rtc = Rtc::default();
        for register in 0..=255 {
            rtc.select(register);
            let known = [0, 2, 4, 6, 7, 8, 9, 0xa, 0xb, 0xd, 0x32].contains(&(register & 0x7f));
            assert!(known || rtc.read() == 0, "{register:#x}");
        }
        rtc.select(0x8a);
        assert_eq!((rtc.selected(), rtc.read()), (0xa, 0x26));
    }
}
