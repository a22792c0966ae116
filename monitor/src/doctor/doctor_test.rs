//! What the checks say of hosts of several kinds, and of none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Level::{Fine, InUse, Missing, Unknown, Weak};
use super::reader::size;
use super::sandbox::{Who, group_mount};
use super::{Host, Level, Report, Verdict, examine, host, image, kvm, sandbox};
use crate::error::exit;

fn all(judge: impl Fn(&str) -> Verdict, cases: &[(&str, Level)]) {
    for (text, level) in cases {
        let verdict = judge(text);
        assert_eq!(verdict.level, *level, "{text}: {verdict:?}");
        let to_do = matches!(level, Weak | Missing);
        assert_eq!(!verdict.advice.is_empty(), to_do, "{text}: {verdict:?}");
    }
}

#[test]
fn kernels_by_their_version() {
    let cases = [
        ("5.10.0-28-amd64", Fine),
        ("6.8.0-45-generic", Fine),
        ("6.18.44", Fine),
        ("7.0-rc1", Fine),
        ("5.4.0-150-generic", Missing),
        ("4.18.0-553.el8_10.x86_64", Missing),
        ("", Unknown),
        ("gentoo", Unknown),
        ("99999999999.1", Unknown),
    ];
    all(host::kernel, &cases);
}

#[test]
fn vulnerabilities_of_intel_amd_and_guests() {
    let cases = [
        ("Not affected", Fine),
        ("Mitigation: PTI", Fine),
        ("Mitigation: Safe RET", Fine),
        ("KVM: Mitigation: VMX disabled", Fine),
        ("Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable", Weak),
        ("Mitigation: Clear CPU buffers; SMT Host state unknown", Unknown),
        ("Vulnerable: Clear CPU buffers attempted, no microcode", Weak),
        ("Vulnerable", Weak),
        ("KVM: Vulnerable", Weak),
        ("Processor vulnerable", Weak),
        ("Mitigation: Retpolines; IBPB: disabled; STIBP: disabled; RSB filling", Weak),
        ("Mitigation: Retpolines; IBPB: conditional; STIBP: disabled; BHI: Vulnerable", Weak),
        (
            "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; STIBP: always-on; RSB \
             filling; PBRSB-eIBRS: SW sequence; BHI: BHI_DIS_S",
            Fine,
        ),
        ("Unknown: Dependent on hypervisor status", Unknown),
        ("Something new", Unknown),
        ("", Unknown),
    ];
    all(host::vulnerability, &cases);
}

#[test]
fn boot_options_that_weaken() {
    let cases = [
        ("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet", Fine),
        ("mitigations=auto,nosmt", Fine),
        ("l1tf=full,force spectre_v2=on", Fine),
        ("quiet -- mitigations=off", Fine),
        ("", Fine),
        ("ro mitigations=off", Weak),
        ("mitigations=auto,no_guest_host,no_guest_guest", Weak),
        ("mitigations=auto;no_cross_thread", Weak),
        ("nopti", Weak),
        ("kvm-intel.vmentry_l1d_flush=never", Weak),
        ("retbleed=off", Weak),
    ];
    all(host::mitigations, &cases);
    let found = host::mitigations("ro nopti quiet mds=off").found;
    assert_eq!(found, "nopti mds=off");
}

#[test]
fn one_word_settings() {
    all(host::smt, &[("0", Fine), ("1", Weak), ("", Unknown)]);
    let ksm = [("0", Fine), ("1", Weak), ("2", Fine), ("x", Unknown)];
    all(host::ksm, &ksm);
    let pipe = "|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h";
    all(host::core, &[("core", Fine), ("", Fine), (pipe, Weak)]);
    let huge = [
        ("[always] madvise never", Fine),
        ("always [madvise] never", Fine),
        ("always madvise [never]", Weak),
        ("always", Unknown),
    ];
    all(host::huge_pages, &huge);
    let actions = "kill_process kill_thread trap errno user_notif trace log allow";
    let seccomp = [
        (actions, Fine),
        ("kill_process trap errno allow", Weak),
        ("kill_thread trap errno trace allow", Missing),
        ("", Missing),
    ];
    all(sandbox::seccomp, &seccomp);
}

#[test]
fn swap_in_memory_and_encrypted_is_fine() {
    let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
    let swap = |names: &str| host::swap(&format!("{head}{names}"), |device| device == "dm-1");
    let cases = [
        ("", Fine),
        ("/dev/zram0 partition 8388604 0 100", Fine),
        ("/dev/dm-1 partition 8388604 0 -2", Fine),
        ("/dev/dm-2 partition 8388604 0 -2", Weak),
        ("/swap.img file 2097148 0 -2", Weak),
        ("/dev/zram0 partition 9 0 1\n/swap.img file 9 0 -2", Weak),
    ];
    all(swap, &cases);
    assert_eq!(host::swap("", |_| false).level, Fine);
}

#[test]
fn memory_by_what_is_available() {
    let some = |available: &str| host::memory(&format!("MemTotal: 99 kB\n{available}"));
    let cases = [
        ("MemAvailable:   23859000 kB", Fine),
        ("MemAvailable:     131071 kB", Weak),
        ("MemFree:          131071 kB", Unknown),
        ("MemAvailable:", Unknown),
        ("MemAvailable:   99999999999999999999 kB", Unknown),
    ];
    all(some, &cases);
    let pool = "MemAvailable: 900000 kB\nHugePages_Total: 512\nHugepagesize: 2048 kB";
    assert!(some(pool).found.contains("1.0 GiB reserved"));
    assert_eq!(size(u64::MAX), "16777215.9 TiB");
    assert_eq!(size(1023), "1023 bytes");
}

#[test]
fn modules_or_what_to_load() {
    let loaded = |name: &str| kvm::module(&["kvm".to_owned(), name.to_owned()], "", true);
    all(loaded, &[("kvm_amd", Fine), ("kvm_intel", Fine)]);
    all(loaded, &[("kvm_pvm", Weak), ("ext4", Unknown)]);
    for (flags, advice) in [
        ("processor: 0\nflags\t\t: fpu vme svm", "modprobe kvm_amd"),
        ("flags\t\t: fpu vmx est", "modprobe kvm_intel"),
        ("flags\t\t: fpu hypervisor", "nested"),
        ("flags\t\t: fpu", "firmware"),
        ("", "firmware"),
    ] {
        let verdict = kvm::module(&[], flags, false);
        assert_eq!(verdict.level, Missing);
        assert!(verdict.advice.contains(advice), "{verdict:?}");
    }
}

#[test]
fn kvm_by_its_answers() {
    let owned = |code, owner| {
        let verdict = kvm::device(Err(io::Error::from_raw_os_error(code)), owner, 1000);
        assert_eq!(verdict.level, Missing);
        verdict.advice
    };
    assert_eq!(kvm::device(Ok(()), None, 0).level, Fine);
    assert!(owned(libc::ENOENT, None).contains("module"));
    // A group lets a user in only if it is one that users are in, and may write.
    let join = "usermod -aG $(getent group 104 | cut -d: -f1) $(id -un 1000)";
    assert!(owned(libc::EACCES, Some((104, 0o20660))).contains(join));
    for owner in [(0, 0o20660), (104, 0o20600), (0, 0o20600)] {
        let advice = owned(libc::EACCES, Some(owner));
        assert!(advice.contains("chgrp kvm /dev/kvm"), "{advice}");
    }
    owned(libc::EIO, None);
    assert_eq!(kvm::capabilities(12, &[]).level, Fine);
    assert_eq!(kvm::capabilities(-1, &[]).level, Missing);
    let lacking = kvm::capabilities(12, &["IRQFD", "XSAVE"]);
    assert_eq!((lacking.level, &*lacking.found), (Missing, "no IRQFD, XSAVE"));
    assert_eq!(kvm::vcpus(4).level, Weak);
    assert_eq!(kvm::vcpus(4096).level, Fine);
}

#[test]
fn huge_pages_of_guests() {
    let cases = |flaw: &'static str, cases: &[(&str, Level)]| {
        all(|setting| kvm::nx_huge_pages(setting, flaw), cases);
    };
    let sound = [("Y", Fine), ("N", Fine), ("never", Fine), ("", Unknown)];
    cases("Not affected", &sound);
    let flawed = [("Y", Fine), ("N", Weak), ("never", Weak)];
    cases("KVM: Mitigation: Split huge pages", &flawed);
    let slow = "42 32 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    let fast = "42 32 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,favordynmods";
    for (release, never, mounts, level) in [
        ("5.15.0", false, slow, Fine),
        ("6.1.0-13-amd64", false, slow, Weak),
        ("6.1.0-13-amd64", true, slow, Fine),
        ("6.1.0-13-amd64", false, fast, Fine),
        ("6.12.9", false, slow, Weak),
        ("6.13.0", false, slow, Fine),
        ("", false, slow, Unknown),
    ] {
        let verdict = kvm::favordynmods(release, never, mounts);
        assert_eq!(verdict.level, level, "{release}: {verdict:?}");
    }
}

#[test]
fn landlock_by_its_version() {
    for (abi, level) in [(0, Weak), (1, Weak), (4, Weak), (5, Weak), (6, Fine), (99, Fine)] {
        assert_eq!(sandbox::landlock(abi, None).level, level, "{abi}");
    }
    let found = sandbox::landlock(7, Some(0b101)).found;
    assert_eq!(found, "ABI 7; errata mended: 1 3");
    assert!(sandbox::landlock(6, None).found.contains("does not tell"));
}

#[test]
fn user_namespaces_by_who_asks() {
    for (most, closed, uid, level) in [
        ("63432", false, Some(1000), Fine),
        ("63432", true, Some(1000), Weak),
        ("63432", true, None, Weak),
        ("63432", true, Some(0), Fine),
        ("0", false, Some(0), Weak),
        ("", false, Some(0), Unknown),
    ] {
        let verdict = sandbox::user_namespaces(most, closed, uid);
        assert_eq!(verdict.level, level, "{verdict:?}");
    }
}

#[test]
fn groups_of_users_root_and_containers() {
    let mount = |root: &str| format!("42 32 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
    let user = "0::/user.slice/user-1000.slice/session-3.scope\n";
    let docker = "0::/docker/7f3a\n";
    for (root, cgroup, uid, group) in [
        ("/", user, Some(0), "/sys/fs/cgroup"),
        ("/", user, Some(1000), "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope"),
        ("/docker/7f3a", docker, Some(1000), "/sys/fs/cgroup"),
        ("/", "0::/\n", None, "/sys/fs/cgroup"),
        ("/", "4:memory:/x\n", Some(1000), "/sys/fs/cgroup"),
    ] {
        let line = mount(root);
        let mount = group_mount(&line).unwrap();
        assert_eq!(sandbox::own_group(&mount, cgroup, uid), group);
    }
    for other in ["", "-", "1 2 3:4 / / rw - ext4 /dev/sda1 rw", "1 - cgroup2"] {
        assert!(group_mount(other).is_none(), "{other}");
    }
    let every = "cpuset cpu io memory hugetlb pids";
    for (group, only, level, word) in [
        (Some(("/g", every, true)), true, Fine, "/g"),
        (Some(("/g", "memory pids", true)), true, Weak, "no cpu, io"),
        (Some(("/g", "", true)), false, Weak, "no cpu"),
        (Some(("/g", every, false)), true, Weak, "not yours"),
        (None, false, Weak, "version 1"),
        (None, true, Weak, "none"),
    ] {
        let verdict = sandbox::delegation(group, only);
        assert_eq!(verdict.level, level, "{verdict:?}");
        assert!(verdict.found.contains(word), "{verdict:?}");
    }
}

#[test]
fn taps_by_rights_and_owner() {
    let vm0 = ["vm0".to_owned()];
    let who = |capabilities| {
        let text = format!("Name:\tmote\nUid:\t0\t1000\t0\t0\nCapEff:\t{capabilities}\n");
        Who::new(&text)
    };
    let root = "000001ffffffffff";
    assert_eq!(sandbox::taps(&who(root), &[]).level, Fine);
    // Root's shell has another $USER than who is to have the tap.
    let none = sandbox::taps(&who("0000000000000000"), &[]);
    assert_eq!(none.level, Weak);
    assert!(none.advice.contains("mode tap user 1000;"), "{none:?}");
    assert_eq!(sandbox::taps(&who("0000000000000000"), &vm0).level, Fine);
    assert_eq!(sandbox::taps(&Who::new(""), &[]).level, Unknown);
}

#[test]
fn images_by_their_first_bytes() {
    let with = |offset: usize, magic: &[u8]| {
        let mut head = vec![0; offset];
        head.extend_from_slice(magic);
        image::format(&head)
    };
    for (offset, magic, level, name) in [
        (0, &b"QFI\xfb\0\0\0\x03"[..], Weak, "qcow2"),
        (0, b"KDMV", Weak, "VMDK"),
        (0, b"vhdxfile", Weak, "VHDX"),
        (0x40, b"\x7f\x10\xda\xbe", Weak, "VDI"),
        (0, b"\x1f\x8b\x08", Weak, "gzip"),
        (0x1fe, b"\x55\xaa", Fine, "boot sector"),
        (0x200, b"EFI PART", Fine, "GPT"),
        (0x8001, b"CD001", Fine, "ISO 9660"),
        (0, b"", Fine, "raw"),
        (0, b"QFI", Fine, "raw"),
    ] {
        let verdict = with(offset, magic);
        assert_eq!(verdict.level, level, "{verdict:?}");
        assert!(verdict.found.contains(name), "{verdict:?}");
    }
    // A guest may have written the header; whoever converts it then opens the
    // files that it names.
    assert!(with(0, b"QFI\xfb").advice.contains("guest"));
}

#[test]
fn images_by_size_space_and_lock() {
    for (bytes, level) in [(0, Missing), (511, Weak), (512, Fine), (8 << 30, Fine)] {
        assert_eq!(image::length(bytes).level, level, "{bytes}");
    }
    for (length, allocated, free, level) in [
        (8 << 30, 0, 9 << 30, Fine),
        (8 << 30, 0, 1 << 30, Weak),
        (8 << 30, 8 << 30, 0, Fine),
        // Allocated beyond its end, as some file systems do.
        (512, 4096, 0, Fine),
    ] {
        assert_eq!(image::space(length, allocated, free).level, level);
    }
    assert_eq!(image::lock(libc::F_UNLCK).level, Fine);
    assert_eq!(image::lock(libc::F_RDLCK).level, Weak);
    assert_eq!(image::lock(libc::F_WRLCK).level, InUse);
}

/// A directory with these files; gone at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("mote-doctor-{}-{name}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn level(report: &Report, point: &str) -> Level {
    let mut found = report.findings().iter().filter(|f| f.point == point);
    found.next().unwrap_or_else(|| panic!("no {point}")).verdict.level
}

#[test]
fn a_neglected_intel_host() {
    let flaws = "sys/devices/system/cpu/vulnerabilities";
    let (multihit, l1tf) = (format!("{flaws}/itlb_multihit"), format!("{flaws}/l1tf"));
    let tree = Tree::new(
        "intel",
        &[
            ("proc/sys/kernel/osrelease", "6.1.0-13-amd64\n"),
            (&multihit, "KVM: Vulnerable\n"),
            (&l1tf, "Not affected\n"),
            ("proc/cmdline", "ro quiet\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
            ("sys/kernel/mm/numa/demotion_enabled", "false\n"),
            ("proc/swaps", "Filename Type\n/dev/dm-3 partition 9 9 -2\n"),
            ("sys/block/dm-3/dm/uuid", "CRYPT-PLAIN-swap\n"),
            ("sys/module/kvm_intel/parameters/nested", "Y\n"),
            ("sys/module/kvm/parameters/nx_huge_pages", "N\n"),
            ("dev/kvm", "no device at all"),
            ("proc/self/mountinfo", "42 32 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n"),
            ("proc/self/status", "Uid:\t7\t7\t7\t7\nCapEff:\t0000000000000000\n"),
            ("sys/class/net/vm0/tun_flags", "0x1002\n"),
            ("sys/class/net/vm0/owner", "7\n"),
            ("sys/class/net/lo/mtu", "65536\n"),
        ],
    );
    let report = examine(&Host::new(&tree.0), &[]);
    for (point, expected) in [
        ("kernel", Fine),
        ("itlb_multihit", Weak),
        ("CPU flaws", Fine),
        ("mitigations", Fine),
        ("SMT", Weak),
        ("KSM", Fine),
        ("swap", Fine),
        ("core files", Unknown),
        ("module", Fine),
        ("/dev/kvm", Fine),
        // It is not opened.
        ("capabilities", Unknown),
        ("nx_huge_pages", Weak),
        ("favordynmods", Weak),
        ("/dev/net/tun", Weak),
        ("taps", Fine),
    ] {
        assert_eq!(level(&report, point), expected, "{point}");
    }
    assert_eq!(report.exit_code(), exit::WEAK);
}

/// Its device is there all the same, for whoever opens it to load the module.
#[test]
fn a_host_whose_module_is_not_loaded() {
    let files = [
        ("sys/module/loop/parameters/max_loop", "0"),
        ("proc/cpuinfo", "flags\t\t: fpu svm\n"),
        ("dev/kvm", ""),
    ];
    let tree = Tree::new("unloaded", &files);
    let report = examine(&Host::new(&tree.0), &[]);
    assert_eq!(level(&report, "module"), Missing);
    assert_eq!(level(&report, "/dev/kvm"), Missing);
    assert_eq!(report.exit_code(), exit::HOST);
}

#[test]
fn a_host_that_tells_nothing_is_not_fine() {
    let tree = Tree::new("empty", &[]);
    let report = examine(&Host::new(&tree.0), &[]);
    let fine = |f: &&super::Finding| f.verdict.level == Fine && f.point != "Landlock";
    assert_eq!(report.findings().iter().find(fine), None);
    assert_eq!(level(&report, "/dev/kvm"), Missing);
    assert_eq!(report.exit_code(), exit::HOST);
}

#[test]
fn the_exit_code_is_that_of_the_worst() {
    let mut report = Report::default();
    assert_eq!(report.exit_code(), exit::OK);
    report.host("host", "a", Verdict::fine("x"));
    assert_eq!(report.exit_code(), exit::OK);
    report.host("host", "b", Verdict::unknown("x"));
    assert_eq!((report.worst(), report.exit_code()), (Unknown, exit::WEAK));
    report.image("disk", "c", Verdict::missing("x", "y"));
    assert_eq!(report.exit_code(), exit::INPUT);
    report.host("host", "d", Verdict::missing("x", "y"));
    assert_eq!(report.exit_code(), exit::HOST);
}

#[test]
fn tables_are_narrow_and_give_terminals_no_orders() {
    let mut report = Report::default();
    let words = "word ".repeat(50);
    report.host("host", "a_name_longer_than_its_column", Verdict::weak(&words, &words));
    report.image("\x1b[2Jdisk", "file", Verdict::fine("\x07 found \u{9b}"));
    let table = report.table(false);
    assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(table.ends_with("1 fine, 1 weak, 0 missing, 0 unknown\n"));
    assert!(report.table(true).contains("\x1b[33mweak"));
}

#[test]
fn only_regular_files_are_opened() {
    let mut report = Report::default();
    for path in ["/dev/null", "/", "/nonexistent"] {
        image::Image::open(Path::new(path)).report(Ok(()), &mut report);
    }
    assert!(report.findings().iter().all(|f| f.verdict.level == Missing));
    assert_eq!(report.findings().len(), 3);
}
