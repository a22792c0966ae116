//! Loads a thread's filter, which the build script compiled.

use std::io;

use libc::{sock_filter, sock_fprog};

use super::rule::{PLACEHOLDER, SLOTS, Thread};
use crate::error::Error;

mod compiled {
    include!(concat!(env!("OUT_DIR"), "/filters.rs"));
}

/// Opcode: compare with a constant (class of all `BPF_JMP`).
const JUMP: u16 = libc::BPF_JMP as u16;
const CLASS: u16 = 7;
/// Opcode: the filter's answer is a constant.
const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn program(thread: Thread) -> &'static [(u16, u8, u8, u32)] {
    match thread {
        Thread::Early => &compiled::EARLY,
        Thread::Start => &compiled::START,
        Thread::StartApi => &compiled::STARTAPI,
        Thread::StartOpen => &compiled::STARTOPEN,
        Thread::StartSaver => &compiled::STARTSAVER,
        Thread::Main => &compiled::MAIN,
        Thread::Control => &compiled::CONTROL,
        Thread::Opener => &compiled::OPENER,
        Thread::Saver => &compiled::SAVER,
        Thread::Vcpu => &compiled::VCPU,
        Thread::FirstVcpu => &compiled::FIRSTVCPU,
        Thread::Disk => &compiled::DISK,
        Thread::ReadOnly => &compiled::READONLY,
        Thread::Net => &compiled::NET,
        Thread::Reader => &compiled::READER,
    }
}

/// Puts the numbers where the program has their slots.
fn fill_in(thread: Thread, slots: &[u32; SLOTS], log: bool) -> Vec<sock_filter> {
    let number = |k: u32| {
        let slot = usize::try_from(k.checked_sub(PLACEHOLDER)?).ok()?;
        slots.get(slot).copied()
    };
    let instruction = |&(code, jt, jf, k): &(u16, u8, u8, u32)| {
        let k = match code {
            ANSWER if log && k == libc::SECCOMP_RET_KILL_PROCESS => libc::SECCOMP_RET_LOG,
            _ if code & CLASS == JUMP => number(k).unwrap_or(k),
            _ => k,
        };
        sock_filter { code, jt, jf, k }
    };
    program(thread).iter().map(instruction).collect()
}

/// Confines the calling thread; at the start of a VM all that there are.
pub(super) fn install(thread: Thread, slots: &[u32; SLOTS], log: bool) -> Result<(), Error> {
    let flags = match thread {
        Thread::Start | Thread::StartApi | Thread::StartOpen | Thread::StartSaver => {
            libc::SECCOMP_FILTER_FLAG_TSYNC
        }
        _ => 0,
    };
    let mut program = fill_in(thread, slots, log);
    let argument = sock_fprog {
        // At most 4096, or the kernel refuses it anyway.
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the argument describes a live array, which the kernel copies.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const argument)
    };
    if result == 0 {
        return Ok(());
    }
    let why = match result {
        // The number of a thread that has another filter already.
        1.. => io::ErrorKind::AlreadyExists.into(),
        _ => io::Error::last_os_error(),
    };
    Err(Error::System("seccomp filter", why))
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod tests;
