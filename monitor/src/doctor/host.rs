//! The host's kernel, processors and memory.

use super::reader::{Host, size, unreadable};
use super::report::{Level, Report, Verdict};

const ABOUT: &str = "host";
const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
const SWAPS: &str = "/proc/swaps";
/// Boot options that switch one mitigation off if they are `off`.
const OFF: &str = "pti spectre_v2 spectre_v2_user spectre_bhi spec_store_bypass_disable l1tf mds \
                   tsx_async_abort mmio_stale_data srbds gather_data_sampling \
                   reg_file_data_sampling retbleed spec_rstack_overflow \
                   indirect_target_selection tsa vmscape";
/// Memory of a VM for which none was stated.
const DEFAULT_MEMORY: u64 = 128 << 20;

pub(super) fn check(at: &Host, report: &mut Report) {
    let mut add = |point: &str, verdict| report.host(ABOUT, point, verdict);
    add("kernel", at.judge("/proc/sys/kernel/osrelease", kernel));
    match at.list(VULNERABILITIES) {
        Ok(names) => {
            let mut good = 0;
            for name in names {
                let verdict = at.judge(&format!("{VULNERABILITIES}/{name}"), vulnerability);
                match verdict.level {
                    Level::Fine => good += 1,
                    _ => add(&name, verdict),
                }
            }
            let found = format!("{good} known, not affected or mitigated");
            add(
                "CPU flaws",
                match good {
                    0 => Verdict::unknown(found),
                    _ => Verdict::fine(found),
                },
            );
        }
        Err(error) => add("CPU flaws", unreadable(VULNERABILITIES, &error)),
    }
    add("mitigations", at.judge("/proc/cmdline", mitigations));
    add("SMT", at.judge("/sys/devices/system/cpu/smt/active", smt));
    add("KSM", {
        // A kernel without it has the folder above.
        let none = at.has("/sys/kernel/mm") && !at.has("/sys/kernel/mm/ksm");
        match none {
            true => Verdict::fine("the kernel has none"),
            false => at.judge("/sys/kernel/mm/ksm/run", ksm),
        }
    });
    let encrypted = |device: &str| {
        let uuid = at.read(&format!("/sys/block/{device}/dm/uuid"));
        uuid.is_ok_and(|uuid| uuid.starts_with("CRYPT-"))
    };
    // Without the file the kernel was built without swap, or /proc is not there.
    let swap = match at.has(SWAPS) || !at.has("/proc/self") {
        true => at.judge(SWAPS, |text| swap(text, encrypted)),
        false => Verdict::fine("the kernel has none"),
    };
    add("swap", swap);
    add("core files", at.judge("/proc/sys/kernel/core_pattern", core));
    add("memory", at.judge("/proc/meminfo", memory));
    let huge = "/sys/kernel/mm/transparent_hugepage/enabled";
    add("huge pages", at.judge(huge, huge_pages));
}

/// Major and minor version in what `uname -r` prints.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

pub(super) fn kernel(release: &str) -> Verdict {
    let advice = "Mote needs Linux 5.10 or later";
    match version(release) {
        None => Verdict::unknown(release),
        Some(version) if version < (5, 10) => Verdict::missing(release, advice),
        Some(_) => Verdict::fine(release),
    }
}

/// One file of the kernel's list of CPU vulnerabilities
/// (Linux: Documentation/ABI/testing/sysfs-devices-system-cpu).
pub(super) fn vulnerability(text: &str) -> Verdict {
    let lower = text.to_lowercase();
    if lower == "not affected" {
        return Verdict::fine(text);
    }
    // A mitigation may be there and still leave something open, which is said
    // behind a semicolon.
    if lower.contains("smt vulnerable") {
        return Verdict::weak(text, "boot with nosmt, or mitigations=auto,nosmt");
    }
    if lower.contains("vulnerable") || lower.contains("ibpb: disabled") {
        let advice = "update firmware (microcode) and kernel, and boot without options that \
                      weaken mitigations";
        return Verdict::weak(text, advice);
    }
    if lower.contains("unknown") || !lower.contains("mitigation") {
        return Verdict::unknown(text);
    }
    Verdict::fine(text)
}

/// Whether an option of the kernel's command line takes mitigations away.
fn weakens(option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    match name.replace('-', "_").as_str() {
        "nopti"
        | "nospectre_v1"
        | "nospectre_v2"
        | "nospec_store_bypass_disable"
        | "nosmep"
        | "nosmap" => true,
        // Linux 6.17 and later take attack vectors out: auto,no_guest_host
        "mitigations" => value.contains("off") || value.contains("no_"),
        name if OFF.split(' ').any(|switch| switch == name) => value == "off",
        "kvm_intel.vmentry_l1d_flush" => value == "never",
        _ => false,
    }
}

pub(super) fn mitigations(cmdline: &str) -> Verdict {
    // Behind -- it is for init.
    let options = cmdline.split_whitespace().take_while(|word| *word != "--");
    let weak: Vec<&str> = options.filter(|option| weakens(option)).collect();
    if weak.is_empty() {
        return Verdict::fine("no boot option weakens them");
    }
    let advice = "boot without these options: guests may learn from each other and the host";
    Verdict::weak(weak.join(" "), advice)
}

pub(super) fn smt(active: &str) -> Verdict {
    match active {
        "0" => Verdict::fine("off"),
        "1" => {
            let advice = "guests on one core can watch each other: boot with nosmt, or echo off \
                          > /sys/devices/system/cpu/smt/control";
            Verdict::weak("on", advice)
        }
        other => Verdict::unknown(other),
    }
}

pub(super) fn ksm(run: &str) -> Verdict {
    match run {
        "0" | "2" => Verdict::fine("off"),
        "1" => {
            let advice = "merged pages tell guests what others have in memory: echo 2 > \
                          /sys/kernel/mm/ksm/run";
            Verdict::weak("on", advice)
        }
        other => Verdict::unknown(other),
    }
}

/// `encrypted` tells of a block device whether what is on it is encrypted.
pub(super) fn swap(swaps: &str, encrypted: impl Fn(&str) -> bool) -> Verdict {
    let names = swaps.lines().skip(1);
    let names: Vec<&str> = names.filter_map(|l| l.split_whitespace().next()).collect();
    let device = |name: &str| name.trim_start_matches("/dev/").to_owned();
    let in_memory = |name: &str| device(name).starts_with("zram");
    let open = |name: &&&str| !in_memory(name) && !encrypted(&device(name));
    let open: Vec<&str> = names.iter().filter(open).copied().collect();
    if !open.is_empty() {
        let advice = "guest memory may end up on that disk: swapoff, or encrypt it";
        return Verdict::weak(open.join(", "), advice);
    }
    match names.as_slice() {
        [] => Verdict::fine("none"),
        names => Verdict::fine(format!("{}: encrypted or in memory", names.join(", "))),
    }
}

pub(super) fn core(pattern: &str) -> Verdict {
    if pattern.starts_with('|') || pattern.starts_with('@') {
        // RLIMIT_CORE does not hold for these; that the process is not dumpable
        // does.
        let advice = "a VM without its sandbox (--no-sandbox) that crashes hands guest memory \
                      to it: sysctl kernel.core_pattern=core";
        return Verdict::weak(pattern, advice);
    }
    let found = match pattern {
        "" => "none",
        pattern => pattern,
    };
    Verdict::fine(format!("{found}; a VM leaves none"))
}

/// A line of `/proc/meminfo`, in its unit.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let value = line?.trim_start_matches(':');
    value.split_whitespace().next()?.parse().ok()
}

pub(super) fn memory(meminfo: &str) -> Verdict {
    let kib = |name| field(meminfo, name).and_then(|kib| kib.checked_mul(1024));
    let Some(available) = kib("MemAvailable") else {
        return Verdict::unknown("/proc/meminfo has no MemAvailable");
    };
    let mut found = format!("{} available", size(available));
    if let Some(total) = kib("MemTotal") {
        found += &format!(" of {}", size(total));
    }
    let pool = field(meminfo, "HugePages_Total").zip(kib("Hugepagesize"));
    if let Some((pages @ 1.., each)) = pool {
        let pool = size(pages.saturating_mul(each));
        found += &format!("; {pool} reserved for --hugepages 2M");
    }
    if available < DEFAULT_MEMORY {
        return Verdict::weak(found, "not enough for a VM of 128 MiB: free some");
    }
    Verdict::fine(found)
}

pub(super) fn huge_pages(enabled: &str) -> Verdict {
    let chosen = enabled.split_whitespace().find(|word| word.starts_with('['));
    match chosen {
        Some("[always]") => Verdict::fine("transparent: always"),
        Some("[madvise]") => Verdict::fine("transparent: with --hugepages thp"),
        Some(_) => {
            let advice = "--hugepages thp has no effect: echo madvise > \
                          /sys/kernel/mm/transparent_hugepage/enabled";
            Verdict::weak("transparent: never", advice)
        }
        None => Verdict::unknown(enabled),
    }
}
