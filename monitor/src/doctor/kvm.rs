//! KVM: the device, its module, what it can do and how it is set up.

use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::os::unix::fs::MetadataExt as _;

use kvm_ioctls::{Cap, Kvm};
use rustix::fs::Access;

use super::host::version;
use super::reader::{Host, unreadable};
use super::report::Verdict;
use crate::config::MAX_CPUS;
use crate::error::os_message;

pub(super) const DEVICE: &str = "/dev/kvm";
const NX_HUGE_PAGES: &str = "/sys/module/kvm/parameters/nx_huge_pages";
/// What Mote asks of KVM; Linux 5.10 has all of it.
const NEEDED: [(Cap, &str); 16] = [
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::ReadonlyMem, "READONLY_MEM"),
    (Cap::SetTssAddr, "SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR"),
    (Cap::SplitIrqchip, "SPLIT_IRQCHIP"),
    (Cap::IrqRouting, "IRQ_ROUTING"),
    (Cap::Irqfd, "IRQFD"),
    (Cap::Ioeventfd, "IOEVENTFD"),
    (Cap::EnableCapVm, "ENABLE_CAP_VM"),
    (Cap::ExtCpuid, "EXT_CPUID"),
    (Cap::MpState, "MP_STATE"),
    (Cap::VcpuEvents, "VCPU_EVENTS"),
    (Cap::Debugregs, "DEBUGREGS"),
    (Cap::Xsave, "XSAVE"),
    (Cap::Xcrs, "XCRS"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
];

/// KVM, to ask it. To open the device where there is no KVM would have its module
/// loaded.
fn open(at: &Host) -> io::Result<Kvm> {
    if at.list("/sys/module").is_ok_and(|all| all.iter().all(|name| name != "kvm")) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let device = at.device(DEVICE)?;
    // SAFETY: the descriptor was just opened and is handed over. Its questions need
    // no right to write.
    Ok(unsafe { Kvm::from_raw_fd(device.into_raw_fd()) })
}

pub(super) fn modules(at: &Host) -> Verdict {
    let cpuinfo = at.read("/proc/cpuinfo").unwrap_or_default();
    match at.list("/sys/module") {
        Ok(modules) => module(&modules, &cpuinfo, open(at).is_ok()),
        Err(error) => unreadable("/sys/module", &error),
    }
}

pub(super) fn access(at: &Host) -> Verdict {
    let refused = open(at).err().and_then(|error| error.raw_os_error());
    let refused = refused.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)));
    let owner = at.path(DEVICE).metadata().ok().map(|data| (data.gid(), data.mode()));
    let access = at.may(DEVICE, Access::READ_OK | Access::WRITE_OK);
    device(access.and(refused), owner, rustix::process::geteuid().as_raw())
}

pub(super) fn abilities(at: &Host) -> Verdict {
    let judge = |kvm: Kvm| {
        let lacking = NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap));
        let lacking: Vec<&str> = lacking.map(|(_, name)| *name).collect();
        capabilities(kvm.get_api_version(), &lacking)
    };
    open(at).map_or_else(|error| unreadable(DEVICE, &error), judge)
}

pub(super) fn most_vcpus(at: &Host) -> Verdict {
    let judge = |kvm: Kvm| vcpus(kvm.get_max_vcpus());
    open(at).map_or_else(|error| unreadable(DEVICE, &error), judge)
}

pub(super) fn guest_huge_pages(at: &Host) -> Verdict {
    let flaw = at.read("/sys/devices/system/cpu/vulnerabilities/itlb_multihit");
    match (at.read(NX_HUGE_PAGES), flaw) {
        (Ok(setting), Ok(flaw)) => nx_huge_pages(&setting, &flaw),
        (Err(error), _) => unreadable("kvm's nx_huge_pages", &error),
        (_, Err(error)) => unreadable("itlb_multihit", &error),
    }
}

pub(super) fn group_options(at: &Host) -> Verdict {
    let release = at.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let never = at.read(NX_HUGE_PAGES).is_ok_and(|setting| setting == "never");
    at.judge("/proc/self/mountinfo", |text| favordynmods(&release, never, text))
}

/// `modules` are those that are loaded or built in; without one, `cpuinfo` says
/// which there should be. `works` says that KVM answers all the same.
pub(super) fn module(modules: &[String], cpuinfo: &str, works: bool) -> Verdict {
    let known = ["kvm_amd", "kvm_intel", "kvm_pvm"];
    let loaded = known.iter().find(|name| modules.iter().any(|m| m == *name));
    match loaded {
        Some(&"kvm_pvm") => {
            let advice = "it emulates kernels that were not built for it: stock Linux takes \
                          minutes to boot; use a host with SVM or VMX for these";
            return Verdict::weak("kvm_pvm", advice);
        }
        Some(loaded) => return Verdict::fine(*loaded),
        None => {}
    }
    if works {
        return Verdict::unknown("of no known name");
    }
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let mut flags = flags.unwrap_or_default().split_whitespace();
    let advice = match flags.find(|flag| ["svm", "vmx", "hypervisor"].contains(flag)) {
        Some("svm") => "modprobe kvm_amd",
        Some("vmx") => "modprobe kvm_intel",
        Some(_) => "this host is a VM: enable nested virtualization for it",
        None => "enable virtualization (SVM, VT-x) in the firmware setup",
    };
    Verdict::missing("none", advice)
}

/// `owner` is the device's group and mode, `uid` who asks.
pub(super) fn device(access: io::Result<()>, owner: Option<(u32, u32)>, uid: u32) -> Verdict {
    /// The group may read and write.
    const GROUP: u32 = 0o060;
    let Err(error) = access else {
        return Verdict::fine("may be used");
    };
    let advice = match (error.raw_os_error(), owner) {
        (Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _) => {
            "load the kvm module; in a container, pass in the device".to_owned()
        }
        (Some(libc::EACCES | libc::EPERM), owner) => match owner {
            // Its group is one for users.
            Some((group @ 1.., mode)) if mode & GROUP == GROUP => format!(
                "as root: usermod -aG $(getent group {group} | cut -d: -f1) $(id -un {uid})"
            ),
            _ => format!(
                "as root: chgrp kvm {DEVICE}; chmod 660 {DEVICE}; usermod -aG kvm $(id -un {uid})"
            ),
        },
        _ => "see the kernel log (dmesg)".to_owned(),
    };
    Verdict::missing(os_message(&error), advice)
}

pub(super) fn capabilities(api: i32, lacking: &[&str]) -> Verdict {
    if api != 12 {
        return Verdict::missing(format!("API version {api}"), "Mote needs version 12");
    }
    if !lacking.is_empty() {
        let advice = "Mote needs Linux 5.10 or later, and KVM with SVM, VMX or PVM";
        return Verdict::missing(format!("no {}", lacking.join(", ")), advice);
    }
    Verdict::fine(format!("API version 12, all {}", NEEDED.len()))
}

pub(super) fn vcpus(most: usize) -> Verdict {
    match most < MAX_CPUS.into() {
        true => Verdict::weak(format!("at most {most}"), "larger VMs do not start"),
        false => Verdict::fine(format!("{MAX_CPUS} in a VM")),
    }
}

/// `flaw` is the kernel's word on iTLB multihit, with which a guest that has
/// executable huge pages can stop the host.
pub(super) fn nx_huge_pages(setting: &str, flaw: &str) -> Verdict {
    let advice = "a guest may be able to stop the host (iTLB multihit): load kvm with \
                  nx_huge_pages=auto";
    match setting {
        "Y" | "1" | "N" | "0" | "never" if flaw == "Not affected" => {
            Verdict::fine(format!("{setting}; the processor needs none"))
        }
        "Y" | "1" => Verdict::fine("Y"),
        "N" | "0" | "never" => Verdict::weak(setting, advice),
        other => Verdict::unknown(other),
    }
}

/// From Linux 6.0 on, KVM's thread that merges huge pages again joins the VM's
/// control groups slowly unless these are mounted with `favordynmods`; since
/// 6.13 it is born there.
pub(super) fn favordynmods(release: &str, no_thread: bool, mountinfo: &str) -> Verdict {
    let Some(version) = version(release) else {
        return Verdict::unknown("the kernel's version is");
    };
    if !((6, 0)..(6, 13)).contains(&version) || no_thread {
        return Verdict::fine("not needed");
    }
    let mut groups = mountinfo.lines().filter_map(super::sandbox::group_mount);
    let on = groups.all(|mount| mount.option("favordynmods"));
    let advice = "a VM starts several milliseconds faster with it: mount -o \
                  remount,favordynmods /sys/fs/cgroup";
    Verdict::fine_if(on, if on { "on" } else { "off" }, advice)
}
