//! Plays a thread that has been taken over, for tests that try to get out. It
//! is in no release: see the feature `breakout`.
//!
//! The variable `MOTE_BREAKOUT` is `THREAD:CALL;CALL…`, each call a number and
//! up to six arguments with commas between: a number, `@Slot` for what is in a
//! slot, `"text` or `~hex` for the address of a string or of bytes, `*` for that
//! of a page to write to, `$` for what the call before returned.

use std::ffi::CString;

use super::rule::{SLOTS, Slot};
use crate::host::console;

/// A page of anybody's.
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "only its address matters")] [u8; 4096]);
static mut PAGE: Page = Page([0; 4096]);

const NAMES: [(&str, Slot); 12] = [
    ("Kernel", Slot::Kernel),
    ("Initrd", Slot::Initrd),
    ("Vm", Slot::Vm),
    ("Vcpu", Slot::Vcpu),
    ("VcpuFirst", Slot::VcpuFirst),
    ("EventFirst", Slot::EventFirst),
    ("Wake", Slot::Wake),
    ("ConsoleIn", Slot::ConsoleIn),
    ("ConsoleOut", Slot::ConsoleOut),
    ("Own", Slot::Own),
    ("Doorbell", Slot::Doorbell),
    ("Process", Slot::Process),
];

/// Makes the calls meant for `thread`, and says what came of each.
pub(super) fn attempt(thread: &str, slots: &[u32; SLOTS]) {
    let Some(text) = orders() else { return };
    let Some(calls) = text.strip_prefix(thread).and_then(|t| t.strip_prefix(':')) else {
        return;
    };
    let mut last = 0;
    for call in calls.split(';') {
        let mut numbers = [0; 7];
        for (number, word) in numbers.iter_mut().zip(call.split(',')) {
            *number = argument(word, slots, last);
        }
        let [number, a, b, c, d, e, f] = numbers;
        // SAFETY: none; whoever has taken over the process asks for no leave.
        last = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        if last < 0 {
            // As the kernel returns it.
            last = -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
        }
        console::say(&format!("breakout: {thread} {number} = {last}\n"));
    }
}

/// The variable; where there is no environment, as in a jail, a word of that
/// form among the arguments, such as the guest's command line.
fn orders() -> Option<String> {
    let argument = |word: String| word.strip_prefix("MOTE_BREAKOUT=").map(str::to_owned);
    std::env::var("MOTE_BREAKOUT").ok().or_else(|| std::env::args().find_map(argument))
}

fn argument(word: &str, slots: &[u32; SLOTS], last: i64) -> i64 {
    if let Some(name) = word.strip_prefix('@') {
        let slot = NAMES.iter().find(|(known, _)| *known == name);
        let number = slot.and_then(|(_, slot)| slots.get(*slot as usize));
        return number.map_or(-1, |number| i64::from(number.cast_signed()));
    }
    if let Some(text) = word.strip_prefix('"') {
        return CString::new(text).map_or(0, |text| text.into_raw() as i64);
    }
    if let Some(hex) = word.strip_prefix('~') {
        let digits = |at| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map_while(digits).collect();
        return bytes.leak().as_ptr() as i64;
    }
    match word {
        "*" => &raw mut PAGE as i64,
        "$" => last,
        _ => word.parse().unwrap_or(0),
    }
}
