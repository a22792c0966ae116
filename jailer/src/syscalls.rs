//! Names of the system calls of x86-64, to say which one ended a program.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::sleep;
use std::time::Duration;

/// The numbers and names, one call a line.
const NAMES: &str = include_str!("syscalls.txt");

/// The name of a system call, or its number if it is newer than this list.
fn name(number: u64) -> String {
    let line = format!("{number} ");
    let found = NAMES.lines().find_map(|call| call.strip_prefix(&line));
    found.map_or_else(|| format!("number {number}"), str::to_owned)
}

/// Which thread made which system call, if the kernel's log may be read. The
/// record comes there a moment after the end.
pub fn refused(pid: i32) -> Option<String> {
    for _ in 0..50 {
        if let Some(found) = kernel_log()?.lines().rev().find_map(|line| refusal(line, pid)) {
            return Some(found);
        }
        sleep(Duration::from_millis(4));
    }
    None
}

fn kernel_log() -> Option<String> {
    let mut options = std::fs::OpenOptions::new();
    let mut log: File = options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut text = String::new();
    // Not on the stack, where it would cost every start page faults.
    let mut record = vec![0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(len) => text += &String::from_utf8_lossy(record.get(..len).unwrap_or_default()),
            // Overwritten meanwhile: read the next.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => break,
        }
    }
    Some(text)
}

/// Reads an audit record of seccomp (type 1326).
fn refusal(line: &str, pid: i32) -> Option<String> {
    if !line.contains("type=1326 ") {
        return None;
    }
    let value = |key: &str| {
        let mut words = line.split([' ', ';']);
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    if value("pid")?.parse() != Ok(pid) {
        return None;
    }
    let call = value("syscall")?.parse().ok()?;
    let thread = value("comm")?.trim_matches('"');
    Some(format!("thread {thread}, system call {}", name(call)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_names() {
        for (number, text) in [
            (libc::SYS_read, "read"),
            (libc::SYS_execve, "execve"),
            (libc::SYS_rseq, "rseq"),
            (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_mseal, "mseal"),
        ] {
            assert_eq!(name(number.cast_unsigned()), text);
        }
        assert_eq!(name(400), "number 400");
        assert_eq!(name(u64::MAX), format!("number {}", u64::MAX));
    }

    #[test]
    fn a_refused_call_is_read_from_the_log() {
        let line = "5,12,345,-;audit: type=1326 audit(1.2:3): auid=1 uid=9 gid=9 ses=1 pid=77 \
                    comm=\"vcpu0\" exe=\"/mote\" sig=31 arch=c000003e syscall=41 compat=0 ip=0x1 \
                    code=0x80000000";
        let want = "thread vcpu0, system call socket";
        assert_eq!(refusal(line, 77).as_deref(), Some(want));
        assert_eq!(refusal(line, 7), None);
        assert_eq!(refusal("type=1327 pid=77", 77), None);
    }
}
