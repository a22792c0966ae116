//! All checks, in their order.

use std::path::PathBuf;

use super::image::Image;
use super::reader::Host;
use super::report::{Report, Verdict};
use super::{host, kvm, sandbox};
use crate::sandbox::confine_reader;

/// A check of the host: what it is about, which point of that, and how it is made.
type Check = (&'static str, &'static str, fn(&Host) -> Verdict);

/// The only point with separate lines before it.
const FLAWS: &str = "CPU flaws";

const CHECKS: [Check; 21] = [
    ("host", "kernel", |at| at.judge("/proc/sys/kernel/osrelease", host::kernel)),
    ("host", FLAWS, host::flaws),
    ("host", "mitigations", |at| at.judge("/proc/cmdline", host::mitigations)),
    ("host", "SMT", |at| at.judge("/sys/devices/system/cpu/smt/active", host::smt)),
    ("host", "KSM", host::merging),
    ("host", "swap", host::swaps),
    ("host", "core files", |at| at.judge("/proc/sys/kernel/core_pattern", host::core)),
    ("host", "memory", |at| at.judge("/proc/meminfo", host::memory)),
    ("host", "huge pages", |at| at.judge(host::HUGE_PAGES, host::huge_pages)),
    ("KVM", "module", kvm::modules),
    ("KVM", kvm::DEVICE, kvm::access),
    ("KVM", "capabilities", kvm::abilities),
    ("KVM", "vCPUs", kvm::most_vcpus),
    ("KVM", "nx_huge_pages", kvm::guest_huge_pages),
    ("KVM", "favordynmods", kvm::group_options),
    ("sandbox", "Landlock", sandbox::own_landlock),
    ("sandbox", "seccomp", |at| {
        at.judge("/proc/sys/kernel/seccomp/actions_avail", sandbox::seccomp)
    }),
    ("sandbox", "user namespaces", sandbox::namespaces),
    ("sandbox", "control groups", sandbox::control_groups),
    ("network", sandbox::TUN, sandbox::tun),
    ("network", "taps", sandbox::own_taps),
];

/// Examines the host and the images, whose bytes are not trusted: the process
/// is confined for good before it reads any.
pub fn examine(at: &Host, images: &[PathBuf]) -> Report {
    let mut report = Report::default();
    for (about, point, check) in CHECKS {
        if point == FLAWS {
            for (name, verdict) in host::open_flaws(at) {
                report.host(about, &name, verdict);
            }
        }
        report.host(about, point, check(at));
    }
    if images.is_empty() {
        return report;
    }
    let images: Vec<Image> = images.iter().map(|path| Image::open(path)).collect();
    let numbers = images.iter().filter_map(Image::number);
    let confined = confine_reader(numbers, std::iter::empty(), None);
    for image in images {
        image.report(confined.as_ref().copied(), &mut report);
    }
    report
}
