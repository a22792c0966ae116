//! The host's kernel, processors and memory.

use super::reader::{Host, size, unreadable};
use super::report::{Level, Verdict};

const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
const SWAPS: &str = "/proc/swaps";
pub(super) const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Boot options that switch one mitigation off if they are `off`.
const OFF: &str = "pti spectre_v2 spectre_v2_user spectre_bhi spec_store_bypass_disable l1tf mds \
                   tsx_async_abort mmio_stale_data srbds gather_data_sampling \
                   reg_file_data_sampling retbleed spec_rstack_overflow \
                   indirect_target_selection tsa vmscape";
/// Boot options that switch one off by being there.
const NO: &str = "nopti nospectre_v1 nospectre_v2 nospec_store_bypass_disable nosmep nosmap";

/// Memory of a VM for which none was stated.
const DEFAULT_MEMORY: u64 = 128 << 20;

/// CPU flaws that the kernel does not call mitigated.
pub(super) fn open_flaws(at: &Host) -> Vec<(String, Verdict)> {
    let names = at.list(VULNERABILITIES).unwrap_or_default();
    let all = names.into_iter().map(|name| {
        let verdict = at.judge(&format!("{VULNERABILITIES}/{name}"), vulnerability);
        (name, verdict)
    });
    all.filter(|(_, verdict)| verdict.level != Level::Fine).collect()
}

pub(super) fn flaws(at: &Host) -> Verdict {
    match at.list(VULNERABILITIES).map(|all| all.len() - open_flaws(at).len().min(all.len())) {
        Ok(0) => Verdict::unknown("0 known, not affected or mitigated"),
        Ok(good) => Verdict::fine(format!("{good} known, not affected or mitigated")),
        Err(error) => unreadable(VULNERABILITIES, &error),
    }
}

pub(super) fn merging(at: &Host) -> Verdict {
    // A kernel without it has the folder above.
    match at.has("/sys/kernel/mm") && !at.has("/sys/kernel/mm/ksm") {
        true => Verdict::fine("the kernel has none"),
        false => at.judge("/sys/kernel/mm/ksm/run", ksm),
    }
}

pub(super) fn swaps(at: &Host) -> Verdict {
    let encrypted = |device: &str| {
        let uuid = at.read(&format!("/sys/block/{device}/dm/uuid"));
        uuid.is_ok_and(|uuid| uuid.starts_with("CRYPT-"))
    };
    // Without the file the kernel was built without swap, or /proc is not there.
    match at.has(SWAPS) || !at.has("/proc/self") {
        true => at.judge(SWAPS, |text| swap(text, encrypted)),
        false => Verdict::fine("the kernel has none"),
    }
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
    let name = name.replace('-', "_");
    let is_in = |list: &str| list.split(' ').any(|option| option == name);
    match name.as_str() {
        _ if is_in(NO) => true,
        // Linux 6.17 and later take attack vectors out: auto,no_guest_host
        "mitigations" => value.contains("off") || value.contains("no_"),
        _ if is_in(OFF) => value == "off",
        "kvm_intel.vmentry_l1d_flush" => value == "never",
        _ => false,
    }
}

pub(super) fn mitigations(cmdline: &str) -> Verdict {
    // Behind -- it is for init.
    let options = cmdline.split_whitespace().take_while(|word| *word != "--");
    let weak: Vec<&str> = options.filter(|option| weakens(option)).collect();
    let advice = "boot without these options: guests may learn from each other and the host";
    match weak.is_empty() {
        true => Verdict::fine("no boot option weakens them"),
        false => Verdict::weak(weak.join(" "), advice),
    }
}

pub(super) fn smt(active: &str) -> Verdict {
    let advice = "guests on one core can watch each other: boot with nosmt, or echo off \
                  > /sys/devices/system/cpu/smt/control";
    match active {
        "0" => Verdict::fine("off"),
        "1" => Verdict::weak("on", advice),
        other => Verdict::unknown(other),
    }
}

pub(super) fn ksm(run: &str) -> Verdict {
    let advice = "merged pages tell guests what others have in memory: echo 2 > \
                  /sys/kernel/mm/ksm/run";
    match run {
        "0" | "2" => Verdict::fine("off"),
        "1" => Verdict::weak("on", advice),
        other => Verdict::unknown(other),
    }
}

/// `encrypted` tells of a block device whether what is on it is encrypted.
pub(super) fn swap(swaps: &str, encrypted: impl Fn(&str) -> bool) -> Verdict {
    let names = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let (open, closed): (Vec<&str>, Vec<&str>) = names.partition(|name| {
        let device = name.trim_start_matches("/dev/");
        !device.starts_with("zram") && !encrypted(device)
    });
    let advice = "guest memory may end up on that disk: swapoff, or encrypt it";
    match (open.is_empty(), closed.is_empty()) {
        (false, _) => Verdict::weak(open.join(", "), advice),
        (true, true) => Verdict::fine("none"),
        (true, false) => Verdict::fine(format!("{}: encrypted or in memory", closed.join(", "))),
    }
}

pub(super) fn core(pattern: &str) -> Verdict {
    match pattern.get(..1) {
        // RLIMIT_CORE does not hold for these; that the process is not dumpable
        // does.
        Some("|" | "@") => {
            let advice = "a VM without its sandbox (--no-sandbox) that crashes hands guest memory \
                          to it: sysctl kernel.core_pattern=core";
            Verdict::weak(pattern, advice)
        }
        None => Verdict::fine("none; a VM leaves none"),
        Some(_) => Verdict::fine(format!("{pattern}; a VM leaves none")),
    }
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
    let advice = "not enough for a VM of 128 MiB: free some";
    Verdict::fine_if(available >= DEFAULT_MEMORY, found, advice)
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
